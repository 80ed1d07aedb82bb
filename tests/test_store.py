"The store: content keys, atomic entries, concurrent processes, kills, corruption, full disks, pruning."

import errno, json, os, shutil, subprocess, sys, threading, time
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from making import keys, killing, memory, shuffled
from multiagent_ft.runs import store as store_module
from multiagent_ft.core import MaftError, canonical_json, file_digest
from multiagent_ft.runs.store import entry, ls, prune, verify
from multiagent_ft.runs.store import Store, is_stale, job_digest, lease_name


def write(text='12\n7\n7\n'):
    return lambda folder: (folder / 'answers.txt').write_text(text)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / 'store')


@pytest.fixture
def fast():
    with memory() as d:
        yield Path(d)


def forget(store):
    store._seen.clear()  # what another process would know


# Keys


@given(keys)
def test_key_does_not_depend_on_field_order(key):
    assert job_digest('generate', key) == job_digest('generate', shuffled(key))


@given(keys, keys)
def test_different_keys_have_different_names(a, b):
    assert (job_digest('generate', a) == job_digest('generate', b)) == (canonical_json(a) == canonical_json(b))
    assert job_digest('generate', a) != job_digest('finetune', a)


@settings(max_examples=20)
@given(st.lists(keys, max_size=4))
def test_entry_is_found_under_its_key_only(some):
    with memory() as d:
        store = Store(Path(d) / 'store')
        for key in some:
            store.job('generate', key, write(canonical_json(key)))
        for key in some:
            assert (store.find('generate', shuffled(key)) / 'answers.txt').read_text() == canonical_json(key)
        assert len(ls(store)) == len({canonical_json(k) for k in some}) == store.misses['generate']
        assert sorted(canonical_json(e.key) for e in ls(store)) == sorted({canonical_json(k) for k in some})


@pytest.mark.parametrize(
    'kind, key',
    [
        ('tmp', {}),
        ('scratch', {}),
        ('damaged', {}),
        ('../x', {}),
        ('Generate', {}),
        ('', {}),
        ('generate', {1: 2}),
        ('generate', {'a': [{None: 2}]}),
        ('generate', {'a': float('nan')}),
        ('generate', {'a': {1, 2}}),
    ],
)
def test_keys_that_could_collide_are_refused(store, kind, key):
    with pytest.raises((TypeError, ValueError)):
        store.job(kind, key, write())
    assert not store.path.exists()


def test_key_mutated_by_the_job(store):
    key = dict(seed=0)

    def work(folder):
        write()(folder)
        key['seed'] = 1

    assert store.job('generate', key, work).name == job_digest('generate', dict(seed=0))
    assert verify(store) == {} and store.has('generate', dict(seed=0)) and not store.has('generate', key)


# Entries


def test_hit_and_miss(store):
    first = store.job('generate', dict(a=1), write())
    second = store.job('generate', dict(a=1), lambda folder: 1 / 0)
    assert first == second == store.find('generate', dict(a=1)) and store.has('generate', dict(a=1))
    assert (store.hits, store.misses) == ({'generate': 1}, {'generate': 1})
    store.job('finetune', dict(a=1), write())
    assert store.misses == {'generate': 1, 'finetune': 1}


def test_entry_manifest(store):
    def work(folder):
        (folder / 'sub' / 'deeper').mkdir(parents=True)
        (folder / 'a.bin').write_bytes(b'\0' * 10)
        (folder / 'sub' / 'deeper' / 'b é.txt').write_text('x')
        (folder / 'empty').touch()

    path = store.job('generate', dict(b=[1, {'c': None}]), work)
    assert path.name == file_digest(path / 'key.json') and path.parent.name == path.name[:2]
    assert json.loads((path / 'key.json').read_text()) == dict(kind='generate', key=dict(b=[1, dict(c=None)]))
    sums = json.loads((path / 'checksums.json').read_text())
    assert {n: s['size'] for n, s in sums.items()} == {'a.bin': 10, 'sub/deeper/b é.txt': 1, 'empty': 0}
    assert all(s['sha256'] == file_digest(path / n) for n, s in sums.items())
    assert not any(p.stat().st_mode & 0o222 for p in path.rglob('*') if p.is_file())
    e = entry(store, path.name[:12])
    assert (e.kind, e.key, e.path, e.files) == (
        'generate',
        dict(b=[1, dict(c=None)]),
        path,
        {n: s['size'] for n, s in sums.items()},
    )
    assert abs(e.time - time.time()) < 3600 and e.size == sum(p.stat().st_size for p in path.rglob('*') if p.is_file())


