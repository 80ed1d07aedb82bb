"Core: one spelling for equal values, seeds with an address, files whole or not at all, errors that name the line."

import dataclasses, errno, functools, json, math, os, random, re, subprocess, sys, threading
from collections import Counter
from pathlib import Path
import pytest
from hypothesis import given, strategies as st
from conftest import ROOT
from multiagent_ft import core
from multiagent_ft.core import (
    FINISH,
    Completion,
    MaftError,
    Message,
    Problem,
    Transcript,
    Turn,
    canonical_json,
    digest,
    file_digest,
    held_out,
    read_jsonl,
    rng_for,
    seed_for,
    transcript_from_dict,
    transcript_to_dict,
    write_atomic,
    write_jsonl,
)
from making import keys, killing, leaf, memory, shuffled, value


@pytest.fixture
def fast():
    with memory() as d:
        yield Path(d)


# One spelling


@given(value)
def test_canonical_json_round_trip(o):
    text = canonical_json(o)
    assert (
        json.loads(text) == o
        and text.isascii()
        and canonical_json(json.loads(text)) == text == canonical_json(shuffled(o))
    )


@given(value, value)
def test_canonical_json_is_injective(a, b):
    def exactly(o):
        return json.dumps(o, sort_keys=True)  # tells 1, 1.0 and True apart, as ==  does not

    assert (canonical_json(a) == canonical_json(b)) == (exactly(a) == exactly(b)) == (digest(a) == digest(b))


@given(keys)
def test_canonical_json_has_no_whitespace(key):
    assert not re.search(r'\s', re.sub(r'"(\\.|[^"\\])*"', '', canonical_json(key)))


def test_canonical_json_of_supported_and_unsupported_values():
    assert (
        canonical_json(dict(b=(1, 2), a=Path('x/y'), m=Message('user', 'é')))
        == '{"a":"x/y","b":[1,2],"m":{"content":"\\u00e9","role":"user"}}'
    )
    for bad in (math.nan, math.inf, -math.inf, {1, 2}, object(), b'bytes', dict(a=[math.nan])):
        with pytest.raises((TypeError, ValueError)):
            canonical_json(bad)


def test_digest_known_values():
    assert digest(b'') == digest(b'')[:64] == 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    assert digest({}) == digest(b'{}') and digest('a') == digest(b'"a"')


def test_digest_and_seed_are_the_same_in_every_process():
    "Neither hash randomisation nor the order of a set may leak in."
    code = (
        "from multiagent_ft.core import digest, seed_for; print(digest(dict(b=[1, 2.5, None], a='é')), seed_for(0,"
        " 'train', 'q1', 1, 'generator', 2))"
    )
    printed = {
        subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'PYTHONHASHSEED': str(i)}
        ).stdout
        for i in range(3)
    }
    assert printed == {f'{digest(dict(a="é", b=[1, 2.5, None]))} {seed_for(0, "train", "q1", 1, "generator", 2)}\n'}


@given(st.binary(max_size=5000))
def test_file_digest_is_digest_of_the_bytes(data):
    with memory() as d:
        (Path(d) / 'f').write_bytes(data)
        assert file_digest(Path(d) / 'f') == digest(data)


# Seeds

address = st.lists(leaf, max_size=6).map(tuple)


@given(address, address)
def test_seed_depends_on_its_address_only(a, b):
    assert 0 <= seed_for(*a) < 2**63 and seed_for(*a) == seed_for(*a)
    assert (seed_for(*a) == seed_for(*b)) == (canonical_json(a) == canonical_json(b))


@given(address)
def test_rng_for_returns_independent_generators(where):
    random.seed(1)
    before = random.getstate()
    a, b = rng_for(*where), rng_for(*where)
    assert [a.random() for _ in range(3)] == [b.random() for _ in range(3)] and random.getstate() == before
    assert a.random() == b.random()


