"""Every notebook can become a page of the documentation: nbdev runs the exported cells, and every cell that holds an
import, on their own.

Quarto, which makes HTML of the result, is not needed (and not here)."""

import json, subprocess, sys
import pytest
from conftest import ROOT, tracked
from lint_nbs import notebooks

pytestmark = pytest.mark.slow

PROCESS = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter('ignore')
from execnb.nbio import read_nb
from nbdev.processors import FilterDefaults
failed = {}
for p in sys.argv[1:]:
    try: nb = read_nb(Path(p)); FilterDefaults()(nb)
    except Exception as e: failed[p] = str(e)[:500]
print('RESULT ' + json.dumps(failed))
"""


def test_every_notebook_becomes_a_page(tmp_path):
    tracked(tmp_path)
    paths = [p.relative_to(ROOT).as_posix() for p in notebooks()]
    done = subprocess.run(
        [sys.executable, '-c', PROCESS, *paths], cwd=tmp_path, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    failed = json.loads(done.stdout.split('RESULT ')[-1])
    assert not failed, '\n'.join(f'{p}: {e}' for p, e in failed.items())