@pytest.mark.parametrize(
    'fault', [KeyError('a bug'), KeyboardInterrupt(), SystemExit(1), OSError(errno.EACCES, 'a file of its own')]
)
def test_exception_in_a_job_leaves_no_entry(store, fault):
    def work(folder):
        write()(folder)
        raise fault

    with pytest.raises(type(fault)):
        store.job('generate', {}, work)
    assert ls(store) == [] and not any((store.path / 'tmp').iterdir()) and store.misses == {'generate': 1}
    store.job('generate', {}, write())
    assert store.has('generate', {})


@pytest.mark.parametrize('what', ['key.json', 'checksums.json', 'link', 'pipe'])
def test_forbidden_files_of_a_job(store, what):
    def work(folder):
        if what == 'link':
            (folder / what).symlink_to('/etc')
        elif what == 'pipe':
            os.mkfifo(folder / what)
        else:
            (folder / what).write_text('{}')

    with pytest.raises(ValueError, match=what):
        store.job('generate', {}, work)
    assert ls(store) == [] and not any((store.path / 'tmp').iterdir())


def test_nested_jobs(store):
    def outer(folder):
        write((store.job('generate', dict(inner=1), write('in')) / 'answers.txt').read_text() + ' and out')(folder)

    assert (store.job('generate', dict(outer=1), outer) / 'answers.txt').read_text() == 'in and out'
    assert len(ls(store)) == 2 and not any((store.path / 'tmp').iterdir())


def test_paths_are_absolute_after_chdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store('store')
    path = store.job('generate', {}, write())
    (tmp_path / 'else').mkdir()
    monkeypatch.chdir(tmp_path / 'else')
    assert store.find('generate', {}) == path and path.is_absolute()


def test_entry_is_verified_once_per_process(store, monkeypatch):
    path = store.job('generate', {}, write())
    forget(store)
    read = []
    monkeypatch.setattr(store_module, 'file_digest', lambda p: read.append(p.name) or file_digest(p))
    for _ in range(3):
        assert store.find('generate', {})
    assert sorted(read) == ['answers.txt', 'key.json']
    os.utime(path / 'answers.txt', (1, 1))
    assert store.find('generate', {}) and len(read) == 4


def test_fsync_before_rename(store, monkeypatch):
    "Files, then the folders that list them, then the rename, then the folder that lists the entry."
    store.job('generate', dict(first=1), write())
    did = []
    real_sync, real_rename = store_module.fsync_dir, os.rename
    monkeypatch.setattr(store_module, 'fsync_dir', lambda p: (did.append(('sync', Path(p))), real_sync(p)))
    monkeypatch.setattr(os, 'rename', lambda a, b: (did.append(('rename', Path(a), Path(b))), real_rename(a, b)))

    def work(folder):
        (folder / 'sub' / 'deeper').mkdir(parents=True)
        (folder / 'sub' / 'deeper' / 'x').write_text('x')
        (folder / 'y').write_text('y')

    path = store.job('generate', dict(second=1), work)
    at = next(i for i, d in enumerate(did) if d[0] == 'rename')
    tmp = did[at][1]
    order = [d[1].relative_to(tmp).as_posix() for d in did[:at] if d[1].is_relative_to(tmp)]
    assert set(order) == {'sub/deeper/x', 'y', 'key.json', 'checksums.json', 'sub/deeper', 'sub', '.'}
    assert (
        order.index('sub/deeper/x')
        < order.index('sub/deeper')
        < order.index('sub')
        < order.index('.')
        == len(order) - 1
    )
    assert did[at][2] == path and did[at + 1 :] == [('sync', path.parent)]
    assert {path.parent.parent, store.path} & {d[1] for d in did[:at]}, (
        'a new folder is forced to the disk where it is listed'
    )


