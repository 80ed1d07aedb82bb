"""Questions that come in clusters (variants of one template): standard errors, intervals and tests that know it, from
the column of a data file to the tables of a study."""

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from multiagent_ft import Experiment, MaftError, Task
from multiagent_ft.core import (
    Problem,
    Transcript,
    digest,
    problem_to_dict,
    rng_for,
    transcript_from_dict,
    transcript_to_dict,
)
from multiagent_ft.runs.evaluate import compare, mean_and_stderr
from multiagent_ft.runs.tasks import arithmetic, split
from multiagent_ft.studies.outcomes import Study, load_records, records_of, save_records, scores
from multiagent_ft.studies.report import accuracy_points, report
from multiagent_ft.studies.statistics import bootstrap, estimate, markdown, score_table, stderrs

SMALL = dict(train=8, eval=24, agents=2, iterations=1, wandb='off', quiet=True)


def in_clusters(sizes, seed=0):
    "Scores of questions whose clusters are right as a whole, and the cluster of each."
    rng = np.random.default_rng(seed)
    clusters = [c for c, n in enumerate(sizes) for _ in range(n)]
    right = rng.integers(0, 2, len(sizes))
    return [float(right[c]) for c in clusters], clusters


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=2, max_size=40))
def test_clustered_stderr_is_that_of_statsmodels(answers):
    from statsmodels.api import OLS

    clusters, x = map(list, zip(*answers))
    found = mean_and_stderr(x, clusters)[1]
    if len(set(clusters)) < 2:
        assert found is None
        return
    # statsmodels corrects for the degrees of freedom by (n - 1)/(n - k) too, which is 1 for a mean
    fit = OLS(x, np.ones(len(x))).fit(cov_type='cluster', cov_kwds=dict(groups=clusters))
    assert found == pytest.approx(fit.bse[0], abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=2, max_size=30))
def test_clusters_of_one_question_change_nothing(x):
    names = [f'q{i}' for i in range(len(x))]
    assert mean_and_stderr(x, names) == mean_and_stderr(x)
    a, b = dict(zip(names, x)), dict(zip(names, x[::-1]))
    assert compare(a, b, resamples=99, clusters={q: q for q in a}) == compare(a, b, resamples=99)
    plain, named = ({s: asked for s in range(3)} for asked in (a, {(q, q): v for q, v in a.items()}))
    assert (bootstrap(plain, 50) == bootstrap(named, 50)).all() and stderrs(plain) == stderrs(named)


def test_equal_clusters_are_as_their_means():
    "Ten clusters of five that are right or wrong as a whole hold what ten questions hold."
    x, clusters = in_clusters([5] * 10, seed=3)
    assert mean_and_stderr(x, clusters) == pytest.approx(mean_and_stderr(x[::5]))
    a = dict.fromkeys(range(50), 0.0)
    found = compare(a, dict(enumerate(x)), clusters=dict(enumerate(clusters)))
    wins = int(sum(x[::5]))
    assert found.p == pytest.approx(2 / 2**wins) and found.clusters == 10 and found.only_b == 5 * wins


