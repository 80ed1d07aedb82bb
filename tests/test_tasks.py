"""Tasks: every recorded question is read, splits are what they say, bad data is named by file, line and column before
anything is generated."""

import gzip, io, json, re, zipfile
from functools import cache
from decimal import Decimal
import pytest
from hypothesis import given, settings, strategies as st
from conftest import SHARED, needs_shared
from multiagent_ft.answers.reading import extract, same
from multiagent_ft.core import MaftError, Problem, held_out, rng_for
from multiagent_ft.method.prompts import DEBATE
from multiagent_ft.runs.data import BUILT_IN, csv_rows, gold_of, jsonl_rows, letter_of
from multiagent_ft.runs.tasks import GENERATED, Grader, Task, familiar, in_random_order, load_task, normalized, split

DATA = SHARED / 'data'
LOCAL = dict(gsm8k=DATA, svamp=DATA, mmlu=DATA / 'mmlu_stem')
recorded = cache(lambda name: load_task(name, LOCAL[name]))  # read once for all tests


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(r) + '\n' for r in rows), encoding='utf-8')
    return path


def own(folder, yaml, name='quiz.yaml'):
    (folder / name).write_text(yaml, encoding='utf-8')
    return load_task(str(folder / name))


def refused(f, *expected, lines=2):
    "`f` raises MaftError in at most `lines` lines that hold all of `expected`."
    with pytest.raises(MaftError) as e:
        f()
    text = str(e.value)
    assert len(text.splitlines()) <= lines and all(s in text for s in expected), text
    return text


# Recorded data
# ------------------------------------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize('name,rows,different', [('gsm8k', 8792, 8792), ('svamp', 1000, 1000), ('mmlu', 3018, 3003)])
def test_recorded_data_sets_are_parsed(name, rows, different):
    task = recorded(name)
    a, b, notes = task.load()
    assert notes == dict(rows=rows, other_levels=0, unreadable=[])
    problems = a if a is b else a + b
    assert len(problems) == rows == len({p.id for p in problems})
    for p in problems:
        assert p.text and p.gold and task.score(p.gold, p)
        assert same(p.gold, extract(f'So it is \\boxed{{{p.gold}}}.', task.kind))
    s = split(task)
    assert s.report['different'] == different and s.report['in_both'] == [] and len(s.train) == len(s.evaluation) == 500


@needs_shared
def test_gold_answers_match_the_files():
    for part in ('train', 'test'):
        rows = [json.loads(line) for line in open(DATA / 'gsm8k' / f'{part}.jsonl', encoding='utf-8')]
        a, b, _ = recorded('gsm8k').load()
        for r, p in zip(rows, a if part == 'train' else b, strict=True):
            assert p.text == r['question'].strip() and float(p.gold) == float(
                r['answer'].rpartition('####')[2].replace(',', '')
            )
    rows = [json.loads(line) for line in open(DATA / 'svamp' / 'test.jsonl', encoding='utf-8')]
    for r, p in zip(rows, recorded('svamp').load()[0], strict=True):
        assert float(p.gold) == r['Answer']
    rows = [json.loads(line) for line in open(DATA / 'mmlu_stem' / 'test.jsonl', encoding='utf-8')]
    for r, p in zip(rows, recorded('mmlu').load()[0], strict=True):
        assert p.gold == 'ABCD'[r['answer']] and f'\n({p.gold}) {r["choices"][r["answer"]].strip()}' in p.text


@needs_shared
def test_split_uses_train_and_test_parts():
    s = split(recorded('gsm8k'), seed=3)
    assert all(p.source.startswith('train.jsonl') for p in s.train) and all(
        p.source.startswith('test.jsonl') for p in s.evaluation
    )


@needs_shared
@pytest.mark.parametrize('name', LOCAL)
def test_split_fresh_questions_every_iteration(name):
    task = recorded(name)
    splits = [split(task, 200, 300, seed=1, iteration=k, fresh=True) for k in (1, 2, 3)]
    to_evaluate = {normalized(p.text) for p in splits[0].evaluation}
    seen = [normalized(p.text) for s in splits for p in s.train]
    assert len(seen) == len(set(seen)) == 600 and not to_evaluate & set(seen)
    assert all(s.evaluation == splits[0].evaluation for s in splits)
    assert split(task, 200, 300, seed=1, iteration=3).train == splits[0].train


@needs_shared
@pytest.mark.parametrize('name,known', [('svamp', 152), ('gsm8k', 0)])
def test_familiar_evaluation_questions_are_counted(name, known):
    from multiagent_ft.runs.plan import familiar_note

    s = split(recorded(name), 500, 500)
    found = familiar(s.train, s.evaluation)
    assert len(found) == known and len(familiar(s.train, s.train)) > 400
    note = familiar_note([s.train], s.evaluation)
    assert note is None if not known else note.startswith(f'{known} of 500 evaluation questions share 13 words')


@needs_shared
def test_too_few_questions_error_counts_them():
    svamp = recorded('svamp')
    refused(
        lambda: split(svamp, 500, 500, iteration=2, fresh=True),
        'svamp has 500 different questions to train on, beside the 500 to evaluate on',
        '1000 are asked for',
        '2 iterations',
    )
    refused(lambda: split(svamp, 600, 500), 'svamp has 500 different questions', '600')
    refused(lambda: split(svamp, 0, 1001), 'svamp has 1000 different questions to evaluate on', '1001')
    refused(lambda: split(recorded('gsm8k'), 500, 1320), '1319 different questions to evaluate on')


def test_too_few_questions_error_says_what_became_of_the_rows(tmp_path):
    (tmp_path / 'q.csv').write_text('question,answer\n' + 'What is 1+1?,2\n' * 9 + 'What is 1+2?,\n')
    refused(
        lambda: split(load_task(str(tmp_path / 'q.csv')), 2, 2),
        '2 are asked for',
        'Found: 10 rows; 8 that occur twice, 1 without an answer (training only), 2 different questions.',
    )


def test_spreadsheet_is_refused_with_what_to_save_it_as(tmp_path):
    (tmp_path / 'q.xlsx').write_bytes(b'PK')
    refused(lambda: load_task(str(tmp_path / 'q.xlsx')), 'Save it as one of', 'a spreadsheet as CSV')


@needs_shared
def test_college_mathematics_in_six_lines(tmp_path):
    task = own(
        tmp_path,
        f'data: {DATA}/college_math/test.jsonl\nkind: math\nquestion: question\nanswer: answer\nunreadable: skip\n',
    )
    a, _, notes = task.load()
    assert notes['rows'] == 2818 and len(a) >= 0.97 * 2818 and len(a) + len(notes['unreadable']) == 2818


@needs_shared
def test_file_instead_of_a_folder():
    assert len(load_task('gsm8k', DATA / 'gsm8k' / 'test.jsonl').load()[0]) == 1319
    assert [p.text for p in load_task('gsm8k', DATA / 'gsm8k').load()[1]] == [
        p.text for p in recorded('gsm8k').load()[1]
    ]


# Splits
# -------------------------------------------------------------------------------------------------------------------