# Corruption


def answers_of(path):
    return path / 'sub' / 'answers.txt'


def checksums_of(path):
    return path / 'checksums.json'


def in_place_of_the_folder(path, make):
    shutil.rmtree(path)
    make()


DAMAGES = {
    'missing file': lambda path: answers_of(path).unlink(),
    'missing folder': lambda path: shutil.rmtree(path / 'sub'),
    'a folder in the place of a file': lambda path: (answers_of(path).unlink(), answers_of(path).mkdir()),
    'one byte': lambda path: answers_of(path).write_bytes(b'13\n'),
    'truncated': lambda path: answers_of(path).write_bytes(b'12'),
    'longer': lambda path: answers_of(path).write_bytes(b'12\n7\n'),
    'empty file': lambda path: answers_of(path).write_bytes(b''),
    'no key': lambda path: (path / 'key.json').unlink(),
    'another key': lambda path: (path / 'key.json').write_text('{"key":{},"kind":"finetune"}'),
    'empty key': lambda path: (path / 'key.json').write_text(''),
    'no checksums': lambda path: checksums_of(path).unlink(),
    'broken checksums': lambda path: checksums_of(path).write_bytes(checksums_of(path).read_bytes()[:-20]),
    'binary checksums': lambda path: checksums_of(path).write_bytes(b'\xff\xfe\0'),
    'checksums of another shape': lambda path: checksums_of(path).write_text('["sub/answers.txt"]'),
    'checksums without size': lambda path: checksums_of(path).write_text('{"sub/answers.txt": {}}'),
    'empty folder': lambda path: in_place_of_the_folder(path, path.mkdir),
    'a file in the place of the entry': lambda path: in_place_of_the_folder(path, lambda: path.write_text('?')),
    'a dangling link': lambda path: in_place_of_the_folder(path, lambda: path.symlink_to('nowhere')),
}


def damage(path, how):
    for p in path.rglob('*'):
        if p.is_file():
            p.chmod(0o644)
    DAMAGES[how](path)


def whole(folder):
    (folder / 'sub').mkdir()
    (folder / 'sub' / 'answers.txt').write_text('12\n')


@pytest.mark.parametrize('known', [True, False], ids=['same process', 'new process'])
@pytest.mark.parametrize('how', DAMAGES)
def test_corrupt_entry_is_named_quarantined_and_made_again(store, capsys, how, known):
    path = store.job('generate', dict(a=1), whole)
    damage(path, how)
    if not known:
        forget(store)
    # within one tick of the clock a change of equal length may not show
    elif how in ('one byte',):
        os.utime(path / 'sub' / 'answers.txt', (1, 1))
    assert store.job('generate', dict(a=1), whole) == path and (path / 'sub' / 'answers.txt').read_bytes() == b'12\n'
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f'generate/{path.name[:12]}' in lines[0] and 'damaged' in lines[0]
    assert verify(store) == {} and len(ls(store)) == 1 and store.misses == {'generate': 2}
    assert len(list((store.path / 'damaged').glob('*'))) == (how != 'empty folder')
    store.job('generate', dict(a=1), lambda folder: 1 / 0)


def test_corrupt_twice_is_quarantined_twice(store, capsys):
    for _ in range(3):
        damage(store.job('generate', dict(a=1), whole), 'truncated')
        forget(store)
    store.job('generate', dict(a=1), whole)
    assert len(list((store.path / 'damaged').glob('*'))) == 3 and verify(store) == {}


