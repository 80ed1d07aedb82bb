"""What `maft doctor` says of this machine and of broken ones."""

import json
from pathlib import Path
import pytest
from multiagent_ft import doctor


def test_doctor_lists_every_required_library_as_ok_here(run_maft):
    p = run_maft('doctor', '--json')
    assert p.returncode == 0, p.stderr
    found = {f['topic']: f for f in json.loads(p.stdout)}
    assert {'python', 'torch', 'transformers', 'peft', 'trl', 'cores', 'memory', 'disk'} <= set(found)
    assert [f for f in found.values() if f['grade'] == 'wrong'] == []


def test_doctor_exits_with_one_when_a_library_is_missing(monkeypatch, capsys):
    from multiagent_ft.cli import main

    monkeypatch.setattr(doctor, 'requires', lambda name: ['no-such-library>=3'])
    monkeypatch.setattr('sys.argv', ['maft', 'doctor'])
    with pytest.raises(SystemExit) as e:
        main()
    shown = capsys.readouterr().out
    assert e.value.code == 1 and 'pip install "no-such-library>=3"' in shown
    assert 'To be fixed before anything runs: no-such-library.' in shown


@pytest.mark.parametrize('secret', ['HF_TOKEN', 'WANDB_API_KEY'])
def test_doctor_never_shows_a_token(secret, tmp_path):
    (tmp_path / '.netrc').write_text('machine api.wandb.ai login user password hidden-key\n')
    found = doctor.account_findings({secret: 'hidden-token'}, tmp_path)
    assert 'hidden' not in repr(found)
    assert dict((f.topic, f.found) for f in found)['wandb key'] == 'present'


def test_doctor_says_a_read_only_folder_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor.os, 'access', lambda path, mode: False)
    assert doctor.disk_finding(Path('/somewhere/runs')).grade == 'wrong'