def test_seed_addresses_do_not_collide():
    "Parts are kept apart, and what looks alike is not the same."
    some = [
        ('ab', 'c'),
        ('a', 'bc'),
        ('abc',),
        ('abc', ''),
        (1, 2),
        (12,),
        ((1, 2),),
        ('1', '2'),
        (1.0, 2),
        (True, 2),
        (None,),
        ('None',),
        (),
    ]
    assert len({seed_for(*s) for s in some}) == len(some)


def test_seeds_of_neighbouring_addresses_are_uncorrelated():
    seeds = [seed_for(0, 'train', f'q{q}', r, 'generator', d) for q in range(200) for r in range(5) for d in range(10)]
    assert len(set(seeds)) == 10_000
    for bit in range(63):
        assert abs(sum(s >> bit & 1 for s in seeds) - 5000) < 250, bit  # five standard deviations
    pairs = Counter(a >> 61 for a in seeds)
    assert all(abs(n - 2500) < 220 for n in pairs.values()) and len(pairs) == 4


@given(st.text())
def test_held_out_depends_on_the_question_only(q):
    assert held_out(q) == held_out(f'  {q}\n') == held_out(q.strip())


def test_half_is_held_out():
    assert abs(sum(held_out(f'What is {i}+{j}?') for i in range(100) for j in range(100)) - 5000) < 250


# Messages, turns, transcripts

completions = st.builds(
    Completion, st.text(), st.sampled_from(FINISH), st.lists(st.integers(0, 10**6)), st.lists(st.integers(0, 10**6))
)
turns = st.builds(
    Turn, st.integers(0, 4), st.sampled_from(['generator', 'critic', 'summarizer']), st.integers(1, 4), completions
)
transcripts = st.builds(
    Transcript,
    st.builds(Problem, st.text(), st.text(), st.none() | st.text(), st.text()),
    st.lists(turns, max_size=8),
)


@given(st.lists(transcripts, max_size=3))
def test_transcripts_round_trip(some):
    with memory() as d:
        write_jsonl(Path(d) / 't.jsonl', map(transcript_to_dict, some))
        assert [transcript_from_dict(r) for r in read_jsonl(Path(d) / 't.jsonl')] == some


@given(transcripts)
def test_at_and_final(t):
    for r in range(1, 5):
        spoke = t.at(r)
        assert all(u.round == r and u.role == ('generator' if r == 1 else 'critic') for u in spoke)
        assert [u.agent for u in spoke] == sorted(u.agent for u in spoke)
    assert t.final() == t.at(t.rounds) and all(u.role != 'summarizer' for u in t.final())


def test_frozen():
    for o in (
        Message('user', 'x'),
        Problem('1', 'q'),
        Completion('x', 'stop', [1]),
        Turn(0, 'critic', 2, Completion('x', 'stop')),
        Transcript(Problem('1', 'q'), []),
    ):
        hash(o)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(o, dataclasses.fields(o)[0].name, None)
    with pytest.raises(ValueError, match='finish'):
        Completion('x', 'stopped')


# Files


@given(st.text() | st.binary(), st.text() | st.binary())
def test_write_atomic_round_trip(first, second):
    with memory() as d:
        for data in (first, second):
            path = write_atomic(Path(d) / 'a' / 'b.txt', data)
            assert path.read_bytes() == (data if isinstance(data, bytes) else data.encode())
            assert [p.name for p in path.parent.iterdir()] == ['b.txt']


def test_write_atomic_sigkill_at_every_syscall(fast):
    "Old bytes or new bytes, never half; a second run ends where an undisturbed one does."
    *kills, through = killing('kill', 'file', fast, '--from-scratch')
    assert len(kills) >= 25 and {k['what'] for k in kills} >= {'open', 'write', 'fsync', 'replace'}

    def mine(after):
        return {n: d for n, d in after.items() if not Path(n).name.startswith('.')}

    notes = []
    for k in kills:
        assert k['seen']['note'] in (None, ['0', 4000], ['1', 4000], ['2', 4000]) and k['seen']['rows'] in (
            None,
            [dict(i=0), dict(i=1), dict(i=2)],
        ), k
        assert mine(k['after']) == through['after'], k
        notes.append(k['seen']['note'] or ['', 0])
    assert notes == sorted(notes) and len(set(map(tuple, notes))) == 4, 'every state was seen, in order'