texts = st.text("abAB 0?.’'", min_size=1, max_size=6).filter(str.strip)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(texts, max_size=30),
    st.lists(texts, min_size=1, max_size=30),
    st.booleans(),
    st.integers(0, 9),
    st.randoms(),
)
def test_splits_are_disjoint_and_order_independent(a, b, parts, seed, rnd):
    lists = [[Problem(f'{n}/{i}', t, '1', f'{n}:{i}') for i, t in enumerate(ts)] for n, ts in (('a', a), ('b', b))]

    def load():
        for x in lists:
            rnd.shuffle(x)
        return (lists[0], lists[1], dict(rows=0)) if parts else (lists[1], lists[1], dict(rows=0))

    task = Task('play', 'number', load=load)
    to_evaluate, to_train = {normalized(t) for t in b}, {normalized(t) for t in (a if parts else b)}
    n = len(to_evaluate) if parts else len(to_evaluate) // 2
    m = len(to_train - to_evaluate) if parts else len(to_evaluate) - n
    s, again = split(task, m, n, seed), split(task, m, n, seed)
    keys = [normalized(p.text) for p in s.train + s.evaluation]
    assert len(keys) == len(set(keys)) == n + m
    assert keys == [normalized(p.text) for p in again.train + again.evaluation]
    assert [normalized(p.text) for p in split(task, 0, max(n - 1, 0), seed).evaluation] == keys[m:][: max(n - 1, 0)]
    if m < len(to_train):
        refused(lambda: split(task, len(to_train) + 1, n, seed), 'task play has')


def test_shuffle_is_seeded_and_stable_when_a_question_is_removed():
    pool = [Problem(str(i), f'question {i}') for i in range(100)]
    order = in_random_order(pool, 0)
    assert order != in_random_order(pool, 1) and sorted(order, key=pool.index) == pool
    assert in_random_order([p for p in pool if p.id != '7'], 0) == [p for p in order if p.id != '7']


def test_duplicates_across_parts_stay_in_evaluation(tmp_path):
    jsonl(tmp_path / 'd' / 'train.jsonl', [dict(question=f'{i}+1?', answer=i + 1) for i in range(6)])
    jsonl(
        tmp_path / 'd' / 'test.jsonl',
        [dict(question=' 2+1 ', answer=3), dict(question='9+9?', answer=18), dict(question='9+9', answer=19)],
    )
    s = split(own(tmp_path, 'data: d\n'), 5, 2)
    assert s.report['in_both'] == ['train.jsonl, line 3 = test.jsonl, line 1'] and '2+1?' not in {
        p.text for p in s.train
    }
    assert s.report['repeated'] == ['test.jsonl, line 3 = test.jsonl, line 2'] and s.report['contradictory'] == [
        'test.jsonl, line 3 says 19, test.jsonl, line 2 says 18'
    ]
    assert json.loads(json.dumps(s.report)) == s.report
    assert '1 in both parts' in str(s) and '1 that occur twice' in str(s)


def test_reordered_choices_are_a_duplicate(tmp_path):
    rows = [
        dict(question='Which is red?', options=['rose', 'grass'], answer=0),
        dict(question='which is red', options=['Grass', 'Rose.'], answer=1),
        dict(question='Which is red?', options=['Grass', 'Rose'], answer=0),
        dict(question='Which is red?', options=['blood', 'grass'], answer='blood'),
    ]
    jsonl(tmp_path / 'd.jsonl', rows)
    s = split(own(tmp_path, 'data: d.jsonl\nchoices: options\n'), 1, 1)
    assert len(s.report['repeated']) == 2 and s.report['contradictory'] == [
        'd.jsonl, line 3 says A, d.jsonl, line 1 says A'
    ]


@pytest.mark.parametrize('name', GENERATED)
def test_generated_questions_are_held_out_and_disjoint(name):
    task = load_task(name)
    splits = [split(task, 40, 40, 5, k, True) for k in (1, 2)]
    keys = [normalized(p.text) for s in splits for p in s.train] + [normalized(p.text) for p in splits[0].evaluation]
    assert (
        len(set(keys)) == 120
        and all(held_out(p.text) for s in splits for p in s.train + s.evaluation)
        and splits[0].evaluation == splits[1].evaluation
    )
    other = {normalized(p.text) for p in split(task, 100, 0, 6).train}
    assert not other & {normalized(p.text) for p in splits[0].evaluation}  # sides hold across seeds
    if name == 'arithmetic':
        assert all(eval(re.search(r'of (.*)\?', p.text)[1]) == int(p.gold) for p in splits[0].train)


def test_unparsed_golds_are_left_out_of_evaluation(tmp_path):
    jsonl(
        tmp_path / 'd.jsonl',
        [
            dict(question=f'{i}?', answer='There is no solution, as one sees.' if i % 3 == 0 else f'\\frac{{{i}}}{{7}}')
            for i in range(12)
        ],
    )
    task = own(tmp_path, 'data: d.jsonl\nkind: math\nunreadable: skip\n')
    s = split(task, 4, 4)
    assert (
        all('frac' in p.gold for p in s.train + s.evaluation)
        and 1 <= len(s.report['unreadable']) <= 4
        and all(re.match(r'd.jsonl, line \d+: prose', x) for x in s.report['unreadable'])
    )
    assert (
        not {p.text for p in s.train} & {p.text for p in s.evaluation}
        and split(task, 3, 4).train == s.train[:3]
        and split(task, 4, 3).evaluation == s.evaluation[:3]
    )
    refused(lambda: split(task, 5, 4), '4 different questions with a readable answer (of 8) to train on', '5')
    refused(
        lambda: split(own(tmp_path, 'data: d.jsonl\nkind: math\n'), 4, 4),
        'd.jsonl, line',
        'prose',
        'There is no solution',
    )


# Levels, prompts, gold answers
# --------------------------------------------------------------------------------------------


def test_math_takes_levels_1_to_3_unless_told(tmp_path):
    for part in ('train', 'test'):
        jsonl(
            tmp_path / 'math' / f'{part}.jsonl',
            [
                dict(
                    problem=f'{part} {i}',
                    level=f'Level {i}',
                    solution=rf'First \boxed{{0}}, then $\boxed{{\dfrac{{{i}}}{{7}}}}$.',
                    type='Algebra',
                )
                for i in (1, 2, 3, 4, 5, '?')
            ],
        )
    a, b, notes = load_task('math', tmp_path).load()
    assert [p.text for p in a] == ['train 1', 'train 2', 'train 3'] and notes['other_levels'] == 6
    assert same(b[1].gold, r'\frac{2}{7}')
    assert [p.text for p in load_task('math', tmp_path, levels=(4, 5)).load()[1]] == ['test 4', 'test 5']
    refused(load_task('math', tmp_path, levels=[9]).load, 'no questions of level 9', '1, 2, 3, 4, 5')
    refused(lambda: load_task('gsm8k', levels=[1]), 'gsm8k', 'no column')
    refused(lambda: load_task('arithmetic', levels=[1]), 'takes no levels')


def test_prompts():
    p = Problem('x/1', 'Which?\n(A) this\n(B) that', 'B')
    assert (
        DEBATE.fill('question', p.text, load_task('mmlu').how)
        == 'Which?\n(A) this\n(B) that\nThink step by step, then give the letter of the right choice as'
        ' \\boxed{letter}.'
    )
    assert {n: load_task(n).kind for n in BUILT_IN} == dict(gsm8k='number', svamp='number', math='math', mmlu='choice')


