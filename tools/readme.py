"""Write README.md from nbs/index.ipynb, without Quarto: nbdev's own filter, then nbconvert's Markdown.

    python tools/readme.py           write README.md (and index_files/ if the notebook shows figures)
    python tools/readme.py --check   change nothing; exit 1 when README.md is not what the notebook says
"""
import re, sys
from pathlib import Path
import nbformat
from execnb.nbio import nb2str, read_nb
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.processors import FilterDefaults

NOTICE = '<!-- Made from nbs/index.ipynb by tools/readme.py. Edit the notebook, then run `make readme`. -->'


def shown(cells):
    "The cells a reader sees, without their directives."
    for c in cells:
        if c.cell_type == 'raw': continue
        if c.cell_type == 'code':
            if re.search(r'^#\| echo: false', c.source, re.M): c.source = ''
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
            if not c.source and not c.outputs: continue
        yield c


def links(text, cfg):
    "Notebook links point to files that GitHub shows: `01_answers.ipynb` becomes `nbs/01_answers.ipynb`."
    there = {p.relative_to(cfg.nbs_path).as_posix() for p in cfg.nbs_path.rglob('*.ipynb')}
    def point(m): return f'](nbs/{m[1]}{m[2] or ""})' if m[1] in there else m[0]
    return re.sub(r'\]\(([\w/.-]+\.ipynb)(#[^)]*)?\)', point, text)


def to_markdown(path):
    "(text of README.md, {file name: bytes} of its figures)"
    cfg = get_config()
    nb = read_nb(path)
    FilterDefaults()(nb)                           # drops hidden cells, makes documentation links: as nbdev's site does
    nb = nbformat.reads(nb2str(nb), as_version=4)
    front = dict(re.findall(r'^(\w+): (.*)$', '\n'.join(c.source for c in nb.cells if c.cell_type == 'raw'), re.M))
    nb.cells = list(shown(nb.cells))
    nb.metadata['language_info'] = {'name': 'python', 'pygments_lexer': 'python'}
    body, made = MarkdownExporter().from_notebook_node(nb, resources={'output_files_dir': f'{path.stem}_files'})
    body = links(body, cfg).replace('```python\n\n```\n', '').strip()
    said = front.get('description', '').strip('\'"')
    head = f'# {front.get("title", cfg.title)}' + (f'\n\n> {said}' if said and said not in body else '')
    return re.sub(r'\n{3,}', '\n\n', f'{NOTICE}\n\n{head}\n\n{body}\n'), made['outputs']


def main():
    cfg = get_config()
    text, figures = to_markdown(Path(cfg.nbs_path)/cfg.readme_nb)
    wanted = {'README.md': text.encode(), **figures}
    root = Path(cfg.config_path)
    if '--check' in sys.argv:
        stale = [n for n, data in wanted.items() if not (root/n).exists() or (root/n).read_bytes() != data]
        return f'{", ".join(stale)}: not what nbs/{cfg.readme_nb} says. Run `make readme` and commit.' if stale else 0
    for name, data in wanted.items():
        (root/name).parent.mkdir(exist_ok=True)
        (root/name).write_bytes(data)
    print('wrote', ', '.join(wanted))


if __name__ == '__main__': sys.exit(main())