def test_write_atomic_concurrent_writers(tmp_path):
    def write(i):
        for _ in range(20):
            write_atomic(tmp_path / 'x', str(i) * 10_000)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    seen = set()
    while any(t.is_alive() for t in threads):
        if (tmp_path / 'x').exists():
            text = (tmp_path / 'x').read_text()
            seen.add((len(text), len(set(text))))
    assert seen <= {(10_000, 1)} and [p.name for p in tmp_path.iterdir()] == ['x']


@pytest.mark.parametrize('what', ['fsync', 'replace'])
def test_write_atomic_full_disk(tmp_path, monkeypatch, what):
    write_atomic(tmp_path / 'x', 'old')

    def full(*a, **k):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, what, full)
    with pytest.raises(MaftError, match='No space left.*Free some room') as e:
        write_atomic(tmp_path / 'x', 'new')
    assert 'x' in str(e.value) and (tmp_path / 'x').read_text() == 'old' and len(list(tmp_path.iterdir())) == 1


def test_write_atomic_interrupted_leaves_no_temporary_file(tmp_path, monkeypatch):
    def stop(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / 'x', 'new')
    assert not any(tmp_path.iterdir())


# Records


@given(st.lists(keys, max_size=6))
def test_jsonl_round_trip(rows):
    with memory() as d:
        path = write_jsonl(Path(d) / 'r.jsonl', rows)
        assert read_jsonl(path) == rows and len(path.read_text(encoding='utf-8').split('\n')) == len(rows) + 1


@given(st.lists(keys, min_size=1, max_size=6), st.data())
def test_jsonl_corrupt_line_is_named(rows, data):
    i = data.draw(st.integers(0, len(rows) - 1))
    lines = [json.dumps(r) for r in rows]
    lines[i] = data.draw(
        st.sampled_from(
            [lines[i][:-1], lines[i] + '}', '[1]', '1', 'null', '"x"', 'plain', "{'a': 1}", '{"a": 1,}', '{"a" 1}']
        )
    )
    lead = data.draw(st.integers(0, 2))
    with memory() as d:
        (Path(d) / 'r.jsonl').write_text('\n' * lead + '\n'.join(lines))
        with pytest.raises(MaftError) as e:
            read_jsonl(Path(d) / 'r.jsonl')
    assert f'r.jsonl, line {lead + i + 1}:' in str(e.value) and '\n' not in str(e.value)


def test_jsonl_blank_lines_and_crlf(tmp_path):
    (tmp_path / 'r').write_bytes(b'\n{"a": 1}\r\n  \r\n{"a": 2}')
    assert read_jsonl(tmp_path / 'r') == [dict(a=1), dict(a=2)]
    (tmp_path / 'r').write_bytes(b'')
    assert read_jsonl(tmp_path / 'r') == []


def test_jsonl_unicode_line_separators(tmp_path):
    rows = [dict(t='a\u2028b\u2029c\x85d\x0be\x0cf\rg\nh\x1ei')]
    assert read_jsonl(write_jsonl(tmp_path / 'r', rows)) == rows


def test_jsonl_of_non_objects_is_refused(tmp_path):
    with pytest.raises(MaftError, match='no such file'):
        read_jsonl(tmp_path / 'nowhere')
    (tmp_path / 'latin').write_bytes('{"t": "café"}'.encode('latin1'))
    with pytest.raises(MaftError, match='not UTF-8'):
        read_jsonl(tmp_path / 'latin')


def test_jsonl_byte_order_mark(tmp_path):
    (tmp_path / 'r').write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert read_jsonl(tmp_path / 'r') == [dict(a=1)]