@pytest.mark.parametrize(
    'v,kind,gold',
    [
        ('#### 1,234', 'number', '1234'),
        ('It is 5.\n#### -5', 'number', '-5'),
        (Decimal('0.1'), 'number', '0.1'),
        (Decimal('145.0'), 'number', '145'),
        (12.0, 'number', '12'),
        (True, 'number', None),
        (None, 'number', None),
        ('', 'number', None),
        ('n/a', 'number', None),
        ([1], 'number', None),
        (float('nan'), 'number', None),
        (float('inf'), 'number', None),
        (Decimal('1e999999999'), 'number', None),
        ('unfinished \\boxed{3', 'number', None),
        ('yes', 'regex:(yes|no)', 'yes'),
        ('  ', 'regex:(yes|no)', None),
        ('(B)', 'choice', 'B'),
        ('B', 'choice', 'B'),
    ],
)
def test_gold(v, kind, gold):
    assert gold_of(v, kind, []) == gold


@pytest.mark.parametrize(
    'v,letter',
    [
        (0, 'A'),
        (3, None),
        (-1, None),
        ('A', 'A'),
        ('(C)', 'C'),
        ('C.', 'C'),
        ('D', None),
        ('green', 'B'),
        ('Green', None),
        ('1', 'B'),
        (2.0, 'C'),
        (Decimal('1.5'), None),
        (True, None),
        (None, None),
        ('', None),
        ('²', None),
        ([0], None),
    ],
)
def test_letters(v, letter):
    assert letter_of(v, ['red', 'green', 'blue']) == letter


def test_ambiguous_choice_gold_is_none():
    assert (
        letter_of('1', ['1', '2']) is None and letter_of('B', ['B', 'A']) is None and letter_of('x', ['x', 'x']) is None
    )
    assert letter_of('A', ['A', 'B']) == 'A' and letter_of(1, ['1', '2']) == 'B'


@pytest.mark.parametrize(
    'answers, gold',
    [
        (['0', '1', '2', '17'], 'BBBB'),  # texts: 17 is no position
        (['0', '1', '2', '2'], None),  # texts or positions: the row says which may be meant
        ([4, 1, 2, 3], 'DABC'),  # from 1: there is no choice at position 4
        ([0, 1, 2, 3], 'ABCD'),
        (['b', 'B', 'b', 'B'], 'BBBB'),
    ],
)
def test_all_rows_say_how_choices_are_named(tmp_path, answers, gold):
    rows = [dict(question='Which?', choices=['x', str(a), 'y', 'z'], answer=a) for a in answers]
    if gold:
        task = Task.from_rows(rows, name='quiz')
        assert [p.gold for p in task.load()[0]] == list(gold)
        return
    with pytest.raises(MaftError, match=r"'0' may be choice A \(by its position\) or B \(by its text\)"):
        Task.from_rows(rows, name='quiz').load()


@pytest.mark.parametrize('column', ['answerKey', 'answer_index', 'correct_answer', 'label'])
def test_usual_names_of_the_right_choice(column):
    "ARC says answerKey and labels its choices; MMLU-Pro has an index beside the answer."
    choices = dict(text=['red', 'blue'], label=['1', '2']) if column == 'answerKey' else ['red', 'blue']
    right = '2' if column == 'answerKey' else 1
    task = Task.from_rows([{'question': 'Which?', 'choices': choices, column: right}] * 2, name='quiz')
    assert [p.gold for p in task.load()[0]] == ['B', 'B']


# Your own data
# ------------------------------------------------------------------------------------------------------------

ROWS = [dict(Q=f'{i} plus 1', Sol=f'{i + 1}') for i in range(8)]


def as_jsonl(p):
    jsonl(p.with_suffix('.jsonl'), ROWS)


def as_csv(p):
    p.with_suffix('.csv').write_text('Q,Sol\n' + ''.join(f'{r["Q"]},{r["Sol"]}\n' for r in ROWS))


def as_excel(p):
    p.with_suffix('.csv').write_bytes(
        b'\xef\xbb\xbf' + ('Q;Sol\r\n' + ''.join(f'"{r["Q"]}";{r["Sol"]}\r\n' for r in ROWS)).encode()
    )


def as_tsv(p):
    p.with_suffix('.tsv').write_text('Q\tSol\n' + ''.join(f'{r["Q"]}\t{r["Sol"]}\n' for r in ROWS))


def as_parquet(p):
    import pyarrow as pa, pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), p.with_suffix('.parquet'))


@pytest.mark.parametrize('save', [as_jsonl, as_csv, as_excel, as_tsv, as_parquet], ids=lambda f: f.__name__)
def test_every_file_format_gives_the_same_questions(tmp_path, save):
    (tmp_path / 'd').mkdir()
    save(tmp_path / 'd' / 'mine')
    task = own(tmp_path, 'data: d\nquestion: Q\nanswer: Sol\nname: plus\ninstruction: Give the sum as \\boxed{sum}.\n')
    a, b, _ = task.load()
    assert (
        a is b
        and [(p.text, p.gold) for p in a] == [(r['Q'], r['Sol']) for r in ROWS]
        and a[0].id.startswith('plus/mine-')
    )
    assert DEBATE.fill('question', a[0].text, task.how) == '0 plus 1\nGive the sum as \\boxed{sum}.'
    train, evaluation = split(task, 4, 4)
    assert {p.text for p in train + evaluation} == {r['Q'] for r in ROWS}


def test_parquet_with_many_row_groups(tmp_path):
    import pyarrow as pa, pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_pylist([dict(question=f'{i}?', answer=i, tags=[]) for i in range(2500)]),
        tmp_path / 'big.parquet',
    )
    a, _, _ = load_task(str(tmp_path / 'big.parquet')).load()
    assert a[-1].id == 'big/big-2500' and a[-1].source == 'big.parquet, row 2500' and a[-1].gold == '2499'


def test_file_with_question_and_answer_is_a_task(tmp_path):
    task = load_task(
        str(jsonl(tmp_path / 'sums.jsonl', [dict(question='1+1?', answer=2), dict(question='2+2?', answer='#### 4')]))
    )
    assert (task.name, task.kind, [p.gold for p in task.load()[0]]) == ('sums', 'number', ['2', '4'])


def test_csv_cells_with_line_breaks_and_odd_separators(tmp_path):
    f = tmp_path / 'a.csv'
    f.write_bytes('question,answer\n"two\nlines, one comma",1\n\n"sep\u2028arator ""x""",2\nlast,3'.encode())
    assert list(csv_rows(f)) == [
        (2, dict(question='two\nlines, one comma', answer='1')),
        (5, dict(question='sep\u2028arator "x"', answer='2')),
        (6, dict(question='last', answer='3')),
    ]


def test_data_flag_overrides_yaml(tmp_path):
    jsonl(tmp_path / 'a.jsonl', [dict(question='a', answer=1)])
    jsonl(tmp_path / 'b.jsonl', [dict(question='b', answer=1)])
    (tmp_path / 't.yaml').write_text('data: a.jsonl\n')
    task = load_task(str(tmp_path / 't.yaml'), data=str(tmp_path / 'b.jsonl'))
    assert task.load()[0][0].text == 'b'
    (tmp_path / 'b.jsonl').unlink()
    assert task.load()[0][0].text == 'b'


