"""What the documents promise: the README's programs run, and every notebook can become a page of the documentation,
for which nbdev runs the exported cells, and every cell that holds an import, on their own.

Quarto, which makes HTML of the result, is not needed (and not here)."""

import json, re, subprocess, sys
import pytest
from conftest import ROOT, forks, tracked
from lint_nbs import notebooks

OWN = ('task', 'prompt', 'recipe', 'objective', 'engine')


def own_programs():
    "{what: program} of the README's section on adding one's own; the first lines are common to all."
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    section = re.search(r'^## Add your own\n(.*?)^## ', text, re.M | re.S)[1]
    first, *rest = re.findall(r'```python\n(.*?)```', section, re.S)
    return {what: (first, program) for what, program in zip(OWN, rest, strict=True)}


@pytest.mark.parametrize('what', OWN)
def test_add_your_own_in_under_ten_lines(what, tmp_path):
    "As a user would: in a file of its own, run as a program."
    first, program = own_programs()[what]
    assert sum(bool(line.strip()) for line in program.splitlines()) <= 10
    (tmp_path / 'mine.py').write_text(first + program)
    code = 'import runpy; runpy.run_path("mine.py", run_name="__main__")'
    done = forks().run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'accuracy' in done.stdout.splitlines()[0] and len(done.stdout.splitlines()) > 2


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


@pytest.mark.slow
def test_every_notebook_has_a_page(tmp_path):
    tracked(tmp_path)
    paths = [p.relative_to(ROOT).as_posix() for p in notebooks()]
    done = subprocess.run(
        [sys.executable, '-c', PROCESS, *paths], cwd=tmp_path, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    failed = json.loads(done.stdout.split('RESULT ')[-1])
    assert not failed, '\n'.join(f'{p}: {e}' for p, e in failed.items())
