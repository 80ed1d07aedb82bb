"Two kinds of chance: checked against pencil, formulas of their own, and simulation."

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from multiagent_ft.core import MaftError
from multiagent_ft.studies.statistics import (
    Estimate,
    bootstrap,
    csv_text,
    estimate,
    format_estimate,
    markdown,
    paired,
    score_table,
    small_p,
    stderrs,
    table_frame,
    verdict,
    within_seeds,
)


def drawn(seeds, spread, rng, n=80, gain=0.1, shared=False):
    "Differences -1, 0, 1 with a true mean of `gain`: seeds differ by `spread`, questions by their own difficulty."
    hard, scores = rng.random(n), {}
    for s in range(seeds):
        if not shared:
            hard = rng.random(n)
        up = np.clip(0.2 + gain + spread * rng.standard_normal(), 0, 0.8)
        u = (hard + 0.3 * rng.random(n)) % 1  # still uniform, and alike for the seeds that share the question
        scores[s] = {
            (f'{i}' if shared else f'{s}/{i}'): float(d)
            for i, d in enumerate(np.where(u < 0.2, -1, np.where(u < 0.2 + up, 1, 0)))
        }
    return scores


@pytest.mark.parametrize('seeds, spread, shared', [(3, 0, False), (3, 0.15, False), (3, 0.05, True), (5, 0.1, True)])
def test_wide_interval_coverage(seeds, spread, shared):
    rng = np.random.default_rng(7)
    held = [
        low <= 0.1 <= high
        for low, high in (estimate(drawn(seeds, spread, rng, shared=shared), 200).wide for _ in range(60))
    ]
    assert np.mean(held) >= 0.88  # 95 % promised; 60 experiments


def test_bootstrap_interval_coverage():
    rng = np.random.default_rng(8)
    held = [e.low <= 0.1 <= e.high for e in (estimate(drawn(12, 0.08, rng), 300) for _ in range(60))]
    assert np.mean(held) >= 0.87


@pytest.mark.parametrize('shared', [False, True])
def test_false_positive_rate(shared):
    rng = np.random.default_rng(9)
    assert sum(estimate(drawn(4, 0.08, rng, gain=0, shared=shared), 50).p() < 0.05 for _ in range(80)) <= 9


def two_way(scores):
    "The clustered variance with numpy: an independent way to the same number."
    S, mean = len(scores), np.mean([np.mean(list(s.values())) for s in scores.values()])
    e = [(s, q, (x - mean) / (S * len(v))) for s, v in scores.items() for q, x in v.items()]

    def one(key, G):
        total = {}
        for row in e:
            total[key(row)] = total.get(key(row), 0) + row[2]
        return sum(t * t for t in total.values()) * G / (G - 1)

    n_q = len({q for _, q, _ in e})
    question = one(lambda r: r[1], n_q)
    return max(one(lambda r: r[0], S) + question - one(lambda r: r[:2], len(e)), question)


@pytest.mark.parametrize('shared', [False, True])
def test_stderr_against_two_way_clustered_variance(shared):
    scores = drawn(4, 0.2, np.random.default_rng(3), shared=shared)
    assert max(stderrs(scores)) == pytest.approx(two_way(scores) ** 0.5, rel=0.01)


def test_distinct_questions_reduce_to_the_t_test():
    scores = drawn(5, 0.3, np.random.default_rng(4))
    means = [np.mean(list(s.values())) for s in scores.values()]
    assert estimate(scores).p() == pytest.approx(ttest_1samp(means, 0).pvalue, rel=0.02)
    assert estimate(scores).mean == pytest.approx(np.mean(means))


def test_seeds_of_unequal_size_have_equal_weight():
    e = estimate({0: {'a': 1}, 1: {f'b{i}': 0 for i in range(99)}})
    assert e.mean == 0.5 and (e.seeds, e.questions) == (2, 100) and (e.low, e.high) == (0, 1)


def test_questions_and_seeds_are_order_independent():
    s = drawn(3, 0.1, np.random.default_rng(5), shared=True)
    t = {k: dict(reversed(s[k].items())) for k in s}
    a, b = estimate(s), estimate(t)
    assert (a.mean, a.low, a.high) == pytest.approx((b.mean, b.low, b.high)) and a.stderr == pytest.approx(b.stderr)
    u = {k: s[k] for k in (2, 0, 1)}
    assert estimate(u).stderr == pytest.approx(a.stderr) and estimate(u).mean == pytest.approx(a.mean)


