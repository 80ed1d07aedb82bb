"The vote: by value, whatever the order, ties called ties."

import itertools, json
import pytest
from hypothesis import given, settings, strategies as st
from conftest import SHARED, needs_shared
from multiagent_ft.answers.reading import extract, same
from multiagent_ft.method.consensus import Vote, vote

SAID = ['7', '7.0', '0.5', '1/2', r'\frac{1}{2}', '12', r'\sqrt{8}', r'2\sqrt{2}', None]
ballots = st.lists(st.sampled_from(SAID), max_size=7)


@given(ballots, st.randoms(), st.sampled_from(['none', 'random']), st.integers(0, 3))
@settings(deadline=None)
def test_order_does_not_matter(answers, rnd, tie, min_support):
    other = answers[:]
    rnd.shuffle(other)
    assert vote(answers, tie, seed='q', min_support=min_support) == vote(other, tie, seed='q', min_support=min_support)


@given(st.lists(st.tuples(st.sampled_from(SAID), st.floats(0, 10)), max_size=7), st.randoms())
@settings(deadline=None)
def test_order_does_not_matter_with_weights(pairs, rnd):
    other = pairs[:]
    rnd.shuffle(other)
    a, b = (vote([x for x, _ in p], 'random', weights=[w for _, w in p]) for p in (pairs, other))
    assert a == b


@given(ballots)
@settings(deadline=None)
def test_the_numbers_are_right(answers):
    v = vote(answers, 'random')
    here = [a for a in answers if a is not None]
    counts = sorted((sum(same(a, b) for b in here) for a in here), reverse=True)
    assert v.cast == len(here) and v.abstained == len(answers) - len(here) and v.support == (counts[0] if counts else 0)
    if here:
        assert v.answer in here and sum(same(v.answer, a) for a in here) == v.support
        assert v.tied == any(not same(v.answer, a) and sum(same(a, b) for b in here) == v.support for a in here)
        assert v.margin == v.support - max(
            (sum(same(a, b) for b in here) for a in here if not same(a, v.answer)), default=0
        )
    none = vote(answers)
    assert (none.answer is None) == (v.tied or not here) and none.support == v.support


def test_policies():
    assert vote(['12', '7', '7.0']) == Vote('7', 2, 3, 0, False, 1)
    assert (
        vote(['1', '2']).answer is None
        and vote(['1', '2'], 'random').answer in ('1', '2')
        and vote(['1', '2'], 'random').tied
    )
    assert vote(['1', '2', None], min_support=2) == Vote(None, 1, 2, 1, True, 0)
    assert vote(['1'], min_support=2) == Vote(None, 1, 1, 0, False, 1)
    assert vote([]) == Vote(None, 0, 0, 0, False, 0) and vote([None] * 3) == Vote(None, 0, 0, 3, False, 0)
    # with five: 2-1-1-1 is kept, 2-2-1 is not
    assert vote(list('aabcd'), min_support=2).answer == 'a' and vote(list('aabbc'), min_support=2).answer is None
    with pytest.raises(ValueError):
        vote(['1'], 'first')
    with pytest.raises(ValueError):
        vote(['1'], weights=[1, 2])


def test_a_draw_is_fixed_by_its_seed_and_fair_over_seeds():
    drawn = [vote(['1', '2', '3'], 'random', seed=['run', i]).answer for i in range(900)]
    assert drawn == [vote(['3', '1', '2'], 'random', seed=['run', i]).answer for i in range(900)]
    assert all(240 < drawn.count(x) < 360 for x in '123')


def test_weights():
    assert vote(['1', '2', '2'], weights=[3, 1, 1]).answer == '1' and vote(['1', '2', '2'], weights=[2, 1, 1]).tied
    assert vote(['1', '2'], weights=[0, 0], tie='random').support == 0
    a = ['x', 'x', 'x', 'y']
    assert (
        len(
            {
                vote([a[i] for i in p], weights=[[0.1, 0.2, 0.3, 0.6][i] for i in p])
                for p in itertools.permutations(range(4))
            }
        )
        == 1
    )


def test_shortest_spelling_is_shown():
    for p in itertools.permutations(['0.50', r'\frac{1}{2}', '1/2']):
        assert vote(list(p)).answer == '1/2'


@needs_shared
def test_four_recorded_models():
    rows = [json.loads(line) for line in open(SHARED / 'data/gsm8k/model_solutions.jsonl', encoding='utf-8')]
    models = [k for k, v in rows[0].items() if isinstance(v, dict)]
    gold = [extract(r['ground_truth']) for r in rows]
    said = {m: [extract(r[m]['solution']) for r in rows] for m in models}
    for m in models:
        assert [same(a, g) for a, g in zip(said[m], gold)] == [r[m]['is_correct'] for r in rows]
    per_order = {
        tuple(vote([said[m][i] for m in order], 'random', seed=i) for i in range(200))
        for order in itertools.permutations(models)
    }
    assert len(per_order) == 1
    kept = [
        (v.answer, g)
        for v, g in ((vote([said[m][i] for m in models], min_support=2), g) for i, g in enumerate(gold))
        if v.answer is not None
    ]
    precision = sum(same(*k) for k in kept) / len(kept)
    assert precision > max(sum(r[m]['is_correct'] for r in rows) for m in models) / len(rows)
    labelled = [i for i in range(len(rows)) if vote([said[m][i] for m in models], min_support=2).answer is not None]
    best = max(sum(rows[i][m]['is_correct'] for i in labelled) for m in models) / len(labelled)
    assert abs(precision - best) < 0.01, (
        'on the same questions the best model alone is as good as the vote: what the vote adds is the choice'
    )
