"Every recipe, end to end on nano with a handful of questions; and by hand on a scripted engine."

import json
from dataclasses import replace
import pytest
from multiagent_ft.runs.settings import PATHS, load_config, settled
from multiagent_ft.runs.tasks import Task
from multiagent_ft.core import Completion, MaftError, Problem, read_jsonl
from multiagent_ft.method.prompts import UNIQUE_ID, ScriptedEngine
from multiagent_ft.method.debate import Agent, Seeds, Protocol, Society, untrained
from multiagent_ft.method.recipes import (
    RECIPES,
    RecipeContext,
    MULTIAGENT_FT,
    SINGLE_AGENT_FT,
    STAR,
    answer_maj_k,
    check_examples,
    check_society,
    check_transcripts,
    check_votes,
    full_debate,
    load_recipe,
    own_turns,
    recipe_source,
)
from conftest import maft


TASK = Task('play', 'number')
SLOW = pytest.mark.slow


def run_all(names, folder):
    "Run recipes one after another in one process and one store; {name: (summary, made)}."
    from multiagent_ft.runs.run import run

    flags = dict(train='8', eval='6', agents='2', iterations='1', workers='0', wandb='off', store=str(folder / 'store'))
    return {n: run(load_config(flags=flags | dict(recipe=n, out=str(folder / n)))) for n in names}


# one of each way to sample, to select, to train and to answer; all others are slow
QUICK = ('base', 'majority', 'star', 'multiagent-ft', 'without-critic', 'single-agent-ft', 'union-ft')


