"""House rules for notebooks, checked.

    python tools/lint_nbs.py [NB ...]    one line per fault, exit 1 if there is any

The rules, and why:
  name       nbs/WING/NN_name.ipynb exports to multiagent_ft/WING/name.py: the number is reading and import order
  opening    title and `> one line` in a cell of their own (they become the module's docstring and the page's head),
             then `#| default_exp`
  ending     the last section of a numbered notebook is "What this notebook does not show"
  headings   one title, no level skipped
  directives one spelling, `#| name`, above the code; anything else is silently ignored by nbdev
  imports    in cells of their own: the docs run each cell that holds an import, so nothing slow may sit beside one
  annotations the names in a quoted annotation are there when the docs show the function: they run exported cells,
             imports and `#| exec_doc` only, in order, and evaluate annotations
  once       no name exported twice, no empty cell
  length     notebooks short enough to be read (functions are measured by tests/test_house.py, width by ruff)
  outputs    small, no errors, nothing from this machine (paths, stderr)
  ids        each cell has one: nbdev writes it into the module
  keywords   a call has at most three arguments by position (exported cells; RATCHET has what is left)
  words      the field's words and plain English (notebooks, tests, tools, documents; RATCHET has what is left)
  arguments  each argument of a public function is explained: beside it, in the docstring, or in the glossary

    python tools/lint_nbs.py --ratchet   write the counts of `keywords` and `words` into tools/ratchet.json: they may
                                         only fall
"""

import ast, builtins, io, json, re, sys, tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / 'nbs'
ENDING = 'What this notebook does not show'
DIRECTIVES = set(
    'default_exp export exports exporti hide hide_input hide_output notest slow gpu eval: echo: output: exec_doc'
    ' code-fold: label: fig-cap: warning:'.split()
)
MAX_CELLS, MAX_OUTPUT = 120, 100_000
NOT_CHAPTERS = ('tutorials', 'results')
PAGES = ('index', 'book', 'glossary')
MAX_POSITIONAL = 3
# Functions that may be called with more arguments by position, and why.
VARIADIC = {
    **dict.fromkeys(['print', 'max', 'min', 'zip', 'chain', 'joinpath', 'suppress'], 'takes any number of equals'),
    'rows_for': 'takes any number of recipe names',
    'select': 'takes no keywords',
    'slip': 'a step of a plan, (x, op, y), and its result',
    **dict.fromkeys(['seed_for', 'rng_for', 'digest'], 'an address: any number of parts'),
    **dict.fromkeys(['reshape', 'view', 'new_zeros', 'new_empty', 'expand', 'permute'], 'a shape'),
    **dict.fromkeys(['fill_between', 'plot', 'annotate', 'text'], 'matplotlib, as its own pages write it'),
}
# What a reader has to guess or to look up, and what to write instead. Design, section 2.
WORDS = {
    r'exam(?:s|ined?|ines|ining)?': 'evaluation, evaluate, held-out set',
    r'learn(?:s|ed|ing)? from': 'train on',
    r"(?<!['`])luck(?:y)?(?!=)": 'seed, chance',  # a recipe of chapter 32 is named `lucky`
    r'mend(?:s|ed|ing)?': 'fix, correct',
    r'anew': 'again',
    r'whoever|somebody': 'a user, a process, or the passive',
    r'dear(?:er|est)?': 'expensive, costly',
    r'(?:goes|go|going|went|gone) on': 'continue, resume',
    r'trainings|a training(?! (?:run|question|example|set|step))': 'training run',
    r'nursery|hush': 'fork server, silence',
}
# Where such a word is what is meant.
WORDS_ARE_FINE = {
    'tools/lint_nbs.py': 'this list',
    'nbs/glossary.ipynb': 'what the first edition called it',
    'tests/test_house.py': 'what this rule is tested with',
    'CHANGELOG.md': 'old names, for those who look for them',
}
RATCHET = ROOT / 'tools' / 'ratchet.json'
MACHINE = re.compile(r'(?<![\w.…/])/(?:tmp|root|home|work|Users|private|var/folders)/[\w.-]+')


def source(c):
    return ''.join(c['source'])


def directives(src):
    "{name: rest of the line} of the comment lines that open a cell."
    found = {}
    for line in src.splitlines():
        if line.strip() and not line.startswith('#') and not line.startswith('%'):
            break
        if m := re.match(r'#\| ([\w-]+:?) ?(.*)$', line):
            found[m[1]] = m[2]
    return found


