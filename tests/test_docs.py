"""What the documents promise: the README's programs run, and every notebook can become a page of the documentation,
for which nbdev runs the exported cells, and every cell that holds an import, on their own.

Quarto, which makes HTML of the result, is not needed (and not here)."""

import json, re, subprocess, sys
import pytest
from conftest import ROOT, forks, tracked

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


COLAB = 'https://colab.research.google.com/github/multiagent-ft/multiagent_ft/blob/main/nbs/tutorials/'
TUTORIALS = sorted((ROOT / 'nbs' / 'tutorials').glob('[0-9]*.ipynb'))


@pytest.mark.parametrize('path', TUTORIALS, ids=lambda p: p.stem)
def test_tutorial_opens_in_colab(path):
    "Its badge leads to itself, its first cell installs the package, in the same words everywhere, and it is listed."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    prose, code = (next(''.join(c['source']) for c in cells[1:] if c['cell_type'] == k) for k in ('markdown', 'code'))
    assert f']({COLAB}{path.name})' in prose.splitlines()[0]
    assert code.startswith('#| eval: false\n') and "'google.colab' in sys.modules" in code
    first = json.loads(TUTORIALS[0].read_text(encoding='utf-8'))['cells']
    assert code == next(''.join(c['source']) for c in first if c['cell_type'] == 'code')
    assert f'(tutorials/{path.name})' in (ROOT / 'nbs' / 'index.ipynb').read_text(encoding='utf-8')


@pytest.mark.slow
def test_every_notebook_has_a_page_and_every_link_resolves(tmp_path):
    tracked(tmp_path)
    done = subprocess.run(
        [sys.executable, 'tools/pages.py'], cwd=tmp_path, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.fullmatch(r'\d+ pages in _docs/, \d+ links, 0 faults', done.stdout.splitlines()[-1])


def test_dead_links_are_found(tmp_path):
    from nbdev.config import get_config
    from pages import Page, dead

    here = ROOT / 'nbs' / 'method' / '05_consensus.ipynb'
    pages = {here: Page('<h2 id="Here"></h2>')}
    site = get_config().doc_host + get_config().doc_baseurl
    fine = '#Here', '../01_core.ipynb', '../index.ipynb', f'{site}/method/consensus.html#here', 'https://x.org/y'
    bad = '#Gone', '../01_cores.ipynb', f'{site}/method/consent.html'
    page = Page(''.join(f'<a href="{link}">' for link in fine + bad))
    assert [line.partition(': ')[2] for line in dead(page, here, pages, get_config())] == [
        'no such place on that page',
        'no such page',
        'no such page',
    ]