def test_verify_finds_every_corruption_and_moves_nothing(store):
    for how in DAMAGES:
        if how not in ('a file in the place of the entry', 'a dangling link'):
            damage(store.job('generate', dict(how=how), whole), how)
    store.job('generate', dict(how='not at all'), whole)
    wrong = verify(store)
    assert len(wrong) == len(DAMAGES) - 2 == len(ls(store)) - 1 and not (store.path / 'damaged').exists()


def test_find_quarantines_too(store, capsys):
    path = store.job('generate', {}, whole)
    damage(path, 'truncated')
    forget(store)
    assert store.find('generate', {}) is None and not path.exists() and 'damaged' in capsys.readouterr().err


def test_permission_error_is_not_corruption(store, monkeypatch):
    path = store.job('generate', {}, whole)
    forget(store)
    for number in (errno.EACCES, errno.EMFILE, errno.ESTALE):

        def refuse(p, n=number):
            raise OSError(n, os.strerror(n), str(p))

        monkeypatch.setattr(store_module, 'file_digest', refuse)
        with pytest.raises(MaftError, match='cannot work in the store'):
            store.find('generate', {})
    monkeypatch.setattr(store_module, 'file_digest', file_digest)
    assert store.find('generate', {}) == path


def test_read_error_of_the_disk_is_corruption(store, monkeypatch, capsys):
    store.job('generate', {}, whole)
    forget(store)

    def broken(p):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(p))

    monkeypatch.setattr(store_module, 'file_digest', broken)
    assert store.find('generate', {}) is None and 'the disk cannot read it' in capsys.readouterr().err


# Killed at every change


def test_resume_after_a_kill_at_every_change(fast):
    """Right after each kill every entry is valid; one more run, and the store is to the byte what an undisturbed run
    makes."""
    want = killing('clean', 'jobs', fast / 'clean')[0]['after']
    *kills, through = killing('kill', 'jobs', fast / 'kill', '--from-scratch')
    assert len(kills) >= 100 and through['after'] == want
    assert {k['what'] for k in kills} >= {'write', 'fsync', 'rename', 'mkdir', 'open', 'chmod'}
    for k in kills:
        assert k['seen']['wrong'] == [], k
        assert k['after'] == want, (k['n'], k['what'], set(k['after'].items()) ^ set(want.items()))


def test_resume_after_many_kills_in_one_store(fast):
    want = killing('clean', 'jobs', fast / 'clean')[0]['after']
    *kills, through = killing('kill', 'jobs', fast / 'kill')
    assert len(kills) >= 20 and through['after'] == {f'{k}': v for k, v in want.items()}
    assert all(k['seen']['wrong'] == [] for k in kills)


def test_sigkill_tests_catch_an_unsafe_cache(fast):
    *kills, through = killing('kill', 'naive', fast, '--from-scratch')
    assert any(k['after'] != through['after'] for k in kills)


@pytest.mark.parametrize('seed', range(3))
def test_sigkill_of_concurrent_processes(fast, seed):
    "Four processes at the same jobs, killed at random changes while the others continue."
    want = killing('clean', 'jobs', fast / 'clean')[0]['after']
    killed, end = killing('sigkill_concurrent', 'jobs', fast / 'sigkill_concurrent', 4, seed)
    assert killed['kills'] >= 4 and killed['seen']['wrong'] == []
    assert end['after'] == want


# Concurrent processes


def test_eight_concurrent_processes_run_a_job(fast):
    rounds = killing('race', 'same', fast, 8, 10)
    assert len(rounds) == 10
    for seen in rounds:
        assert seen['entries'] == 1 and seen['wrong'] == 0 and seen['left'] == [] and seen['aside'] == 0, seen
        assert len(seen['got']) == 8 and set(seen['got']) == {seen['who'][0] * 2}


def test_eight_concurrent_processes_repair_a_corrupt_entry_once(fast):
    "It is quarantined once, however many processes found it corrupt; none returns it."
    rounds = killing('race', 'repair', fast, 8, 10)
    assert len(rounds) == 10
    for seen in rounds:
        assert seen['entries'] == 1 and seen['wrong'] == 0 and seen['left'] == [] and seen['aside'] == 1, seen
        assert len(seen['got']) == 8


