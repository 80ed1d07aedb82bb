"""The rules of the house, checked: notebooks and package agree, imports go one way, importing is light, functions are
small, documents are fresh."""

import ast, importlib, inspect, json, os, re, shutil, subprocess, sys, tarfile, zipfile
import pytest
from conftest import ROOT, tracked
import check, lint_nbs
from making import HEAVY, WITHOUT_TORCH

PKG = ROOT / 'multiagent_ft'
# Wings in import order: a wing uses itself and those before it. Design, section 1.
WINGS = (
    'core',
    'answers',
    'method',
    'engines',
    'training',
    'runs',
    'studies',
    'machines',
    'nano',
    'bench',
    'doctor',
    'neighbours',
    'cli',
)
# Doors: imports inside a function (or a worker's command line) that open an appendix, which stands later in the book.
DOORS = {('answers.reading', 'answers.sandbox')}


def numbered():
    "{module: number} from the names of the notebooks: nbs/method/03_debate.ipynb is {'method.debate': 3}."
    found = {}
    for p in sorted((ROOT / 'nbs').rglob('[0-9]*.ipynb')):
        wing = p.parent.name if p.parent != ROOT / 'nbs' else ''
        if wing in ('tutorials', 'results') or p.parent.name.startswith(('.', '_')):
            continue
        m = re.fullmatch(r'(\d\d)_(\w+)', p.stem)
        assert m, f'{p.name}: notebooks are numbered without letters'
        found[f'{wing}.{m[2]}'.strip('.')] = int(m[1])
    return found


ORDER = numbered()
MODULES = sorted(ORDER, key=ORDER.get)


def chapters():
    "The notebooks that export, in reading order."
    return sorted((p for p in lint_nbs.notebooks() if lint_nbs.is_chapter(p)), key=lambda p: p.name)


def wing(module):
    return WINGS.index(module.split('.')[0])


def source(module):
    return PKG / f'{module.replace(".", "/")}.py'


def inside_functions(tree):
    "ids of all nodes that stand inside a function."
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return {id(n) for f in ast.walk(tree) if isinstance(f, functions) for n in ast.walk(f)}


def ours(module, node):
    "What a `from … import` of ours in `module` names, as modules: `from ..core import x` is ['core']."
    here = ['multiagent_ft', *module.split('.')[:-1]]
    base = here[: len(here) - node.level + 1] if node.level else []
    full = [*base, *filter(None, (node.module or '').split('.'))]
    if full[:1] != ['multiagent_ft']:
        return None
    name = '.'.join(full[1:])
    return [name] if name in ORDER else [f'{name}.{a.name}'.strip('.') for a in node.names]


def imports(module, top_only=False, code=None):
    """Names of modules imported by one of ours (or by `code` in its place): ours as `.wing.name`, others by their first
    part. Imports inside functions count unless `top_only`."""
    tree = ast.parse(code or source(module).read_text(encoding='utf-8'))
    inside = inside_functions(tree) if top_only else set()
    for n in ast.walk(tree):
        if id(n) in inside:
            continue
        if isinstance(n, ast.Import):
            for a in n.names:
                own = a.name.startswith('multiagent_ft.')
                yield a.name.removeprefix('multiagent_ft') if own else a.name.split('.')[0]
        elif isinstance(n, ast.ImportFrom):
            names = ours(module, n)
            yield from [n.module.split('.')[0]] if names is None else [f'.{name}' for name in names]


def test_notebooks_and_modules_correspond():
    found = {'.'.join(p.relative_to(PKG).with_suffix('').parts) for p in PKG.rglob('*.py')}
    assert {m for m in found if m.split('.')[-1] not in ('__init__', '_modidx')} == set(ORDER)


