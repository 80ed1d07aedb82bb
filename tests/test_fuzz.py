"""Whatever a user types or whatever is in a file: a result, or one line that says what is wrong; never a traceback.

Each `…_fault` does one thing with one odd input and returns how it ended if that was a traceback; the tests want None.
`python tests/test_fuzz.py N` tries N inputs of each kind and lists the tracebacks."""

import contextlib, gzip, io, json, os, random, shutil, sys, tempfile, traceback, warnings
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from multiagent_ft.core import MaftError
from multiagent_ft.runs.settings import PATHS, dump_config, load_config

ODD = [
    '',
    ' ',
    '-1',
    '0',
    '1',
    '3',
    'nan',
    'inf',
    '1e999',
    '9' * 30,
    '٣',
    'é',
    '\udc80',
    '..',
    '~',
    '~nosuch',
    'null',
    'true',
]
ODD += [
    'a' * 300,
    'x:y',
    'x.py:y',
    'mine.py:mine',
    '{',
    '[1',
    '[]',
    'k=v',
    '=',
    '--',
    ':',
    '%',
    '*',
    '\n',
    'a/b',
    'a/b:c',
]
ODD += [
    '/dev/null',
    '/etc/passwd',
    'file.jsonl',
    'folder',
    'binary.csv',
    'empty.jsonl',
    'page.yaml',
    'none.jsonl',
    'run',
]
TOKENS = [
    b'"',
    b'{',
    b'}',
    b'[',
    b']',
    b',',
    b':',
    b'\n',
    b'\r',
    b'\t',
    b'\x00',
    b'\xff',
    b'\xef\xbb\xbf',
    b'null',
    b'NaN',
]
TOKENS += [
    b'-',
    b'1e999',
    b'9' * 400,
    b'[' * 2000,
    b'\\ud800',
    b'\\',
    b'"question"',
    b'answer',
    b'true',
    b'{}',
    b'- a\n',
    b'&a *a',
]


def signature(e: BaseException) -> str:
    "Where a traceback ended: the error and its innermost line of ours."
    frames = [f for f in traceback.extract_tb(e.__traceback__) if 'multiagent_ft' in f.filename]
    where = f'{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}' if frames else 'elsewhere'
    return f'{type(e).__name__} in {where}: {str(e)[:100]}'


def fault_of(call) -> str | None:
    "How `call` ended, if with anything but a result or a `MaftError`."
    quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with quiet[0], quiet[1], warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            call()
        except (MaftError, SystemExit):
            return None
        except Exception as e:
            return signature(e)
    return None


def mutated(rnd: random.Random, data: bytes) -> bytes:
    "`data` after one to four accidents."
    for _ in range(rnd.randint(1, 4)):
        i, j = sorted(rnd.randrange(len(data) + 1) for _ in range(2))
        k = min(j, i + rnd.randrange(40))
        accident = rnd.randrange(6)
        if accident == 0:
            data = data[:i]
        elif accident == 1:
            data = data[:i] + data[k:]
        elif accident == 2:
            data = data[:i] + rnd.choice(TOKENS) + data[k:]
        elif accident == 3:
            data = data[:i] + rnd.choice(TOKENS) + data[i:]
        elif accident == 4:
            data = data[:i] + bytes([rnd.randrange(256)]) + data[i + 1 :]
        else:
            data = data[:k] + data[i:k] * rnd.randint(1, 3) + data[k:]
    return data


# Files of questions -----------------------------------------------------------------------------------------


def any_value(rnd: random.Random, depth: int = 0):
    "A value of JSON, most of them odd."
    kind = rnd.randrange(9 if depth < 3 else 6)
    if kind < 3:
        return rnd.choice([*ODD[:30], 'What is 1+1?', '2', r'\boxed{3}', '#### 4', 'B', 'A. x'])
    if kind < 6:
        return rnd.choice([None, True, 0, -1, 2.5, 1e308, 10**40, float('nan'), 3])
    if kind < 8:
        return [any_value(rnd, depth + 1) for _ in range(rnd.randrange(5))]
    return {rnd.choice(COLUMNS): any_value(rnd, depth + 1) for _ in range(rnd.randrange(4))}