def test_slower_process_does_not_quarantine_the_repaired_entry(store, capsys):
    path = store.job('generate', {}, whole)
    damage(path, 'truncated')
    forget(store)
    inode = path.stat().st_ino
    store.job('generate', {}, whole)
    assert store_module._set_aside(store.path, path, inode=inode, why='as another process saw it') is False
    assert store.find('generate', {}) == path


def test_threads_share_a_store(store):
    got = []

    def work(i):
        for j in range(5):
            got.append((i, store.job('generate', dict(j=j), write(str(j)))))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 20 and len(ls(store)) == 5 and verify(store) == {} and not any((store.path / 'tmp').iterdir())


# Stale leases


def dead_mark(name):
    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    parts = lease_name(name).split('.')
    parts[4:6] = str(child.pid), store_module._started(child.pid)
    child.communicate(b'\n')
    return '.'.join(parts)


def test_lease_is_stale_once_its_owner_is_dead(tmp_path):
    mine = lease_name('x')
    parts = mine.split('.')

    def here(**k):
        return tmp_path / '.'.join(
            k.get(n, p) for n, p in zip(('name', 'host', 'boot', 'space', 'pid', 'start', 'n'), parts)
        )

    assert not is_stale(here())
    assert is_stale(here(start='1')), 'our number, used again'
    assert is_stale(here(boot='earlier')), 'before the machine was started again'
    assert is_stale(here(host=store_module.FREE))
    assert is_stale(tmp_path / dead_mark('x'))
    for unknown in (
        here(host='another-machine'),
        here(space='another-container'),
        tmp_path / 'whatever',
        tmp_path / 'x.y.z',
    ):
        assert not is_stale(unknown), 'nothing there'
        unknown.mkdir()
        assert not is_stale(unknown)
        os.utime(unknown, (1, 1))
        assert is_stale(unknown)


def test_lease_of_another_user_is_not_stale(monkeypatch):
    "Machines that hide other people's processes (hidepid) must not make them look dead."

    def refuse(pid, signal):
        raise PermissionError

    monkeypatch.setattr(store_module, '_line', lambda path: '')
    monkeypatch.setattr(os, 'kill', refuse)
    assert (
        store_module._started('12345') in ('?', '')
        if not Path('/proc/self/stat').exists()
        else store_module._started('12345') == '?'
    )


@pytest.mark.skipif(shutil.which('ps') is None, reason='no ps here')
def test_lease_owner_without_proc(monkeypatch):
    "As on macOS, which has no /proc: `ps` is asked."
    monkeypatch.setattr(store_module, '_line', lambda path: '')
    monkeypatch.setattr(Path, 'exists', lambda self: False)
    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    a = store_module._started(str(child.pid))
    b = store_module._started(child.pid)
    child.kill()
    time.sleep(0.2)
    zombie = store_module._started(child.pid)
    child.wait()
    child.stdin.close()
    assert (
        a == b
        and len(a) == 12
        and zombie
        == ''
        == store_module._started(child.pid)
        == store_module._started('')
        == store_module._started('x')
        == store_module._started('9' * 30)
    )


def test_stale_leases_are_garbage_collected(store):
    store.job('generate', {}, write())
    for d in ('tmp', 'scratch'):
        (store.path / d).mkdir(exist_ok=True)
    done = job_digest('generate', {})
    for where in (
        store.path / 'tmp' / dead_mark('a' * 64),
        store.path / 'scratch' / dead_mark(done),
        store.path / 'scratch' / dead_mark('b' * 64),
        store.path / 'tmp' / lease_name('c' * 64),
    ):
        where.mkdir()
        (where / 'half').write_text('x')
    Store(store.path).job('generate', {}, write())
    assert [p.name[0] for p in sorted((store.path / 'tmp').iterdir())] == ['c'] and [
        p.name[0] for p in (store.path / 'scratch').iterdir()
    ] == ['b']


# Scratch


