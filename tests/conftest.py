"""What every test relies on: a quiet, offline, one-thread process, the folder of recorded data, and the command line as
a user runs it."""

import atexit, functools, os, resource, shutil, signal, subprocess, sys, tempfile
from pathlib import Path

# Before anything imports torch, transformers or wandb.
os.environ.update(
    OMP_NUM_THREADS='1',
    WANDB_MODE='offline',
    HF_HUB_OFFLINE='1',
    HF_DATASETS_OFFLINE='1',
    # figures and bytes are those of a CPU
    TOKENIZERS_PARALLELISM='false',
    MPLBACKEND='agg',
    CUDA_VISIBLE_DEVICES='',
)
for k in ('WANDB_API_KEY', 'OPENAI_API_KEY', 'HF_TOKEN', 'ANTHROPIC_API_KEY'):
    os.environ.pop(k, None)
for k in ('WANDB_DIR', 'WANDB_CONFIG_DIR', 'WANDB_CACHE_DIR', 'WANDB_DATA_DIR'):
    os.environ[k] = tempfile.mkdtemp(prefix='maft-test-')
    atexit.register(shutil.rmtree, os.environ[k], ignore_errors=True)

# in the background Ctrl-C is ignored, and would be by the programs under test
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from forking import MAFT, Forks
from hypothesis import HealthCheck, settings

# Before any test file is read, since `@given` takes the settings that hold when it is met. A busy machine is not a
# failure, and the same cases come every time.
settings.register_profile(
    'unhurried', deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile('unhurried')

ROOT = Path(__file__).resolve().parents[1]
# recorded data kept beside the checkout; a test that needs it is skipped where it is absent
SHARED = ROOT.parent / 'shared'
for extra in (ROOT, ROOT / 'tools'):
    if str(extra) not in sys.path:
        sys.path.insert(0, str(extra))

needs_shared = pytest.mark.skipif(not (SHARED / 'data').is_dir(), reason=f'no recorded data at {SHARED / "data"}')


@functools.cache
def forks() -> Forks:
    "The server of forked programs, one for each process that runs tests."
    server = Forks()
    atexit.register(server.close)
    return server


def maft(
    *args,  # as on the command line
    cwd=None,
    env=None,  # where, and variables to add or (None) to remove
    timeout=600,  # seconds before a hung process is killed
    fresh=False,  # an ordinary process, from its first import on
) -> subprocess.CompletedProcess:
    "Run the command line in a process of its own; stdout, stderr and returncode come back. Nothing is asserted here."
    full = {**os.environ, 'COLUMNS': '120', 'NO_COLOR': '1', **(env or {})}
    full = {k: v for k, v in full.items() if v is not None}
    if not fresh and forks().can_run(full):
        return forks().run(MAFT, *args, cwd=cwd, env=full, timeout=timeout)
    script = Path(sys.executable).with_name('maft')
    command = [str(script)] if script.exists() else [sys.executable, '-c', 'from multiagent_ft.cli import main; main()']
    return subprocess.run(
        [*command, *map(str, args)],
        cwd=cwd,
        env=full,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding='utf-8',
    )


@pytest.fixture
def run_maft(tmp_path):
    "`maft` in a folder of the test's own."
    return lambda *args, cwd=tmp_path, **kw: maft(*args, cwd=cwd, **kw)


@pytest.fixture
def shared():
    "The folder of recorded data; skips the test where there is none."
    if not (SHARED / 'data').is_dir():
        pytest.skip(f'no recorded data at {SHARED / "data"}')
    return SHARED


def tracked(to):
    "A copy of what git tracks (or would), in `to`: what a fresh clone holds."
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip('not a git checkout')
    for f in filter(None, listed.stdout.decode().split('\0')):
        if not (ROOT / f).is_file():
            continue
        (to / f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / f, to / f)
    return to


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    "The wheel built from a copy of the checkout."
    src, out = tracked(tmp_path_factory.mktemp('src')), tmp_path_factory.mktemp('wheel')
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'pip',
            'wheel',
            '--quiet',
            '--no-deps',
            '--no-build-isolation',
            '--wheel-dir',
            out,
            src,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob('*.whl'))


LONGEST = [f'test_{n}.py' for n in 'resume notebooks run recipes finetune engine cli store tasks answers'.split()]


def pytest_collection_modifyitems(items):
    "The longest files come first: processes side by side end together."
    items.sort(key=lambda i: LONGEST.index(i.path.name) if i.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests share a process, and what they made there; each notebook, and whatever shares nothing and is long,
    goes by itself."""
    from xdist.scheduler import LoadScopeScheduling

    config.option.loadscopereorder = False

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return nodeid if 'test_notebooks.py' in nodeid or '::test_loop_' in nodeid else nodeid.partition('::')[0]

    return ByFile(config, log)


def world():
    "What one test could leave to the next, beside the environment."
    shell = sys.modules['IPython'].get_ipython() if 'IPython' in sys.modules else None
    return dict(folder=os.getcwd(), shell=type(shell).__name__, ctrl_c=signal.getsignal(signal.SIGINT))


def cpu_seconds():
    "Of this process, of the children it has waited for, and of the programs forked for it."
    own = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own + (forks().cpu if forks.cache_info().currsize else 0)


def pytest_addoption(parser):
    parser.addoption('--cpu', type=int, default=0, metavar='N', help='show the N tests that took most CPU time')


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    "A busy machine stretches seconds, not CPU seconds."
    item.stash[STARTED] = cpu_seconds()
    return (yield)


def pytest_terminal_summary(terminalreporter, config):
    if not (most := config.getoption('--cpu')):
        return
    spent = {
        report.nodeid: dict(report.user_properties).get('cpu', 0)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, 'when', '') == 'teardown'
    }
    terminalreporter.section(f'CPU time: {sum(spent.values()):.0f} s of {len(spent)} tests')
    for test in sorted(spent, key=spent.get, reverse=True)[:most]:
        terminalreporter.line(f'{spent[test]:8.1f} s  {test}')


STARTED = pytest.StashKey()
FOUND = pytest.StashKey()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    item.stash[FOUND] = dict(os.environ), world()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    "The environment is given back after each test; what else it left behind is its own failure."
    done = yield
    env, before = item.stash[FOUND]
    os.environ.clear()
    os.environ.update(env)
    if (after := world()) != before:
        pytest.fail(f'left behind: {dict(after.items() - before.items())}', pytrace=False)
    item.user_properties.append(('cpu', cpu_seconds() - item.stash[STARTED]))
    return done