def test_several_columns_and_a_user_pattern(tmp_path):
    jsonl(
        tmp_path / 'd.jsonl',
        [
            dict(a='Tom is five.', b='Is Tom old?', right='no', hard=2),
            dict(a='Ann is ninety.', b='Is Ann old?', right='yes', hard='3'),
        ],
    )
    task = own(
        tmp_path,
        'data: d.jsonl\nquestion: [a, b]\nanswer: right\nkind: "regex:Answer: (yes|no)"\ninstruction: "End with'
        ' Answer: yes or Answer: no."\nlevel: hard\nlevels: 3-4\n',
    )
    (p,), _, notes = task.load()
    assert (
        p.text == 'Ann is ninety. Is Ann old?'
        and notes['other_levels'] == 1
        and task.score(*task.read(['Hm.\nAnswer: yes'], [p]), p)
        and not task.score(*task.read(['Answer: no'], [p]), p)
    )


# The Hub: datasets.load_dataset reads a local folder just as it reads the Hub
# -----------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A folder that stands for the Hub; relative names lead there."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_DATASETS_CACHE', str(tmp_path / 'cache'))
    import datasets

    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    return tmp_path


def test_hub_data_set(hub):
    for part, n in (('train', 6), ('test', 4)):
        jsonl(hub / 'me' / 'quiz' / f'{part}.jsonl', [dict(q=f'{part} {i}', a=i) for i in range(n)])
    a, b, _ = own(hub, 'hub: me/quiz\nquestion: q\nanswer: a\n').load()
    assert (
        [p.text for p in a] == [f'train {i}' for i in range(6)]
        and len(b) == 4
        and b[0].id == 'quiz/test-1'
        and 'row 1' in b[0].source
    )
    a, b, _ = own(hub, 'hub: me/quiz\nquestion: q\nanswer: a\nsplit: test\n').load()
    assert a is b and len(a) == 4
    a, b, _ = own(hub, 'hub: me/quiz\nquestion: q\nanswer: a\nsplit: train+test\n').load()
    assert a is b and len(a) == 10 == len({p.id for p in a})
    refused(own(hub, 'hub: me/quiz\nquestion: q\nanswer: a\nsplit: dev\n').load, 'me/quiz', '--set data=FOLDER')
    refused(own(hub, 'hub: me/quiz\nquestion: q\n').load, "no column 'answer'", 'q, a', 'row 1')


def test_hub_gsm8k(hub, monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list(
            [dict(question=f'{split} {i}', answer=f'so\n#### {i},000') for i in range(1, 4)]
        )

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    task = load_task('gsm8k')
    s = split(task, 2, 3)
    split(task, 2, 3, iteration=2)
    assert asked == [('openai/gsm8k', 'main', 'train'), ('openai/gsm8k', 'main', 'test')] and {
        p.gold for p in s.evaluation
    } == {'1000', '2000', '3000'}


def test_hub_math_joins_subjects(hub, monkeypatch):
    import datasets

    monkeypatch.setattr(
        datasets,
        'load_dataset',
        lambda name, config, split: datasets.Dataset.from_list(
            [dict(problem=f'{config} {split} {i}', level='Level 2', solution=f'\\boxed{{{i}}}') for i in range(2)]
        ),
    )
    a, b, _ = load_task('math').load()
    assert len(a) == len(b) == 14 and len({p.id for p in a + b}) == 28 and b[0].id == 'math/test-algebra-1'


def test_hub_choices(hub, monkeypatch):
    import datasets

    labels = datasets.Features(
        question=datasets.Value('string'),
        choices=datasets.List(datasets.Value('string')),
        answer=datasets.ClassLabel(names=list('ABCD')),
    )
    monkeypatch.setattr(
        datasets,
        'load_dataset',
        lambda name, config, split: datasets.Dataset.from_list(
            [dict(question='Which?', choices=['4', '3', '2', '1'], answer=3)], labels
        ),
    )
    (p,), _, _ = load_task('mmlu').load()
    assert p.gold == 'D' and p.text.endswith('\n(D) 1')


@pytest.mark.parametrize('name', BUILT_IN)
def test_hub_offline_error(hub, name, capfd):
    refused(load_task(name).load, name, BUILT_IN[name].hub, '--set data=FOLDER', 'test.jsonl')
    assert capfd.readouterr() == ('', '')


# Bad input
# ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name,raw,expected',
    [
        (
            'a.jsonl',
            b'{"question": "1+1?", "answer": 2}\n{"question": "2+2?", "answer": }\n',
            ['line 2', 'column 32', 'JSON'],
        ),
        ('a.jsonl', b'{"question": "1+1?", "answer": 2}\n\n7\n', ['line 3', 'int']),
        ('a.jsonl', b'', ['no questions']),
        ('a.jsonl', b'\n \n', ['no questions']),
        ('a.jsonl', b'\xef\xbb\xbf', ['no questions']),
        (
            'a.jsonl',
            b'{"question": "ok", "answer": 1}\n{"question": "caf\xe9", "answer": 1}',
            ['line 2', 'byte 18', 'UTF-8'],
        ),
        ('a.jsonl', b'\xef\xbb\xbf{"question": "caf\xe9", "answer": 1}', ['line 1', 'byte 21', 'UTF-8']),
        ('a.jsonl', '{"question": "x", "answer": 1}'.encode('utf-16'), ['line 1', 'UTF-8']),
        ('a.csv', 'question,answer\nx,1'.encode('utf-16-le'), ['line 1', 'UTF-8']),
        ('a.jsonl', b'[' * 100_000, ['line 1', 'nested']),
        ('a.jsonl', b'{"question": "x", "answer": ' + b'9' * 5000 + b'}', ['line 1', 'number']),
        ('a.jsonl', b'{"question": "x", "answer": 1e99999999999999999999}', ['line 1']),
        (
            'a.jsonl',
            b'{"question": "x", "answer": 1}\n{"question": "y", "answer": "who knows"}',
            ['line 2', 'column answer', 'who knows', 'unreadable: skip'],
        ),
        ('a.jsonl', b'{"question": "x", "answer": null}', ['line 1', 'column answer']),
        ('a.jsonl', b'{"question": "x", "answer": NaN}', ['line 1', 'column answer']),
        ('a.jsonl', b'{"question": "x"}\n{"question": "y"}', ['line 1', "no column 'answer'", 'question']),
        ('a.jsonl', b'{"question": "x", "solution": 1}', ["no column 'answer'", '`answer: COLUMN`']),
        (
            'a.jsonl',
            b'{"Question": "x", "answer": 1}',
            ['line 1', "no column 'question'", 'Question, answer', '`question: Question`'],
        ),
        ('a.jsonl', b'{"question": "  ", "answer": 1}', ['line 1', 'column question', 'no question']),
        ('a.jsonl', b'{"question": ["x"], "answer": 1}', ['line 1', 'column question']),
        ('a.jsonl', b'{"question": "\\ud800", "answer": 1}', ['line 1', 'column question', 'surrogate']),
        ('a.csv', b'question,answer\nx,1\ny,2,3\n', ['line 3', '3 cells', 'header has 2']),
        ('a.csv', b'question,answer\n', ['no questions']),
        ('a.csv', b'', ['no questions']),
        ('a.csv', b'question,answer\n"a\nb",1\n"never closed,2\nmore,3\n', ['line 4', 'quote']),
        ('a.csv', b'question,answer,answer\nx,1,2\n', ['line 1', 'same name']),
        ('a.csv', b'question,answer\nx,\n', ['line 2', 'column answer']),
        ('a.csv', b'question,answer\n"' + b'x' * 200_000 + b'",1\n', ['line 2']),
        ('a.parquet', b'PAR1 not really PAR1', ['Parquet']),
        ('a.parquet', b'', ['Parquet']),
    ],
)
def test_bad_files(tmp_path, name, raw, expected):
    (tmp_path / name).write_bytes(raw)
    refused(lambda: split(load_task(str(tmp_path / name)), 1, 0), str(tmp_path / name), *expected)