def test_scratch_is_leased_until_the_job_is_done(store):
    a = store.scratch('finetune', dict(a=1))
    (a / 'checkpoint').write_text('3')
    assert store.scratch('finetune', dict(a=1)) == a != store.scratch('finetune', dict(a=2))
    assert Store(store.path).scratch('finetune', dict(a=1)) != a, 'another store object is another owner'
    store.job('finetune', dict(a=1), write())
    assert not a.exists()


def test_scratch_is_kept_after_a_failure(store):
    def work(folder):
        (store.scratch('finetune', {}) / 'checkpoint').write_text('3')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.job('finetune', {}, work)
    other = Store(store.path)
    assert (other.scratch('finetune', {}) / 'checkpoint').read_text() == '3'
    other.job('finetune', {}, write())
    assert not any((store.path / 'scratch').iterdir())


def test_latest_stale_scratch_is_taken_over_once(store):
    (store.path / 'scratch').mkdir(parents=True)
    name = job_digest('finetune', {})
    for i, when in enumerate((100, 300, 200)):
        d = store.path / 'scratch' / dead_mark(name)
        d.mkdir()
        (d / 'step').write_text(str(i))
        os.utime(d, (when, when))
    got = [(Store(store.path).scratch('finetune', {})) for _ in range(4)]
    assert [(d / 'step').read_text() if (d / 'step').exists() else None for d in got] == [
        '1',
        '2',
        '0',
        None,
    ] and len(set(got)) == 4


def test_scratch_of_a_live_process_is_not_touched(store):
    mine = store.scratch('finetune', {})
    (mine / 'checkpoint').write_text('3')
    Store(store.path).job('finetune', {}, write())
    assert (mine / 'checkpoint').exists()
    store.job('finetune', {}, write())  # found; what we kept for it goes too
    assert not any((store.path / 'scratch').iterdir())


def test_resume_from_the_checkpoint_of_a_killed_job(tmp_path):
    program = """
import os, signal, sys
from multiagent_ft.runs.store import Store
from multiagent_ft.core import write_atomic
store, key = Store(sys.argv[1]), dict(steps=8)
def work(folder):
    at = store.scratch('finetune', key)/'at'
    first, x = map(int, at.read_text().split()) if at.exists() else (0, 1)
    for step in range(first, 8):
        if step == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)
        print('step', step, flush=True); x = x*7 + step
        write_atomic(at, f'{step + 1} {x}')
    (folder/'weights').write_text(str(x))
print((store.job('finetune', key, work)/'weights').read_text())
"""

    def run(where, at):
        return subprocess.run(
            [sys.executable, '-c', program, str(tmp_path / where), str(at)], capture_output=True, text=True
        )

    want = run('whole', -1).stdout.split()[-1]
    did = [run('killed', at) for at in (3, 6, -1)]
    assert [d.returncode for d in did] == [-9, -9, 0] and did[-1].stdout.split()[-1] == want
    assert ''.join(d.stdout for d in did).splitlines()[:-1] == [f'step {i}' for i in range(8)], 'no step was done twice'


# Full disk, read-only disk, no permission


def test_full_disk_at_every_change(fast):
    """Whichever change finds no room: one error that says what to do, nothing half-written to be seen, and with more
    room all ends well."""
    want = killing('clean', 'jobs', fast / 'clean')[0]['after']
    *full, through = killing('full', 'jobs', fast / 'full')
    assert len(full) >= 80 and through['after'] == want
    for f in full:
        assert 'free some' in f['error'].lower() and 'same command again' in f['error'], f['error']
        assert f['seen']['wrong'] == [] and f['left'] == [] and f['after'] == want, f['n']


