"Recipes of other papers: what is selected, weighted, paired; no gold where none is promised; bad input; real runs."

import json, subprocess, sys
from dataclasses import replace

import pytest
from multiagent_ft.core import MaftError, Problem, read_jsonl
from multiagent_ft.method.debate import Protocol, Seeds, untrained
from multiagent_ft.method.examples import save_examples
from multiagent_ft.method.prompts import ScriptedEngine
from multiagent_ft.method.recipes import (
    NEIGHBOURS,
    RECIPES,
    RecipeContext,
    check_examples,
    check_transcripts,
    check_votes,
    comes_with_package,
    load_recipe,
    recipe_names,
    recipe_source,
)
from multiagent_ft.neighbours.catalogue import page
from multiagent_ft.neighbours.preferences import best_of_k
from multiagent_ft.runs.run import run
from multiagent_ft.runs.settings import load_config
from multiagent_ft.runs.tasks import Task
from conftest import ROOT, maft
from test_recipes import run_all

TRAINED = [name for name in recipe_names() if load_recipe(name).trains]
LABEL_FREE = [name for name in TRAINED if not load_recipe(name).uses_gold]
GOLD = [name for name in TRAINED if load_recipe(name).uses_gold]


def divided(request):
    "Answers that are divided, differ by question, cannot be read at times, and depend on the request alone."
    if request.where.role == 'summarizer':
        return 'They say 7 and 8.'
    n = request.seed % 10
    return (
        'I do not know.'
        if n == 0
        else rf'{"so " * (request.seed % 3)}\boxed{{{7 + (n > 6) + len(request.where.problem)}}}'
    )


class Scored(ScriptedEngine):
    "A script whose tokens are all equally likely."

    def logprobs(self, prompt_ids, token_ids, adapter=None):
        return [[-1.0] * len(ids) for ids in token_ids]

    def capabilities(self):
        return super().capabilities()._replace(logprobs=True)


def questions(gold):
    return [Problem('q' * (1 + i % 3) + str(i), f'What is {i}+3*4?', gold(i)) for i in range(24)]


def context(script=divided, **how):
    engine, task = Scored(script), Task('play', 'number')
    return RecipeContext(engine.generate, None, Protocol(), task.read, task.gold_answer, votes=9, engine=engine, **how)


def selection(recipe, problems, ctx=None, society=untrained(3), iteration=1):
    "What the recipe would train on, checked as a run checks it."
    ctx = ctx or context()
    transcripts = recipe.sample(ctx, society, problems, Seeds(0, 'train', iteration))
    check_transcripts(recipe, 'sample', problems, transcripts)
    votes = recipe.label(ctx, transcripts)
    check_votes(recipe, transcripts, votes)
    found = recipe.select(ctx, society, transcripts, votes)
    check_examples(recipe, society, transcripts, found)
    return found


def saved(found, folder):
    "The bytes of the files of examples."
    return {a.name: save_examples(folder / f'{a.name}.jsonl', own).read_bytes() for a, own in found.items()}


def texts(recipe, script):
    "What the recipe would train on, as texts."
    (found,) = selection(recipe, questions(str)[:1], ctx=context(script)).values()
    return sorted(bytes(e.token_ids[:-1]).decode() for e in found)


def test_last_turns_without_working_are_not_distilled():
    "Critic 1 gives its answer alone, critic 2 in fewer words than anybody's first answer but more than half of it."
    last = {0: r'three and four make seven: \boxed{7}', 1: r'\boxed{7}', 2: r'3+4=7, so \boxed{7}'}

    def script(request):
        if request.where.role == 'summarizer':
            return '7'
        return last[request.where.draw] if request.where.role == 'critic' else r'3 and 4 make 7, so it is \boxed{7}'

    assert texts(load_recipe('debate-distill'), script) == sorted(last.values())
    assert texts(load_recipe('debate-distill-worked'), script) == sorted([last[0], last[2]])


def test_the_recipe_of_the_real_study_leaves_out_fewer_than_60_tokens():
    recipe = load_recipe(f'{ROOT}/nbs/results/arithmetic/working.py:debate_distill_worked')
    end = r' so \boxed{7}'
    last = {i: 'x' * (n - 1 - len(end)) + end for i, n in enumerate((59, 60, 61))}  # and a token that ends the turn

    def script(request):
        return last[request.where.draw] if request.where.role == 'critic' else r'7: \boxed{7}'

    assert texts(recipe, script) == sorted([last[1], last[2]])
    assert texts(load_recipe('debate-distill'), script) == sorted(last.values())


