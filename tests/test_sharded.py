"One agent trained by two processes (accelerate launch, gloo), against one."

import json

import numpy as np
import pytest

from multiagent_ft.core import MaftError, Message
from multiagent_ft.engines.huggingface import load_base
from multiagent_ft.machines.sharded import accelerate_config, decoder_layer, launch, sharded_job
from multiagent_ft.method.examples import Example, save_examples
from multiagent_ft.training.finetune import finetune_job

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
