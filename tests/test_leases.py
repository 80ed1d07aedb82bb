"Several `maft run` over one store: claims, and three processes on one run folder."

import importlib.util, json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

from making import run_results
from multiagent_ft.machines.leases import Claims, LeaseExecutor
from multiagent_ft.runs.jobs import Job
from multiagent_ft.runs.store import Store, lease_name

WRITE = 'multiagent_ft.runs.jobs:write_text'


def jobs(n):
    return [Job('generate', dict(n=i), WRITE, dict(text=str(i))) for i in range(n)]


def test_claim_is_given_back_after_an_error(tmp_path):
    claims = Claims(Store(tmp_path))
    with pytest.raises(ZeroDivisionError):
        with claims.hold('a') as mine:
            assert mine
            raise ZeroDivisionError
    assert list(claims.folder.iterdir()) == []


def test_claim_of_a_dead_process_is_taken_over_at_once(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', 'from multiagent_ft.runs.store import lease_name; print(lease_name("a"))'],
        capture_output=True,
        text=True,
    )
    claims = Claims(Store(tmp_path))
    claims.folder.mkdir(parents=True)
    (claims.folder / 'a').write_text(done.stdout.strip())
    for expected in (False, True):  # taken away, then claimed
        with claims.hold('a') as mine:
            assert mine is expected


def test_claim_that_is_touched_is_respected(tmp_path):
    "A process of another machine that lives: however long it takes."
    claims = Claims(Store(tmp_path), patience=0.3)
    claims.folder.mkdir(parents=True)
    file = claims.folder / 'a'
    file.write_text('a.elsewhere.1.1.1.1.0')
    for _ in range(8):
        time.sleep(0.1)
        os.utime(file)
        with claims.hold('a') as mine:
            assert not mine
    assert file.exists()


def test_damaged_entry_is_made_again(tmp_path):
    store = Store(tmp_path)
    (path,) = LeaseExecutor().run(jobs(1), store, None)
    os.chmod(path / 'text.txt', 0o644)
    (path / 'text.txt').write_text('other')
    (again,) = LeaseExecutor().run(jobs(1), Store(tmp_path), None)
    assert (again / 'text.txt').read_text() == '0'


SMALL = '--train 12 --eval 10 --iterations 1 --agents 2 --set samples=3 --set batch_size=4 --wandb off'.split()


def start(out, store, *more):
    code = 'from multiagent_ft.cli import main; main()'
    command = [sys.executable, '-c', code, 'run', *SMALL, '--out', out, '--store', store, *more]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_three_processes_on_one_run_folder_one_killed(tmp_path):
    "The same bytes as one process; each job done once, but those that the killed one had."
    alone = start(tmp_path / 'one', tmp_path / 'store1', '--workers', 0)
    assert alone.wait() == 0, alone.stderr.read()
    three = [start(tmp_path / 'run', tmp_path / 'store3', '--executor', 'shared') for _ in range(3)]
    while len(list((tmp_path / 'store3').glob('generate/*/*'))) < 5:
        time.sleep(0.2)
        assert any(p.poll() is None for p in three)
    three[1].send_signal(signal.SIGKILL)
    said = [p.communicate() for p in three]
    assert [p.returncode for p in three] == [0, -signal.SIGKILL, 0], [err[-2000:] for _, err in said]
    assert run_results(tmp_path / 'run') == run_results(tmp_path / 'one')
    events = [json.loads(line) for line in open(tmp_path / 'run' / 'metrics.jsonl')]
    made = [e['made'] for e in events if e.get('event') == 'done']
    entries = len(list((tmp_path / 'store3').glob('generate/*/*')))
    assert made and all(m.get('generate', 0) < entries for m in made)  # nobody did all of it
    assert list((tmp_path / 'store3' / 'claims').iterdir()) == []


def test_second_process_without_shared_is_told_how(tmp_path, run_maft):
    import fcntl

    (tmp_path / 'run').mkdir()
    fd = os.open(tmp_path / 'run', os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        done = run_maft('run', *SMALL, '--out', tmp_path / 'run')
    finally:
        os.close(fd)
    assert done.returncode == 2 and '--executor shared' in done.stderr and 'Traceback' not in done.stderr


def test_owner_is_named_in_the_claim(tmp_path):
    claims = Claims(Store(tmp_path))
    with claims.hold('a'):
        assert Path(claims.folder / 'a').read_text().split('.')[1:-1] == lease_name('x').split('.')[1:-1]


@pytest.mark.skipif(importlib.util.find_spec('ray') is not None, reason='Ray is installed here')
def test_ray_not_installed_is_one_line(run_maft, tmp_path):
    done = run_maft('run', *SMALL, '--executor', 'ray', '--out', tmp_path / 'run')
    assert done.returncode == 2 and "pip install 'multiagent-ft[ray]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


@pytest.mark.parametrize('other', [dict(device='cuda'), dict(version=2)])
def test_worker_with_another_engine_is_refused(other):
    from multiagent_ft.engines.by_name import engine_for
    from multiagent_ft.machines.ray import job_task
    from multiagent_ft.method.prompts import EngineSpec

    spec = dict(engine='hf', args=dict(model='nano', device='cpu'))
    key = dict(model=engine_for(EngineSpec(**spec)).identity(None) | other)
    job = dict(kind='generate', key=key, fn=WRITE, args=dict(requests=[dict(adapter=None)]))
    (name,) = other
    assert f"a Ray worker's engine is not this process's: {name} is" in job_task(dict(spec=spec, job=job))['error']
