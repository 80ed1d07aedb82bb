"""Committed studies come out the same: tables, verdicts, p-values and plots as the first edition's pipeline made them.

tests/data/studies.json holds what that pipeline gave, to eight digits, before it was replaced by the tidy table.
"""

import json
from functools import cache
import numpy as np
import pytest
from multiagent_ft.core import digest
from multiagent_ft.studies.claims import CLAIMS, CONTROLS, Claim, claims_plot, claims_table, judge_all
from multiagent_ft.studies.outcomes import Study, at_iteration, by_iteration, load_study, scores, study_table
from multiagent_ft.studies.plots import Panel, accuracy_plot, cost_plot, panels_plot
from multiagent_ft.studies.reproduce import (
    EXPERIMENTS,
    by_iteration_table,
    comparison_table,
    diversity_series,
    measures_table,
    numbers_frame,
    our_numbers,
)
from multiagent_ft.studies.statistics import estimate, markdown, paired, score_table
from conftest import ROOT

THEN = json.loads((ROOT / 'tests' / 'data' / 'studies.json').read_text(encoding='utf-8'))
STUDIES = list(THEN['studies'])


@cache
def study(name):
    return load_study(ROOT / 'nbs' / 'results' / 'data' / f'{name.replace(" ", "-")}.jsonl.gz')


@cache
def table(name):
    return study_table(study(name), THEN['studies'][name]['baseline'])


@cache
def measures():
    return measures_table(study('figure3 diversity').records)


