"Two kinds of chance: checked against pencil, formulas of their own, and simulation."

import csv, io, json
import numpy as np
import pytest
from scipy.stats import ttest_1samp
from multiagent_ft.studies.statistics import (
    Estimate,
    csv_text,
    estimate,
    markdown,
    method_table,
    paired,
    format_estimate,
    read_runs,
    bootstrap,
    scores_of,
    small_p,
    stderr_over_both,
    verdict,
    within_seeds,
)
from multiagent_ft.core import MaftError, write_jsonl


def drawn(seeds, luck, rng, n=80, gain=0.1, shared=False):
    "Differences -1, 0, 1 with a true mean of `gain`: seeds differ by `luck`, questions by their own difficulty."
    hard, scores = rng.random(n), {}
    for s in range(seeds):
        if not shared:
            hard = rng.random(n)
        up = np.clip(0.2 + gain + luck * rng.standard_normal(), 0, 0.8)
        u = (hard + 0.3 * rng.random(n)) % 1  # still uniform, and alike for the seeds that share the question
        scores[s] = {
            (f'{i}' if shared else f'{s}/{i}'): float(d)
            for i, d in enumerate(np.where(u < 0.2, -1, np.where(u < 0.2 + up, 1, 0)))
        }
    return scores


@pytest.mark.parametrize('seeds, luck, shared', [(3, 0, False), (3, 0.15, False), (3, 0.05, True), (5, 0.1, True)])
def test_wide_interval_covers(seeds, luck, shared):
    rng = np.random.default_rng(7)
    held = [
        low <= 0.1 <= high
        for low, high in (estimate(drawn(seeds, luck, rng, shared=shared), 200).wide for _ in range(60))
    ]
    assert np.mean(held) >= 0.88  # 95 % promised; 60 experiments


def test_bootstrap_covers_with_many_seeds():
    rng = np.random.default_rng(8)
    held = [e.low <= 0.1 <= e.high for e in (estimate(drawn(12, 0.08, rng), 300) for _ in range(60))]
    assert np.mean(held) >= 0.87


@pytest.mark.parametrize('shared', [False, True])
def test_false_alarms_are_as_rare_as_promised(shared):
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
def test_stderr_against_a_formula_of_its_own(shared):
    scores = drawn(4, 0.2, np.random.default_rng(3), shared=shared)
    assert stderr_over_both(scores) == pytest.approx(two_way(scores) ** 0.5, rel=0.01)


def test_own_questions_reduce_to_students_test():
    scores = drawn(5, 0.3, np.random.default_rng(4))
    means = [np.mean(list(s.values())) for s in scores.values()]
    assert estimate(scores).p() == pytest.approx(ttest_1samp(means, 0).pvalue, rel=0.02)
    assert estimate(scores).mean == pytest.approx(np.mean(means))


def test_seeds_of_unequal_size_weigh_the_same():
    e = estimate({0: {'a': 1}, 1: {f'b{i}': 0 for i in range(99)}})
    assert e.mean == 0.5 and (e.seeds, e.questions) == (2, 100) and (e.low, e.high) == (0, 1)


def test_order_of_questions_and_seeds_is_nothing():
    s = drawn(3, 0.1, np.random.default_rng(5), shared=True)
    t = {k: dict(reversed(s[k].items())) for k in s}
    a, b = estimate(s), estimate(t)
    assert (a.mean, a.low, a.high) == pytest.approx((b.mean, b.low, b.high)) and a.stderr == pytest.approx(b.stderr)
    u = {k: s[k] for k in (2, 0, 1)}
    assert estimate(u).stderr == pytest.approx(a.stderr) and estimate(u).mean == pytest.approx(a.mean)


def test_one_seed_is_never_a_verdict():
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


def test_wide_is_never_narrower_and_p_agrees():
    rng = np.random.default_rng(6)
    for _ in range(20):
        e = estimate(drawn(4, 0.1, rng, gain=0.05), 100)
        low, high = e.wide
        assert low <= e.low and high >= e.high
        if low > 0 or high < 0:
            assert e.p() < 0.05
    assert Estimate(0, 0, 0, 0, 3, 9).p() == 1 and Estimate(0.5, 0.5, 0.5, 0, 3, 9).p() == 0


def test_resampling_is_repeatable():
    s = drawn(3, 0.1, np.random.default_rng(5))
    assert (bootstrap(s, 50, 1) == bootstrap(s, 50, 1)).all() and bootstrap(s, 50).shape == (50,)