@pytest.mark.parametrize(
    'yaml,expected',
    [
        ('data: d.jsonl\nqestion: Q\n', ['line 2', 'qestion', 'did you mean question']),
        ('data: d.jsonl\nzzz: Q\n', ['line 2', 'zzz', 'instruction']),
        ('data: d.jsonl\nkind: nmber\n', ['nmber', 'number, math, choice']),
        ('data: d.jsonl\nkind: regex:(\n', ['regular expression']),
        ('data: d.jsonl\nkind: regex:(a)\n', ['instruction']),
        ('data: d.jsonl\ninstruction: math\n', ['instruction', 'sentence']),
        ('data: d.jsonl\ndata: e.jsonl\n', ['line 2', 'twice']),
        ('data: [d.jsonl]\n', ['line 1', 'one value']),
        ('data: d.jsonl\nquestion: {a: b}\n', ['line 2', 'list of values']),
        ('data: d.jsonl\nquestion: [\n', ['line', 'YAML']),
        ('- a\n', ['key: value']),
        ('', ['key: value']),
        ('a: \x07\n', ['YAML']),
        ('question: Q\n', ['data: FILE', 'hub']),
        ('data: d.jsonl\nhub: a/b\n', ['one of the two']),
        ('data: d.jsonl\nname: ../x\n', ['name']),
        ('data: d.jsonl\ntrain: a\n', ['evaluation']),
        ('data: d.jsonl\nsplit: a\ntrain: a\nevaluation: b\n', ['split']),
        ('data: d.jsonl\nlevels: 1-3\n', ['level: COLUMN']),
        ('data: d.jsonl\nlevel: l\nlevels: hard\n', ['levels']),
        ('data: d.jsonl\nunreadable: maybe\n', ['stop or skip']),
        ('data: d.jsonl\nchoices: c\nkind: math\n', ['choices']),
        ('data: d.jsonl\nquestion:\n', ['question: COLUMN']),
        ('? [a]\n: b\n', ['line 1', 'unknown key']),
    ],
)
def test_bad_yaml(tmp_path, yaml, expected):
    jsonl(tmp_path / 'd.jsonl', [dict(question='x', answer=1)])
    refused(lambda: own(tmp_path, yaml), 'quiz.yaml', *expected)


@pytest.mark.parametrize(
    'yaml,expected',
    [
        ('data: nowhere.jsonl\n', ['no such file or folder', 'nowhere.jsonl']),
        ('data: notes.txt\n', ['notes.txt', '.jsonl']),
        ('data: empty\n', ['no data file', 'empty']),
        ('data: parts\n', ['easy, hard', 'split: PART']),
        ('data: parts\nsplit: medium\n', ['medium', 'easy, hard']),
        ('data: parts\ntrain: easy\nevaluation: test\n', ['test', 'easy, hard']),
        ('data: double\n', ['a.csv', 'a.jsonl']),
        ('data: d.jsonl\nchoices: question\n', ['column question', 'list of choices', 'line 1']),
        ('data: d.jsonl\nchoices: [question, gap]\n', ['choices', 'line 1']),
    ],
)
def test_bad_data_paths(tmp_path, yaml, expected):
    jsonl(tmp_path / 'd.jsonl', [dict(question='x', answer=1, gap='')])
    for part in ('easy', 'hard'):
        jsonl(tmp_path / 'parts' / f'{part}.jsonl', [dict(question=part, answer=1)])
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').write_text('x')
    jsonl(tmp_path / 'double' / 'a.jsonl', [{}])
    (tmp_path / 'double' / 'a.csv').write_text('x\n1\n')
    refused(own(tmp_path, yaml).load, *expected)


def test_misspelled_names_are_suggested(tmp_path):
    refused(lambda: load_task('gsm8'), "'gsm8'", 'did you mean gsm8k')
    refused(lambda: load_task('poems'), 'poems', 'arithmetic, words, gsm8k, svamp, math, mmlu')
    refused(lambda: load_task(str(tmp_path / 'no.yaml')), 'no.yaml', 'No such file')
    refused(lambda: load_task('arithmetic', data='x'), 'takes no data')
    refused(load_task('gsm8k', str(tmp_path / 'none')).load, 'gsm8k', 'no such file or folder')


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=80), st.sampled_from(['.jsonl', '.csv']))
def test_fuzz_any_bytes_are_rows_or_an_error(tmp_path_factory, raw, suffix):
    f = tmp_path_factory.getbasetemp() / f'any{suffix}'
    f.write_bytes(raw)
    try:
        assert all(isinstance(r, dict) for _, r in (jsonl_rows if suffix == '.jsonl' else csv_rows)(f))
    except MaftError as e:
        assert str(f) in str(e)


def test_normalized_is_idempotent():
    for t in ('What is  2+2 ?', 'A\n(A) b.\n(B) a', 'Ann’s – cat!'):
        assert normalized(normalized(t)) in (normalized(t), normalized(t).replace('\n', ' '))
    assert normalized('a-b') == normalized('A – B'.replace(' ', '')) != normalized('a+b')
    assert (
        normalized('.5+.5?') == '.5+.5' != normalized('5+.5')
        and normalized('Q\n(A) .5\n(B) 1') != normalized('Q\n(A) 5\n(B) 1')
        and normalized(' . What?') == 'what'
    )


def test_data_file_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'quiz.jsonl').write_text('{"question": "1+1?", "answer": 2}\n')
    assert load_task('~/quiz.jsonl').load()[0][0].gold == '2'
    for name in ('quiz.txt', 'QUIZ.XLSX', 'words.jsn'):
        with pytest.raises(
            MaftError, match=r'a file that ends in \.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.parquet\.$'
        ):
            load_task(name)


def test_pattern_needs_an_instruction():
    with pytest.raises(MaftError, match='needs an instruction'):
        DEBATE.fill('question', 'Is it?', Task('t', 'regex:Answer: (yes|no)').how)
    assert (
        DEBATE.fill('question', 'Is it?', Task('t', 'regex:(yes|no)', 'Say yes or no.').how) == 'Is it?\nSay yes or no.'
    )


# Questions without answers
# --------------------------------------------------------------------------------------------------


def test_only_evaluation_needs_answers(tmp_path):
    jsonl(
        tmp_path / 'd' / 'train.jsonl',
        [dict(question=f'{i}+1?') for i in range(9)]
        + [dict(question='0+1?', answer=1), dict(question='0+1', answer=2)],
    )
    jsonl(tmp_path / 'd' / 'test.jsonl', [dict(question='50+1?', answer=51), dict(question='3+1?', answer=4)])
    s = split(own(tmp_path, 'data: d\n'), 8, 2)
    assert (
        {p.gold for p in s.train} == {None, '1'}
        and {p.gold for p in s.evaluation} == {'51', '4'}
        and '3+1?' not in {p.text for p in s.train}
    )
    assert (
        s.report['unanswered'] == 9
        and '9 without an answer (training only)' in str(s)
        and len(s.report['repeated']) == 2
        and len(s.report['contradictory']) == 1
    )
    jsonl(tmp_path / 'd' / 'test.jsonl', [dict(question='50+1?', answer=51), dict(question='3+1?', answer=None)])
    refused(
        lambda: split(own(tmp_path, 'data: d\n'), 8, 1),
        'test.jsonl, line 2',
        'no answer, and this row is for evaluation',
        '`unreadable: skip`',
    )
    assert len(split(own(tmp_path, 'data: d\nunreadable: skip\n'), 8, 1).evaluation) == 1
    jsonl(tmp_path / 'd' / 'test.jsonl', [dict(question='50+1?')])
    refused(lambda: split(own(tmp_path, 'data: d\n'), 8, 1), 'test.jsonl, line 1', "no column 'answer'")


