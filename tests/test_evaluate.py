"Counting, checked against pencil, numpy and chance."

import json, math
from dataclasses import replace
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from multiagent_ft.answers.reading import read
from multiagent_ft.core import Completion, MaftError, Problem, Transcript, Turn, canonical_json
from multiagent_ft.runs.evaluate import (
    total,
    compare,
    flips,
    health,
    holm,
    mean_and_stderr,
    methods,
    outcome,
    overflow_note,
    truncation_note,
    correctness,
    summarize_outcomes,
    tidy,
    wilson,
)
from multiagent_ft.runs.tasks import Task

TASK = Task('play', 'number')


def debate(i, *rounds, gold='7'):
    "A debate; each round is a list of answers, None = unreadable."
    turns = [
        Turn(
            n,
            'generator' if m == 1 else 'critic',
            m,
            Completion('' if a is None else r'\boxed{%s}' % a, 'length' if a is None else 'stop', (1, 2), (3,)),
            None if a is None else read(a),
        )
        for m, row in enumerate(rounds, 1)
        for n, a in enumerate(row)
    ]
    return Transcript(Problem(f'play/{i}', 'q', gold), turns)


rows = st.lists(st.sampled_from(['7', '7.0', '8', '9', None]), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(rows, rows), min_size=2, max_size=12), st.permutations(range(3)))
def test_evaluation_is_agent_order_independent_and_complete(debates, seats):
    a = [outcome(debate(i, x, y), TASK, seed=1) for i, (x, y) in enumerate(debates)]
    b = [
        outcome(debate(i, [x[s] for s in seats], [y[s] for s in seats]), TASK, seed=1)
        for i, (x, y) in enumerate(debates)
    ]
    ta, tb = summarize_outcomes(a), summarize_outcomes(b)
    for m in ('single', 'majority', 'debate'):
        assert ta[m]['accuracy'] == pytest.approx(tb[m]['accuracy']) and ta[m]['unparsed'] == tb[m]['unparsed']
    n, right = len(debates), sum(v in ('7', '7.0') for x, _ in debates for v in x)
    assert ta['single']['accuracy'] == pytest.approx(right / (3 * n)) and ta['single']['n'] == n
    assert ta['single']['unparsed'] == sum(v is None for x, _ in debates for v in x)
    means = [sum(v in ('7', '7.0') for v in x) / 3 for x, _ in debates]
    assert ta['single']['stderr'] == pytest.approx(np.std(means, ddof=1) / math.sqrt(n))
    p = ta['debate']['accuracy']
    assert ta['debate']['stderr'] == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))
    h = health(a)
    gained = sum(sum(o['right_final']) - sum(o['right_first']) for o in a)
    assert h['flips'][0]['corrected'] - h['flips'][0]['corrupted'] == gained
    assert sum(h['finish'].values()) == 6 * n == h['cost']['debate']['calls']


def test_outcomes_round_trip():
    o = outcome(debate(0, ['7', None, '8'], ['7', '7', '8'], ['7', '7', '7']), TASK, iteration=2)
    assert json.loads(canonical_json(o)) == o and o['iteration'] == 2 and len(o['flips']) == 2
    assert o['flips'] == [dict(corrected=1, corrupted=0)] * 2


def test_tie_break_is_the_same_for_the_same_answers():
    "A debate that changes no answer changes no figure, ties included."
    same = [outcome(debate(i, ['7', '8', '9'], ['7', '8', '9']), TASK, seed=3) for i in range(40)]
    t = summarize_outcomes(same)
    assert t['majority'] == t['debate'] and 0 < t['debate']['accuracy'] < 1
    again = [outcome(debate(i, ['7', '8', '9'], ['7', '8', '9']), TASK, seed=3, iteration=5) for i in range(40)]
    assert correctness(same, 'debate') == correctness(again, 'debate')  # common random numbers across iterations


def test_outcome_when_all_abstain():
    o = outcome(debate(0, [None, None], [None, None]), TASK)
    assert o['debate'] == dict(answer=None, support=0, cast=0, tied=False, right=False)
    assert summarize_outcomes([o])['debate'] == dict(accuracy=0, stderr=None, n=1, unparsed=1)


