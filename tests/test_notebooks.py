"Every notebook runs from top to bottom, in a process of its own: one test each, cells flagged notest or slow left out."

import subprocess, sys
import pytest
from conftest import ROOT
from lint_nbs import notebooks

CODE = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
sys.exit(not test_nb(Path(sys.argv[1]), skip_flags=get_config().tst_flags.split(), basepath=get_config().config_path)[0])
"""


# the longest come first: processes side by side end together
@pytest.mark.parametrize('path', notebooks()[::-1], ids=lambda p: p.relative_to(ROOT / 'nbs').as_posix())
def test_notebook(path):
    done = subprocess.run(
        [sys.executable, '-c', CODE, path],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding='utf-8',
        timeout=1800,
    )
    assert done.returncode == 0, f'{path.name} stopped here:\n{done.stdout}{done.stderr}'