def test_clustered_p_keeps_its_promise_where_mcnemar_does_not():
    "Two equally good methods, whose differences are those of whole templates: false alarms of both tests."
    alarms = dict(clustered=0, mcnemar=0)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        a, b = (dict(enumerate(np.repeat(rng.integers(0, 2, 12), 8).tolist())) for _ in range(2))
        alarms['clustered'] += compare(a, b, resamples=499, clusters={q: q // 8 for q in a}).p < 0.05
        alarms['mcnemar'] += compare(a, b, resamples=99).p < 0.05
    assert alarms['clustered'] < 12 < 40 < alarms['mcnemar']


def test_bootstrap_draws_whole_clusters_of_each_seed():
    "Seeds with templates of their own: the interval is that of the templates."
    own = {s: {} for s in range(4)}
    for s in own:
        x, clusters = in_clusters([6] * 30, seed=s)
        own[s] = {((s, c), i): v for i, (v, c) in enumerate(zip(x, clusters))}
    as_one = {s: {f'{s}/{c}': v for ((_, c), _), v in asked.items()} for s, asked in own.items()}
    assert bootstrap(own, 4000).std() == pytest.approx(bootstrap(as_one, 4000).std(), rel=0.06)
    assert stderrs(own) == pytest.approx(stderrs(as_one), rel=1e-9)
    assert estimate(own).p(0.5) == pytest.approx(estimate(as_one).p(0.5))
    assert estimate(own).clusters == 120 and estimate(as_one).clusters is None


def template_rows(templates=8, variants=6):
    "Arithmetic: variants share the template's first five numbers."
    rows = []
    for t in range(templates):
        text, _ = arithmetic(rng_for('template', t))
        head, _, last = text.removeprefix('What is the result of ').removesuffix('?').rpartition('*')
        for v in range(variants):
            sum_ = f'{head}*{(int(last) + v) % 30}'
            rows.append(dict(question=f'What is the result of {sum_}?', answer=str(eval(sum_)), template=f'T{t}'))
    return rows


def test_cluster_column_from_file_to_table_and_report(tmp_path):
    "On the embedded model: run, its summary, its records, a comparison's table, the report."
    (tmp_path / 'sums.jsonl').write_text('\n'.join(map(json.dumps, template_rows())))
    (tmp_path / 'sums.yaml').write_text('data: sums.jsonl\nkind: number\ncluster: template\n')
    run = tmp_path / 'run'
    result = Experiment(task=str(tmp_path / 'sums.yaml'), recipe='debate', **SMALL).run(run)
    named = {o['problem']: o['cluster'] for o in result.outcomes}
    assert set(named.values()) <= {f'T{t}' for t in range(8)} and len(named) == 24
    right = [float(o['debate']['right']) for o in result.outcomes]
    debate = result.summary['iterations'][0]['methods']['debate']
    assert debate['stderr'] == mean_and_stderr(right, [*named.values()])[1] != mean_and_stderr(right)[1]
    assert debate['clusters'] == len(set(named.values())) and 'clusters' in result._repr_html_()
    records = load_records(save_records(tmp_path / 'records.jsonl.gz', records_of(run, 'debate')))
    table = score_table(scores(Study(records).outcomes) | {'same': scores(Study(records).outcomes)['debate']}, 'debate')
    assert table[0].accuracy.clusters == debate['clusters'] and 'whole clusters are drawn' in markdown(table)
    assert table[0].accuracy.stderr == pytest.approx(debate['stderr'])
    assert table[1].p == 1 and table[1].within[0].clusters == debate['clusters']
    (point,) = accuracy_points(Study(records))['debate']  # of the report's figure
    e = estimate(scores(Study(records).outcomes)['debate'])
    assert (point.low, point.high) == (e.low, e.high) and report(run).is_file()


def test_task_without_clusters_keeps_its_key_and_files():
    rows = template_rows(2, 3)
    plain, clustered = (Task.from_rows(rows, kind='number', **kw) for kw in ({}, dict(cluster='template')))
    problems = plain.load()[0]
    as_before = [dict(id=p.id, text=p.text, gold=p.gold, source=p.source) for p in problems]
    assert plain.key()['supply'] == digest([as_before] * 2) != clustered.key()['supply']
    assert [problem_to_dict(p) for p in problems] == as_before
    with_one = Transcript(Problem('q', '1+1?', '2', cluster='sums'), [])
    assert transcript_from_dict(json.loads(json.dumps(transcript_to_dict(with_one)))).problem.cluster == 'sums'


def test_split_says_which_clusters_are_trained_on():
    task = Task.from_rows(template_rows(6, 4), kind='number', cluster='template')
    s = split(task, 12, 12)
    asked, seen = ({p.cluster for p in part} for part in (s.evaluation, s.train))
    assert (s.report['clusters'], s.report['clusters_in_both']) == (len(asked), len(asked & seen))
    assert f'{len(asked)} clusters to evaluate on' in str(s)
    assert 'clusters' not in split(Task.from_rows(template_rows(2, 3), kind='number'), 2, 2).report


@pytest.mark.parametrize(
    'column, cell, expected',
    [
        ('templates', 'a', 'perhaps `cluster: template`'),
        ('template', ['a'], 'a cluster is a text or a number'),
        ('template', dict(name='a'), 'a cluster is a text or a number'),
    ],
)
def test_bad_cluster_column(column, cell, expected):
    rows = [dict(question=f'{i}+1?', answer=str(i + 1), template=cell) for i in range(4)]
    with pytest.raises(MaftError, match=expected):
        Task.from_rows(rows, kind='number', cluster=column)


@pytest.mark.parametrize('cell', ['', None, float('nan')])
def test_row_without_a_cluster_stands_alone(cell):
    rows = [dict(question=f'{i}+1?', answer=str(i + 1), template='a' if i else cell) for i in range(4)]
    assert [p.cluster for p in Task.from_rows(rows, kind='number', cluster='template').load()[0]] == ['', 'a', 'a', 'a']