COLUMNS = [
    'question',
    'answer',
    'choices',
    'options',
    'messages',
    'conversations',
    'role',
    'content',
    'text',
    'label',
    'A',
    'B',
]
ROWS = [dict(question=f'What is {i}+1?', answer=str(i + 1)) for i in range(8)]
CHOICE = [dict(question=f'Which is {i}?', choices=['x', str(i), 'y'], answer=1) for i in range(8)]
CHATS = [
    dict(messages=[dict(role='user', content=f'{i}+1?'), dict(role='assistant', content=f'{i + 1}')]) for i in range(8)
]


def as_file(rnd: random.Random, rows: list, suffix: str) -> bytes:
    "`rows` in one of the formats."
    if suffix == 'parquet':
        return as_parquet(rows)
    if suffix in ('csv', 'tsv'):
        comma = ',' if suffix == 'csv' else '\t'
        lines = [comma.join(map(str, rows[0])), *(comma.join(map(str, r.values())) for r in rows)]
        return '\n'.join(lines).encode(errors='replace')
    spelled = [json.dumps(r) for r in rows]
    return (('[' + ','.join(spelled) + ']') if suffix == 'json' else '\n'.join(spelled)).encode()


def as_parquet(rows):
    import pyarrow as pa, pyarrow.parquet as pq

    out = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), out)
    except (pa.ArrowException, OverflowError, TypeError, UnicodeError):
        pq.write_table(pa.Table.from_pylist(ROWS), out := io.BytesIO())
    return out.getvalue()


def data_fault(seed: int) -> str | None:
    "Read a file of questions that is odd in its rows, its bytes, or both."
    from multiagent_ft.runs.tasks import load_task, split

    rnd = random.Random(seed)
    rows = [dict(r) for r in rnd.choice([ROWS, CHOICE, CHATS])]
    for _ in range(rnd.randrange(3)):
        rnd.choice(rows)[rnd.choice(COLUMNS)] = any_value(rnd)
    if rnd.random() < 0.2:
        rows = [{rnd.choice(COLUMNS): any_value(rnd) for _ in range(3)} for _ in range(4)]
    suffix = rnd.choice(['jsonl', 'json', 'csv', 'tsv', 'parquet', 'ndjson'])
    data = as_file(rnd, [r for r in rows if r] or ROWS, suffix)
    data = mutated(rnd, data) if rnd.random() < 0.7 else data
    if rnd.random() < 0.1:
        data, suffix = gzip.compress(data), f'{suffix}.gz'
        data = mutated(rnd, data) if rnd.random() < 0.5 else data
    with tempfile.TemporaryDirectory() as tmp:
        file = Path(tmp) / f'q.{suffix}'
        file.write_bytes(data)
        return fault_of(lambda: split(load_task(str(file)), 2, 2))


def task_yaml_fault(seed: int) -> str | None:
    "Read a description of a task that is odd."
    from multiagent_ft.runs.tasks import load_task, split

    rnd = random.Random(seed)
    keys = ['name', 'kind', 'instruction', 'question', 'answer', 'choices', 'level', 'levels', 'data', 'split', 'train']
    keys += ['evaluation', 'unreadable', 'config', 'nonsense']
    given = {'data': 'q.jsonl'} | {
        rnd.choice(keys): rnd.choice([*ODD[:40], 'question', 'regex:(', 'math', 'q']) for _ in range(3)
    }
    text = '\n'.join(f'{k}: {json.dumps(v) if rnd.random() < 0.6 else v}' for k, v in given.items()).encode(
        errors='replace'
    )
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp) / 'q.jsonl').write_bytes(as_file(rnd, ROWS, 'jsonl'))
        file = Path(tmp) / 't.yaml'
        file.write_bytes(mutated(rnd, text) if rnd.random() < 0.5 else text)
        return fault_of(lambda: split(load_task(str(file)), 2, 2))


# Settings and the command line ------------------------------------------------------------------------------


def settings_fault(seed: int) -> str | None:
    "Read a file of settings that is odd, and settings on the command line."
    rnd = random.Random(seed)
    text = mutated(rnd, dump_config(load_config()).encode())
    sets = [
        f'{rnd.choice([*PATHS, *PATHS.values(), "engine.args.x", "template_args.x", "nonsense"])}={rnd.choice(ODD)}'
        for _ in range(2)
    ]
    with tempfile.TemporaryDirectory() as tmp:
        file = Path(tmp) / 'c.yaml'
        file.write_bytes(text)

        def call():
            with contextlib.suppress(MaftError):
                dump_config(load_config(file))
            dump_config(load_config(None, None, sets))

        return fault_of(call)


