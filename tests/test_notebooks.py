"Every notebook runs from top to bottom, in a process of its own: one test each, cells flagged notest or slow left out."

import subprocess, sys
import pytest
from conftest import ROOT
from lint_nbs import notebooks
from making import WITHOUT_TORCH

CODE = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
cfg = get_config()
ok, _ = test_nb(Path(sys.argv[1]), skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)
sys.exit(not ok)
"""


# the longest come first: processes side by side end together
@pytest.mark.parametrize('path', notebooks()[::-1], ids=lambda p: p.relative_to(ROOT / 'nbs').as_posix())
def test_notebook(path):
    "The first part of the book (01 to 07) where torch cannot be imported."
    method = '01' <= path.name[:2] <= '07' and path.parent.name not in ('tutorials', 'results')
    method &= path.name != '03_debate.ipynb'  # until its society moves to runs.society
    done = subprocess.run(
        [sys.executable, '-c', (WITHOUT_TORCH if method else '') + CODE, path],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding='utf-8',
        timeout=1800,
    )
    assert done.returncode == 0, f'{path.name} stopped here:\n{done.stdout}{done.stderr}'
