"The paper's experiments: their data, their plans, tiny runs of them, and the verdicts."

import json
from pathlib import Path
import pandas as pd
import pytest
from scipy.stats import t as student
from multiagent_ft.core import MaftError
from multiagent_ft.method.recipes import RECIPES
from multiagent_ft.runs.settings import load_config
from multiagent_ft.studies.claims import (
    CLAIMS,
    CONTROLS,
    Claim,
    Judged,
    claims_plot,
    claims_table,
    judge,
    judge_all,
    pick,
)
from multiagent_ft.studies.compare import config_for, requests
from multiagent_ft.studies.outcomes import Study, load_records, load_study
from multiagent_ft.studies.reproduce import (
    COLUMNS,
    EXPERIMENTS,
    base_for,
    by_iteration_table,
    comparison_table,
    diversity_series,
    experiment,
    measures_table,
    paper_columns,
    paper_series,
    plan_experiment,
    published,
    reproduce,
    rows_on,
    tasks_for,
)
from multiagent_ft.studies.statistics import Estimate
from conftest import maft
from making import check_killed_and_resumed

TINY = load_config(flags=dict(train='8', eval='6', agents='2', workers='0', wandb='off'))


def test_paper_numbers():
    t1, t4 = EXPERIMENTS['table1'].numbers, EXPERIMENTS['table4'].numbers
    assert (
        t1['multiagent-ft', 'LLaMA-3', 'gsm8k'] == (88.6, 1.77)
        and t1['star', 'Mistral', 'math'] == (17.84, 1.23)
        and ('star', 'LLaMA-3', 'math') not in t1
    )
    assert t4['majority-ft', 'GPT-3.5', 'math'] == (59, 2.19) and EXPERIMENTS['transfer'].numbers[
        'multiagent-ft, trained elsewhere', 'not named', 'gsm8k'
    ] == (54, None)
    for x in EXPERIMENTS.values():
        assert all(0 <= v <= 100 for v, _ in x.numbers.values()) and all(e.recipe in RECIPES for e in x.all_rows), (
            x.name
        )
        for e in x.controls:
            assert not any(r == e.label for r, *_ in x.numbers) or x.name == 'figure1', (x.name, e.label)
    with pytest.raises(ValueError):
        published('a|b|x y\nm|r|1')


def test_table_1_training_settings():
    assert [e.label for e in EXPERIMENTS['table1'].all_rows if RECIPES[e.recipe].trains] == [
        'star',
        'majority-ft',
        'multiagent-ft',
    ]


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_plan_of_every_experiment_on_nano(name, tmp_path):
    x = experiment(name)
    lines = plan_experiment(x, TINY, seeds=[0, 1], out=tmp_path, measure=False)
    assert (
        lines[0].startswith(name)
        and all(e.label in lines[1] for e in x.all_rows)
        and 'answers' in lines[2]
        and not list(tmp_path.iterdir())
    )
    assert (
        tasks_for(x, 'nano') == ['words' if name == 'transfer' else 'arithmetic']
        and tasks_for(x, 'org/model') == list(x.tasks)
        and tasks_for(x, 'nano', ['words']) == ['words']
    )


def test_plan_of_tables_1_and_2_shares_a_third():
    cfg = load_config(flags=dict(workers='0'))

    def of(n):
        return [
            config_for(base_for(experiment(n), cfg, 'arithmetic'), e, seed=0, root=Path('x'))
            for e in rows_on(experiment(n), cfg, 'arithmetic')
        ]

    n = requests(of('table1') + of('table2'))
    assert n['together'] < 0.65 * n['apart'] and n['together'] < sum(
        requests(of(t))['together'] for t in ('table1', 'table2')
    )


def test_agents_of_table_4():
    x = experiment('table4')
    cfgs = {e.label: config_for(base_for(x, TINY, 'arithmetic'), e, seed=0, root=Path('x')) for e in x.all_rows}
    assert (
        {c.agents for l, c in cfgs.items() if l != 'multiagent-ft, 3 agents'} == {5}
        and cfgs['multiagent-ft, 3 agents'].agents == 3
        and cfgs['majority-equal'].votes == 15
    )


def test_tasks_of_a_real_model():
    x = experiment('transfer')
    (row,) = (e for e in rows_on(x, load_config(flags=dict(model='org/model', data='/data')), 'gsm8k') if e.evaluate_on)
    assert row.evaluate_on == 'gsm8k' and row.settings['task'] == 'math' and row.settings['data'] == '/data'
    assert (
        base_for(experiment('table1'), load_config(flags=dict(model='org/model', data='/data')), 'arithmetic').data
        is None
    )


def test_table_with_paper_columns():
    assert paper_columns(experiment('table1'), 'gsm8k') == [
        (m, 'gsm8k') for m in ('GPT-3.5', 'Phi-3', 'Mistral', 'LLaMA-3')
    ]
    assert paper_columns(experiment('table5'), 'arithmetic') == [('LLaMA-3', 'math')]  # it has no other
    assert (
        '‖' not in comparison_table(experiment('figure1'), 'nano', 'arithmetic', [])
        and len(paper_series(experiment('figure1'))) == 6
    )


