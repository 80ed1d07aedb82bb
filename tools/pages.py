"""Build the documentation's pages without Quarto, and check them: does every page render, does every link resolve?

    python tools/pages.py              every notebook, into _docs/
    python tools/pages.py nbs/x.ipynb  only these; links to other pages are checked against the notebooks

What Quarto would be given is made the same way, by nbdev: exported cells and imports of each notebook are run, the
pages of functions are made with their arguments, names in backticks become links. nbconvert turns that into HTML. Not
seen here: Quarto's own look, its sidebar and its search box (`search: true` in the site file that nbdev writes).
"""

import re, sys, warnings
from html.parser import HTMLParser
from pathlib import Path
import nbformat
from execnb.nbio import nb2str, read_nb
from nbconvert import HTMLExporter
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from lint_nbs import NBS, ROOT, notebooks
from readme import shown

SITE = ROOT / '_docs'


class Page(HTMLParser):
    "The links, images and anchors of a page."

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        places = {attrs[k].lower() for k in ('id', 'name') if attrs.get(k)}
        self.anchors |= places | {re.sub(r'[^\w.-]', '', place) for place in places}  # Quarto drops punctuation
        self.links += [attrs[k] for k in ('href', 'src') if attrs.get(k) and tag in ('a', 'img')]


def render(path):
    "A notebook as the HTML of its page. Raises what its cells raise."
    nb = read_nb(path)
    FilterDefaults()(nb)
    nb = nbformat.reads(nb2str(nb), as_version=4)
    nb.cells = list(shown(nb.cells))
    nb.metadata['language_info'] = {'name': 'python', 'pygments_lexer': 'python'}
    return HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(nb)[0]


def own(link, cfg):
    "A link into this site as a path below it; None for one that leads elsewhere."
    site = cfg.doc_host + cfg.doc_baseurl + '/'
    if link.startswith(site):
        return '/' + link.removeprefix(site)
    return None if re.match(r'[a-z]+:', link) else link


def dead(page, path, pages, cfg):
    "What a page links to that is not there. Yields texts."
    for link in page.links:
        where = own(link, cfg)
        if where is None:
            continue
        target, _, anchor = where.partition('#')
        place = NBS / target.lstrip('/') if target.startswith('/') else path.parent / target
        place = (path if not target else place).resolve()
        notebook = place if place.suffix == '.ipynb' else place.with_suffix('.ipynb')
        notebook = next((p for p in pages if unnumbered(p) == unnumbered(notebook)), notebook)
        if place.suffix != '.ipynb' and place.is_file():
            continue  # Quarto copies what a page links to
        if not notebook.is_file():
            yield f'{link}: no such page'
        elif anchor and pages.get(notebook) and not shows(pages[notebook], anchor.lower()):
            yield f'{link}: no such place on that page'


def shows(page, anchor):
    "Is this place on the page? Members are shown with their class; nbdev links private names to the page they are on."
    return {anchor, anchor.partition('.')[0]} & page.anchors or anchor.startswith('_')


def unnumbered(path):
    "A notebook's path as its page is called: without the number."
    return path.with_name(re.sub(r'^\d+_', '', path.name))


def build(paths):
    "{notebook: its `Page`} and what went wrong, as lines; the pages are written below `SITE`."
    pages, faults = dict.fromkeys(notebooks()), []
    for path in paths:
        try:
            text = render(path)
        except Exception as e:
            faults.append(f'{path.relative_to(NBS)}: {type(e).__name__}: {str(e)[-300:]}')
            continue
        out = SITE / path.relative_to(NBS).with_suffix('.html')
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding='utf-8')
        pages[path] = Page(text)
    return pages, faults


def main():
    warnings.simplefilter('ignore')
    cfg, paths = get_config(), [Path(p).resolve() for p in sys.argv[1:]] or notebooks()
    pages, faults = build(paths)
    links = sum(len(page.links) for page in pages.values() if page)
    for path, page in pages.items():
        faults += [f'{path.relative_to(NBS)}: {line}' for line in dead(page, path, pages, cfg)] if page else []
    built = sum(page is not None for page in pages.values())
    print('\n'.join([*faults, f'{built} pages in {SITE.name}/, {links} links, {len(faults)} faults']))
    return bool(faults)


if __name__ == '__main__':
    sys.exit(main())
