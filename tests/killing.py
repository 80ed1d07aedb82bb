"""Kill a program at every change it makes to the file system. Run as a script, in a process without threads:

    python tests/killing.py kill  PROGRAM FOLDER [--from-scratch] [--first N] [--every K]   at n = N, N+K, …
                                                                    until it comes through
    python tests/killing.py clean PROGRAM FOLDER                    once, undisturbed
    python tests/killing.py race  PROGRAM FOLDER N [ROUNDS]         N concurrent processes
    python tests/killing.py full  PROGRAM FOLDER                    the disk is full from change n on, n = 1, 2, …
    python tests/killing.py sigkill_concurrent PROGRAM FOLDER N SEED   N processes killed at random places and started
                                                                    again until all come through

A change is: creating or opening a file for writing, every piece written, mkdir, rename, link, unlink, rmdir, chmod,
truncate, fsync.
The n-th one is not done; the process kills itself instead (SIGKILL: no clean-up). A write is done by half first.
One line of JSON is printed for each kill. Programs are at the end of this file.
"""

import atexit, builtins, errno, functools, io, json, os, random, shutil, signal, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / 'tools')]
from multiagent_ft import core
from multiagent_ft.method.prompts import ScriptedEngine, adapter_digest
from multiagent_ft.runs import store as store_module
from multiagent_ft.runs.store import Store

OBJECTIVE = HERE / 'objective.py'
COUNT = dict(n=0, at=None, log=None, full=False)


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def tick(what, half=None):
    "One change is about to be made."
    COUNT['n'] += 1
    if COUNT['full']:
        if COUNT['n'] >= COUNT['at'] and what in ('write', 'open', 'mkdir', 'fsync'):
            if half:
                half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    if COUNT['n'] != COUNT['at']:
        return
    if COUNT['log'] is not None:
        REAL['write'](COUNT['log'], what.encode())
    if half:
        half()
    die()


REAL = {'write': os.write, 'open': os.open, 'io.open': io.open}


