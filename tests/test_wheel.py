"""The wheel alone: installed into an environment of its own, outside the checkout, it must import and run.

The heavy libraries are those of the environment the tests run in (a .pth line; its editable install of this package
does not come along), so nothing is downloaded. The workflow `test.yaml` does the same with a fresh installation.
"""

import json, os, subprocess, sys, sysconfig, venv
from pathlib import Path
import pytest
from conftest import ROOT
from test_house import MODULES

pytestmark = pytest.mark.slow


def without_python():
    "The environment, without variables that tell Python where to look."
    return {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}


@pytest.fixture(scope='module')
def alone(wheel, tmp_path_factory):
    "(python of the environment, folder to work in)"
    home = tmp_path_factory.mktemp('alone')
    venv.create(home / 'env', with_pip=False)
    python = home / 'env' / 'bin' / 'python'
    place = Path(
        subprocess.run(
            [python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    scripts = home / 'env' / 'bin'
    subprocess.run(
        [sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', '--no-index', wheel],
        env=without_python(),  # on PYTHONPATH pip would find the checkout's metadata, and install nothing
        check=True,
    )
    (place / 'lent.pth').write_text(sysconfig.get_path('purelib') + '\n')
    assert (scripts / 'maft').exists()
    (home / 'work').mkdir()
    return python, home / 'work'


def run(alone, *command, timeout=1200):
    python, work = alone
    env = without_python() | dict(HOME=str(work), NO_COLOR='1')
    return subprocess.run(
        [python.with_name(command[0]), *map(str, command[1:])],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def test_package_is_imported_from_the_wheel(alone):
    done = run(alone, 'python', '-c', 'import multiagent_ft; print(multiagent_ft.__file__)')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(alone[0].parents[1])) and str(ROOT) not in done.stdout


def test_every_module_can_be_imported(alone):
    done = run(
        alone,
        'python',
        '-c',
        'import importlib\n' + f'for m in {MODULES!r}: importlib.import_module("multiagent_ft." + m)',
    )
    assert done.returncode == 0, done.stderr


def test_sys_path_holds_no_checkout(alone):
    done = run(
        alone,
        'python',
        '-c',
        'import sys, multiagent_ft.cli, multiagent_ft.runs.run\n'
        + f'print([p for p in sys.path if p.startswith({str(ROOT)!r} + "/") and "site-packages" not in p or p =='
        f' {str(ROOT)!r}])',
    )
    assert done.returncode == 0 and done.stdout.strip() == '[]', done.stdout + done.stderr


def test_version_and_help(alone):
    assert 'maft 0' in run(alone, 'maft', '--version').stdout
    assert 'debate' in run(alone, 'maft', '--help').stdout


def test_quick_run(alone):
    done = run(alone, 'maft', 'run', '--quick', '--out', 'quick')
    assert done.returncode == 0, done.stdout + done.stderr
    for noise in ('Warning', 'Traceback', 'warn('):
        assert noise not in done.stdout + done.stderr
    summary = json.loads((alone[1] / 'quick' / 'summary.json').read_text())
    assert summary['schema'] == 3 and summary['model'] == 'nano' and len(summary['iterations']) == 2
    for it in summary['iterations']:
        for m in ('single', 'majority', 'debate'):
            assert {'accuracy', 'stderr', 'n', 'unparsed'} <= it['methods'][m].keys()
    again = run(alone, 'maft', 'run', '--quick', '--out', 'quick')
    assert (
        again.returncode == 0
        and json.loads((alone[1] / 'quick' / 'summary.json').read_text())['iterations'] == summary['iterations']
    )