# The list


def test_names_are_those_of_the_recipes():
    assert len(set(recipe_names())) == len(recipe_names()) >= len(RECIPES) + 25
    for name in NEIGHBOURS:
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.source and comes_with_package(recipe) and recipe_source(recipe)
        assert not comes_with_package(recipe.but(name, turns='own' if recipe.turns == 'any' else 'any'))
    with pytest.raises(TypeError):
        NEIGHBOURS['mine'] = 'method.recipes:BASE'


def test_unknown_name_suggests_a_neighbour():
    with pytest.raises(MaftError, match='did you mean ttrl.*multiagent-ft,.*`maft recipes` lists') as e:
        load_recipe('ttlr')
    assert len(str(e.value).splitlines()) == 1


def test_recipes_are_listed_and_shown(tmp_path):
    done = maft('recipes', env=dict(COLUMNS='200'))
    assert done.returncode == 0 and all(name in done.stdout for name in recipe_names())
    lines = '\n'.join(page(load_recipe('v-star')))
    assert all(x in lines for x in ('gold', 'critics: dpo beta=0.1', 'maft run --recipe v-star'))
    (tmp_path / 'my.py').write_text('from multiagent_ft.method.recipes import BASE\nmine = BASE.but("mine")\n')
    assert page(load_recipe(f'{tmp_path}/my.py:mine'))[0].startswith('mine: arXiv 2501.05707')
    done = maft('recipes', 'magic')
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_leaderboard_has_a_row_for_every_method():
    shown = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'leaderboard.py', '--show'], capture_output=True, text=True
    ).stdout.split()
    left_out = {n for n, where in NEIGHBOURS.items() if where.startswith('neighbours.controls:')}
    left_out |= {'single-agent-ft-t2', 'single-agent-ft-alone-t2', 'debate-distill-worked'}  # the tool says why
    assert set(recipe_names()) - set(shown) == left_out
    assert len(shown) == len(set(shown)) and set(shown) < set(recipe_names())


# No gold where none is promised


@pytest.mark.parametrize('name', LABEL_FREE)
def test_poisoned_gold_changes_no_byte_of_the_examples(name, tmp_path):
    "The same questions with right, wrong, or no gold: the same examples, and there are some."
    recipe, files = load_recipe(name), []
    society = untrained(3)
    for gold in (lambda i: str(i + 12), lambda i: '999', lambda i: None):
        found = selection(recipe, questions(gold), ctx=replace(context(), gold_answer=None), society=society)
        files.append(saved(found, tmp_path))
    assert files[0] == files[1] == files[2] and any(files[0].values())


@pytest.mark.parametrize('name', GOLD)
def test_gold_decides_where_it_is_promised(name, tmp_path):
    "The other side of the same test: it can fail."
    recipe = load_recipe(name)
    right, wrong = (
        saved(selection(recipe, questions(gold)), tmp_path)
        for gold in (lambda i: str(8 + 1 + i % 3 + (i > 9)), lambda i: '999')
    )
    assert right != wrong


def test_recipe_that_peeks_is_caught(tmp_path):
    "A selection that looks at gold though its recipe promises not to."

    def peek(ctx, society, transcripts, votes):
        found = load_recipe('self-consistency-ft').select(ctx, society, transcripts, votes)
        return {a: [e for e in own if transcripts[0].problem.gold != '999'] for a, own in found.items()}

    recipe = load_recipe('self-consistency-ft').but('peek', select=peek)
    a, b = (saved(selection(recipe, questions(g)), tmp_path) for g in (lambda i: '7', lambda i: '999'))
    assert a != b


@pytest.mark.parametrize('name', GOLD)
def test_gold_recipe_on_a_task_without_gold_is_refused(name, tmp_path):
    file = tmp_path / 'q.jsonl'
    file.write_text(
        ''.join(
            json.dumps(dict(question=f'What is {i}+{i}?', **(dict(answer=str(2 * i)) if i % 2 else {}))) + '\n'
            for i in range(40)
        )
    )
    flags = dict(task=str(file), train='10', eval='2', workers='0', wandb='off', out=str(tmp_path / 'x'), recipe=name)
    with pytest.raises(MaftError, match=rf'recipe {name} trains on gold answers, and \d+ of 10 .* have none') as e:
        run(load_config(flags=flags | dict(store=str(tmp_path / 's'))))
    assert len(str(e.value).splitlines()) == 1 and not (tmp_path / 'x').exists()


# Nothing to train on