@pytest.mark.parametrize('nothing', ['', '  ', None])
def test_single_pool_evaluates_on_answered_questions(tmp_path, nothing):
    rows = [dict(question=f'{i}+1?', answer=str(i + 1) if i % 4 == 0 else nothing) for i in range(40)]
    task = own(tmp_path, f'data: {jsonl(tmp_path / "d.jsonl", rows).name}\n')
    s = split(task, 30, 6)
    assert (
        all(p.gold for p in s.evaluation)
        and sum(p.gold is not None for p in s.train) <= 4
        and not {p.id for p in s.train} & {p.id for p in s.evaluation}
        and s.report['unanswered'] == 30
    )
    assert split(task, 20, 6).train == s.train[:20] and split(task, 30, 4).evaluation == s.evaluation[:4]
    refused(lambda: split(task, 1, 11), '10 different questions with a readable answer (of 40) to evaluate on')
    jsonl(tmp_path / 'e.jsonl', [dict(question='1+1?', answer=nothing)])
    refused(lambda: split(own(tmp_path, 'data: e.jsonl\n'), 1, 1), 'e.jsonl, line 1', 'nor in any other row')
    jsonl(tmp_path / 'e.jsonl', [dict(question='1+1?', result=2)])
    refused(lambda: split(own(tmp_path, 'data: e.jsonl\n'), 1, 1), "no column 'answer'")


def test_missing_answer_in_any_format(tmp_path):
    import pandas as pd

    (tmp_path / 'a.csv').write_text('question,answer\n1+1?,2\n2+2?,\n')
    pd.DataFrame(dict(question=['1+1?', '2+2?'], answer=[2.0, None])).to_parquet(tmp_path / 'b.parquet')
    for name in ('a.csv', 'b.parquet'):
        a, b, notes = load_task(str(tmp_path / name)).load()
        assert [p.gold for p in a] == ['2', None] and a is b and notes['unanswered'] == 1, name


def test_no_answers_error_names_the_part(tmp_path):
    jsonl(tmp_path / 'd' / 'unanswered.jsonl', [dict(question='1+1?')])
    jsonl(tmp_path / 'd' / 'broken.jsonl', []).write_text('{')
    refused(
        lambda: split(own(tmp_path, 'data: d\nsplit: unanswered\n'), 1, 1),
        'unanswered.jsonl, line 1',
        "no column 'answer'",
    )


# Tasks made in Python
# --------------------------------------------------------------------------------------------------


def same_word(a, b):
    return a.casefold() == b.casefold()


def words_task(grader, rows=(('Which word?', 'red'), ('And now?', 'blue'))):
    return Task.from_rows(list(rows), 'regex:Answer: (.*)', grader=grader, instruction='End with "Answer: word".')


def test_from_rows_dicts_pairs_tables_and_parts():
    import datasets, pandas as pd

    rows = [dict(question='1+1?', answer=2), dict(question='2+2?', answer=4)]
    expected = [('1+1?', '2'), ('2+2?', '4')]
    for some in (
        rows,
        [('1+1?', 2), ('2+2?', '4.0')],
        pd.DataFrame(rows),
        datasets.Dataset.from_list(rows),
        iter(rows),
    ):
        assert [(p.text, p.gold) for p in Task.from_rows(some).load()[0]] == expected
    parts = Task.from_rows(dict(train=[dict(question='3+3?')], test=rows), name='sums')
    s = split(parts, 1, 2)
    assert [p.gold for p in s.train] == [None] and s.train[0].id == 'sums/train-1' and len(s.evaluation) == 2
    choice = Task.from_rows([dict(q='Which?', c=['red', 'blue'], a='blue')], question='q', choices='c', answer='a')
    assert choice.kind == 'choice' and choice.load()[0][0].gold == 'B'
    assert [a and a.text for a in choice.read(['\\boxed{B}', 'Hm.'], [choice.load()[0][0]] * 2)] == ['B', None]


@pytest.mark.parametrize(
    'make,expected',
    [
        (lambda: Task.from_rows([]), ['no rows']),
        (lambda: Task.from_rows([('1+1?', 2), '2+2?']), ['row 2', 'found str 2+2?']),
        (lambda: Task.from_rows([('1+1?', 'two')]), ['row 1', 'column answer', 'two']),
        (lambda: Task.from_rows([dict(question='1+1?', result=2)]), ['row 1', "no column 'answer'"]),
        (lambda: Task.from_rows([('1+1?', 2)], 'nmber'), ['nmber', 'number, math']),
        (lambda: Task.from_rows([('1+1?', 2)], qestion='Q'), ['qestion', 'did you mean question']),
        (lambda: Task.from_rows([('1+1?', 2)], grader=same_word), ['grader is of type function', 'Grader(same']),
        (lambda: Task.from_rows([('1+1?', 2)], grader=Grader(read=str)), ['instruction']),
        (lambda: Task.from_rows([('1+1?', 2)], name='my rows'), ['name']),
        (lambda: Task.from_file('nowhere.jsonl').load(), ['nowhere.jsonl', 'no such file']),
        (lambda: Task.from_file('nowhere.yaml'), ['nowhere.yaml']),
        (lambda: Task.from_function(lambda rng: 1 / 0).draw(rng_for(0)), ['fails', 'division by zero']),
        (lambda: Task.from_function(lambda rng: 'text').draw(rng_for(0)), ['must return (question']),
        (lambda: Task.from_function(lambda rng: ('', 1)).draw(rng_for(0)), ['a text is needed']),
        (lambda: Task.from_function(lambda rng: ('1+1?', 'two')).draw(rng_for(0)), ['no answer of kind number']),
        (lambda: Task.from_function(rng_for(0).random).key(), ['source cannot be read', 'FILE.py:NAME']),
    ],
)
def test_bad_task_arguments_are_one_line(make, expected):
    refused(make, *expected)


def test_from_file_matches_load_task(tmp_path):
    path = jsonl(tmp_path / 'quiz.jsonl', [dict(question='1+1?', answer=2)])
    (tmp_path / 'quiz.yaml').write_text('data: quiz.jsonl\n')
    for task in (Task.from_file(path), Task.from_file(tmp_path / 'quiz.yaml'), load_task(str(path))):
        assert task.load()[0][0].gold == '2' and task.key() == Task.from_file(path).key()
    assert Task.from_file(path, kind='math').kind == 'math'
    other = jsonl(tmp_path / 'b' / 'quiz.jsonl', [dict(question='1+1?', answer=3)])
    assert Task.from_file(other).key() != Task.from_file(path).key()


def test_from_function_draws_distinct_questions():
    def tens(rng):
        a, b = rng.randrange(1, 90), rng.randrange(1, 90)
        return f'What is {10 * a} + {10 * b}?', float(10 * (a + b))

    task = Task.from_function(tens)
    s = split(task, 20, 20)
    assert len({p.text for p in (*s.train, *s.evaluation)}) == 40 and task.name == 'tens'
    assert all(p.gold == str(int(p.gold)) for p in s.train) and split(task, 5, 5).train == s.train[:5]
    assert task.key() == Task.from_function(tens).key() != Task.from_function(tens, kind='math').key()
    refused(lambda: split(Task.from_function(lambda rng: ('1+1?', 2), name='one'), 3, 3), 'task one has only')


