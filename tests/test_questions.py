"The experiments of issue 19 and the leaderboard: tiny runs, and verdicts recomputed from the raw table."

import gzip, json, subprocess, sys
from functools import cache

import numpy as np
import pytest
from scipy.stats import norm, t
from multiagent_ft.core import MaftError
from multiagent_ft.method.recipes import load_recipe
from multiagent_ft.neighbours.dial import MODELS, train_dial, write_questions
from multiagent_ft.neighbours.questions import QUESTIONS, RowRunner, study_question
from multiagent_ft.runs.settings import load_config
from multiagent_ft.studies.claims import Claim, judge_all
from multiagent_ft.studies.compare import StudyRow, study_row
from multiagent_ft.studies.outcomes import Study, load_records
from conftest import ROOT

RESULTS = ROOT / 'nbs' / 'results'
TINY = dict(train='6', eval='4', agents='2', iterations='1', workers='0', quiet='true', wandb='off')


# Verdicts, without this package's statistics


@cache
def right(file):
    "{recipe at its end, or (recipe, iteration): {seed: right or wrong, question by question}} from the raw file."
    records = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    found = {}
    for r in sorted(records, key=lambda r: r['iteration']):
        for row in (r['recipe'], (r['recipe'], r['iteration'])):
            found.setdefault(row, {})[r['seed']] = np.array(r['right']['debate'], float)
    return found


