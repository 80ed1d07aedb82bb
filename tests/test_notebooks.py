"Every notebook runs from top to bottom, in a process of its own: one test each, cells flagged notest or slow left out."

import os, subprocess, sys
import pytest
from conftest import ROOT, forks
from forking import NOTEBOOK
from lint_nbs import notebooks
from making import WITHOUT_TORCH


def in_a_process(code, path):
    return subprocess.run(
        [sys.executable, '-c', code, path],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding='utf-8',
        timeout=1800,
    )


def is_method(path):
    "One of the first part of the book, 01 to 07, which is read and run without torch."
    return '01' <= path.name[:2] <= '07' and path.parent.name not in ('tutorials', 'results')


# the longest come first: processes side by side end together
@pytest.mark.parametrize('path', notebooks()[::-1], ids=lambda p: p.relative_to(ROOT / 'nbs').as_posix())
def test_notebook(path):
    "The method where torch cannot be imported; all others forked from a process that has imported it."
    if is_method(path):
        done = in_a_process(WITHOUT_TORCH + NOTEBOOK, path)
    elif forks().can_run(os.environ):
        done = forks().run(NOTEBOOK, path, cwd=ROOT, timeout=1800)
    else:
        done = in_a_process(NOTEBOOK, path)
    assert done.returncode == 0, f'{path.name} stopped here:\n{done.stdout}{done.stderr}'


# their slow cells need nothing that is not here
SLOW = (
    'tutorials/02_first_society.ipynb',
    'tutorials/04_your_questions.ipynb',
    'tutorials/06_your_method.ipynb',
    'results/00_results.ipynb',
    'runs/30_plan.ipynb',
    'studies/32_statistics.ipynb',
    'engines/08_weights.ipynb',
    'engines/13_huggingface.ipynb',
)
FORCED = """
import sys
sys.path.insert(0, 'tools')
from pathlib import Path
from nbrun import rerun
rerun(Path(sys.argv[1]), ['slow'])
"""


@pytest.mark.slow
@pytest.mark.parametrize('name', SLOW)
def test_slow_cells(name):
    "From top to bottom with the slow cells as well; nothing is written."
    done = in_a_process(FORCED, ROOT / 'nbs' / name)
    assert done.returncode == 0, f'{name} stopped here:\n{done.stdout}{done.stderr}'
