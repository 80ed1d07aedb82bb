"Agents that begin with a LoRA adapter of the user's: `--adapter DIR`."

import json, shutil, signal, subprocess, sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
from making import run_results

from multiagent_ft.core import MaftError, Message
from multiagent_ft.engines.huggingface import HFEngine, adapter_identity
from multiagent_ft.machines.export import export_agent
from multiagent_ft.method.prompts import Request, Sampling
from multiagent_ft.runs.explain import explain, run_record
from multiagent_ft.runs.run import run
from multiagent_ft.runs.settings import Config
from multiagent_ft.runs.society import Society, load_society

SMALL = dict(train=4, eval=1, iterations=1, agents=2, samples=2, workers=0, wandb='off', quiet=True)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with an adapter of a run's, exported to `mine`, and a run that began with it and was stopped once."
    home = tmp_path_factory.mktemp('start') / 'home'
    run(Config(**SMALL, out=home / 'first', store=home / 'store'))
    export_agent(home / 'first', 'generator-0', home / 'mine')
    own = SMALL | dict(out=home / 'second', store=home / 'store', adapter=str(home / 'mine'))
    run(Config(**own | dict(iterations=0)))
    run(Config(**own))
    return home


def finetune_keys(home, folder):
    record = run_record(home / folder)
    names = record.provenance['steps']['iteration-1/finetune']
    return [
        json.loads((f / 'key.json').read_text())['key'] for n in names for f in (home / 'store').glob(f'finetune/*/{n}')
    ]


def test_untrained_agents_speak_with_the_adapter_and_training_continues_it(home):
    mine, keys = adapter_identity(home / 'mine'), finetune_keys(home, 'second')
    assert keys and {k['parent']['adapter'] for k in keys} == {mine}
    ask = [Request((Message('user', 'What is the result of 3+4*2+1+5?'),), 0, Sampling(max_new_tokens=24))]
    own, bare = HFEngine('nano', adapter=str(home / 'mine')), HFEngine('nano')
    [there] = bare.generate([Request(ask[0].chat, 0, ask[0].sampling, adapter=str(home / 'mine'))])
    assert own.generate(ask) == [there] and own.identity() == bare.identity(str(home / 'mine'))
    assert bare.identity()['adapter'] is None
    first = (home / 'second' / 'iteration-0' / 'eval.jsonl').read_bytes()
    assert first != (home / 'first' / 'iteration-0' / 'eval.jsonl').read_bytes()


def test_explain_names_the_adapter_and_the_training_step_that_was_tried(home):
    lines, faults = explain(home / 'second')
    mine = adapter_identity(home / 'mine')[:12]
    assert not faults and any('begin with adapter' in x and mine in x for x in lines)
    assert any(x.startswith('  check ') for x in lines) and any(f'from {mine}' in x for x in lines)
    assert not any(x.startswith('  check ') for x in explain(home / 'first')[0])  # nano needs no try
    assert load_society(home / 'second' / 'iteration-1').base['adapter'] == adapter_identity(home / 'mine')
    assert 'adapter' not in load_society(home / 'first' / 'iteration-1').base


@pytest.mark.slow
def test_resumed_run_with_an_adapter_has_the_same_bytes(home, tmp_path):
    run(Config(**SMALL | dict(out=tmp_path / 'run', store=tmp_path / 'store', adapter=str(home / 'mine'))))
    assert run_results(tmp_path / 'run') == run_results(home / 'second')


@pytest.mark.slow
def test_killed_run_with_an_adapter_resumes_to_the_same_bytes(home, tmp_path):
    "SIGKILL after more and more lines of output, then through."
    maft = Path(sys.executable).with_name('maft')
    flags = [f'--set={k}={v}' for k, v in SMALL.items() if k != 'quiet']
    places = ['--adapter', str(home / 'mine'), '--out', str(tmp_path / 'run'), '--store', str(tmp_path / 'store')]
    kills = 0
    for lines in (2, 3, 4, 6, None):
        with subprocess.Popen([maft, 'run', *flags, *places], stdout=PIPE, stderr=STDOUT, text=True) as p:
            for i, _ in enumerate(p.stdout, 1):
                if i == lines:
                    p.kill()
        assert p.returncode in (0, -signal.SIGKILL)
        kills += p.returncode != 0
    assert p.returncode == 0 and kills >= 2
    assert run_results(tmp_path / 'run') == run_results(home / 'second')


def test_project_with_its_adapter_can_be_moved(home):
    there = home.with_name('there')
    home.rename(there)
    try:
        assert Society.load(there / 'second').spec.args['adapter'] == str(there / 'mine')
        own = SMALL | dict(out=there / 'second', store=there / 'store', adapter=str(there / 'mine'))
        assert not any(run(Config(**own))['made'].values()) and not explain(there / 'second')[1]
    finally:
        there.rename(home)


def refused(home, tmp_path, **settings):
    "What a run with these settings says; it did nothing before."
    with pytest.raises(MaftError) as e:
        run(Config(**SMALL | dict(out=tmp_path / 'run', store=tmp_path / 'store') | settings))
    assert str(e.value).count('\n') <= 1 and not list(tmp_path.glob('store/generate/*/*'))
    return str(e.value)


def test_adapter_that_does_not_fit_is_refused_in_a_line(home, tmp_path):
    mine = str(home / 'mine')
    assert '--set rank=4' not in (said := refused(home, tmp_path, adapter=mine, rank=4)) and '--set rank=' in said
    assert 'hf download' in refused(home, tmp_path, adapter='some/adapter')
    assert '--model' in refused(home, tmp_path, adapter=str(tmp_path))
    for way in (dict(method='full'), dict(engine='vllm'), dict(engine='server')):
        assert 'Fold the adapter into the base' in refused(home, tmp_path, adapter=mine, **way)
    odd = shutil.copytree(mine, tmp_path / 'odd')
    config = json.loads((odd / 'adapter_config.json').read_text())
    for name, value, word in (
        ('modules_to_save', ['lm_head'], 'modules_to_save'),
        ('lora_bias', True, 'lora_bias'),
        ('r', 2, 'does not fit'),
        ('target_modules', ['q_proj'], 'does not fit'),
        ('peft_type', 'IA3', ''),
    ):
        (odd / 'adapter_config.json').write_text(json.dumps(config | {name: value}))
        assert word in refused(home, tmp_path, adapter=str(odd))


def test_another_adapter_under_the_same_name_is_refused(home):
    import torch
    from safetensors.torch import load_file, save_file

    own = SMALL | dict(out=home / 'second', store=home / 'store', adapter=str(home / 'mine'))
    file = home / 'mine' / 'adapter_model.safetensors'
    before = file.read_bytes()
    save_file({k: v + torch.ones_like(v) / 64 for k, v in load_file(file).items()}, file, metadata={'format': 'pt'})
    try:
        with pytest.raises(MaftError, match='adapter that agents begin with.* changed'):
            run(Config(**own))
        assert any('changed since' in fault for fault in explain(home / 'second')[1])
    finally:
        file.write_bytes(before)
