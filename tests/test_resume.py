"Killed at any moment, a run resumes to the very same bytes."

import os, random, re, signal, subprocess, sys, time
from pathlib import Path

import pytest
from making import killing, memory
from test_run import prints

# The fast path: the run loop on a scripted engine and an objective of three steps, killed at its changes to the disk


def check_kills(folder, *how):
    want = killing('clean', 'loop', folder / 'clean')[0]['after']
    *kills, through = killing('kill', 'loop', folder / 'kill', *how, timeout=3000)
    assert through['after'] == want
    assert any(n.startswith('run/iteration-2/adapters/') for n in want) and 'run/summary.json' in want
    for k in kills:
        assert k['seen']['wrong'] == [], k
        if '--from-scratch' in how:
            assert k['after'] == want, (k['n'], k['what'], set(k['after'].items()) ^ set(want.items()))
    return len(kills)


def test_loop_sigkill_resume():
    with memory() as fast:
        assert check_kills(Path(fast), '--every', '20') >= 6


def test_loop_sigkill_from_scratch_at_six_syscalls():
    with memory() as fast:
        assert check_kills(Path(fast), '--from-scratch', '--every', '211') >= 6


@pytest.mark.slow
def test_loop_sigkill_resume_at_thirty_syscalls():
    with memory() as fast:
        assert check_kills(Path(fast), '--every', '4') >= 30


@pytest.mark.slow
@pytest.mark.parametrize('first', range(1, 11))
def test_loop_sigkill_at_every_syscall(first):  # each a tenth of them
    with memory() as fast:
        assert check_kills(Path(fast), '--from-scratch', '--every', '10', '--first', str(first)) >= 100


# Real runs on nano

ARGS = [
    'run',
    '--agents',
    '2',
    '--train',
    '8',
    '--eval',
    '4',
    '--iterations',
    '1',
    '--seed',
    '5',
    '--set',
    'wandb=off',
    '--set',
    'batch_size=16',
]


def start(out, *more):
    maft = Path(sys.executable).with_name('maft')
    return subprocess.Popen(
        [str(maft), *ARGS, '--out', str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "An uninterrupted run and how many lines it printed."
    out = tmp_path_factory.mktemp('whole') / 'run'
    text, _ = (p := start(out, '--workers', '0')).communicate(timeout=600)
    assert p.returncode == 0, text
    return prints(out), len(text.splitlines())


def killed_run(out, seed, lines, workers, most):
    """SIGKILL the run (and its workers go with it) at random moments, `most` times, until one attempt gets through; how
    often it was killed. Lines are counted, not seconds: a busy machine is killed at the same places."""
    rng, kills = random.Random(seed), 0
    while True:
        p, last = start(out, '--workers', str(workers)), rng.randrange(2, lines) if kills < most else None
        for i, line in enumerate(p.stdout):
            if i == last:
                time.sleep(rng.random())
                p.kill()
                break
        p.communicate(timeout=600)
        if p.returncode == 0:
            return kills
        assert p.returncode == -signal.SIGKILL
        kills += 1


def check(whole, out, seeds, workers, most):
    want, lines = whole
    kills = 0
    for s in seeds:
        kills += killed_run(out / str(s) / 'run', s, lines, workers, most)
        assert prints(out / str(s) / 'run') == want, f'seed {s}'
    return kills


def kill_often(whole, out, times, seeds):
    "Without workers at even seeds, with them at odd ones, until there were so many kills of each."
    kills = {seed % 2 * 2: 0 for seed in seeds}
    for seed in seeds:
        workers = seed % 2 * 2
        if kills[workers] < times:
            kills[workers] += check(whole, out, [seed], workers=workers, most=min(times, 2))
    assert min(kills.values()) >= times, 'too quick to be killed'


def test_run_ended_by_its_budget_resumes_to_the_same_bytes(whole, tmp_path):
    "One job is done for each command, the least a budget allows; the fourth command has none."
    from multiagent_ft.cli import typed

    out = tmp_path / 'run'
    line = ' '.join([*ARGS, '--out', str(out), '--workers', '0'])
    kept = []
    for _ in range(3):
        p = typed(f'{line} --budget 1e-12')
        assert p.returncode == 2 and 'budget of 1e-12 hours' in p.stderr and 'Traceback' not in p.stderr, p.stderr
        kept.append(len(list((tmp_path / 'store' / 'generate').glob('*/*'))))
    assert kept == sorted(set(kept)), 'each command adds to the store'
    p = typed(line)
    assert p.returncode == 0, p.stderr
    assert prints(out) == whole[0]


def test_run_sigkill_and_resume_is_byte_identical(whole, tmp_path):
    "With workers, against a whole run without."
    kill_often(whole, tmp_path, 1, range(1, 8, 2))


@pytest.mark.slow
def test_run_sigkill_and_resume_many_times(whole, tmp_path):
    kill_often(whole, tmp_path, 10, range(100, 130))


def test_ctrl_c_is_one_line(tmp_path):
    p = start(tmp_path / 'run', '--workers', '0')
    seen = next((line for line in p.stdout if '0/' in line and 'answers' in line), '')  # the work has begun
    os.killpg(p.pid, signal.SIGINT)
    text, _ = p.communicate(timeout=60)
    assert p.returncode == 130 and 'Traceback' not in text, seen + text
    assert 'same command' in text.strip().splitlines()[-1]


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 2 MB, and how to make it larger."
    disk = tmp_path / 'disk'
    disk.mkdir()
    if (
        os.name != 'posix'
        or subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', disk], capture_output=True).returncode
    ):
        pytest.skip('a small file system can only be mounted by root')
    yield disk, lambda: subprocess.run(['mount', '-o', 'remount,size=200m', disk], check=True)
    subprocess.run(['umount', '-l', disk])


# tests/test_store.py fills the disk at every change, in one process
@pytest.mark.slow
def test_full_disk_and_resume_is_byte_identical(whole, small_disk):
    disk, enlarge = small_disk
    text, _ = (p := start(disk / 'run', '--workers', '0')).communicate(timeout=600)
    assert p.returncode == 2 and 'Traceback' not in text
    last_lines = text.strip().splitlines()[-2:]
    assert re.search('No space left|no room left', ' '.join(last_lines)) and 'same command' in ' '.join(last_lines), (
        text
    )
    enlarge()
    text, _ = (p := start(disk / 'run', '--workers', '0')).communicate(timeout=600)
    assert p.returncode == 0, text
    assert prints(disk / 'run') == whole[0]
