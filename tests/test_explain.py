"""From a number back to its sources: an untouched run has no fault whatever its recipe; a changed one has, and says so
in a sentence instead of a traceback."""

import shutil

import pytest

from multiagent_ft.runs.settings import load_config
from multiagent_ft.core import MaftError
from multiagent_ft.runs.explain import explain

WEIGHTS = 'adapter_model.safetensors'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "One model for all agents, through two iterations; and a run whose agents are trained each by itself."
    from multiagent_ft.runs.run import run

    root = tmp_path_factory.mktemp('explain')
    for name, more in dict(one=dict(recipe='majority-ft', iterations=2), each=dict(iterations=1)).items():
        run(
            load_config(
                None, dict(out=str(root / name), train=12, eval=4, agents=2, workers=0, wandb='off', seed=3) | more
            )
        )
    return root


@pytest.fixture
def runs(made, tmp_path):
    "Copies to be corrupted."
    shutil.copytree(made, tmp_path / 'runs')
    return tmp_path / 'runs'


def adapter(folder, k, agent):
    return folder / f'iteration-{k}' / 'adapters' / agent / WEIGHTS


def put(file, data):
    "A new file in the place of the old one."
    file.unlink()
    file.write_bytes(data)


def test_intact_runs_have_no_faults(made):
    for name, jobs in (('one', 2), ('each', 4)):
        lines, faults = explain(made / name)
        named = {line.split('finetune ')[1][:12] for line in lines if 'by finetune' in line}
        assert faults == [] and len(named) == jobs, name


def test_shared_examples_are_checked_for_every_agent(runs):
    rows = runs / 'one' / 'iteration-1' / 'examples' / 'generator-0.jsonl'
    rows.write_text(rows.read_text() * 2)
    assert [f.split(': ')[1] for f in explain(runs / 'one')[1]] == [
        'examples/generator-0.jsonl is not what generator-0 was trained on'
    ] + [f'nothing in examples/ is what {a} was trained on' for a in ('generator-1', 'critic-0', 'critic-1')]
    rows.write_text('{"prompt_ids": [1')
    assert len(explain(runs / 'one')[1]) == 4
    rows.unlink()
    assert len(explain(runs / 'one')[1]) == 4


@pytest.mark.parametrize('run,k', [('one', 1), ('one', 2), ('each', 1)])
def test_weights_of_another_agent_are_detected(runs, run, k):
    "A good adapter, but not the one this agent was given; the agent beside it keeps its own."
    put(
        adapter(runs / run, k, 'generator-0'),
        adapter(runs / ('each' if run == 'one' else 'one'), 1, 'generator-0').read_bytes(),
    )
    lines, faults = explain(runs / run)
    assert faults == [f'iteration {k}: no intact job of this run made the weights of generator-0']
    assert not any('generator-0' in line and 'as before' in line for line in lines)


@pytest.mark.parametrize(
    'corrupt',
    [
        lambda f: put(f, f.read_bytes()[:1000]),
        lambda f: put(f, b''),
        lambda f: f.unlink(),
        lambda f: f.with_name('adapter_config.json').unlink(),
    ],
    ids=['truncated', 'empty', 'gone', 'no-settings'],
)
def test_corrupt_weights_are_detected(runs, corrupt):
    corrupt(adapter(runs / 'one', 2, 'critic-1'))
    (fault,) = explain(runs / 'one')[1]
    assert fault.startswith('iteration 2: the weights of critic-1 cannot be read (') and str(runs) not in fault


def test_weights_missing_from_the_store_are_named(runs):
    "Truncated in the store: the entry is named, and so is every agent whose weights no job explains any more."
    entry = next(
        f.parent
        for f in (runs / 'store' / 'finetune').rglob(WEIGHTS)
        if f.read_bytes() == adapter(runs / 'one', 2, 'generator-0').read_bytes()
    )
    put(entry / WEIGHTS, (entry / WEIGHTS).read_bytes()[:1000])
    faults = explain(runs / 'one')[1]
    assert entry.name[:12] in faults[0] and len(faults) == 5 and all('no intact job' in f for f in faults[1:])
    (runs / 'one' / 'iteration-1' / 'society.json').unlink()
    with pytest.raises(MaftError, match='no society'):
        explain(runs / 'one')


WRONG_SHAPES = [
    *((f'{name}.json', text) for name in ('summary', 'provenance') for text in ('{}', '[]', 'null', '[' * 5000)),
    ('summary.json', '{"schema": 3, "iterations": [{"iteration": 0}]}'),
    ('summary.json', '{"schema": 3, "iterations": [3]}'),
    ('provenance.json', '{"steps": {"iteration-0/evaluate": 3}, "results": {}}'),
    ('outcomes.jsonl', '{}'),
    ('outcomes.jsonl', '{"iteration": 0, "problem": 3}'),
    ('iteration-1/society.json', '{"agents": 3}'),
    ('iteration-1/eval.jsonl', '{"problem": {"id": 3}, "turns": []}'),
    ('iteration-1/transcripts.jsonl', '{"problem": 3, "turns": []}'),
    ('iteration-1/votes.jsonl', '{}'),
    ('iteration-1/examples/generator-0.jsonl', '{"prompt_ids": [1], "token_ids": "x"}'),
    ('config.yaml', 'run: []'),
]


@pytest.mark.parametrize('name,text', WRONG_SHAPES)
def test_damaged_files_of_a_run_are_named(runs, name, text):
    "Valid JSON of another shape: `explain` and `report` say which file it is, or do without it."
    from multiagent_ft.studies.report import report

    put(runs / 'each' / name, text.encode())
    said = []
    for look in (explain, report):
        try:
            look(runs / 'each')
        except MaftError as e:
            said.append(str(e))
    assert said or name not in ('summary.json', 'outcomes.jsonl')
    for line in said:
        assert line.count('\n') <= 1 and (name.rpartition('/')[2] in line or 'config.yaml' in line), line


def test_fault_of_ours_stays_one(runs, monkeypatch):
    "With every file as it was written, an error is not put down to the user's files."
    from multiagent_ft.runs import explain as module

    monkeypatch.setattr(module, 'head_lines', lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explain(runs / 'each')