def made(name, seed, right, k=1, evaluation='e'):
    counts = dict(right=dict(debate=[int(c) for c in right]), unparsed={}, cost={})
    return dict(
        recipe=name,
        seed=seed,
        iteration=k,
        evaluation=evaluation,
        agents=1,
        questions=len(right),
        training={},
        **counts,
    )


def judged(c, records):
    return judge(c, Study(records).outcomes if records else None)


def test_verdicts():
    c = Claim('a beats b', 'table1', better='a', than='b')

    def three(n, r):
        return [made(n, s, r) for s in range(3)]

    assert judged(c, three('a', '1101' * 30) + three('b', '1000' * 30)).verdict == 'holds'
    assert judged(c, three('a', '1000' * 30) + three('b', '1101' * 30)).verdict == 'fails'
    assert judged(c, three('a', '10' * 30) + three('b', '01' * 30)).verdict == 'unclear'
    # one seed: never more than that
    assert judged(c, three('a', '1' * 90)[:1] + three('b', '0' * 90)[:1]).verdict == 'unclear'
    assert judged(c, three('a', '1')).verdict == judged(c, []).verdict == 'no data'
    # the third has no counterpart
    assert judged(c, three('a', '1101' * 30) + three('b', '1000' * 30)[:2]).difference.seeds == 2
    with pytest.raises(MaftError):
        judged(c, [made('a', 0, '11'), made('b', 0, '11', evaluation='other')])


def test_claims_about_iterations_and_untrained_rows():
    rs = [made('a', s, '10' * 20, k) for s in range(3) for k in (1, 2)]
    rs += [made('a', s, '11' * 20, 5) for s in range(3)] + [made('base', s, '00' * 20, 0) for s in range(3)]
    table = Study(rs).outcomes
    assert set(pick(table, ('a', 5)).iteration) == {5} and not len(pick(table, ('a', 4)))
    assert judge(Claim('', 'figure1', better=('a', 5), than=('a', 1)), table).verdict == 'holds'
    assert judge(Claim('', 'table1', better='a', than='base'), table).difference.mean == 1


def test_holm_correction_over_testable_claims():
    rows = (('multiagent-ft', '1110' * 20), ('debate', '1010' * 20), ('star', '1010' * 20))
    done = judge_all(dict(table1=Study([made(n, s, r) for n, r in rows for s in range(3)]).outcomes))
    tested = {(j.claim.better, j.claim.than) for j in done if j.p is not None}
    assert tested == {('multiagent-ft', 'debate'), ('multiagent-ft', 'star')} and len(done) == len(CLAIMS + CONTROLS)
    text = claims_table(done)
    assert len(claims_plot(done).axes[0].get_yticks()) == 2
    assert text.count('**no data**') == len(done) - 2 and all(c.says in text for c in CLAIMS)
    assert Judged(CLAIMS[0], Estimate(0.1, 0.05, 0.15, 0.01, 3, 300)).verdict == 'holds'


def test_diversity_over_seeds():
    def m(v):
        return dict(value=v, low=v and v - 0.1, high=v and v + 0.1, questions=5)

    def series(records, measure='consensus'):
        return diversity_series(measures_table(records), measure)

    rs = [
        dict(recipe='a', seed=s, iteration=k, measures=dict(consensus=m(0.1 * k + 0.01 * s), embedding=m(None)))
        for s in (0, 1)
        for k in (0, 1)
    ]
    first, (k, value, low, high) = series(rs)['a']
    # Student's, not the range of two
    half = student.ppf(0.975, 1) * 0.005
    assert (first.iteration, k, value) == (0, 1, pytest.approx(0.105))
    assert (low, high) == (pytest.approx(0.105 - half), pytest.approx(0.105 + half)) and series(rs, 'embedding') == {}
    one_known = [dict(r, measures=dict(consensus=m(None) if r['seed'] == 0 else m(0.3))) for r in rs]
    # one seed has no value: the other's interval
    assert series(one_known)['a'][0] == (0, 0.3, pytest.approx(0.2), pytest.approx(0.4))
    # one seed: over questions
    ((_, value, low, high),) = series([rs[1]])['a']
    assert (low, high) == (value - 0.1, value + 0.1)
    assert '0.105' in by_iteration_table(series(rs), share=False)


