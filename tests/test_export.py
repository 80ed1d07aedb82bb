"Agents outside their run: plain folders, the same numbers, cards; a dry upload."

import json
from pathlib import Path

import pytest
import yaml

from multiagent_ft.core import MaftError
from multiagent_ft.machines import export
from multiagent_ft.machines.export import export_agent, push_agent

SMALL = '--train 8 --eval 2 --iterations 1 --agents 2 --set samples=2 --workers 0 --wandb off'.split()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    from conftest import maft

    folder = tmp_path_factory.mktemp('exported')
    done = maft('run', *SMALL, '--out', folder / 'run', cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / 'run'


@pytest.mark.parametrize('merge', [False, True])
def test_exported_agent_computes_the_same_and_says_where_it_comes_from(finished, tmp_path, merge):
    made = export_agent(finished, 'generator-0', tmp_path / 'out', merge=merge)
    assert made.difference < 1e-4
    names = {f.name for f in made.folder.iterdir()}
    assert ('model.safetensors' in names) == merge and ('adapter_model.safetensors' in names) != merge
    assert not names & {'key.json', 'checksums.json'} and {'README.md', 'tokenizer.json', 'training.json'} <= names
    text = (made.folder / 'README.md').read_text()
    front = yaml.safe_load(text.split('---')[1])
    assert front['library_name'] == ('transformers' if merge else 'peft') and 'base_model' not in front
    for said in ('multiagent-ft', 'Task `arithmetic`: 8 questions', 'Run seed 0', '| 1 |', 'transformers '):
        assert said in text
    assert str(finished.parent) not in text


def test_another_agent_is_not_the_same(finished, tmp_path):
    "The comparison can fail: what is written belongs to another agent."
    right = export.trained_agent(finished, 'generator-0')
    wrong = export.trained_agent(finished, 'critic-0')
    base = export.load_base('nano')
    export.write_adapter(base, wrong, tmp_path / 'wrong')
    with pytest.raises(MaftError, match='computes something else'):
        export.largest_difference(base, right, tmp_path / 'wrong', merged=False)


def test_nothing_is_left_of_an_export_that_fails(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'tolerance', lambda base: -1.0)
    with pytest.raises(MaftError, match='nothing was kept'):
        export_agent(finished, 'generator-0', tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


def test_bad_input_of_export_and_push(finished, tmp_path, run_maft):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').write_text('mine')
    for args, line in [
        (['export', finished, tmp_path / 'x', '--agent', 'boss-1'], "no agent 'boss-1': its agents are generator-0"),
        (['export', finished, tmp_path / 'x', '--agent', 'critic-0', '--iteration', 0], 'still the base model'),
        (['export', finished, tmp_path / 'full', '--agent', 'generator-0'], 'is there already'),
        (['export', tmp_path / 'full', tmp_path / 'x', '--agent', 'generator-0'], 'holds no run'),
        (['push', finished, 'not a repo', '--agent', 'generator-0'], 'write OWNER/NAME'),
        (['push', finished, 'me/agent', '--agent', 'generator-0'], 'could not be uploaded'),
    ]:
        done = run_maft(*args)
        assert done.returncode == 2 and line in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert [f.name for f in (tmp_path / 'full').iterdir()] == ['mine.txt'] and not (tmp_path / 'x').exists()


def test_dry_push_sends_nothing(finished, run_maft, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, 'create_repo', lambda *a, **k: pytest.fail('something was sent'))
    sent = push_agent(finished, 'generator-0', 'me/agent', dry_run=True)
    assert sent.url is None and sent.private and sent.files['adapter_model.safetensors'] > 1000


def test_push_sends_the_folder(finished, monkeypatch):
    "With the Hub's client recording what it is asked to do."
    import huggingface_hub

    calls = []

    def upload(self, *, folder_path, **k):
        calls.append(({f.name for f in Path(folder_path).iterdir()}, k))
        return 'https://hub/me/agent'

    monkeypatch.setattr(huggingface_hub.HfApi, 'create_repo', lambda self, repo, **k: calls.append((repo, k)))
    monkeypatch.setattr(huggingface_hub.HfApi, 'upload_folder', upload)
    assert push_agent(finished, 'generator-0', 'me/agent', public=True).url == 'https://hub/me/agent'
    assert calls[0] == ('me/agent', dict(private=False, exist_ok=True))
    assert 'adapter_model.safetensors' in calls[1][0] and calls[1][1]['repo_id'] == 'me/agent'


def test_adapter_config_names_its_base(finished, tmp_path):
    export_agent(finished, 'generator-0', tmp_path / 'out')
    assert json.loads((tmp_path / 'out' / 'adapter_config.json').read_text())['base_model_name_or_path'] == 'nano'