UNANIMOUS = ('mv-dpo', 'mv-kto', 'east-vote', 'ttrl', 'srt', 'acc-collab', 'multiagent-dpo')


@pytest.mark.parametrize('name', UNANIMOUS)
def test_unanimous_samples_are_reported_with_counts_and_not_trained_on(name, capsys):
    found = selection(load_recipe(name), questions(str), ctx=context(lambda request: r'\boxed{7}'))
    assert not any(found.values())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(found) and all('24 of 24 questions have a' in line for line in lines)


@pytest.mark.parametrize('name', UNANIMOUS)
def test_no_labels_are_reported_with_counts(name, capsys):
    found = selection(load_recipe(name), questions(str), ctx=context(lambda request: 'no number'))
    assert not any(found.values()) and '0 of 24 questions have a' in capsys.readouterr().err


def test_verifier_without_pairs_stays_its_parent(capsys):
    found = selection(load_recipe('v-star-vote'), questions(str), ctx=context(lambda request: r'\boxed{7}'))
    assert {a.name: len(own) for a, own in found.items()} == {'generator-0': 24, 'critic-0': 0}
    assert 'critic-0 is not trained and stays as it is: 24 of 24' in capsys.readouterr().err


def test_more_candidates_than_samples_are_refused():
    with pytest.raises(MaftError, match='best of 12, and there are 9 samples'):
        best_of_k(context(), untrained(1), questions(str), Seeds(), k=12)


def test_easy_to_hard_needs_sums():
    with pytest.raises(MaftError, match='question w is none'):
        selection(load_recipe('easy-to-hard'), [Problem('w', 'How many apples?')])


def test_made_questions_are_never_evaluated_on():
    "Neither operands drawn again nor a challenger's questions."
    seen = []

    def unseen(question):
        seen.append(question)
        return len(seen) > 5

    recipe, problems = load_recipe('easy-to-hard'), questions(str)
    made = recipe.sample(context(unseen=unseen), untrained(3), problems, Seeds(0, 'train', 1))
    assert made[0].problem.text == seen[5]
    grown = replace(untrained(3), critics=tuple(replace(c, adapter='x') for c in untrained(3).critics))
    ctx = context(lambda r: 'What is 1+1?' if r.where.role == 'challenger' else divided(r), unseen=lambda q: False)
    assert not any(selection(load_recipe('r-zero'), problems, ctx=ctx, society=grown, iteration=2).values())


# Whole runs


QUICK = ['mv-kto', 'v-star-vote', 'ttrl']


def check_run(name, summary, folder):
    recipe = load_recipe(name)
    assert [i['iteration'] for i in summary['iterations']] == ([0, 1] if recipe.trains else [0]), name
    outcomes = [
        o
        for o in read_jsonl(folder / name / 'outcomes.jsonl')
        if o['iteration'] == summary['iterations'][-1]['iteration']
    ]
    last = summary['iterations'][-1]['methods']['debate']
    assert last['n'] == 6 and last['accuracy'] == sum(o['debate']['right'] for o in outcomes) / 6, name
    page = json.loads((folder / name / f'iteration-{len(summary["iterations"]) - 1}' / 'society.json').read_text())
    changed = any(a['adapter'] for a in page['agents'])
    examples = sum(sum(v) for v in summary['iterations'][-1]['examples'].values())
    assert changed == bool(examples), name


def test_a_recipe_of_each_objective_runs(tmp_path):
    for name, summary in run_all(QUICK, tmp_path).items():
        check_run(name, summary, tmp_path)
    assert all(not s['made'] for s in run_all(QUICK[:1], tmp_path).values())
    v_star = json.loads((tmp_path / 'v-star-vote' / 'iteration-1' / 'society.json').read_text())
    assert {f'{a["role"]}-{a["index"]}' for a in v_star['agents'] if a['adapter']} <= {'generator-0', 'critic-0'}


def test_answer_time_methods_run(tmp_path):
    names = ['adaptive-consistency', 'sets', 'slim-sc', 'confidence-vote']
    for name, summary in run_all(names, tmp_path).items():
        check_run(name, summary, tmp_path)
        health = summary['iterations'][0]['health']
        calls = health['cost']['debate']['calls']
        assert calls <= 6 * load_recipe(name).answer_asks.calls(load_config(flags=dict(agents='2'))), name


@pytest.mark.slow
def test_every_neighbour_runs(tmp_path):
    for name, summary in run_all(list(NEIGHBOURS), tmp_path).items():
        check_run(name, summary, tmp_path)