def test_all_unparsed_scores_zero():
    t = summarize_outcomes([outcome(debate(i, [None] * 3), TASK) for i in range(5)])
    assert t['single'] == dict(accuracy=0, stderr=0, n=5, unparsed=15)


@pytest.mark.parametrize(
    'what',
    [
        lambda: summarize_outcomes([]),
        lambda: health([]),
        lambda: mean_and_stderr([]),
        lambda: compare({'a': 1}, {'b': 1}),
    ],
)
def test_error_messages(what):
    with pytest.raises(MaftError) as e:
        what()
    assert len(str(e.value).splitlines()) <= 2


def test_flips_wants_equal_lengths():
    with pytest.raises(ValueError):
        flips([True], [True, False])


def test_paired_test_is_calibrated():
    """Two equally good methods: at most about one comparison in twenty is below .05 (exact tests are a little
    conservative)."""
    rng = np.random.default_rng(0)
    ps = [
        compare(
            {str(i): int(x) for i, x in enumerate(rng.random(60) < 0.5)},
            {str(i): int(x) for i, x in enumerate(rng.random(60) < 0.5)},
            resamples=99,
        ).p
        for _ in range(200)
    ]
    assert sum(p < 0.05 for p in ps) <= 18


def test_wilson_interval_coverage():
    rng, p, n = np.random.default_rng(1), 0.9, 50
    hits = [low <= p <= high for low, high in (wilson(int(rng.binomial(n, p)), n) for _ in range(400))]
    assert 0.91 < np.mean(hits) < 0.99


def test_holm_never_lowers_a_p():
    ps = dict(a=0.2, b=0.01, c=0.04)
    assert all(holm(ps)[k] >= v for k, v in ps.items()) and holm({'one': 0.03}) == {'one': 0.03}


def test_user_methods_are_summarized():
    o = outcome(debate(0, ['7'] * 3), TASK)
    assert methods([o]) == ['single', 'majority', 'debate']
    assert methods([dict(o, nine=o['debate'])]) == ['single', 'majority', 'debate', 'nine'] and methods([]) == [
        'single'
    ]
    assert total([dict(a=1), dict(a=2, b=3)]) == dict(a=3, b=3)


def test_zero_variance_difference():
    c = compare({'a': 0.0, 'b': 1 / 3}, {'a': 1 / 3, 'b': 2 / 3})
    assert c.difference == pytest.approx(1 / 3) and c.low == c.high and 0.1 < c.p <= 1


def test_tidy_table_sums_to_the_summary():
    outcomes = [outcome(debate(i, ['7', None, '2'], ['7', '7', None]), TASK, iteration=2) for i in range(4)]
    rows, sums = tidy(outcomes, recipe='r', seed=3), summarize_outcomes(outcomes)
    assert len(rows) == 4 * len(sums) and {(r['recipe'], r['seed'], r['iteration']) for r in rows} == {('r', 3, 2)}
    for m, s in sums.items():
        mine = [r for r in rows if r['method'] == m]
        assert sum(r['right'] for r in mine) / 4 == pytest.approx(s['accuracy'])
        assert sum(r['unparsed'] for r in mine) == s['unparsed']
        generated = sum(o['cost']['majority' if m == 'single' else m]['generated'] for o in outcomes)
        assert sum(r['tokens'] for r in mine) == pytest.approx(generated / (3 if m == 'single' else 1))


def test_cut_texts_that_repeat_themselves_are_counted():
    t = debate(0, ['7', None, '8'], ['7', None, '7'])
    ends = ['7', 'So it is 12. ' * 30, '8', '7', 'and so on, step by step, with the sum of all of them', '7']
    turns = [replace(u, completion=replace(u.completion, text=text)) for u, text in zip(t.turns, ends)]
    o = outcome(replace(t, turns=tuple(turns)), TASK)
    assert o['repeating'] == 1 and health([o, o])['repeating'] == 2 and '2 of them repeat' in truncation_note([o, o])
    assert 'repeating' not in outcome(t, TASK) and 'repeat' not in truncation_note([outcome(t, TASK)])


def test_context_overflow_is_counted():
    o = outcome(debate(0, ['7', None, '8']), TASK)
    assert overflow_note([o]) == ''
    lost = dict(o, finish=dict(stop=2, context_overflow=1))
    assert overflow_note([o, lost, lost]).startswith('2 of 9 prompts, on 2 of 3 questions, did not fit')