COMMANDS = [
    'run',
    'run',
    'run',
    'plan',
    'eval',
    'debate',
    'diversity',
    'report',
    'explain',
    'config',
    'compare',
    'reproduce',
]
COMMANDS += ['store ls', 'store verify', 'store prune', 'bench --part', 'nano nonsense', '', 'nonsense']
FLAGS = [
    '--task',
    '--data',
    '--model',
    '--recipe',
    '--engine',
    '--prompts',
    '--agents',
    '--rounds',
    '--train',
    '--eval',
]
FLAGS += [
    '--seed',
    '--iterations',
    '--workers',
    '--device',
    '--wandb',
    '--config',
    '--set',
    '--kind',
    '--iteration',
    '--run',
]
FLAGS += [
    '--questions',
    '--seeds',
    '--baseline',
    '--embedder',
    '--out',
    '--store',
    '--json',
    '--yes',
    '--plan',
    '--quick',
]
SOME = [
    'levels=1',
    'temperature=-1',
    'rank=0',
    'chat_template=folder',
    'chat_template=binary.csv',
    'w=2',
    'reading=last',
    'x=1',
]
SAFE = [
    '--iterations',
    '0',
    '--train',
    '1',
    '--eval',
    '1',
    '--workers',
    '0',
    '--wandb',
    'off',
    '--agents',
    '1',
    '--rounds',
    '1',
]
SAFE += ['--set', 'max_new_tokens=2', '--set', 'quiet=true']


@cache
def odd_folder() -> Path:
    "A folder with files of every kind, to stand in while commands are tried."
    here = Path(tempfile.mkdtemp(prefix='maft-fuzz-'))
    (here / 'folder').mkdir()
    (here / 'file.jsonl').write_bytes(as_file(random.Random(0), ROWS, 'jsonl'))
    (here / 'binary.csv').write_bytes(bytes(range(256)) * 4)
    (here / 'empty.jsonl').touch()
    (here / 'page.yaml').write_text('question: q\n')
    (here / 'mine.py').write_text('mine = 1\n')
    return here


def kept_small(words: list[str]) -> list[str]:
    "The same command, on a question or two where it would otherwise work for minutes."
    if words[:1] in (['run'], ['plan'], ['debate'], ['compare'], ['reproduce']):
        words += SAFE[8:] if words[0] == 'reproduce' else SAFE
        words += ['--questions', '1'] if words[0] == 'plan' else []
    return words


def words_of(rnd: random.Random) -> list[str]:
    "A command line."
    words = rnd.choice(COMMANDS).split()
    for _ in range(rnd.randrange(4)):
        flag = rnd.choice(FLAGS)
        value = rnd.choice(SOME) if flag == '--set' and rnd.random() < 0.5 else rnd.choice(ODD)
        if flag in ('--out', '--store'):
            value = rnd.choice(['folder', 'file.jsonl', 'new', 'new/deep', '/dev/null/x', ''])
        words += [flag] if flag in ('--json', '--yes', '--plan', '--quick') else [flag, value]
    words += [rnd.choice(ODD) for _ in range(rnd.randrange(3))]
    return kept_small(words)


def command_fault(words: list[str]) -> str | None:
    "What a command line ends in, if in a traceback."
    from multiagent_ft import cli

    before = os.getcwd()
    os.chdir(odd_folder())
    try:
        return fault_of(lambda: cli.app(words, prog_name='maft'))
    finally:
        os.chdir(before)
        for made in ('new', 'runs', 'odd'):
            shutil.rmtree(odd_folder() / made, ignore_errors=True)


# A run folder whose files are odd ---------------------------------------------------------------------------


@cache
def finished_run() -> Path:
    "A finished run of nano in a folder of its own, with its store."
    from multiagent_ft.runs.run import run

    home = Path(tempfile.mkdtemp(prefix='maft-fuzz-'))
    small = dict(train=4, eval=3, iterations=1, workers=0, wandb='off', quiet=True)
    run(load_config(None, small | dict(out=str(home / 'runs' / 'a'))))
    return home