def test_symmetric_grader():
    task = words_task(Grader(same=same_word))
    p, q = task.load()[0]
    answers = task.read(['Answer: RED', 'Answer: red', 'Answer: green', 'none', 'Answer: Red'], [p] * 5)
    assert [a and a.form for a in answers] == ['RED', 'RED', 'green', None, 'RED']
    assert [task.score(a, p) for a in answers] == [True, True, False, False, True]
    assert task.gold_answer(p).form == 'RED' and task.gold_answer(q).form == 'blue'
    assert task.read(['Answer: red'], [q])[0].form == 'red'  # another problem, other forms


def test_asymmetric_grader_is_refused_with_the_pair():
    task = words_task(Grader(same=lambda a, b: a in b))
    p = task.load()[0][0]
    refused(lambda: task.read(['Answer: re', 'Answer: red'], [p] * 2), 'not symmetric', "'re'", "'red'")
    refused(lambda: task.score('re', p), 'not symmetric', "'re'", "'red'")


def test_intransitive_grader_is_refused_with_the_answers():
    task = words_task(Grader(same=lambda a, b: abs(int(a) - int(b)) <= 1), [('How many?', '1')])
    p = task.load()[0][0]
    refused(lambda: task.read([f'Answer: {n}' for n in (1, 3, 2)], [p] * 3), 'not transitive', "'1'", "'3'", "'2'")


@pytest.mark.parametrize(
    'grader,expected',
    [
        (Grader(same=lambda a, b: float(a) == float(b)), ["same fails on 'red' and 'blue'", 'ValueError']),
        (Grader(same=lambda a, b: None), ['same gives None', "'red' and 'blue'", 'True or False']),
        (Grader(verify=lambda answer, gold: 1 / 0), ["verify fails on 'red' and 'red'", 'ZeroDivisionError']),
        (Grader(read=lambda text: 7), ['read gives 7', 'a text or None']),
    ],
)
def test_grader_errors_are_one_line(grader, expected):
    task = words_task(grader)
    p = task.load()[0][0]
    refused(
        lambda: [task.score(a, p) for a in task.read(['Answer: red', 'Answer: blue'], [p] * 2)],
        *expected,
    )


def test_verifier_scores_and_reader_reads():
    task = words_task(Grader(verify=lambda answer, gold: gold in answer))
    p = task.load()[0][0]
    answers = task.read(['Answer: dark red', 'Answer: blue'], [p] * 2)
    assert [task.score(a, p) for a in answers] == [True, False] and answers[0].form != task.gold_answer(p).form
    task = words_task(Grader(read=lambda text: text.split()[-1] if text else None))
    a, none = task.read(['I say red', ''], [p] * 2)
    assert (a.text, a.form, a.how, none) == ('red', 'red', 'grader', None) and task.score(a, p)
    assert task.kind == 'text' and task.key()['grader'].keys() == {'read'}


def test_task_from_a_python_file(tmp_path):
    lines = ['from multiagent_ft.runs.tasks import Task', 'mine = Task.from_rows([("1+1?", 2)])', 'three = 3']
    (tmp_path / 'my.py').write_text('\n'.join(lines))
    assert load_task(f'{tmp_path}/my.py:mine').load()[0][0].gold == '2'
    refused(lambda: load_task(f'{tmp_path}/my.py:three'), 'my.py:three', 'of type Task', 'found one of type int')
    refused(lambda: load_task(f'{tmp_path}/my.py:mien'), 'Did you mean mine?')
    refused(lambda: load_task(f'{tmp_path}/none.py:mine'), 'none.py', 'no file')
    refused(lambda: load_task('my.py'), 'my.py:mine')
    refused(lambda: load_task(f'{tmp_path}/my.py:mine', data='x.jsonl'), 'takes no data')


def test_builtin_tasks_are_read_only():
    with pytest.raises(TypeError):
        GENERATED['mine'] = lambda rng: ('1+1?', '2')


# The shapes data comes in
# --------------------------------------------------------------------------------------------------

SUMS = [dict(question=f'{i}+1?', answer=i + 1) for i in range(20)]
LINES = '\n'.join(map(json.dumps, SUMS)).encode()