def exported(d):
    return any(k in d for k in ('export', 'exports', 'exporti'))


def check_directives(src):
    "One spelling, above the code, known. Yields faults."
    for line in src.splitlines():
        if re.match(r'\s*#\s*\|', line) and not re.match(r'#\| [a-z]', line):
            yield f'directive spelled {line.strip()[:30]!r}: write `#| name` at the start of a line'
    opening = re.match(r'(?:(?:#.*|%.*|\s*)\n)*', src + '\n')[0]
    if '\n#| ' in src[len(opening) :]:
        yield 'a directive below code is ignored: move it to the top of the cell'
    for name in directives(src).keys() - DIRECTIVES:
        yield f'unknown directive {name!r}'


def is_import(node):
    return isinstance(node, (ast.Import, ast.ImportFrom))


def check_imports(src, tree):
    "Imports in cells of their own. Yields faults."
    d = directives(src)
    if exported(d) or d.get('eval:') == 'false':
        return
    rest = [n for n in tree.body if not is_import(n)]
    if rest and any(map(is_import, ast.walk(tree))):
        yield 'import and other code in one cell: give the import a cell of its own'


def bound(node):
    "Names that a statement of a cell binds when it is run."
    if is_import(node):
        return {(a.asname or a.name).split('.')[0] for a in node.names}
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def in_signatures(tree):
    "Annotations that the docs evaluate: of functions, and of what makes a class."
    for n in tree.body:
        parts = n.body if isinstance(n, ast.ClassDef) else [n]
        yield from (f.annotation for f in parts if isinstance(f, ast.AnnAssign))
        for f in parts:
            if isinstance(f, ast.FunctionDef) and (f is n or f.name == '__init__'):
                yield from [f.returns, *(a.annotation for a in ast.walk(f.args) if isinstance(a, ast.arg))]


def quoted_names(tree):
    "Names in annotations that are written as text."
    for note in in_signatures(tree):
        if isinstance(note, ast.Constant) and isinstance(note.value, str):
            yield from (x.id for x in ast.walk(ast.parse(note.value, mode='eval')) if isinstance(x, ast.Name))


def check_annotations(cells):
    "Can the docs evaluate the annotations? Yields (cell number, fault)."
    known = set(dir(builtins))
    for i, c in enumerate(cells):
        d, tree = directives(source(c)), code_tree(c)
        if not (exported(d) or 'exec_doc' in d or any(map(is_import, tree.body))):
            continue
        known |= set().union(*map(bound, tree.body))
        for name in sorted(set(quoted_names(tree)) - known) if exported(d) else ():
            yield i, f'the docs do not know {name} of a quoted annotation: import it in a hidden cell above'


def check_output(o):
    "No error, no noise, nothing of this machine. Yields faults."
    if o['output_type'] == 'error':
        yield f'stores an error ({o["ename"]})'
    if o.get('name') == 'stderr':
        yield 'stores stderr output: silence the noise'
    if m := MACHINE.search(re.sub(r'"image/\w+": "[^"]*"', '', json.dumps(o))):
        yield f'output shows this machine: {m[0]}'


def parsed(src):
    return ast.parse(re.sub(r'^[%!].*$', '', src, flags=re.M))


def check_code(c):
    "Rules about one code cell. Yields faults."
    src = source(c)
    yield from check_directives(src)
    try:
        yield from check_imports(src, parsed(src))
    except SyntaxError as e:
        yield f'not Python: {e.msg}'
    for o in c.get('outputs', []):
        yield from check_output(o)


def code_tree(c):
    "A code cell, parsed; an empty module for prose and for what is not Python."
    try:
        return parsed(source(c) if c['cell_type'] == 'code' else '')
    except SyntaxError:
        return ast.parse('')


def defined(c):
    "Names of the functions and classes that a cell exports."
    body = code_tree(c).body if exported(directives(source(c))) else []
    return [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]


def check_cells(cells):
    "Rules about single cells. Yields (cell number, fault)."
    seen = {}
    for i, c in enumerate(cells):
        if not source(c).strip():
            yield i, 'an empty cell: remove it'
        if c['cell_type'] == 'code':
            yield from ((i, fault) for fault in check_code(c))
        for name in defined(c):
            if seen.setdefault(name, i) != i:
                yield i, f'{name} is exported twice (first in cell {seen[name]}): the module would hold both'


