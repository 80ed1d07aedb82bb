"One agent trained by two processes (accelerate launch, gloo), against one."

import json
from types import SimpleNamespace

import numpy as np
import pytest

from multiagent_ft.core import MaftError, Message
from multiagent_ft.engines.huggingface import Base, HFEngine, load_base
from multiagent_ft.engines.weights import find_model
from multiagent_ft.machines.sharded import (
    accelerate_config,
    check_shardable,
    decoder_layer,
    held_model,
    launch,
    load_shared,
    sharded_job,
    stepping_aside,
)
from multiagent_ft.method.examples import Example, save_examples
from multiagent_ft.training.finetune import finetune_job
from multiagent_ft.training.settings import TrainingSettings

SETTINGS = dict(rank=4, alpha=8, batch_size=4, epochs=2, learning_rate=1e-3)
LOAD = dict(model='nano', device='cpu')


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    "The loss of each step within rounding; the adapter, loaded again by the engine, computes what it did."
    base = load_base('nano', device='cpu')
    chats = [(Message('user', f'{i}+{i}?'),) for i in range(12)]
    examples = [Example(base.renderer.render(c), base.renderer.encode(f'{i}+{i}={2 * i}')) for i, c in enumerate(chats)]
    file = str(save_examples(tmp_path / 'examples.jsonl', examples))
    for name in ('one', 'two'):
        (tmp_path / name).mkdir()
    finetune_job(tmp_path / 'one', base, None, file, settings=SETTINGS, seed=7)
    sharded_job(tmp_path / 'two', None, 2, None, file, settings=SETTINGS, seed=7, load=LOAD)
    one, two = (json.loads((tmp_path / n / 'training.json').read_text()) for n in ('one', 'two'))
    losses = [[x['loss'] for x in t['curve']] for t in (one, two)]
    assert np.allclose(*losses, atol=1e-4) and losses[0][-1] < losses[0][0]
    assert two['guards']['saved'] < 1e-3 and two['processes'] == 2
    prompts, tokens = [e.prompt_ids for e in examples], [e.token_ids for e in examples]
    a, b = (base.logprobs(prompts, tokens, str(tmp_path / n)) for n in ('one', 'two'))
    assert max(np.abs(x - y).max() for x, y in zip(a, b)) < 1e-2
    left = {f.name for f in (tmp_path / 'two').iterdir()}
    assert left == {'adapter_config.json', 'adapter_model.safetensors', 'training.json'}


@pytest.mark.parametrize(
    'changes, line',
    [
        (dict(batch_size=5), 'does not divide train_batch 5'),
        (dict(method='full'), 'LoRA agents only'),
    ],
)
def test_what_several_processes_cannot_train_is_refused(tmp_path, changes, line):
    with pytest.raises(MaftError, match=line):
        sharded_job(tmp_path, None, 2, None, 'x', settings=SETTINGS | changes, seed=0, load=LOAD)


def test_more_processes_than_gpus_is_refused(monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    with pytest.raises(MaftError, match='train_processes 8, but there are 2 GPUs here: set it to 2'):
        check_shardable(TrainingSettings(batch_size=16), 8, 'cuda')


def test_all_settings_of_the_adapter_reach_the_processes():
    page = dict(load={}, source=find_model('nano'), dtype='float32', seed=0)
    own = dict(rslora=True, exclude_modules=['q_proj'], dropout=0.1)
    model = load_shared(page | dict(settings=SETTINGS | own), None)
    config, layers = model.peft_config['default'], [n for n, _ in model.named_parameters() if 'lora_A' in n]
    assert config.use_rslora and config.lora_dropout == 0.1
    assert layers and not any('q_proj' in n for n in layers)


def test_engines_leave_the_gpus_to_the_processes():
    "vLLM's process ends; weights that were never read are not read for it."
    asked = []
    engine = SimpleNamespace(close=lambda: asked.append('close'), free_gpu=lambda: asked.append('free'))
    with stepping_aside(engine):
        assert asked == ['close', 'free']
    lazy = HFEngine('nano', lazy=True, device='cpu')
    with stepping_aside(lazy):
        assert not lazy.base.is_loaded()
    assert held_model(HFEngine('nano', device='cpu')).device.type == 'cpu' and held_model(None) is None


def test_launcher_reads_no_weights(tmp_path):
    "The process that hands the training to others names the base in the job's key without loading it."
    from multiagent_ft.method.debate import Agent
    from multiagent_ft.runs.run import RunContext, finetune_one
    from multiagent_ft.runs.settings import Config
    from multiagent_ft.training.base import base_of

    places = dict(out=tmp_path / 'run', store=tmp_path / 'store')
    cfg = Config(**places, train_processes=2, executor='processes', workers=1, wandb='off')
    with RunContext(cfg) as context:
        example = Example(context.engine.render((Message('user', '1+1?'),)), context.engine.encode('2'))
        job = finetune_one(context, 1, Agent('generator', 0), examples=[example])
        assert not context.engine.base.is_loaded()
    with RunContext(Config(**places, workers=0, wandb='off')) as loaded:
        key = finetune_one(loaded, 1, Agent('generator', 0), examples=[example]).key
        assert job.key == key | dict(processes=2) and isinstance(loaded.engine.base, Base)
    beside_a_server = base_of(object(), dict(model='nano', device='cpu'))
    assert not beside_a_server.is_loaded() and beside_a_server.identity()


def test_failed_launch_is_one_line(tmp_path):
    config = accelerate_config(1, 'cpu', decoder_layer('nano'))
    with pytest.raises(MaftError, match='accelerate launch with 1 processes failed: KeyError') as e:
        launch(1, {}, config, work=tmp_path)
    assert len(str(e.value).splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_run_hands_its_training_to_several_processes(tmp_path):
    "Its jobs have keys of their own; those of one process stay as they are."
    from multiagent_ft.method.debate import Agent
    from multiagent_ft.runs.run import RunContext, finetune_one
    from multiagent_ft.runs.settings import Config

    jobs = []
    for n in (1, 2):
        cfg = Config(out=tmp_path / 'run', store=tmp_path / 'store', train_processes=n, workers=0, wandb='off')
        with RunContext(cfg) as context:
            render, encode = context.engine.render, context.engine.encode
            example = Example(render((Message('user', '1+1?'),)), encode('2'))
            jobs.append(finetune_one(context, 1, Agent('generator', 0), examples=[example]))
    assert jobs[1].key == jobs[0].key | dict(processes=2) and 'processes' not in jobs[0].args
    assert jobs[1].fn.endswith(':sharded_job') and jobs[1].args['load']['model'] == 'nano'