def outcomes(right, n=20, first=(True, False)):
    return [
        dict(
            problem=f'p/{i}',
            right_first=list(first),
            debate=dict(right=i < right, cast=3),
            cost=dict(debate=dict(generated=100 + i)),
        )
        for i in range(n)
    ]


def test_table_by_hand():
    runs = dict(base={0: outcomes(10), 1: outcomes(12)}, better={0: outcomes(15), 1: outcomes(16)})
    base, better = method_table(runs, 'base')
    assert (
        base.accuracy.mean == 0.55 and better.accuracy.mean == 0.775 and better.difference.mean == pytest.approx(0.225)
    )
    assert base.difference is base.p is None and base.generated == 109.5 and better.accuracy.questions == 40
    text = markdown([base, better])
    assert (
        '| better | 31/40 | 77.5 ± ' in text
        and '+22.5 ± ' in text
        and '| 0, 0 of 2 |' in text
        and text.count('\n|') == 3
    )
    rows = list(csv.DictReader(io.StringIO(csv_text([base, better]))))
    assert (
        float(rows[1]['accuracy']) == better.accuracy.mean
        and float(rows[1]['p_holm']) == better.p
        and rows[0]['difference'] == ''
    )
    assert method_table(runs, None, dict(base='single'))[0].accuracy.mean == 0.5


def test_holm_over_the_recipes():
    rng = np.random.default_rng(2)

    def run(gain):
        return {
            s: [
                dict(
                    problem=f'{s}/{i}',
                    right_first=[False],
                    debate=dict(right=bool(rng.random() < 0.4 + gain), cast=1),
                )
                for i in range(60)
            ]
            for s in range(3)
        }

    lines = method_table({'base': run(0), 'a': run(0.2), 'b': run(0.3), 'c': run(0)}, 'base')
    for l in lines[1:]:
        assert l.p >= l.difference.p()
    assert sum(l.p > l.difference.p() for l in lines[1:]) >= 2


def test_names_cannot_break_a_table():
    t = markdown(method_table({'a|b\nc': {0: outcomes(3)}}))
    assert 'a\\|b c' in t and len(t.splitlines()) == 5


def test_errors_say_what_to_do():
    for wrong in (
        lambda: scores_of({}),
        lambda: scores_of({0: []}),
        lambda: scores_of({0: outcomes(3)}, 'majority_9'),
        lambda: estimate({}),
        lambda: estimate({0: {}}),
        lambda: paired({0: {'a': 1}}, {1: {'a': 1}}),
        lambda: paired({0: {'a': 1}}, {0: {'b': 1}}),
        lambda: method_table({'a': {0: outcomes(1)}}, 'b'),
    ):
        with pytest.raises(MaftError) as e:
            wrong()
        assert len(str(e.value).splitlines()) <= 2


def test_read_runs(tmp_path):
    for s in (0, 4):
        (tmp_path / f's{s}').mkdir()
        (tmp_path / f's{s}' / 'summary.json').write_text(json.dumps(dict(seed=s)))
        write_jsonl(
            tmp_path / f's{s}' / 'outcomes.jsonl',
            [dict(o, iteration=k) for k in range(2 + (s == 4)) for o in outcomes(5 + 5 * k)],
        )
    both = [tmp_path / 's0', tmp_path / 's4']
    runs = read_runs(dict(r=both))
    # the last that both have
    assert set(runs['r']) == {0, 4} and {o['iteration'] for os in runs['r'].values() for o in os} == {1}
    assert {o['iteration'] for o in read_runs(dict(r=[tmp_path / 's4']))['r'][4]} == {2}
    assert sum(o['debate']['right'] for o in read_runs(dict(r=both), iteration=0)['r'][0]) == 5
    for wrong in ([tmp_path], [tmp_path / 's0', tmp_path / 's0']):
        with pytest.raises(MaftError):
            read_runs(dict(r=wrong))


def test_small_things():
    assert small_p(None) == '' and small_p(0.0001) == '< 0.001' and small_p(0.04) == '0.040'
    assert (
        format_estimate(None) == ''
        and format_estimate(Estimate(0.1, -0.05, 0.2, 0.1, 3, 9), '+') == '+10.0 ± 10.0 [-5.0, +20.0]'
    )
    assert within_seeds({0: {'a': 0}}, {0: {'a': 1}})[0].only_b == 1