def test_nbdev_clean_and_export_change_nothing():
    done = subprocess.run([sys.executable, ROOT / 'tools' / 'check.py', '--aside'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_edited_module_is_detected(tmp_path):
    for part in ('nbs', 'multiagent_ft'):
        shutil.copytree(ROOT / part, tmp_path / part)
    for part in ('settings.ini', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / part, tmp_path)
    (tmp_path / 'multiagent_ft' / 'core.py').write_text('# edited by hand\n')
    assert check.changed_by_tools(tmp_path) == ['multiagent_ft/core.py']


def backward_imports(module, code=None):
    "What a module (with this code, if given) imports of ours that it must not, one line each."
    for name in imports(module, code=code):
        if not name.startswith('.'):
            continue
        other = name[1:]
        if other not in ORDER:
            if other not in ('__version__', ''):
                yield f'{module} imports {other}: not one of our modules'
        elif (module, other) not in DOORS:
            if wing(other) > wing(module):
                yield f'{module} imports {other}: a wing that comes later'
            elif ORDER[other] >= ORDER[module]:
                yield f'{module} ({ORDER[module]}) imports {other} ({ORDER[other]})'


# Being taken apart (their saving, loading and asking moves to runs): must become empty.
MOVING = set()


@pytest.mark.parametrize('module', MODULES)
def test_import_direction(module):
    "Wing by wing and number by number."
    found = list(backward_imports(module))
    if found and module in MOVING:
        pytest.xfail('; '.join(found))
    assert not found


@pytest.mark.parametrize(
    'module, line, fault',
    [
        ('method.debate', 'from multiagent_ft.engines.huggingface import HFEngine', 'a wing that comes later'),
        ('method.debate', 'from ..engines.huggingface import HFEngine', 'a wing that comes later'),
        ('method.debate', 'from ..engines import huggingface', 'a wing that comes later'),
        ('method.debate', 'import multiagent_ft.runs.store', 'a wing that comes later'),
        ('method.debate', 'def f():\n    from ..runs.store import Store', 'a wing that comes later'),
        ('method.debate', 'from .recipes import Recipe', 'method.debate (3) imports method.recipes (7)'),
        ('method.debate', 'from .debate import Society', 'method.debate (3) imports method.debate (3)'),
        ('method.debate', 'from ..core import Problem\nfrom .nowhere import x', 'not one of our modules'),
        ('core', 'from .method import prompts', 'a wing that comes later'),
    ],
)
def test_import_in_the_wrong_direction_is_detected(module, line, fault):
    (found,) = backward_imports(module, code=line)
    assert fault in found


def test_core_imports_no_other_wing():
    assert not [name for name in imports('core') if name.startswith('.')]


TORCH_FREE = [m for m in MODULES if m.split('.')[0] in ('core', 'answers', 'method')]


@pytest.mark.parametrize('module', TORCH_FREE)
def test_method_wing_imports_no_torch(module):
    assert not HEAVY & set(imports(module, top_only=True))
    assert not {'torch', 'transformers'} & set(imports(module))


# what a recipe is made of, so that `maft recipes` need not wait for torch
RECIPES = [m for m in MODULES if m.split('.')[0] in ('training', 'neighbours')]
LIGHT = ['multiagent_ft', *(f'multiagent_ft.{m}' for m in [*TORCH_FREE, *RECIPES, 'cli'])]


def test_import_package_imports_no_torch():
    "One process imports them one after the other and says which brings something heavy."
    code = f"""
import importlib, sys
for module in {LIGHT!r}:
    importlib.import_module(module)
    if found := [h for h in {sorted(HEAVY)!r} if h in sys.modules]:
        sys.exit(f'import {{module}} also imports {{found}}')
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_method_wing_imports_with_torch_blocked():
    "All of it is imported; tests/test_notebooks.py runs its notebooks, 01 to 07, the same way."
    code = (
        WITHOUT_TORCH
        + f"""
import importlib
for module in {TORCH_FREE!r}:
    importlib.import_module(f'multiagent_ft.{{module}}')
try:
    import torch
except ImportError as e:
    print(e)
"""
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == 'torch is not to be imported here\n', done.stderr


def test_version_is_settings_version():
    import multiagent_ft
    from configparser import ConfigParser

    c = ConfigParser(delimiters=['='])
    c.read(ROOT / 'settings.ini')
    assert multiagent_ft.__version__ == c['DEFAULT']['version']
    with pytest.raises(AttributeError, match='no_such_thing'):
        getattr(multiagent_ft, 'no_such_thing')


def pinned(*files):
    "{name: version} of the constraints in some files of the top level."
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line.strip() for f in files for line in (ROOT / f).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith('#')]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix('==') for r in found}


@pytest.mark.parametrize(
    'extra, files',
    {
        '': ['constraints.txt'],
        'dev': ['constraints.txt'],
        'server': ['constraints.txt'],
        'ray': ['constraints.txt', 'constraints-ray.txt'],
        'vllm': ['constraints-vllm-gpu.txt'],
    }.items(),
)
def test_constraints_fulfil_the_requirements_of_each_installation(extra, files):
    from configparser import ConfigParser
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    settings, versions = ConfigParser(delimiters=['=']), pinned(*files)
    settings.read(ROOT / 'settings.ini')
    wanted = settings['DEFAULT']['requirements'].split()
    wanted += settings['DEFAULT'][f'{extra}_requirements'].split() if extra else []
    for r in map(Requirement, wanted):
        assert r.specifier.contains(versions[canonicalize_name(r.name)]), r


def test_constrained_versions_install_on_the_oldest_python_we_support():
    "Debian 12 has 3.11.2; where a pinned version refuses it, pip looks for another one without an end."
    from importlib.metadata import distributions
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    versions = pinned('constraints.txt')
    there = [d for d in distributions() if versions.get(canonicalize_name(d.name)) == d.version]
    needs = {d.name: d.metadata['Requires-Python'] for d in there if d.metadata['Requires-Python']}
    assert len(needs) > 100
    assert {name: r for name, r in needs.items() if '3.11.0' not in SpecifierSet(r)} == {}


@pytest.mark.parametrize('path', lint_nbs.notebooks(), ids=lambda p: p.name)
def test_notebook_follows_the_house_rules(path):
    assert lint_nbs.lint(path) == []


def test_ratchet_of_positional_arguments_and_words():
    "tools/ratchet.json holds what is left of both, file by file; after a repair: `python tools/lint_nbs.py --ratchet`."
    assert lint_nbs.over_ratchet() == []


def test_ratchet_detects_an_increase(tmp_path, monkeypatch):
    page = dict(
        cells=[dict(cell_type='code', source='#| export\nx = g(1, 2, 3, 4)\nprint(1, 2, 3, 4)\ny = h(1, 2, *c)')]
    )
    (tmp_path / 'page.ipynb').write_text(json.dumps(page))
    assert lint_nbs.positional(tmp_path / 'page.ipynb') == ['g(1, 2, 3, 4)']
    (tmp_path / 'page.md').write_text(
        'Whoever mends it anew passes the exam. We recommend an example, dearly examined_on.'
    )
    words = [w.split()[0].lower() for w in lint_nbs.quaint(tmp_path / 'page.md')]
    assert sorted(words) == ['anew', 'exam', 'examined', 'mends', 'whoever']
    monkeypatch.setattr(lint_nbs, 'counted', lambda: dict(words={'new.md': ['exam (write: evaluation)']}, keywords={}))
    assert lint_nbs.over_ratchet() == ['new.md: words: 1 found, 0 allowed: exam (write: evaluation)']


def test_lint_detects_each_fault(tmp_path):
    def nb(*cells):
        return dict(
            cells=[
                dict(cell_type=k, id=str(i), source=s.splitlines(True), **(dict(outputs=o) if k == 'code' else {}))
                for i, (k, s, o) in enumerate(cells)
            ],
            metadata={},
            nbformat=4,
            nbformat_minor=5,
        )

    bad = nb(
        ('markdown', '# Title, but no line', []),
        ('markdown', '### Skips', []),
        ('code', 'import os\nx = 1', []),
        ('code', '#|export\ny = 2', []),
        ('code', 'z = 1\n#| hide', []),
        ('code', '#| exprot\nz = 1', []),
        ('code', 'if', []),
        ('code', '#| export\ndef f(): pass', []),
        ('code', '#| exports\ndef f(): pass', []),
        ('code', "#| export\ndef g(later: 'Later') -> 'g': pass", []),
        ('code', "#| export\nclass Later:\n    def again(self) -> 'Last': pass", []),
        ('code', '#| export\ndef h(\n    a,  # a number\n    question,\n): pass', []),
        ('code', ' ', []),
        ('code', 'print(1)', [dict(output_type='stream', name='stderr', text=['oops'])]),
        ('code', '1', [dict(output_type='execute_result', data={'text/plain': ["'/tmp/abc/def'"]}, metadata={})]),
        ('code', '2', [dict(output_type='error', ename='ValueError', evalue='', traceback=[])]),
        ('code', '3', [dict(output_type='execute_result', data={'text/plain': ['x' * 200_000]}, metadata={})]),
    )
    (tmp_path / 'bad.ipynb').write_text(json.dumps(bad))
    output = '\n'.join(lint_nbs.lint(tmp_path / 'bad.ipynb'))
    for expected in (
        'one line',
        'skips a level',
        'cell of its own',
        'directive spelled',
        'move it to the top',
        "unknown directive 'exprot'",
        'not Python',
        'f is exported twice',
        'do not know Later',
        'g(later) is explained nowhere',
        'an empty cell',
        'stderr',
        'this machine: /tmp/abc',
        'stores an error',
        'kB of stored output',
        'export nothing',
    ):
        assert expected in output, expected
    assert 'do not know Last' not in output  # the docs do not show methods
    assert 'h(' not in output  # beside it, and in the glossary


def test_ruff_check_and_format():
    done = subprocess.run(
        [sys.executable, '-m', 'ruff', 'check', '--quiet', '--output-format', 'concise', ROOT],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_readme_is_up_to_date():
    "In a process of its own: what makes the README runs cells, and their shell would stay."
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'readme.py', '--check'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_book_lists_every_notebook():
    cells = json.loads((ROOT / 'nbs' / 'book.ipynb').read_text(encoding='utf-8'))['cells']
    shown = [output['data']['text/markdown'] for c in cells for output in c.get('outputs', []) if 'data' in output]
    text = '\n'.join(''.join(part) for part in [*shown, *(c['source'] for c in cells)])
    for p in chapters():
        title, about = re.match(
            r'# (.+)\n+> (.+)', ''.join(json.loads(p.read_text(encoding='utf-8'))['cells'][0]['source'])
        ).groups()
        assert f'[{title}]({p.relative_to(ROOT / "nbs").as_posix()}) | {about} |' in text, (
            f'{p.name}: run `make notebooks NB=nbs/book.ipynb`'
        )
    for p in (ROOT / 'nbs' / 'results').glob('[0-9]*.ipynb'):
        assert f'(results/{p.name})' in text, p.name


def test_document_links_resolve():
    for doc in [*ROOT.glob('*.md'), *lint_nbs.notebooks()]:
        text = doc.read_text(encoding='utf-8')
        if doc.suffix == '.ipynb':
            text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown')
        for target in re.findall(r'\]\((?!https?:)([\w./-]+\.(?:md|ipynb|py|txt|cff|ya?ml))[)#]', text):
            assert (doc.parent / target).exists(), f'{doc.name} links to {target}, which is not there'


# Tables of names that come with the package. What is one's own is handed over, never written into them.
REGISTRIES = {
    'RECIPES',
    'VARIANTS',
    'GENERATED',
    'PROMPTS',
    'MANNERS',
    'ENGINES',
    'OBJECTIVES',
    'NEIGHBOURS',
    'EXPERIMENTS',
    'BUILT_IN',
}
CHANGING = {'update', 'setdefault', 'pop', 'popitem', 'clear', 'setitem', 'delitem', 'dict'}  # the last of patch.dict


def registry(node):
    "The name of a registry, if that is what an expression is."
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ''
    return name if name in REGISTRIES else ''


def is_refusal(node):
    "`with pytest.raises(…)` or `test_fail(…)`: what stands inside is shown to be impossible."
    calls = [i.context_expr for i in node.items] if isinstance(node, ast.With) else [node]
    return any(isinstance(c, ast.Call) and ast.unparse(c.func) in ('pytest.raises', 'test_fail') for c in calls)


def registry_edits(code):
    "Every statement that changes a registry: assignment or deletion by key, `update` and its like, patches."
    tree = ast.parse(code)
    refused = {id(n) for r in ast.walk(tree) if is_refusal(r) for n in ast.walk(r)}
    for n in ast.walk(tree):
        if id(n) in refused:
            continue
        if isinstance(n, ast.Subscript) and not isinstance(n.ctx, ast.Load) and registry(n.value):
            yield ast.unparse(n)
        elif isinstance(n, ast.AugAssign) and registry(n.target):
            yield ast.unparse(n)
        elif isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr in CHANGING:
            if registry(n.func.value) or any(map(registry, n.args[:1])):
                yield ast.unparse(n)


def python_sources():
    "{name: Python} of all cells, tests and tools."
    for p in lint_nbs.texts():
        if p.suffix == '.py':
            yield p.name, p.read_text(encoding='utf-8')
        elif p.suffix == '.ipynb':
            for c in json.loads(p.read_text(encoding='utf-8'))['cells']:
                if c['cell_type'] == 'code':
                    yield f'{p.name} {c["id"]}', re.sub(r'^[%!].*$', '', ''.join(c['source']), flags=re.M)


def test_no_registry_is_edited():
    found = {name: edits for name, code in python_sources() if (edits := list(registry_edits(code)))}
    assert not found, 'hand the object over instead: Experiment(recipe=…), --recipe my.py:mine'


@pytest.mark.parametrize(
    'line',
    [
        "RECIPES['mine'] = Recipe()",
        "del recipes.RECIPES['mine']",
        'GENERATED.update(mine=draw)',
        "PROMPTS |= {'mine': DEBATE}",
        "monkeypatch.setitem(tasks.GENERATED, 'mine', draw)",
        "patch.dict(RECIPES, {'mine': x})",
    ],
)
def test_registry_edit_is_detected(line):
    assert list(registry_edits(line))
    assert not list(registry_edits("RECIPES = {'a': 1}; x = RECIPES['a']; y = dict(RECIPES); RECIPES.get('a')"))


GLOSSARY = re.compile(r'\]\(([\w/]+\.ipynb)\) `(\w+)` \|')


def test_glossary_links_resolve():
    cells = json.loads((ROOT / 'nbs' / 'glossary.ipynb').read_text(encoding='utf-8'))['cells']
    text = '\n'.join(''.join(c['source']) for c in cells)
    rows = [line for line in text.splitlines() if line.startswith('| **')]
    found = GLOSSARY.findall(text)
    assert len(found) == len(rows) > 50
    for path, name in found:
        folder, _, notebook = path.rpartition('/')
        module = f'{folder}.{notebook[3:].removesuffix(".ipynb")}'.strip('.')
        assert (ROOT / 'nbs' / path).is_file(), f'glossary: {path} is not there'
        assert hasattr(importlib.import_module(f'multiagent_ft.{module}'), name), f'glossary: {module} has no {name}'


def test_tracked_files_are_small():
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip('not a git checkout')
    sizes = {f: (ROOT / f).stat().st_size for f in listed.stdout.decode().split('\0') if f and (ROOT / f).is_file()}
    too_big = {f: n for f, n in sizes.items() if n > (8_000_000 if f.endswith('.safetensors') else 600_000)}
    assert not too_big
    assert sum(sizes.values()) < 20_000_000


def nodes(function):
    "AST nodes of a function or class body: what width cannot hide."
    return sum(1 for _ in ast.walk(function))


MAX_NODES = 300  # of a function; design, section 8
# Still larger, being taken apart (part 1 of the second edition): none may be added, none may grow.
LARGE = {}


@pytest.mark.parametrize('module', MODULES)
def test_function_size(module):
    tree = ast.parse(source(module).read_text(encoding='utf-8'))
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    large = {f'{module}.{f.name}': nodes(f) for f in functions if nodes(f) > MAX_NODES}
    assert not {name: n for name, n in large.items() if n > LARGE.get(name, MAX_NODES)}


def public(module):
    mod = importlib.import_module(f'multiagent_ft.{module}')
    for name in getattr(mod, '__all__', []):
        o = getattr(mod, name)
        if getattr(o, '__module__', '') == mod.__name__ and (inspect.isfunction(o) or inspect.isclass(o)):
            yield name, o


# these words mean the same in every notebook
OBVIOUS = {'self', 'cls', 'args', 'kw', 'where', 'rng', 'seed', 'engine', 'task', 'model', 'tok', 'tokenizer'}


@pytest.mark.parametrize('module', MODULES)
def test_public_names_are_documented(module):
    "A docstring each; every argument has a type, a default, a comment beside it, or is named in the docstring."
    from fastcore.docments import docments

    missing = []
    for name, o in public(module):
        doc = o.__doc__ or ''
        # a dataclass without one gets its signature
        if not doc or doc.startswith(f'{name}('):
            missing.append(f'{name}: docstring')
        if not inspect.isfunction(o):
            continue
        notes = docments(o)
        for p in inspect.signature(o).parameters.values():
            if (
                p.name not in OBVIOUS
                and p.annotation is p.empty
                and p.default is p.empty
                and not notes.get(p.name)
                and f'`{p.name}`' not in doc
            ):
                missing.append(f'{name}({p.name}): neither type nor comment')
    assert not missing


def test_sdist_builds_a_wheel(tmp_path):
    "setup.py reads settings.ini, so that must be in it."
    src = tracked(tmp_path / 'src')
    done = subprocess.run(
        [sys.executable, 'setup.py', '-q', 'sdist', '--dist-dir', tmp_path / 'dist'],
        cwd=src,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = (tmp_path / 'dist').glob('*.tar.gz')
    with tarfile.open(archive) as t:
        t.extractall(tmp_path / 'out', **(dict(filter='data') if hasattr(tarfile, 'data_filter') else {}))  # 3.11.4
    (unpacked,) = (tmp_path / 'out').iterdir()
    output = subprocess.run(
        [sys.executable, 'setup.py', '-q', '--version'], cwd=unpacked, capture_output=True, text=True
    )
    assert output.returncode == 0 and output.stdout.split()[-1] in archive.name, output.stderr
    assert (unpacked / 'multiagent_ft' / 'nano' / 'model.safetensors').is_file()


def test_wheel_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for m in MODULES:
        assert source(m).relative_to(ROOT).as_posix() in names
    ours = [n for n in names if '.dist-info/' not in n]
    assert all(n.startswith('multiagent_ft/') for n in ours), [n for n in ours if not n.startswith('multiagent_ft/')]
    data = [
        f.relative_to(ROOT).as_posix()
        for f in PKG.rglob('*')
        if f.is_file() and '__pycache__' not in f.parts and f.suffix != '.pyc'
    ]
    assert not set(data) - set(names), (
        'these files of the package are not in the wheel: name them in settings.ini, package_data'
    )
    assert wheel.stat().st_size < 10_000_000
    meta = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith('METADATA'))).decode()
    for field in (
        'Requires-Python: >=3.11',
        'Requires-Dist: torch',
        'Provides-Extra: dev',
        'License-Expression: Apache-2.0',
    ):
        assert field in meta, field
    assert b'maft = multiagent_ft.cli:main' in zipfile.ZipFile(wheel).read(
        next(n for n in names if n.endswith('entry_points.txt'))
    )


def test_runtime_imports_no_development_tool():
    "fastcore and nbdev are for building this package, not for using it."
    for m in MODULES:
        assert not {'fastcore', 'nbdev', 'execnb', 'pytest', 'IPython'} & set(imports(m)), m


def test_workflows_pin_their_actions():
    found = [
        (f, use)
        for f in (ROOT / '.github' / 'workflows').glob('*.y*ml')
        for use in re.findall(r'uses: *(\S+)(.*)', f.read_text())
    ]
    assert len({f for f, _ in found}) >= 2
    for f, use in found:
        assert re.fullmatch(r'[\w./-]+@[0-9a-f]{40}', use[0]) and re.search(r'# v\d', use[1]), (
            f'{f.name}: {use[0]} is not pinned to a commit with its version beside it'
        )


def test_ci_script_is_executable():
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)


def calls_of(function):
    return {getattr(n.func, 'attr', getattr(n.func, 'id', '')) for n in ast.walk(function) if isinstance(n, ast.Call)}


def idle_tests(trees):
    "Names of the tests that assert nothing, nor call a function of the tests that does."
    functions = [n for t in trees for n in ast.walk(t) if isinstance(n, ast.FunctionDef)]
    checking = {f.name for f in functions if any(isinstance(n, ast.Assert) for n in ast.walk(f))} | {'raises', 'fail'}
    while found := {f.name for f in functions if calls_of(f) & checking} - checking:
        checking |= found
    return [f.name for f in functions if f.name.startswith('test_') and f.name not in checking]


def test_every_test_checks_something():
    trees = [ast.parse(p.read_text(encoding='utf-8')) for p in sorted((ROOT / 'tests').glob('*.py'))]
    assert idle_tests(trees) == []
    assert idle_tests([ast.parse('def test_a(): f()\ndef f(): g()\ndef g(): assert 1\ndef test_b(): h()')]) == [
        'test_b'
    ]