@pytest.mark.parametrize('path', ['', 'file/below'])
def test_read_missing_file_or_folder(tmp_path, path):
    (tmp_path / 'file').write_text('{}')
    with pytest.raises(MaftError):
        read_jsonl(tmp_path / path)


def test_write_below_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(MaftError, match='Fix that') as e:
        write_atomic(tmp_path / 'file' / 'below', 'x')
    assert 'room' not in str(e.value)


@pytest.mark.parametrize(
    'text', ['{"a": ' + '9' * 5000 + '}', '{"a": ' + '[' * 100_000 + ']' * 100_000 + '}'], ids=['digits', 'nesting']
)
def test_jsonl_hostile_json(tmp_path, text):
    (tmp_path / 'r').write_text(text)
    with pytest.raises(MaftError, match='line 1'):
        read_jsonl(tmp_path / 'r')


def test_jsonl_lone_surrogate_round_trip(tmp_path):
    (tmp_path / 'r').write_text('{"t": "\\ud83d"}')
    assert read_jsonl(write_jsonl(tmp_path / 's', read_jsonl(tmp_path / 'r'))) == [dict(t='\ud83d')]


def test_import_core_is_light():
    code = (
        'import sys, multiagent_ft.core; print(sorted({"torch", "numpy", "transformers", "pydantic"} &'
        ' set(sys.modules)))'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == '[]'


USER_FILES = {
    'none.py:mine': (None, 'no file'),
    'syntax.py:mine': ('x = 1\ndef f(:\n', 'line 2', 'SyntaxError'),
    'raises.py:mine': ('x = 1\n\nmine = 1 / 0\n', 'line 3', 'ZeroDivisionError'),
    'exits.py:mine': ('import sys\nsys.exit(3)\n', 'line 2', 'SystemExit'),
    'typo.py:mine': ('mien = "a"\n', 'Did you mean mien?'),
    'wrong.py:mine': ('mine = 3\n', 'expected an object of type str, found one of type int'),
    'bytes.py:mine': (b'mine = "\xff"', 'SyntaxError'),
}


@pytest.mark.parametrize('where', USER_FILES)
def test_load_object_errors_are_one_line(tmp_path, where):
    text, *expected = USER_FILES[where]
    if text is not None:
        (tmp_path / where.split(':')[0]).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(core.MaftError) as e:
        core.load_object(f'{tmp_path}/{where}', str)
    assert '\n' not in str(e.value) and where in str(e.value)
    assert all(part in str(e.value) for part in expected), str(e.value)


def test_load_object_is_cached_until_its_file_changes(tmp_path):
    (tmp_path / 'beside.py').write_text('base = 40')
    (tmp_path / 'my.py').write_text('import beside\ndef mine(): return beside.base + 2')
    where = f'{tmp_path}/my.py:mine'
    mine = core.load_object(where)
    assert mine() == 42 and core.load_object(where) is mine
    key = core.function_key(mine)
    (tmp_path / 'my.py').write_text('def mine(): return 43')
    assert core.load_object(where)() == 43 and core.function_key(core.load_object(where)) != key
    assert core.load_object('json:dumps') is json.dumps
    for name in ('my.py', 'my.py:', ':mine', 'a b:c', 'no.such_module:x'):
        with pytest.raises(core.MaftError):
            core.load_object(name)


def test_function_key_changes_with_source_defaults_and_closure():
    def scaled(k, by=1):
        def f(x, plus=by):
            return f(k) if x is None else k * x + plus

        return f

    key = core.function_key(scaled(2))
    assert key == core.function_key(scaled(2)) and len(json.dumps(key)) < 300
    others = [scaled(3), scaled(2, by=2), functools.partial(scaled(2), plus=3), lambda x: x, lambda x: x + 1]
    assert len({json.dumps(core.function_key(f)) for f in [scaled(2), *others]}) == 6
    for bad in (len, scaled(object()), functools.partial(scaled, {1, 2})):
        with pytest.raises(core.MaftError):
            core.function_key(bad)