def check_headings(cells, numbered):
    "Title, one line, levels in order, ending. Yields (cell number, fault)."
    heads = []
    for i, c in enumerate(cells):
        if c['cell_type'] != 'markdown':
            continue
        prose = re.sub(r'```.*?```', '', source(c), flags=re.S)
        heads += [(i, len(m[1]), m[2]) for m in re.finditer(r'^(#{1,6}) +(.+?) *$', prose, re.M)]
    if not re.match(r'# [^\n]+\n+> [^\n]+', source(cells[0])):
        yield 0, 'opens with a title `# …` and one line `> …`'
    elif re.search(r'\n(?!> |- \S+:|\s*$)', source(cells[0])):
        yield (
            0,
            (
                'prose in the title cell is lost in the docs (nbdev takes the cell for front matter): begin a new'
                ' cell after the `>` line'
            ),
        )
    if sum(level == 1 for _, level, _ in heads) != 1:
        yield 0, 'wants exactly one title (`# …`)'
    for (_, a, _), (i, b, text) in zip(heads, heads[1:]):
        if b > a + 1:
            yield i, f'heading {text!r} skips a level'
    if numbered and (not heads or heads[-1][2] != ENDING):
        yield heads[-1][0] if heads else 0, f'the last section is "## {ENDING}"'


def is_chapter(path):
    "Is this a notebook that exports: numbered, in nbs or in the folder of a wing?"
    inside = path.is_relative_to(NBS) and path.relative_to(NBS).parts[0] not in NOT_CHAPTERS
    return inside and path.stem not in PAGES


def check_module(path, cells):
    "Name, default_exp, and who may export. Yields (cell number, fault)."
    code = [(i, directives(source(c))) for i, c in enumerate(cells) if c['cell_type'] == 'code']
    if not is_chapter(path):
        for i, d in code:
            if exported(d) or 'default_exp' in d:
                yield i, 'index, book, glossary and tutorials export nothing'
        return
    m = re.fullmatch(r'(\d\d)_(\w+)', path.stem)
    if not m:
        yield 0, 'is named NN_name.ipynb'
        return
    module = '.'.join([*path.relative_to(NBS).parent.parts, m[2]])
    if not code or code[0][1].get('default_exp') != module:
        yield code[0][0] if code else 0, f'the first code cell is `#| default_exp {module}`'


def check_arguments(cells):
    "Is every argument of a public function explained? Yields (cell number, fault)."
    usual, kinds = usual_arguments(), helped(map(code_tree, filter(is_exported, cells)))
    for i, c in enumerate(cells):
        for what in unexplained(source(c), usual, kinds) if is_exported(c) and code_tree(c).body else ():
            yield i, f'{what} is explained nowhere: write `# …` beside it, or name it in the docstring or the glossary'


def lint(path):
    "Every fault of one notebook, as `file, cell N (id): what is wrong`."
    path = Path(path).resolve()
    nb = json.loads(path.read_text(encoding='utf-8'))
    cells, numbered = nb['cells'], is_chapter(path)
    faults = [*check_headings(cells, numbered), *check_module(path, cells), *check_cells(cells)]
    faults += [*check_annotations(cells), *check_arguments(cells)]
    ids = [c.get('id') for c in cells]
    if None in ids or len(set(ids)) < len(ids):
        faults.append((0, 'every cell needs an id of its own'))
    if len(cells) > MAX_CELLS:
        faults.append((len(cells) - 1, f'{len(cells)} cells (at most {MAX_CELLS})'))
    size = len(json.dumps([c.get('outputs', []) for c in cells]))
    if size > MAX_OUTPUT:
        faults.append((0, f'{size // 1000} kB of stored output (at most {MAX_OUTPUT // 1000})'))
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    return [f'{name}, cell {i} ({ids[i]}): {what}' for i, what in sorted(faults, key=lambda f: f[0])]


def is_exported(cell):
    return cell['cell_type'] == 'code' and exported(directives(source(cell)))


def code_of(path):
    "Sources of the exported cells of a notebook."
    return [source(c) for c in filter(is_exported, json.loads(path.read_text(encoding='utf-8'))['cells'])]


def positional(path):
    "Calls in exported cells with more than three arguments by position, as text."
    found = []
    for src in code_of(path):
        for n in ast.walk(parsed(src)):
            if isinstance(n, ast.Call) and len(n.args) > MAX_POSITIONAL:
                name = ast.unparse(n.func)
                if name.split('.')[-1] not in VARIADIC:
                    found.append(f'{name}(' + ', '.join(map(ast.unparse, n.args)) + ')')
    return found