@pytest.mark.parametrize(
    'args, expected',
    [
        (('table9',), 'unknown experiment'),
        (('table1', '--seeds', 0), 'at least one seed'),
        (('transfer', '--task', 'arithmetic'), 'trains on arithmetic'),
        (('table5', '--out', '.'), 'not the folder of a reproduction'),
        (('table4', '--agents', 3), 'decides about agents'),
        (('figure1', '--set', 'iterations=2'), 'decides about iterations'),
    ],
    ids=lambda a: str(a[0]),
)
def test_bad_arguments_are_one_line(tmp_path, args, expected):
    (tmp_path / 'note.txt').write_text('mine')
    done = maft('reproduce', *args, '--workers', 0, '--train', 8, '--eval', 8, cwd=tmp_path)
    errors = [l for l in done.stderr.splitlines() if l.startswith('error:')]
    assert done.returncode == 2 and len(errors) == 1 and expected in errors[0] and 'Traceback' not in done.stderr
    assert [f.name for f in tmp_path.iterdir() if f.name != 'runs'] == ['note.txt']


def results(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob('*') if f.is_file()}


@pytest.mark.slow
def test_tables_1_and_2_share_a_store(tmp_path):
    "Counted in tokens: both tables together cost at most 65 % of their rows run apart, and every number is k of n."
    from multiagent_ft.studies.compare import shared_tokens
    from multiagent_ft.runs.store import Store

    first = reproduce(experiment('table1'), TINY, [0], tmp_path)
    second = reproduce(experiment('table2'), TINY, [0], tmp_path)
    folders = sorted(p.parent for p in (tmp_path / 'runs').glob('*/*/keys.json'))
    tokens = shared_tokens(folders, Store(tmp_path / 'store'), tmp_path / 'memo.json')
    # multiagent-ft stands in both and is run once
    assert len(folders) == 7 + 7 - 1 and tokens['together'] <= 0.65 * tokens['apart']
    assert first['made']['generate'] and second['made'].get('generate', 0) < first['made']['generate'] * 2
    for t in ('table1', 'table2'):
        rows = pd.read_csv(tmp_path / t / 'table.csv')
        ours = rows[rows.who == 'ours']
        assert list(rows.columns) == COLUMNS and (ours.questions == 6).all()
        assert ours.value_percent.tolist() == pytest.approx((100 * ours.right / 6).tolist())
        assert sum(rows.who == 'paper') == len(experiment(t).numbers)
        page = (tmp_path / t / 'table.md').read_text()
        assert '‖' in page and 'paper, Phi-3 on arithmetic' in page and '(ours)' in page
    again = reproduce(experiment('table1'), TINY, [0], tmp_path)
    assert not again['made'] and {t: [l.right for l in ls] for t, ls in again['tables'].items()} == {
        t: [l.right for l in ls] for t, ls in first['tables'].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize('name', ['table3', 'table4', 'transfer'])
def test_small_experiments_end_to_end(name, tmp_path):
    x = experiment(name)
    found = reproduce(x, TINY, [0], tmp_path)
    ((task, lines),) = found['tables'].items()
    assert [l.recipe for l in lines] == [e.label for e in x.all_rows] and all(l.accuracy.questions == 6 for l in lines)
    study = load_study(tmp_path / name / task / 'outcomes.jsonl.gz')
    assert set(study.iterations.task) == {task}
    assert {judge(c, study.outcomes).verdict for c in CLAIMS if c.experiment == name} == {'unclear'}  # one seed
    if name == 'transfer':
        (home,) = tmp_path.glob('runs/multiagent-ft-trained-elsewhere-*/seed-0')
        assert json.loads((home / 'summary.json').read_text())['task'] == 'arithmetic'


@pytest.mark.slow
def test_figures_over_iterations(tmp_path):
    from dataclasses import replace

    short = replace(experiment('figure3'), iterations=2)
    found = reproduce(short, TINY, [0, 1], tmp_path, questions=4)
    files = results(found['folder'])
    assert {
        'arithmetic/diversity.png',
        'arithmetic/diversity.svg',
        'arithmetic/diversity.jsonl.gz',
        'arithmetic/diversity.csv',
        'arithmetic/iterations.png',
        'table.md',
        'table.csv',
    } <= files.keys()
    pages = load_records(found['folder'] / 'arithmetic' / 'diversity.jsonl.gz')
    assert {(r['recipe'], r['seed'], r['iteration']) for r in pages} == {
        (n, s, k) for n in ('multiagent-ft', 'single-agent-ft') for s in (0, 1) for k in (0, 1, 2)
    }
    # copies of one model
    assert all(abs(r['measures']['kl_between']['value']) < 1e-6 for r in pages if r['recipe'] == 'single-agent-ft')
    assert (
        'Embedder: char-ngrams (spelling only' in files['table.md'].decode()
        and 'The paper:' in files['table.md'].decode()
    )
    assert not reproduce(short, TINY, [0, 1], tmp_path, questions=4)['made'] and results(found['folder']) == files


@pytest.mark.slow
def test_sigkill_and_resume_is_byte_identical(tmp_path):
    args = ('reproduce', 'table5', '--train', 8, '--eval', 6, '--agents', 2, '--seeds', 1, '--workers', 0)
    check_killed_and_resumed((4, 9, 6, 12), *args, results=lambda folder: results(folder / 'table5'), cwd=tmp_path)