class Counted(io.FileIO):
    def write(self, b):
        tick('write', lambda: super(Counted, self).write(bytes(b)[: len(b) // 2]))
        return super().write(b)


CHANGES = 'mkdir rename replace link symlink unlink remove rmdir chmod fsync fdatasync truncate ftruncate utime'.split()


def counted(name):
    "`os.NAME`, counted."
    real = getattr(os, name)

    def call(*a, **k):
        tick(name)
        return real(*a, **k)

    return call


def os_open(path, flags, *a, **k):
    if flags & (os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_RDWR):
        tick('open')
    return REAL['open'](path, flags, *a, **k)


def os_write(fd, b):
    tick('write', lambda: REAL['write'](fd, bytes(b)[: len(b) // 2]))
    return REAL['write'](fd, b)


def opened(file, mode='r', buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    "`open`, with the writing counted."
    if not set(mode) & set('wax+'):
        return REAL['io.open'](file, mode, buffering, encoding, errors, newline, closefd, opener)
    if not isinstance(file, int):
        tick('open')
    raw = Counted(file, mode.replace('b', '').replace('t', ''), closefd=closefd, opener=opener)
    if buffering == 0:
        return raw
    f = io.BufferedRandom(raw) if '+' in mode else io.BufferedWriter(raw)
    return f if 'b' in mode else io.TextIOWrapper(f, encoding or 'utf-8', errors, newline)


def install(at, log=None, full=False):
    """From here on this process counts, and ends before change number `at`; or, if `full`, fails with ENOSPC there or
    anything after."""
    COUNT.update(n=0, at=at, log=log, full=full)
    for name in CHANGES:
        if hasattr(os, name):
            setattr(os, name, counted(name))
    os.open, os.write = os_open, os_write
    io.open = builtins.open = opened


def forked(work):
    "Do `work` in a child; (pid, how to wait for it)."
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        sys.stdout.flush()
        sys.stderr.flush()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(pid):
    "0 = came through, -9 = killed; anything else is a fault of the program."
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        sys.exit(f'the program failed with {code}')
    return code


def kill(program, folder, fresh, every=1, first=1):
    "One line per kill: which change, what can be seen right after it, and what a second, undisturbed run left."
    work, look = PROGRAMS[program]
    for n in range(first, 100_000, every):
        here = folder / str(n) if fresh else folder / 'one'
        here.mkdir(parents=True, exist_ok=True)
        r, w = os.pipe()
        code = ended(forked(lambda: (install(n, w), work(here))))
        os.close(w)
        what = os.read(r, 100).decode()
        os.close(r)
        if code == 0:
            break
        seen = look(here)
        if fresh:
            ended(forked(lambda: work(here)))
        print(json.dumps(dict(n=n, what=what, seen=seen, after=tree(here))), flush=True)
        if fresh:
            shutil.rmtree(here)
    print(json.dumps(dict(through=n, after=tree(here))), flush=True)


def full(program, folder):
    """One line for each place at which the room may end: the error, what is left, what a second run with more space
    made of it."""
    work, look = PROGRAMS[program]
    for n in range(1, 100_000):
        here = folder / str(n)
        here.mkdir(parents=True)
        r, w = os.pipe()

        def child():
            install(n, full=True)
            try:
                work(here)
            except core.MaftError as e:
                REAL['write'](w, str(e).encode())

        assert ended(forked(child)) == 0
        os.close(w)
        error = os.read(r, 5000).decode()
        os.close(r)
        seen, left = look(here), [p.name for p in (here / 'store' / 'tmp').glob('*')]
        ended(forked(lambda: work(here)))
        print(json.dumps(dict(n=n, error=error, seen=seen, left=left, after=tree(here))), flush=True)
        shutil.rmtree(here)
        if not error:
            break


def race(program, folder, n, rounds):
    work, look = PROGRAMS[program]
    for i in range(rounds):
        here = folder / str(i)
        here.mkdir(parents=True)
        for p in [forked(lambda k=k: work(here, k, n)) for k in range(n)]:
            assert ended(p) == 0
        print(json.dumps(look(here)), flush=True)
        shutil.rmtree(here)


def sigkill_concurrent(program, folder, n, seed):
    "Processes killed at random changes while the others continue; each is started again, until all came through."
    work, look = PROGRAMS[program]
    rng = random.Random(seed)
    kills = 0
    folder.mkdir(parents=True, exist_ok=True)

    def start(k):
        at = rng.randint(1, 40)
        return forked(lambda: (install(at), work(folder, k)))

    running = {start(k): k for k in range(n)}
    while running:
        pid, status = os.wait()
        k = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if code not in (0, -signal.SIGKILL):
            sys.exit(f'the program failed with {code}')
        if code:
            kills += 1
            running[start(k)] = k
    print(json.dumps(dict(kills=kills, seen=look(folder))), flush=True)
    ended(forked(lambda: work(folder, 0)))
    print(json.dumps(dict(after=tree(folder))), flush=True)


def content(path, folder):
    "Digest of a file's bytes; `folder` itself, which a run's config.yaml names, counts for nothing."
    if path.name == 'config.yaml':
        return core.digest(path.read_text().replace(str(folder.resolve()), ''))
    return core.file_digest(path)


def tree(folder):
    "Everything below a folder but metrics.jsonl, which holds times: name -> digest of a file, None for a folder."
    return {
        p.relative_to(folder).as_posix(): content(p, folder) if p.is_file() else None
        for p in sorted(folder.rglob('*'))
        if p.name != 'metrics.jsonl'
    }


# Programs: what is run, and what is looked at right after a kill.


def generate(folder, texts, sub=''):
    where = folder / sub
    where.mkdir(exist_ok=True)
    with open(where / 'completions.jsonl', 'w') as f:
        for t in texts:
            f.write(t + '\n')
            f.flush()


def few_jobs(folder, k=0):
    """Two blocks of answers, a finetuning with checkpoints that stands on them, answers of the trained one; then
    everything again."""
    store = Store(folder / 'store')

    def finetune(into, before):
        at = store.scratch('finetune', dict(rows=before)) / 'step.json'
        step, weight = json.loads(at.read_text()) if at.exists() else (0, 1)
        for step in range(step, 3):
            weight = weight * 7 % 1009
            core.write_atomic(at, json.dumps([step + 1, weight]))
        (into / 'adapter').mkdir()
        (into / 'adapter' / 'weights.txt').write_text(str(weight))

    for _ in range(2):
        first = [
            store.job(
                'generate',
                dict(block=i),
                lambda f, i=i: generate(f, [f'{i}-{j}' for j in range(2)], 'round-1' if i else ''),
            )
            for i in range(2)
        ]
        before = [core.file_digest(p) for f in first for p in sorted(f.rglob('*.jsonl'))]
        tuned = store.job('finetune', dict(rows=before), lambda f: finetune(f, before))
        adapter = (tuned / 'adapter' / 'weights.txt').read_text()
        store.job(
            'generate',
            dict(block=0, adapter=adapter),
            lambda f: core.write_jsonl(f / 'completions.jsonl', [dict(text=adapter)]),
        )


def naive(folder, k=0):
    "The naive cache: these tests must catch it."
    for i in range(3):
        path = folder / f'{i}.txt'
        if not path.exists():
            generate(folder, [f'{i}-{j}' for j in range(2)])
            (
                (folder / 'completions.jsonl').rename(path)
                if i == 1
                else path.write_text('whole ' + (folder / 'completions.jsonl').read_text())
            )


def look_at_store(folder):
    "Entries and their integrity errors, as a user sees them."
    store = Store(folder / 'store')
    return dict(entries=[e.digest for e in store_module.ls(store)], wrong=[str(p) for p in store_module.verify(store)])


def one_file(folder):
    "The same file written three times, then rows."
    for i in range(3):
        core.write_atomic(folder / 'deep' / 'note.txt', str(i) * 4000)
    core.write_jsonl(folder / 'rows.jsonl', [dict(i=i) for i in range(3)])


def look_at_file(folder):
    "Whose bytes are there, and how many."
    note, rows = folder / 'deep' / 'note.txt', folder / 'rows.jsonl'
    return dict(
        note=[''.join(sorted(set(note.read_text()))), note.stat().st_size] if note.exists() else None,
        rows=core.read_jsonl(rows) if rows.exists() else None,
    )


def same_job(folder, k, n):
    "All wait for each other inside the job, then finish it with bytes of their own."
    store = Store(folder / 'store')

    def work(into):
        (folder / f'here-{k}').touch()
        for _ in range(2000):
            if len(list(folder.glob('here-*'))) == n:
                break
            time.sleep(0.002)
        (into / 'who.txt').write_text(str(k) * 1000)
        (into / 'too.txt').write_text(str(k))

    got = store.job('generate', dict(race=True), work)
    (folder / f'got-{k}').write_text((got / 'who.txt').read_text()[0] + (got / 'too.txt').read_text())


def repair(folder, k, n):
    "All find the same corrupt entry at the same time, and each repairs it."
    path = folder / 'store'
    key = dict(repair=True)

    def work(into):
        (into / 'who.txt').write_text(str(k))
        (into / 'same.txt').write_text('same')

    if k == 0:
        made = Store(path).job('generate', key, work)
        (made / 'same.txt').chmod(0o644)
        (made / 'same.txt').write_text('damn')
        (folder / 'go').touch()
    while not (folder / 'go').exists():
        time.sleep(0.002)
    got = Store(path).job('generate', key, work)
    (folder / f'got-{k}').write_text((got / 'who.txt').read_text())


def look_at_race(folder):
    store = Store(folder / 'store')
    return dict(
        got=[p.read_text() for p in sorted(folder.glob('got-*'))],
        entries=len(store_module.ls(store)),
        wrong=len(store_module.verify(store)),
        left=[p.name for d in ('tmp', 'scratch') for p in (store.path / d).glob('*')],
        aside=len(list((store.path / 'damaged').glob('*'))),
        who=[(e.path / 'who.txt').read_text()[0] for e in store_module.ls(store)],
    )


def by_seed(request):
    "An answer that follows from the request's seed and the adapter's bytes."
    return f'\\boxed{{{core.seed_for(request.seed, adapter_digest(request.adapter)) % 2}}}'


@functools.cache
def tiny_base():
    "A random model that agents are adapters of; loaded once, and every forked process has it."
    from tiny_models import make
    from multiagent_ft.engines.huggingface import load_base

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return load_base(make('llama', Path(folder), hidden=16, layers=1), device='cpu')


class TrainedScript(ScriptedEngine):
    "A script that speaks for agents whose adapters are trained on `tiny_base`."

    @property
    def base(self):
        return tiny_base()


def whole_loop(folder, k=0):
    "The run loop as it is, two iterations, with a scripted engine and an objective of three steps."
    from multiagent_ft.method.recipes import RECIPES
    from multiagent_ft.runs.run import Objects, run
    from multiagent_ft.runs.settings import Config

    os.chdir(folder)  # paths in config.yaml are the same wherever it runs
    settings = dict(agents=2, train=5, eval=3, iterations=2, samples=2, workers=0, wandb='off', quiet=True)
    recipe = RECIPES['without-critic'].but('three-steps', objective=f'{OBJECTIVE}:ThreeSteps')
    cfg = Config(out='run', store='store', model='scripted', **settings)
    run(cfg, objects=Objects(recipe=recipe, engine=TrainedScript(by_seed, batch_size=4)))


PROGRAMS = dict(
    loop=(whole_loop, look_at_store),
    jobs=(few_jobs, look_at_store),
    naive=(naive, lambda folder: None),
    file=(one_file, look_at_file),
    same=(same_job, look_at_race),
    repair=(repair, look_at_race),
)

if __name__ == '__main__':
    what, program, folder, *rest = sys.argv[1:]
    if program == 'loop':  # once, here: each killed child would import and load it all again
        with tempfile.TemporaryDirectory() as d:
            whole_loop(d)
    if what == 'kill':
        steps = {k: int(rest[rest.index(f'--{k}') + 1]) for k in ('every', 'first') if f'--{k}' in rest}
        kill(program, Path(folder), '--from-scratch' in rest, **steps)
    elif what == 'clean':
        Path(folder).mkdir(parents=True, exist_ok=True)
        PROGRAMS[program][0](Path(folder))
        print(json.dumps(dict(after=tree(Path(folder)))))
    elif what == 'full':
        full(program, Path(folder))
    elif what == 'race':
        race(program, Path(folder), int(rest[0]), int(rest[1]))
    elif what == 'sigkill_concurrent':
        sigkill_concurrent(program, Path(folder), int(rest[0]), int(rest[1]))