LOOKS = ['explain', 'report', 'diversity', 'debate', 'eval', 'run', 'store ls', 'store verify', 'store prune']


def run_fault(seed: int) -> str | None:
    "Look at a run, one file of which (or of its store) has had an accident."
    from multiagent_ft import cli

    rnd = random.Random(seed)
    with tempfile.TemporaryDirectory() as tmp:
        home = Path(tmp)
        shutil.copytree(finished_run() / 'runs', home / 'runs')
        file = rnd.choice(sorted(f for f in (home / 'runs').rglob('*') if f.is_file()))
        data = file.read_bytes()
        file.unlink()
        if rnd.random() < 0.9:
            file.write_bytes(mutated(rnd, data))
        a, store = str(home / 'runs' / 'a'), str(home / 'runs' / 'store')
        look = rnd.choice(LOOKS)
        more = dict(
            debate=['1+1?', '--run', a], eval=[a, '--workers', '0'], run=['--config', f'{a}/config.yaml', '--out', a]
        )
        words = look.split() + (['--store', store] if look.startswith('store') else more.get(look, [a]))
        words += [a] if look == 'store prune' else []
        return fault_of(lambda: cli.app(words, prog_name='maft'))


# Files of a model -------------------------------------------------------------------------------------------


def model_fault(seed: int) -> str | None:
    "Load a model, one file of which has had an accident, and ask it something."
    from multiagent_ft.core import Message
    from multiagent_ft.engines.huggingface import HFEngine
    from multiagent_ft.engines.weights import find_model
    from multiagent_ft.method.prompts import Request, Sampling

    rnd = random.Random(seed)
    with tempfile.TemporaryDirectory() as tmp:
        here = Path(tmp) / 'm'
        shutil.copytree(find_model('nano'), here, ignore=shutil.ignore_patterns('*.py', '__pycache__', '*.md'))
        file = rnd.choice([f for f in sorted(here.iterdir()) if f.is_file()])
        data = file.read_bytes()
        file.unlink()
        if rnd.random() < 0.9:
            head = 4000 if file.suffix == '.safetensors' else len(data)
            file.write_bytes(mutated(rnd, data[:head]) + data[head:])

        def call():
            request = Request((Message('user', 'What is 1+1?'),), seed=0, sampling=Sampling(max_new_tokens=2))
            HFEngine(str(here)).generate([request])

        found = fault_of(call)
        return found


# The tests --------------------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_fuzz_files_of_questions(seed):
    assert data_fault(seed) is None


@given(SEEDS)
def test_fuzz_descriptions_of_tasks(seed):
    assert task_yaml_fault(seed) is None


@given(SEEDS)
def test_fuzz_settings(seed):
    assert settings_fault(seed) is None


@given(SEEDS)
def test_fuzz_command_line(seed):
    words = words_of(random.Random(seed))
    assert command_fault(words) is None, words


@given(st.sampled_from([c for c in COMMANDS if c]), st.lists(st.text(max_size=12), max_size=3))
def test_fuzz_command_line_of_any_text(command, words):
    assert command_fault(kept_small([*command.split(), *words])) is None


@pytest.mark.slow
@given(SEEDS)
def test_fuzz_files_of_a_run(seed):
    assert run_fault(seed) is None


@pytest.mark.slow
@given(SEEDS)
def test_fuzz_files_of_a_model(seed):
    assert model_fault(seed) is None


KINDS = dict(data=data_fault, task=task_yaml_fault, settings=settings_fault, run=run_fault, model=model_fault)
KINDS |= dict(command=lambda seed: command_fault(words_of(random.Random(seed))))

if __name__ == '__main__':
    n, names, start = (
        int(sys.argv[1]),
        sys.argv[2].split(',') if sys.argv[2:] else [*KINDS],
        int((sys.argv[3:] or [0])[0]),
    )
    for name in names:
        found, first = Counter(), {}
        for seed in range(start, start + n):
            fault = KINDS[name](seed)
            if fault:
                found[fault.partition(':')[2].partition(':')[0] and fault[:110]] += 1
                first.setdefault(fault[:110], seed)
        print(f'{name}: {n} inputs, {sum(found.values())} tracebacks of {len(found)} kinds', flush=True)
        for fault, times in found.most_common():
            print(f'    {times} x {fault} (seed {first.get(fault)})', flush=True)