def zipped(*members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as z:
        for name, raw in members:
            z.writestr(name, raw)
    return packed.getvalue()


@pytest.mark.parametrize(
    'name,raw',
    [
        ('sums.ndjson', LINES),
        ('SUMS.JSONL', LINES),
        ('sums.json', json.dumps(SUMS).encode()),
        ('sums.json', json.dumps(dict(version=1, data=SUMS)).encode()),
        ('sums.json', LINES),
        ('sums.jsonl.gz', gzip.compress(LINES)),
        ('sums.json.gz', gzip.compress(json.dumps(SUMS).encode())),
        ('sums.zip', zipped(('inner/sums.jsonl', LINES))),
        ('sums.jsonl.zip', zipped(('sums.jsonl', LINES), ('__MACOSX/._sums.jsonl', b'x'))),
        ('sums (1).jsonl', LINES),
        ('sums.csv', b'sep=;\nquestion;answer\n' + b'\n'.join(b'%d+1?;%d' % (i, i + 1) for i in range(20))),
        ('sums.csv', b'\n\nquestion,answer\n' + b'\n'.join(b'%d+1?,%d' % (i, i + 1) for i in range(20))),
    ],
    ids=lambda value: value if isinstance(value, str) else '',  # packed bytes hold the time
)
def test_other_formats_give_the_same_questions(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    problems = load_task(str(tmp_path / name)).load()[0]
    assert [(p.text, p.gold) for p in problems] == [(r['question'], str(r['answer'])) for r in SUMS]


@pytest.mark.parametrize(
    'name,raw,expected',
    [
        ('a.jsonl.gz', LINES, ['cannot be unpacked']),
        ('a.jsonl.gz', gzip.compress(LINES)[:40], ['cannot be unpacked']),
        ('a.zip', LINES, ['cannot be unpacked']),
        ('a.zip', zipped(), ['holds 0 files']),
        ('a.zip', zipped(('b.jsonl', LINES), ('c.jsonl', LINES)), ['holds 2 files']),
        ('a.json', b'{"a": 1}', ['list of objects']),
        ('a.json', b'[1, 2]', ['list of objects']),
        ('a.json', b'[{"question": "x",}]', ['line 1', 'column', 'JSON']),
        ('a.json', b'[' * 100_000, ['nested']),
        ('a.json', b'[]', ['no questions']),
        (
            'a.jsonl',
            b'{"messages": [{"role": "user", "content": "1?"}, {"role": "user", "content": "2?"}]}',
            ['2 turns'],
        ),
        ('a.jsonl', b'{"question": {"text": "x"}, "answer": 1}', ['column question', 'question: question.text']),
        ('a.jsonl', b'{"question": "x", "choices": ["a", ""], "answer": 0}', ['from 2 to 26 choices']),
    ],
    ids=lambda value: value if isinstance(value, str) else '',  # packed bytes hold the time
)
def test_bad_column_shapes_are_named(tmp_path, name, raw, expected):
    (tmp_path / name).write_bytes(raw)
    refused(lambda: split(load_task(str(tmp_path / name)), 1, 0), name, *expected)


def test_columns_of_chats_nested_fields_and_slices(tmp_path):
    system = dict(role='system', content='Be brief.')
    chats = [
        dict(messages=[system, dict(role='user', content='1+1?'), dict(role='assistant', content='So \\boxed{2}.')]),
        dict(conversations=[{'from': 'human', 'value': '2+2?'}, {'from': 'gpt', 'value': 'It is #### 4'}]),
        dict(messages=[dict(role='user', content='3+3?')], answer=6),
    ]
    a, _, _ = load_task(str(jsonl(tmp_path / 'chats.jsonl', chats))).load()
    assert [(p.text, p.gold) for p in a] == [('Be brief.\n\n1+1?', '2'), ('2+2?', '4'), ('3+3?', '6')]
    nested = [dict(q=dict(text='1+1?'), a=dict(values=['2', '3']))]
    task = Task.from_file(jsonl(tmp_path / 'n.jsonl', nested), question='q.text', answer='a.values.0')
    assert [(p.text, p.gold) for p in task.load()[0]] == [('1+1?', '2')]
    sums = jsonl(tmp_path / 'd' / 'train.jsonl', SUMS).parent
    for part, ids in (('train[:3]', [1, 2, 3]), ('train[-2:]', [19, 20]), ('train[90%:]', [19, 20])):
        task = Task.from_file(sums, split=part, name='s')
        assert [p.id for p in task.load()[0]] == [f's/train-{i}' for i in ids], part
    task = Task.from_file(sums, train='train[:15]', evaluation='train[15:]', name='s')
    assert [len(x) for x in task.load()[:2]] == [15, 5]


CHOICE_ROWS = [
    (dict(question='Which is 1?', choices=['1', 'x', 'y'], answer=0), 'A'),
    (dict(question='Which is 1?', options=['x', '1'], answer='b'), 'B'),
    (dict(question='Which?', choices=dict(label=['1', '2', '3'], text=['x', 'y', 'z']), answer='2'), 'B'),
    (dict(question='Which?', options={'A': 'x', 'B': 'y'}, answer='y'), 'B'),
    (dict(question='Which?', Choices=['x', 'y'], answer=1), 'B'),
    (dict(question='Which?', choices='["x", "y"]', answer=1), 'B'),  # as a spreadsheet holds a list
    (dict(question='Which?', choices="['x', 'y, not z']", answer=1), 'B'),
    (dict(question='Which?', choices="['x' 'y'\n 'z']", answer='y'), 'B'),  # as numpy prints one
    (dict(question='Which?', A='x', B='y', C='z', answer='B'), 'B'),
    (dict(question='Which?', option1='x', option2='y', answer='2'), 'B'),
    (dict(question='Which?', opa='x', opb='y', opc='z', answer=1), 'B'),
    (dict(question='Which?', choices=['A. x', 'B. y'], answer='B'), 'B'),
]


@pytest.mark.parametrize('row,gold', CHOICE_ROWS)
def test_choices_without_a_key(tmp_path, row, gold):
    path = jsonl(tmp_path / 'quiz.jsonl', [row])
    for task in (load_task(str(path)), Task.from_rows([row]), Task.from_file(path)):
        (p,) = task.load()[0]
        assert (task.kind, p.gold) == ('choice', gold) and re.search(r'\n\(B\) [xy1]', p.text)
    assert Task.from_file(path, kind='number').kind == 'number'  # the argument wins
    rows = [dict(question='1+1?', answer=2), row]  # found too late to be used: asked about
    refused(lambda: load_task(str(jsonl(tmp_path / 'late.jsonl', rows))).load(), 'line 2', 'say `choices: ')


def test_columns_that_hold_no_choices(tmp_path):
    for more in (dict(a=3, b=4), dict(A=3, C=4), dict(X='x', Y='y'), dict(choices='[1'), dict(option1='x')):
        (p,) = Task.from_rows([dict(question='3+4?', answer=7) | more]).load()[0]
        assert (p.text, p.gold) == ('3+4?', '7')


@pytest.mark.parametrize('name', ['test', 'eval', 'validation', 'val', 'dev'])
def test_parts_to_evaluate_on_by_their_usual_names(tmp_path, name):
    jsonl(tmp_path / 'sums' / 'train.jsonl', SUMS[:12])
    jsonl(tmp_path / 'sums' / f'{name}.jsonl', SUMS[12:])
    assert [len(x) for x in load_task(str(tmp_path / 'sums')).load()[:2]] == [12, 8]
    refused(lambda: load_task(f'{tmp_path}/sums:nosuch'), "no folder 'nosuch'", 'no folders')


def test_folder_layouts_of_hub_and_datasets(tmp_path):
    import datasets, pandas as pd

    data = tmp_path / 'hub' / 'data'
    data.mkdir(parents=True)
    pd.DataFrame(SUMS[:12]).to_parquet(data / 'train-00000-of-00002.parquet')
    pd.DataFrame(SUMS[12:]).to_parquet(data / 'train-00001-of-00002.parquet')
    pd.DataFrame(SUMS[:3]).to_parquet(data / 'test-00000-of-00001.parquet')
    a, b, _ = load_task(str(tmp_path / 'hub')).load()
    assert [p.text for p in a] == [r['question'] for r in SUMS] and len(b) == 3 and len({p.id for p in a}) == 20
    part = datasets.Dataset.from_list(SUMS)
    part.save_to_disk(tmp_path / 'one')
    datasets.DatasetDict(train=part, test=part.select(range(3))).save_to_disk(tmp_path / 'both')
    assert [p.text for p in load_task(str(tmp_path / 'one')).load()[0]] == [r['question'] for r in SUMS]
    a, b, _ = load_task(str(tmp_path / 'both')).load()
    assert (len(a), len(b)) == (20, 3)
    (tmp_path / 'one' / 'data-00000-of-00001.arrow').write_bytes(b'broken')
    refused(load_task(str(tmp_path / 'one')).load, 'one', 'saved data set')


def test_hub_owner_name_and_config():
    task = load_task('openai/gsm8k:main')
    assert (task.name, task.load.__wrapped__.args[0].hub, task.load.__wrapped__.args[0].config) == (
        'gsm8k',
        'openai/gsm8k',
        'main',
    )
    refused(task.load, 'cannot load openai/gsm8k from the Hub')


cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda c: (
        st.lists(c, max_size=3)
        | st.dictionaries(st.sampled_from(['text', 'label', 'role', 'content', 'A', 'B', 'x']), c, max_size=3)
    ),
    max_leaves=8,
)
columns = st.sampled_from(['question', 'answer', 'choices', 'options', 'messages', 'conversations', 'level'])


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.dictionaries(columns, cells, max_size=4), min_size=1, max_size=3), st.sampled_from(['jsonl', 'json'])
)
def test_fuzz_any_rows_are_problems_or_an_error(tmp_path_factory, rows, suffix):
    path = tmp_path_factory.getbasetemp() / f'fuzz.{suffix}'
    path.write_text('\n'.join(map(json.dumps, rows)) if suffix == 'jsonl' else json.dumps(rows))
    for make in (
        lambda: load_task(str(path)),
        lambda: Task.from_rows(rows),
        lambda: Task.from_file(path, level='level', levels='1'),
    ):
        try:
            assert make().load()[0]
        except MaftError as e:
            assert len(str(e).splitlines()) <= 3
