"Real solutions through the middle of the machine: four recorded models of GSM8K as four agents."

import pytest
from conftest import needs_shared, SHARED

from multiagent_ft.answers.reading import extract, read, same
from multiagent_ft.core import Problem, read_jsonl, same_answer
from multiagent_ft.method.debate import Seeds, Protocol, untrained
from multiagent_ft.method.prompts import ReplayEngine
from multiagent_ft.runs.evaluate import outcome, summarize_outcomes
from multiagent_ft.method.recipes import MAJORITY_FT, RecipeContext
from multiagent_ft.runs.tasks import Task

MODELS = ['6b_finetuning', '6b_verification', '175b_finetuning', '175b_verification']
pytestmark = needs_shared


@pytest.fixture(scope='module')
def recorded():
    data = read_jsonl(SHARED / 'data' / 'gsm8k' / 'model_solutions.jsonl')
    problems = [Problem(f'gsm8k/{i}', d['question'], extract(d['ground_truth'], 'number')) for i, d in enumerate(data)]
    solutions = {
        (p.id, 1, 'generator', n): d[m]['solution'] for p, d in zip(problems, data) for n, m in enumerate(MODELS)
    }
    r, task = MAJORITY_FT, Task('gsm8k', 'number')
    ctx = RecipeContext(ReplayEngine(solutions).generate, None, Protocol(rounds=1), task.read)
    debates = r.sample(ctx, untrained(4), problems, Seeds())
    return data, problems, task, ctx, debates


def test_grading_agrees_with_openai(recorded):
    data, problems, task, ctx, debates = recorded
    wrong = [
        (p.id, m)
        for p, d, t in zip(problems, data, debates)
        for n, m in enumerate(MODELS)
        if same(extract(t.at(1)[n].text, 'number'), p.gold) != d[m]['is_correct']
    ]
    assert len(debates) * 4 == 5276 and wrong == []


def test_scores_match_counts(recorded):
    data, problems, task, ctx, debates = recorded
    outcomes = [outcome(t, task, 0) for t in debates]
    s = summarize_outcomes(outcomes)
    assert s['single']['accuracy'] == pytest.approx(sum(d[m]['is_correct'] for d in data for m in MODELS) / 5276)
    assert s['majority']['n'] == 1319
    assert s['majority']['accuracy'] > s['single']['accuracy']


def test_examples_use_pseudo_labels_only(recorded):
    "Each row agrees with its question's label and is that model's own text; no gold is needed for it."
    data, problems, task, ctx, debates = recorded
    votes = ctx.labels(debates)
    assert all(v.answer is None or v.support >= 2 and not v.tied for v in votes)
    (rows,) = MAJORITY_FT.select(ctx, untrained(4), debates, votes).values()
    label = {t.problem.id: v.answer for t, v in zip(debates, votes)}
    texts = {t.problem.id: [u.text for u in t.at(1)] for t in debates}
    for r in rows:
        text = bytes(r.token_ids[:-1]).decode()
        assert text in texts[r.problem] and same_answer(read(text), label[r.problem])
    blind = [type(t)(Problem(t.problem.id, t.problem.text, None), t.turns) for t in debates]
    assert ctx.labels(blind) == votes
