"The vote: by value, whatever the order, ties called ties."

import itertools, json
from dataclasses import replace
import pytest
from hypothesis import given, settings, strategies as st
from conftest import SHARED, needs_shared
from multiagent_ft.answers.reading import canonical, extract, same
from multiagent_ft.core import Answer
from multiagent_ft.method.consensus import Vote, vote

TEXTS = ['7', '7.0', '0.5', '1/2', r'\frac{1}{2}', '12', r'\sqrt{8}', r'2\sqrt{2}', None]
ballots = st.lists(st.sampled_from(TEXTS), max_size=7)


def ballot(answers, *args, **kw):
    "The vote over texts; its answer as a text."
    v = vote([None if a is None else Answer(a, canonical(a)) for a in answers], *args, **kw)
    return replace(v, answer=v.answer and v.answer.text)


@given(ballots, st.randoms(), st.sampled_from(['none', 'random']), st.integers(0, 3))
@settings(deadline=None)
def test_vote_is_order_independent(answers, rnd, tie, min_support):
    other = answers[:]
    rnd.shuffle(other)
    assert ballot(answers, tie, seed='q', min_support=min_support) == ballot(
        other, tie, seed='q', min_support=min_support
    )


@given(st.lists(st.tuples(st.sampled_from(TEXTS), st.floats(0, 10)), max_size=7), st.randoms())
@settings(deadline=None)
def test_weighted_vote_is_order_independent(pairs, rnd):
    other = pairs[:]
    rnd.shuffle(other)
    a, b = (ballot([x for x, _ in p], 'random', weights=[w for _, w in p]) for p in (pairs, other))
    assert a == b


@given(ballots)
@settings(deadline=None)
def test_support_margin_and_ties_by_recount(answers):
    v = ballot(answers, 'random')
    here = [a for a in answers if a is not None]
    counts = sorted((sum(same(a, b) for b in here) for a in here), reverse=True)
    assert v.cast == len(here) and v.abstained == len(answers) - len(here) and v.support == (counts[0] if counts else 0)
    if here:
        assert v.answer in here and sum(same(v.answer, a) for a in here) == v.support
        assert v.tied == any(not same(v.answer, a) and sum(same(a, b) for b in here) == v.support for a in here)
        assert v.margin == v.support - max(
            (sum(same(a, b) for b in here) for a in here if not same(a, v.answer)), default=0
        )
    none = ballot(answers)
    assert (none.answer is None) == (v.tied or not here) and none.support == v.support


def test_tie_and_min_support_policies():
    assert ballot(['12', '7', '7.0']) == Vote('7', 2, 3, 0, False, 1)
    assert (
        ballot(['1', '2']).answer is None
        and ballot(['1', '2'], 'random').answer in ('1', '2')
        and ballot(['1', '2'], 'random').tied
    )
    assert ballot(['1', '2', None], min_support=2) == Vote(None, 1, 2, 1, True, 0)
    assert ballot(['1'], min_support=2) == Vote(None, 1, 1, 0, False, 1)
    assert ballot([]) == Vote(None, 0, 0, 0, False, 0) and ballot([None] * 3) == Vote(None, 0, 0, 3, False, 0)
    # with five: 2-1-1-1 is kept, 2-2-1 is not
    assert ballot(list('aabcd'), min_support=2).answer == 'a' and ballot(list('aabbc'), min_support=2).answer is None
    with pytest.raises(ValueError):
        ballot(['1'], 'first')
    with pytest.raises(ValueError):
        ballot(['1'], weights=[1, 2])


def test_random_tie_break_is_seeded_and_uniform():
    drawn = [ballot(['1', '2', '3'], 'random', seed=['run', i]).answer for i in range(900)]
    assert drawn == [ballot(['3', '1', '2'], 'random', seed=['run', i]).answer for i in range(900)]
    assert all(240 < drawn.count(x) < 360 for x in '123')


def test_weights():
    assert ballot(['1', '2', '2'], weights=[3, 1, 1]).answer == '1' and ballot(['1', '2', '2'], weights=[2, 1, 1]).tied
    assert ballot(['1', '2'], weights=[0, 0], tie='random').support == 0
    a = ['x', 'x', 'x', 'y']
    assert (
        len(
            {
                ballot([a[i] for i in p], weights=[[0.1, 0.2, 0.3, 0.6][i] for i in p])
                for p in itertools.permutations(range(4))
            }
        )
        == 1
    )


def test_vote_shows_the_shortest_spelling():
    for p in itertools.permutations(['0.50', r'\frac{1}{2}', '1/2']):
        assert ballot(list(p)).answer == '1/2'


@needs_shared
def test_vote_over_recorded_models():
    rows = [json.loads(line) for line in open(SHARED / 'data/gsm8k/model_solutions.jsonl', encoding='utf-8')]
    models = [k for k, v in rows[0].items() if isinstance(v, dict)]
    gold = [extract(r['ground_truth']) for r in rows]
    solved = {m: [extract(r[m]['solution']) for r in rows] for m in models}
    for m in models:
        assert [same(a, g) for a, g in zip(solved[m], gold)] == [r[m]['is_correct'] for r in rows]
    per_order = {
        tuple(ballot([solved[m][i] for m in order], 'random', seed=i) for i in range(200))
        for order in itertools.permutations(models)
    }
    assert len(per_order) == 1
    kept = [
        (v.answer, g)
        for v, g in ((ballot([solved[m][i] for m in models], min_support=2), g) for i, g in enumerate(gold))
        if v.answer is not None
    ]
    precision = sum(same(*k) for k in kept) / len(kept)
    assert precision > max(sum(r[m]['is_correct'] for r in rows) for m in models) / len(rows)
    labelled = [i for i in range(len(rows)) if ballot([solved[m][i] for m in models], min_support=2).answer is not None]
    best = max(sum(rows[i][m]['is_correct'] for i in labelled) for m in models) / len(labelled)
    assert abs(precision - best) < 0.01, (
        'on the same questions the best model alone is as good as the vote: what the vote adds is the choice'
    )