def rounded(x):
    "`x` as the fixture holds it: eight digits, plain lists."
    if isinstance(x, dict):
        return {str(k): rounded(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [rounded(v) for v in x]
    if isinstance(x, (float, np.floating)):
        return float(f'{x:.8g}') if np.isfinite(x) else str(x)
    return int(x) if isinstance(x, np.integer) else x


def of_estimate(e):
    return None if e is None else rounded([e.mean, e.low, e.high, e.stderr, e.over_seeds, e.seeds, e.questions])


def of_row(r):
    return dict(
        recipe=r.recipe,
        method=r.method,
        right=r.right,
        accuracy=of_estimate(r.accuracy),
        difference=of_estimate(r.difference),
        p=rounded(r.p),
        generated=rounded(r.generated),
        collected=rounded(r.collected),
        trained=rounded(r.trained),
        within={str(s): rounded([c.difference, c.only_a, c.only_b, c.p]) for s, c in r.within.items()},
    )


def of_claim(j):
    return dict(
        better=rounded(j.claim.better),
        than=rounded(j.claim.than),
        verdict=j.verdict,
        difference=of_estimate(j.difference),
        wide=rounded(j.difference.wide) if j.difference else None,
        p=rounded(j.p),
        within=rounded(j.within),
        questions=j.questions,
    )


def drawn(fig):
    "Digest of every line and interval of a figure."
    axes = [
        [
            [np.asarray(line.get_xydata(), float).tolist() for line in ax.lines],
            [np.asarray(s, float).tolist() for c in ax.collections for s in c.get_segments()],
        ]
        for ax in fig.axes
    ]
    return digest(rounded(axes))


def cells(markdown):
    return markdown.splitlines()[2:]


def close(a, b):
    "Equal but for the last of eight digits."
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return (
        a == pytest.approx(b, rel=1e-6, abs=1e-12) if isinstance(a, float) and isinstance(b, (int, float)) else a == b
    )


@pytest.mark.parametrize('name', STUDIES)
def test_tables_and_plots_match_fixture(name):
    then, now = THEN['studies'][name], table(name)
    assert close(then['table'], [of_row(r) for r in now])
    assert cells(markdown(now).split('\n\n')[0]) == then['markdown']
    assert (drawn(accuracy_plot(now)), drawn(cost_plot(now))) == (then['accuracy_plot'], then['cost_plot'])
    if x := EXPERIMENTS.get(name):
        task = study(name).records[0]['task']
        assert cells(comparison_table(x, 'nano', task=task, table=now)) == then['comparison']


@pytest.mark.parametrize('name', STUDIES)
def test_curves_match_fixture(name):
    then = THEN['studies'][name]
    curves = by_iteration(study(name).outcomes)
    assert close(then['by_iteration']['debate'], rounded(curves))
    assert drawn(panels_plot([Panel('', label='', series=curves)])) == then['iterations_plot']
    if 'by_iteration_table' in then:
        assert cells(by_iteration_table(curves)) == then['by_iteration_table']
    if 'paper_csv' in then:
        numbers = numbers_frame(our_numbers('nano', study(name).records[0]['task'], study=study(name)))
        assert close(then['paper_csv'], rounded(numbers.values.tolist()))


@pytest.mark.slow
@pytest.mark.parametrize('name', STUDIES)
def test_curves_of_every_method_match_fixture(name):
    for method, curves in THEN['studies'][name]['by_iteration'].items():
        assert close(curves, rounded(by_iteration(study(name).outcomes, method))), method


def judged(claims=CLAIMS + CONTROLS):
    tables = {name: study(name).outcomes for name in STUDIES}
    return judge_all(tables | {'figure3 diversity': measures()}, claims)


def test_verdicts_match_fixture():
    now, then = judged(), THEN['claims']
    assert close(then['paper and controls'], [of_claim(j) for j in now])
    assert [line.split(' | ')[3:] for line in cells(claims_table(now))] == then['cells']
    assert drawn(claims_plot(now)) == then['plot']
    pairs = [(name, one) for name in ('better', 'better fresh') for one in study(name).iterations.recipe.unique()]
    changes = [
        Claim(one, name, better=one.replace('union-ft', 'multiagent-ft'), than=one, ours=True)
        for name, one in pairs
        if one.startswith('union-ft')
    ]
    assert close(then['many or one'], [of_claim(j) for j in judged(changes)])


def test_diversity_matches_fixture():
    assert close(THEN['diversity'], {m: rounded(diversity_series(measures(), m)) for m in THEN['diversity']})


def nano(name):
    return load_study(ROOT / 'nbs' / 'data' / f'nano_{name}.jsonl.gz')


def test_nano_search_matches_fixture():
    tries, then = nano('search'), THEN['nano']
    outcomes = tries.outcomes

    def late(label, method):
        mine = outcomes[outcomes.recipe == label]
        two, three = (scores(at_iteration(mine, k), method)[label] for k in (2, 3))
        return (two + three) / 2

    for kind, method in (('multiagent-ft', 'debate'), ('majority-ft', 'majority')):
        found = {l: late(l, method) for l in tries.iterations.recipe.unique() if l.startswith(kind)}
        now = score_table(found, f'{kind}, as shipped')
        assert close(then[f'search {kind}'], [of_row(r) for r in now]), kind
    for method, curves in then['search by iteration'].items():
        assert close(curves, rounded(by_iteration(outcomes, method)))


def test_nano_five_iterations_match_fixture():
    five, then = nano('five'), THEN['nano']
    multi, single = (Study([r for r in five.records if r['recipe'] == n]) for n in ('multiagent-ft', 'majority-ft'))
    for method, curves in then['five by iteration'].items():
        assert close(curves, rounded(by_iteration(five.outcomes, method)))

    def at(s, k, method):
        return next(iter(scores(at_iteration(s.outcomes, k), method).values()))

    pairs = (((single, 'majority'), (multi, 'debate')), ((multi, 'single'), (multi, 'single_final')))
    pairs += (((multi, 'majority'), (multi, 'debate')),)
    for k in range(6):
        now = [of_estimate(estimate(paired(at(a, k, m), at(b, k, n)))) for (a, m), (b, n) in pairs]
        assert close(then['five differences'][k], now), k


@pytest.mark.parametrize('name', [*STUDIES, 'five', 'search'])
def test_every_outcome_matches_fixture(name):
    outcomes = (nano(name) if name in ('five', 'search') else study(name)).outcomes
    last = at_iteration(outcomes)
    found = [
        # a row's name was changed since
        [recipe.replace('trained elsewhere', 'learned elsewhere'), seed, method, x[seed].dropna().tolist()]
        for method in ('single', 'majority', 'debate', 'single_final')
        for recipe, x in scores(last, method).items()
        for seed in x.columns.tolist()
    ]
    assert digest(found) == THEN['right'][name]