@pytest.fixture(scope='module', params=[pytest.param(QUICK, id='few'), pytest.param(RECIPES, id='all', marks=SLOW)])
def done(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('recipes')
    return folder, run_all(request.param, folder)


ALL = pytest.mark.parametrize('done', [pytest.param(RECIPES, id='all', marks=SLOW)], indirect=True)


def test_every_recipe_runs_end_to_end(done):
    folder, runs = done
    assert set(runs) in (set(QUICK), set(RECIPES))
    for name, s in runs.items():
        r = RECIPES[name]
        assert [i['iteration'] for i in s['iterations']] == ([0, 1] if r.trains else [0]), name
        last = s['iterations'][-1]['methods']
        assert last['debate']['n'] == 6 and s['recipe'] == name
        o = [o for o in read_jsonl(folder / name / 'outcomes.jsonl') if o['iteration'] == len(s['iterations']) - 1]
        assert last['debate']['accuracy'] == sum(x['debate']['right'] for x in o) / 6  # k/n and nothing else
        want = dict(one=1, votes=6, agents=2)[r.answer_asks.first]
        assert all(len(x['first']) == want for x in o), name


def test_recipes_train_the_expected_agents(done):
    folder, runs = done
    for name, s in runs.items():
        adapters = {
            a['adapter']
            for a in json.loads((folder / name / f'iteration-{len(s["iterations"]) - 1}' / 'society.json').read_text())[
                'agents'
            ]
        }
        rows = sum(sum(v) for v in s['iterations'][-1]['examples'].values())
        assert bool(adapters - {None}) == bool(rows) and not (rows and not RECIPES[name].trains), name
    assert sum(runs['star']['iterations'][1]['examples']['generator']) > 0
    assert runs['without-critic']['iterations'][1]['examples']['critic'] == [0, 0]


@ALL
def test_shared_calls_of_recipes_are_cached(done):
    "In the order of the list: the second finds what the first generated."
    _, runs = done
    # reading answers is cheap, and done per round of a debate: another number of samples is another round
    made = {n: {k: v for k, v in s['made'].items() if k != 'read'} for n, s in runs.items()}
    assert made['base']['generate'] == 1  # one draw
    assert made['majority'] == {'generate': 1}  # the second
    assert made['majority-equal'] == {'generate': 4}  # three to six
    assert made['debate'] == {'generate': 4}  # two summaries, two critics
    assert 'finetune' not in made['majority-ft-equal']  # same rows, same adapter
    # M=2: last turn = every critic turn
    assert made['single-agent-ft-alone'] == made['critic-loss-last'] == made['critic-loss-turns'] == {}
    # the prompts differ after the summaries
    assert made['unique-id'].get('generate') and made['cooperative'] == {'generate': 2}
    if sum(runs['multiagent-ft']['iterations'][1]['examples']['generator']):
        assert made['without-critic'].get('finetune', 0) == 0


def test_union_ft_trains_on_exactly_the_agents_examples(done):
    folder, _ = done

    def rows(n):
        return sorted(
            json.dumps(r, sort_keys=True)
            for f in (folder / n / 'iteration-1' / 'examples').glob('*.jsonl')
            for r in read_jsonl(f)
        )

    assert rows('union-ft') == rows('multiagent-ft') != []


def test_single_agent_ft_trains_on_final_turns_as_answers_to_the_bare_question(done):
    folder, _ = done
    first = {
        (t['problem']['id'], u['agent']): u
        for t in read_jsonl(folder / 'single-agent-ft' / 'iteration-1' / 'transcripts.jsonl')
        for u in t['turns']
        if u['role'] == 'generator'
    }
    rows = read_jsonl(folder / 'single-agent-ft' / 'iteration-1' / 'examples' / 'generator-0.jsonl')
    prompts = {(p, tuple(u['completion']['prompt_ids'])) for (p, _), u in first.items()}
    assert all((r['problem'], tuple(r['prompt_ids'])) in prompts for r in rows) and all(r['round'] == 2 for r in rows)


@ALL
def test_variants_are_written_into_the_configuration(done):
    folder, _ = done
    assert 'summary: false' in (folder / 'without-summary' / 'config.yaml').read_text()
    assert 'temperature: 2.0' in (folder / 'single-agent-ft-t2' / 'config.yaml').read_text()
    page = json.loads((folder / 'unique-id' / 'iteration-0' / 'society.json').read_text())
    assert page['protocol']['prompts']['agent_id'] == UNIQUE_ID.agent_id


def test_second_run_is_all_cache_hits(done):
    folder, _ = done
    again = run_all(['base', 'star', 'multiagent-ft'], folder)
    assert {name: s['made'] for name, s in again.items()} == {'base': {}, 'star': {}, 'multiagent-ft': {}}


def sevens(request):
    return boxed(request, 7)


def boxed(request, answer):
    return Completion(rf'\boxed{{{answer}}}', 'stop', (len(request.chat[-1].content),), (request.where.draw, 2))


def test_star_without_gold_is_refused():
    ctx = RecipeContext(ScriptedEngine(sevens).generate, None, Protocol(), TASK.read, TASK.gold_answer)
    with pytest.raises(MaftError, match='question q has none'):
        STAR.sample(ctx, untrained(1), [Problem('q', '?')], Seeds())


def test_star_hints_only_wrong_answers():
    asked = []

    def script(request):
        asked.append((request.where.role, request.where.problem))
        right = request.where.problem == 'a' or request.where.role == 'hinted'
        return boxed(request, 7 if right else 5)

    problems = [Problem('a', '?', '7'), Problem('b', '??', '7')]
    engine = ScriptedEngine(script, name='needs a hint')
    ctx = RecipeContext(engine.generate, None, Protocol(), TASK.read, TASK.gold_answer)
    debates = STAR.sample(ctx, untrained(2), problems, Seeds())
    assert [p for role, p in asked if role == 'hinted'] == ['b'] and [len(t.turns) for t in debates] == [1, 2]
    # the hinted answer is no agent's
    assert [t.final()[0].text for t in debates] == [r'\boxed{7}', r'\boxed{5}']


def test_self_consistency_of_a_trained_generator():
    seen = []

    def script(request):
        seen.append((request.adapter, request.where.draw))
        return boxed(request, 7)

    society = Society((Agent('generator', 0, 'mine'), Agent('generator', 1, 'other')), untrained(2).critics)
    ctx = RecipeContext(ScriptedEngine(script, name='seen').generate, None, Protocol(), TASK.read, votes=5)
    answer_maj_k(ctx, society, [Problem('a', '?', '7')], Seeds())
    assert seen == [('mine', i) for i in range(5)]


def test_settled_changes_only_what_the_recipe_fixes():
    for name, r in RECIPES.items():
        a, b = load_config(flags=dict(recipe=name)), settled(load_config(flags=dict(recipe=name)))
        changed = {k for k in PATHS if getattr(a, k) != getattr(b, k)}
        assert changed <= set(r.settings) | ({'iterations'} if not r.trains else set()), name
        assert settled(b) == b
    with pytest.raises(MaftError, match='unknown recipe'):
        settled(load_config(flags=dict(recipe='magic')))


OWN = """
from multiagent_ft.method.recipes import MULTIAGENT_FT, own_turns

def critics(ctx, society, transcripts, votes):
    return {a: e for a, e in own_turns(ctx, society, transcripts, votes).items() if a.role == 'critic'}

mine = MULTIAGENT_FT.but('mine', source='this test', select=critics)
number = 7
"""


def test_user_recipe_runs(tmp_path):
    (tmp_path / 'my.py').write_text(OWN)
    from multiagent_ft.runs.run import run

    flags = dict(train='8', eval='6', agents='2', iterations='1', workers='0', wandb='off', out=str(tmp_path / 'x'))
    s = run(load_config(flags=flags | dict(recipe=f'{tmp_path}/my.py:mine', store=str(tmp_path / 'store'))))
    assert s['iterations'][1]['examples']['generator'] == [0, 0]


@pytest.mark.parametrize(
    'file, name, fault',
    [
        (None, 'mine', 'there is no file'),
        (OWN, 'other', "defines no 'other'"),
        (OWN, 'number', 'type Recipe'),
        ('1 / 0', 'mine', 'line 1 fails at import'),
        ('def f(:', 'mine', 'fails at import'),
    ],
)
def test_bad_recipe_file_is_one_line(tmp_path, file, name, fault):
    if file:
        (tmp_path / 'my.py').write_text(file)
    with pytest.raises(MaftError, match=fault) as e:
        load_recipe(f'{tmp_path}/my.py:{name}')
    assert len(str(e.value).splitlines()) == 1


def wrapped(*args):
    return full_debate(*args)


def test_wrapped_function_is_counted_as_the_original():
    from multiagent_ft.runs.plan import answers
    from multiagent_ft.studies.compare import addresses

    cfg = load_config()
    mine = MULTIAGENT_FT.but('mine', sample=wrapped, answer=wrapped)
    assert mine.sample_asks.calls(cfg) == mine.answer_asks.calls(cfg) == 9
    assert recipe_source(mine) != recipe_source(MULTIAGENT_FT)
    assert (mine.turns, mine.one_model) == ('own', False)
    with pytest.MonkeyPatch.context() as m:
        m.setattr('multiagent_ft.runs.plan.load_recipe', lambda name: mine)
        counted = answers(cfg)
        m.setattr('multiagent_ft.studies.compare.load_recipe', lambda name: mine)
        total = addresses(cfg).total()
    assert counted == answers(cfg) and total == addresses(cfg).total()


def test_recipe_return_values_are_checked():
    ctx = RecipeContext(ScriptedEngine(sevens).generate, None, Protocol(), TASK.read)
    society, problems = untrained(2), [Problem('q', '?', '7')]
    debates = full_debate(ctx, society, problems, Seeds())
    votes = ctx.labels(debates)
    own = own_turns(ctx, society, debates, votes)
    check_examples(MULTIAGENT_FT, society, debates, own)
    swapped = dict(zip(own, [*own.values()][::-1]))
    foreign = {a: [replace(e, token_ids=(1, 2, 3)) for e in es] for a, es in own.items()}
    for wrong, fault in (
        (lambda: check_examples(MULTIAGENT_FT, society, debates, swapped), 'not of its own turns'),
        (lambda: check_examples(MULTIAGENT_FT, society, debates, foreign), 'not of its own turns'),
        (lambda: check_examples(SINGLE_AGENT_FT, society, debates, foreign), 'not final turns'),
        (lambda: check_examples(MULTIAGENT_FT, society, debates, {Agent('critic', 5): []}), 'critic-5'),
        (lambda: check_examples(MULTIAGENT_FT, society, debates, {None: []}), 'None'),
        (lambda: check_examples(MULTIAGENT_FT, society, debates, [*own]), 'not a list'),
        (lambda: check_examples(MULTIAGENT_FT, society, debates, {society.critics[0]: ['x']}), 'not an Example'),
        (lambda: check_votes(MULTIAGENT_FT, debates, []), '0 votes for 1 transcripts'),
        (lambda: check_votes(MULTIAGENT_FT, debates, [None]), 'list of votes'),
        (lambda: check_transcripts(MULTIAGENT_FT, 'sample', problems, debates * 2), '2 transcripts for 1'),
        (lambda: check_transcripts(MULTIAGENT_FT, 'sample', problems, None), 'list of transcripts'),
        (lambda: check_society(MULTIAGENT_FT, society, untrained(3)), 'same agents'),
        (lambda: check_society(MULTIAGENT_FT, society, None), 'same agents'),
        (lambda: MULTIAGENT_FT.but('x', select=None), 'needs sample, select, train'),
        (lambda: MULTIAGENT_FT.but('x', turns='all'), 'own, final, any'),
    ):
        with pytest.raises(MaftError, match=fault) as e:
            wrong()
        assert len(str(e.value).splitlines()) == 1


def test_user_recipe_is_not_registered():
    with pytest.raises(TypeError):
        RECIPES['mine'] = MULTIAGENT_FT


def test_function_without_a_name_is_refused():
    with pytest.raises(MaftError, match='FILE.py:NAME'):
        recipe_source(MULTIAGENT_FT.but('x', select=max))


def test_unknown_recipe_on_the_command_line(tmp_path):
    done = maft('run', '--recipe', 'magic', '--out', tmp_path / 'x')
    assert (
        done.returncode == 2
        and done.stderr.splitlines()[-1].startswith('error: unknown recipe')
        and not (tmp_path / 'x').exists()
    )