def test_one_seed_gives_no_verdict():
    e = estimate({0: {f'q{i}': 1 for i in range(500)}})
    assert verdict(e) == 'unclear' and e.p() is None
    assert e.stderr == 0 and e.mean == 1


@pytest.mark.parametrize(
    'mean, margin, said',
    [
        (0.1, 0, 'holds'),
        (-0.1, 0, 'fails'),
        (0.01, 0, 'unclear'),
        (0.1, 0.2, 'fails'),
        (0.1, 0.1, 'unclear'),
        (-0.1, -0.2, 'holds'),
    ],
)
def test_verdict(mean, margin, said):
    assert verdict(Estimate(mean, mean - 0.02, mean + 0.02, 0.01, 5, 100), margin) == said


def test_wide_interval_contains_narrow_and_agrees_with_p():
    rng = np.random.default_rng(6)
    for _ in range(20):
        e = estimate(drawn(4, 0.1, rng, gain=0.05), 100)
        low, high = e.wide
        assert low <= e.low and high >= e.high
        if low > 0 or high < 0:
            assert e.p() < 0.05
    assert Estimate(0, 0, 0, 0, 3, 9).p() == 1 and Estimate(0.5, 0.5, 0.5, 0, 3, 9).p() == 0


def test_bootstrap_is_deterministic():
    s = drawn(3, 0.1, np.random.default_rng(5))
    assert (bootstrap(s, 50, 1) == bootstrap(s, 50, 1)).all() and bootstrap(s, 50).shape == (50,)


def asked(right, n=20):
    return {f'p/{i}': int(i < right) for i in range(n)}


def test_table_by_hand():
    scores = dict(base={0: asked(10), 1: asked(12)}, better={0: asked(15), 1: asked(16)})
    base, better = table = score_table(scores, 'base', {'base': dict(generated=109.5)})
    assert (base.accuracy.mean, better.accuracy.mean, better.accuracy.questions) == (0.55, 0.775, 40)
    assert better.difference.mean == pytest.approx(0.225) and base.difference is base.p is None
    text = markdown(table)
    assert '| better | 31/40 | 77.5 ± ' in text and '+22.5 ± ' in text and '| 0, 0 of 2 |' in text
    assert text.count('\n|') == 3
    rows = table_frame(table).set_index('recipe')
    assert rows.accuracy['better'] == better.accuracy.mean and rows.p_holm['better'] == better.p
    assert rows.difference['base'] is None and csv_text(rows.reset_index()).splitlines()[1].endswith(',,,,,')
    shares = {0: {'a': 0.5, 'b': 1}}
    assert score_table({'x': shares})[0].right is None  # a share is not k of n


def test_holm_correction_over_recipes():
    rng = np.random.default_rng(2)

    def run(gain):
        return {s: {f'{s}/{i}': int(rng.random() < 0.4 + gain) for i in range(60)} for s in range(3)}

    table = score_table({'base': run(0), 'a': run(0.2), 'b': run(0.3), 'c': run(0)}, 'base')
    for row in table[1:]:
        assert row.p >= row.difference.p()
    assert sum(row.p > row.difference.p() for row in table[1:]) >= 2


def test_markdown_in_names_is_escaped():
    t = markdown(score_table({'a|b\nc': {0: asked(3)}}))
    assert 'a\\|b c' in t and len(t.splitlines()) == 5


def test_error_messages():
    for wrong in (
        lambda: estimate({}),
        lambda: estimate({0: {}}),
        lambda: paired({0: {'a': 1}}, {1: {'a': 1}}),
        lambda: paired({0: {'a': 1}}, {0: {'b': 1}}),
        lambda: score_table({'a': {0: asked(1)}}, 'b'),
    ):
        with pytest.raises(MaftError) as e:
            wrong()
        assert len(str(e.value).splitlines()) <= 2


def test_edge_cases():
    assert small_p(None) == '' and small_p(0.0001) == '< 0.001' and small_p(0.04) == '0.040'
    assert (
        format_estimate(None) == ''
        and format_estimate(Estimate(0.1, -0.05, 0.2, 0.1, 3, 9), '+') == '+10.0 ± 10.0 [-5.0, +20.0]'
    )
    assert within_seeds({0: {'a': 0}}, {0: {'a': 1}})[0].only_b == 1