def test_full_disk_on_a_small_file_system(tmp_path):
    "A disk of 64 kB (needs root, and a mount that is allowed)."
    mounted = (
        sys.platform == 'linux'
        and subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', tmp_path], capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip('cannot mount a small disk here')
    try:
        store = Store(tmp_path / 'store')
        store.job('generate', dict(small=1), write())
        with pytest.raises(MaftError, match='no room left'):
            store.job('generate', dict(large=1), write('x' * 100_000))
        assert (
            [e.key for e in ls(store)] == [dict(small=1)]
            and verify(store) == {}
            and not any((store.path / 'tmp').iterdir())
        )
        store.job('generate', dict(large=0), write('x' * 1000))
    finally:
        subprocess.run(['umount', '-l', tmp_path])


@pytest.mark.parametrize(
    'fault',
    [
        OSError(errno.ENOSPC, 'No space left on device'),
        OSError(errno.EDQUOT, 'Disk quota exceeded'),
        RuntimeError('SafetensorError: I/O error: No space left on device (os error 28)'),
    ],
)
def test_full_disk_error_messages(store, fault):
    def work(folder):
        write()(folder)
        raise fault

    with pytest.raises(MaftError, match='no room left') as e:
        store.job('generate', {}, work)
    assert (
        str(store.path) in str(e.value)
        and '\n' not in str(e.value)
        and ls(store) == []
        and not any((store.path / 'tmp').iterdir())
    )


def test_full_disk_behind_another_error(store):
    def work(folder):
        try:
            raise OSError(errno.ENOSPC, 'No space left on device')
        except OSError as e:
            raise RuntimeError('could not save') from e

    with pytest.raises(MaftError, match='no room left'):
        store.job('generate', {}, work)


def test_read_only_store(store, monkeypatch):
    store.job('generate', dict(a=1), write())

    def refuse(path, *a, **k):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for name in ('mkdir', 'rename', 'unlink', 'rmdir'):
        monkeypatch.setattr(os, name, refuse)
    read = Store(store.path)
    assert read.job('generate', dict(a=1), lambda folder: 1 / 0), 'what is there can be used'
    with pytest.raises(MaftError, match='Read-only') as e:
        read.job('generate', dict(a=2), write())
    assert 'key `store`' in str(e.value)


def test_store_folder_without_permission():
    "As root nothing is forbidden: the child becomes user `nobody` first."
    code = """
import os, sys
from multiagent_ft.core import MaftError
from multiagent_ft.runs.store import Store
if os.geteuid() == 0: os.setuid(65534)
try: Store(sys.argv[1] + '/store').job('generate', {}, lambda folder: None)
except MaftError as e: print(e)
"""
    with memory() as d:
        os.chmod(d, 0o555)
        done = subprocess.run([sys.executable, '-c', code, d], capture_output=True, text=True)
        os.chmod(d, 0o755)
    assert (
        'Permission denied' in done.stdout
        and 'another folder with the key `store`' in done.stdout
        and len(done.stdout.splitlines()) == 1
    ), done.stdout + done.stderr


def test_bad_store_paths(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(MaftError, match='is a file'):
        Store(tmp_path / 'file')
    with pytest.raises(MaftError, match='cannot work'):
        Store(tmp_path / 'file' / 'below').job('generate', {}, write())


def test_schemas(tmp_path):
    store = Store(tmp_path)
    store.job('generate', {}, write())
    assert json.loads((tmp_path / 'store.json').read_text()) == dict(schema=1)
    (tmp_path / 'store.json').write_text('{"schema": 2}')
    with pytest.raises(MaftError, match='newer multiagent_ft'):
        Store(tmp_path)
    for broken in ('', '{', '[]', '{"schema": "x"}', '{"schema": null}'):
        (tmp_path / 'store.json').write_text(broken)
        with pytest.raises(MaftError, match='store.json is damaged'):
            Store(tmp_path)
    (tmp_path / 'store.json').unlink()
    assert Store(tmp_path).has('generate', {}), 'as the message promises'


def test_lookup_creates_no_files(tmp_path):
    store = Store(tmp_path / 'store')
    assert (
        store.find('generate', {}) is None and not store.has('generate', {}) and ls(store) == [] and verify(store) == {}
    )
    assert not (tmp_path / 'store').exists() and 'store' in repr(store)


# Housekeeping


def a_run(folder, *paths):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'keys.json').write_text(json.dumps([p.name for p in paths]))


def test_prune_keeps_entries_of_runs(store, tmp_path, capsys):
    a, b, c = (store.job('generate', dict(i=i), write('x' * 1000 * i)) for i in range(3))
    d = store.job('finetune', dict(i=3), write('x' * 5000))
    a_run(tmp_path / 'runs' / 'one', a)
    a_run(tmp_path / 'runs' / 'two', b)
    gone = prune(store, [tmp_path / 'runs'])
    assert [e.path for e in gone] == [d, c] and len(ls(store)) == 4 and 'Nothing was removed' in capsys.readouterr().out
    damage_free = prune(store, [tmp_path / 'runs' / 'one', tmp_path / 'runs' / 'two'], dry=False)
    assert damage_free == gone and [e.path for e in ls(store)] == sorted([a, b]) and verify(store) == {}
    assert '2 of 4 entries' in capsys.readouterr().out and prune(store, [tmp_path / 'runs']) == []
    Store(store.path).job('generate', dict(i=2), write('x' * 2000))
    assert c.exists()


def test_prune_removes_corrupt_entries_and_stale_scratch(store, tmp_path, capsys):
    path = store.job('generate', {}, whole)
    damage(path, 'truncated')
    forget(store)
    store.job('generate', {}, whole)
    for name, age in (('a' * 64, 0), ('b' * 64, store_module.WEEK + 1), (path.name, 0)):
        d = store.path / 'scratch' / dead_mark(name)
        d.mkdir(parents=True)
        (d / 'x').write_text('x')
        os.utime(d, (time.time() - age,) * 2)
    living = store.path / 'scratch' / lease_name('c' * 64)
    living.mkdir()
    os.utime(living, (1, 1))
    a_run(tmp_path / 'run', path)
    prune(store, [tmp_path / 'run'])
    assert len(list((store.path / 'scratch').iterdir())) == 4 and any((store.path / 'damaged').iterdir())
    prune(store, [tmp_path / 'run'], dry=False)
    assert sorted(p.name[0] for p in (store.path / 'scratch').iterdir()) == ['a', 'c'] and not any(
        (store.path / 'damaged').iterdir()
    )
    assert store.has('generate', {})


@pytest.mark.parametrize('text', [None, '', '{', '{"a": 1}', '[1, 2]', 'null'])
def test_prune_refuses_unreadable_runs(store, tmp_path, text):
    store.job('generate', {}, write())
    a_run(tmp_path / 'runs' / 'good')
    bad = tmp_path / 'runs' / 'bad'
    bad.mkdir()
    (bad / 'config.yaml').touch()
    if text is not None:
        (bad / 'keys.json').write_text(text)
    with pytest.raises(MaftError, match='bad has no readable keys.json'):
        prune(store, [tmp_path / 'runs'], dry=False)
    for roots in ([], [tmp_path / 'nowhere'], [store.path]):
        with pytest.raises(MaftError, match='othing was removed'):
            prune(store, roots, dry=False)
    assert len(ls(store)) == 1


def test_prune_refuses_while_a_process_works(store, tmp_path):
    store.job('generate', dict(old=1), write())
    a_run(tmp_path / 'run')

    def meanwhile(folder):
        with pytest.raises(MaftError, match='at work'):
            prune(store, [tmp_path / 'run'], dry=False)
        write()(folder)

    store.job('generate', dict(new=1), meanwhile)
    assert len(ls(store)) == 2


def test_entry_by_prefix(store):
    paths = [store.job('generate', dict(i=i), write()) for i in range(20)]
    assert entry(store, paths[3].name).path == paths[3]
    for begins, expected in (('', '20 entries'), ('nothing', 'no entries')):
        with pytest.raises(MaftError, match=expected):
            entry(store, begins)


def test_store_imports_no_torch():
    heavy = "('torch', 'transformers', 'numpy')"
    code = f'import sys, multiagent_ft.runs.store; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stdout + done.stderr