def quaint(path):
    "Words of `WORDS` in a notebook's cells or a text file, as `word (write: …)`."
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.ipynb':
        text = '\n'.join(map(source, json.loads(text)['cells']))
    return [
        f'{m} (write: {instead})'
        for word, instead in WORDS.items()
        for m in re.findall(rf'(?<![a-z])(?:{word})(?![a-z])', text, re.I)
    ]


@cache
def usual_arguments():
    "Names of arguments that mean the same everywhere, by the table in the glossary."
    cells = json.loads((NBS / 'glossary.ipynb').read_text(encoding='utf-8'))['cells']
    return {'self', 'cls', *re.findall(r'^\| `(\w+)` \|', '\n'.join(map(source, cells)), re.M)}


def public_functions(tree):
    "The functions of an exported cell, and the methods of its classes, that are public. Yields (name, node)."
    for n in tree.body:
        methods = [m for m in n.body if isinstance(m, ast.FunctionDef)] if isinstance(n, ast.ClassDef) else []
        if isinstance(n, ast.FunctionDef):
            methods = [n]
        for m in methods if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_') else []:
            if m.name == '__init__' or not m.name.startswith('_'):
                yield n.name if m is n else f'{n.name}.{m.name}', m


def helped(trees):
    "Names of `Annotated` types, which say in themselves what a value is (typer's help)."
    assigned = [n for tree in trees for n in tree.body if isinstance(n, ast.Assign)]
    return {n.targets[0].id for n in assigned if ast.unparse(n.value).startswith('Annotated[')}


def unexplained(src, usual, kinds):
    "Arguments of the public functions of a cell that nothing explains. Yields `function(argument)`."
    lines = {t.start[0] for t in tokenize.generate_tokens(io.StringIO(src).readline) if t.type == tokenize.COMMENT}
    for name, f in public_functions(parsed(src)):
        doc, a = ast.get_docstring(f) or '', f.args
        for p in [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]:
            beside = {n for n in (p.lineno - 1, p.end_lineno) if n >= f.lineno} & lines
            kind = ast.unparse(p.annotation) if p.annotation else ''
            says_itself = kind in kinds or kind.startswith('Annotated[')
            if not (beside or says_itself or p.arg in usual or f'`{p.arg}`' in doc):
                yield f'{name}({p.arg})'


def texts():
    "Everything written by hand."
    return [*notebooks(), *sorted((ROOT / 'tests').glob('*.py')), *sorted((ROOT / 'tools').glob('*.py')),
            *sorted(ROOT.glob('*.md'))]  # fmt: skip


def relative(path):
    return path.relative_to(ROOT).as_posix()


def counted():
    "{rule: {file: what is found there}}, for the rules of which some breaches are left."
    chapters = [p for p in notebooks() if is_chapter(p)]
    words = {relative(p): quaint(p) for p in texts() if relative(p) not in WORDS_ARE_FINE}
    return dict(keywords={relative(p): positional(p) for p in chapters}, words=words)


def over_ratchet():
    "Files that break a rule more often than tools/ratchet.json allows, one line each."
    allowed = json.loads(RATCHET.read_text())
    return [
        f'{name}: {rule}: {len(found)} found, {allowed[rule].get(name, 0)} allowed: ' + '; '.join(found)
        for rule, files in counted().items()
        for name, found in files.items()
        if len(found) > allowed[rule].get(name, 0)
    ]


def write_ratchet():
    counts = {rule: {f: len(found) for f, found in files.items() if found} for rule, files in counted().items()}
    RATCHET.write_text(json.dumps(counts, indent=1, sort_keys=True) + '\n')
    return ', '.join(f'{rule}: {sum(files.values())}' for rule, files in counts.items())


def notebooks():
    return sorted(
        p for p in NBS.rglob('*.ipynb') if not any(x.startswith(('.', '_')) for x in p.relative_to(NBS).parts)
    )


def main():
    if sys.argv[1:] == ['--ratchet']:
        print(write_ratchet())
        return 0
    faults = [f for p in sys.argv[1:] or notebooks() for f in lint(p)]
    if not sys.argv[1:]:
        faults += over_ratchet()
    print('\n'.join(faults) if faults else f'{len(sys.argv[1:] or notebooks())} notebooks follow the house rules')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())