def interval(differences: list):  # one array per seed
    "(mean, low, high): the widest of Student's over seeds, the normal one over questions, a bootstrap over both."
    means, n = [d.mean() for d in differences], len(differences)
    mean, rng = float(np.mean(means)), np.random.default_rng(7)
    student = t.ppf(0.975, n - 1) * np.std(means, ddof=1) / n**0.5
    normal = norm.ppf(0.975) * (sum(d.var(ddof=1) / len(d) for d in differences)) ** 0.5 / n
    drawn = []
    for _ in range(1000):
        some = [differences[i] for i in rng.integers(0, n, n)]
        drawn.append(np.mean([d[rng.integers(0, len(d), len(d))].mean() for d in some]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    half = max(student, normal)
    return mean, min(low, mean - half), max(high, mean + half)


def recomputed(file, claims):
    "Every verdict of `claims` on `file` is the one that scipy gives, unless it hangs on half a point."
    found, compared = right(file), 0
    for j in judge_all(dict(x=Study(load_records(file)).outcomes), claims):
        a, b = found.get(j.claim.than), found.get(j.claim.better)
        seeds = sorted(set(a or ()) & set(b or ()))
        if not seeds:
            assert j.verdict == 'no data'
            continue
        differences = [b[s] - a[s] for s in seeds]
        assert j.difference.mean == pytest.approx(np.mean([d.mean() for d in differences]), abs=1e-9)
        if len(seeds) < 2:
            assert j.verdict == 'unclear'
            continue
        _, low, high = interval(differences)
        own = 'holds' if low > 0 else 'fails' if high < 0 else 'unclear'
        assert j.verdict == own or min(abs(low), abs(high)) < 0.005, (j.claim, j.difference.wide, low, high)
        compared += 1
    return compared


def test_leaderboard_verdicts_are_those_of_scipy():
    file = RESULTS / 'leaderboard' / 'outcomes.jsonl.gz'
    rivals = ('multiagent-ft', 'union-ft', 'majority-equal')
    rows = [r for r in right(file) if isinstance(r, str)]
    claims = tuple(Claim('', 'x', better=r, than=rival) for r in rows for rival in rivals if r != rival)
    seeds = max(map(len, right(file).values()))
    assert recomputed(file, claims) > 0 or seeds == 1


@pytest.mark.parametrize('name', [n for n, q in QUESTIONS.items() if q.claims])
def test_question_verdicts_are_those_of_scipy(name):
    file = RESULTS / 'questions' / f'{name}.jsonl.gz'
    claims = tuple(Claim('', 'x', better=c.better, than=c.than) for c in study_question(name).claims)
    rows = right(file)
    shared = [len(set(rows[c.better]) & set(rows[c.than])) for c in claims]  # seeds
    assert min(shared) > 0, 'a claim without outcomes'
    assert recomputed(file, claims) == sum(n > 1 for n in shared)  # of one seed only the difference is compared


# Rows


def test_failed_row_is_told_and_does_not_stop_the_others(tmp_path, capsys):
    told = []
    base = load_config(flags=TINY | dict(store=str(tmp_path / 'store')))
    runner = RowRunner(base, tmp_path, tell=told.append)
    rows = [
        StudyRow('no such model', 'base', dict(model=str(tmp_path / 'none'))),
        StudyRow('permuted-ft', 'permuted-ft'),
    ]
    records = [runner.records(row, seed=3) for row in rows]
    assert [[r['iteration'] for r in found] for found in records] == [[], [0, 1]]
    assert list(runner.failed) == ['no such model, seed 3'] and len(told) == len(runner.folders) == 1
    assert 'no such model, seed 3: ' in capsys.readouterr().err


def test_unknown_question_is_refused_in_a_line():
    with pytest.raises(MaftError, match='unknown question .colour.: use one of ownership') as e:
        study_question('colour')
    assert len(str(e.value).splitlines()) == 1


def test_every_row_of_every_question_is_a_recipe():
    assert all(load_recipe(row.recipe).name for q in QUESTIONS.values() for row in q.study_rows)


@pytest.mark.slow
@pytest.mark.parametrize('name', [*QUESTIONS, *MODELS])
def test_every_question_runs_small(name, tmp_path):
    sizes = [x for k, v in dict(train=6, eval=4, iterations=1, agents=2).items() for x in ('--set', f'{k}={v}')]
    sizes += ['--blocks', '1'] if name in MODELS else []
    tool = [sys.executable, ROOT / 'tools' / 'experiments.py', name, '--seeds', '1', '--out', tmp_path, *sizes]
    done = subprocess.run(tool, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_records(tmp_path / name / 'outcomes.jsonl.gz')


@pytest.mark.slow
def test_one_row_on_seeds_of_ones_own(tmp_path):
    sizes = [x for k, v in dict(train=6, eval=4, agents=2).items() for x in ('--set', f'{k}={v}')]
    wanted = ['--row', 'permuted-ft', '--from', '7', '--seeds', '1']
    tool = [sys.executable, ROOT / 'tools' / 'experiments.py', 'ownership', '--out', tmp_path, *sizes, *wanted]
    for more in ((), ('--from', '8')):  # the second adds to the first
        done = subprocess.run([*tool, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    records = load_records(tmp_path / 'ownership' / 'outcomes.jsonl.gz')
    assert {(r['recipe'], r['seed']) for r in records} == {('permuted-ft', 7), ('permuted-ft', 8)}


def test_vote_of_fewer_is_the_vote_of_a_run_that_asks_fewer_times(tmp_path):
    base = load_config(None, TINY | dict(eval='12', iterations='0', store=str(tmp_path / 'store')))
    runner = RowRunner(base, tmp_path)
    many, few = (runner.records(study_row(f'majority-equal:samples={n}'), 3)[-1] for n in (20, 3))
    assert many['right']['vote@3'] == few['right']['majority'] and 'vote@3' not in few['right']
    assert 0 < sum(many['right']['vote@3']) < 12


@pytest.mark.slow
def test_dial_model_is_made_once_and_answers(tmp_path):
    shape = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=32)
    shape |= dict(intermediate_size=64, max_position_embeddings=1024, tie_word_embeddings=True)
    model = train_dial(tmp_path / 'dial-10', 10, blocks=1, shape=shape)
    before = (model / 'model.safetensors').read_bytes()
    assert train_dial(tmp_path / 'dial-10', 10, blocks=1, shape=shape) == model
    assert (model / 'model.safetensors').read_bytes() == before
    task = str(write_questions(tmp_path / 'questions.jsonl', 40))
    base = load_config(flags=TINY | dict(store=str(tmp_path / 'store')))
    row = StudyRow('base', 'base', dict(model=str(model), task=task))
    assert RowRunner(base, tmp_path, tell=print).records(row, seed=0)[0]['questions'] == 4
