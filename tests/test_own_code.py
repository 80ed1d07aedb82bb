"""Mistakes in a user's own recipe, objective, engine or executor: a line that says what, and where in their file, as
early as it can be known; nothing wrong is stored."""

import pytest

from multiagent_ft import MULTIAGENT_FT, Experiment, MaftError, ScriptedEngine, Task
from multiagent_ft.core import Completion, line_of_user, load_object
from multiagent_ft.method.debate import untrained
from multiagent_ft.method.examples import Example
from multiagent_ft.method.prompts import EngineSpec
from multiagent_ft.method.recipes import load_recipe
from multiagent_ft.runs.jobs import Job, LocalExecutor, answer_message, check_executor, executor_named
from multiagent_ft.runs.plan import selected_examples
from multiagent_ft.runs.run import Objects, RunContext, check_objective_takes
from multiagent_ft.runs.settings import load_config
from multiagent_ft.training.dpo import DPO

SMALL = dict(train=4, eval=3, agents=2, iterations=1, wandb='off', quiet=True)
TASK = Task.from_rows([dict(question=f'What is {i}+0?', answer=str(i)) for i in range(12)], kind='number')


def of_two(ctx, society):
    return {}


def of_any(*everything):
    return {}


def returns_nothing(ctx, society, transcripts, votes):
    pass


def by_seed(request):
    return rf'\boxed{{{request.seed % 2}}}'


# Recipes


@pytest.mark.parametrize('part', ['sample', 'label', 'select', 'train', 'answer'])
def test_recipe_function_of_the_wrong_signature_is_refused_at_once(part):
    wrong = (lambda ctx: None) if part == 'label' else of_two
    with pytest.raises(
        MaftError, match=rf'recipe mine: its {part} \(.*\) takes \(ctx.*\); it is called as {part}\(ctx'
    ):
        MULTIAGENT_FT.but('mine', **{part: wrong})
    MULTIAGENT_FT.but('mine', **{part: of_any})


def test_recipe_function_by_name_is_refused_at_once():
    with pytest.raises(MaftError, match="its select is 'own_turns', and must be a function"):
        MULTIAGENT_FT.but('mine', select='own_turns')


def test_an_error_of_ours_in_a_users_file_is_quoted_without_its_class(tmp_path):
    (tmp_path / 'my.py').write_text(
        "from multiagent_ft import MULTIAGENT_FT\n\nmine = MULTIAGENT_FT.but('mine', select=7)\n"
    )
    with pytest.raises(MaftError, match=r'my.py, line 3 fails at import \(recipe mine: its select is 7'):
        load_recipe(f'{tmp_path}/my.py:mine')


def test_file_of_recipes_without_a_name_is_refused_with_an_example():
    with pytest.raises(MaftError, match='^my.py: name the recipe in it, such as my.py:mine.$'):
        load_recipe('my.py')


def test_line_of_an_own_recipe_in_a_folder_named_as_the_package_is_told(tmp_path):
    folder = tmp_path / 'multiagent_ft'
    folder.mkdir()
    text = 'from multiagent_ft import MULTIAGENT_FT\ndef label(ctx, transcripts):\n    return 1 / 0\n'
    (folder / 'my.py').write_text(text + "mine = MULTIAGENT_FT.but('mine', label=label)\n")
    e = Experiment(engine=ScriptedEngine(by_seed), task=TASK, recipe=f'{folder}/my.py:mine', **SMALL)
    with pytest.raises(MaftError, match=r'its label \(label\) raises ZeroDivisionError.*my.py, line 3'):
        e.run(tmp_path / 'run')


def test_plan_checks_what_a_recipe_returns(tmp_path):
    recipe = MULTIAGENT_FT.but('mine', select=returns_nothing)
    objects = Objects(task=TASK, recipe=recipe, engine=ScriptedEngine(by_seed))
    with RunContext(load_config(flags=dict(out=tmp_path / 'run', **SMALL)), objects=objects) as context:
        with pytest.raises(MaftError, match='recipe mine: select must return {agent: examples}, not a NoneType'):
            selected_examples(context, [])


def test_page_of_an_own_recipe_names_its_file_and_claims_no_tests(tmp_path, run_maft):
    (tmp_path / 'my.py').write_text("from multiagent_ft import MULTIAGENT_FT\nmine = MULTIAGENT_FT.but('other')\n")
    told = run_maft('recipes', 'my.py:mine').stdout
    assert 'runs with maft run --recipe my.py:mine' in told and 'see the tests' not in told
    assert 'see the tests of the recipes' in run_maft('recipes', 'union-ft').stdout


# Objectives


def test_objective_that_cannot_train_on_the_selected_examples_is_refused():
    agent, turn = untrained(2).generators[0], Example([1, 2], [3], 'p', 1, bucket='agreed')
    recipe = MULTIAGENT_FT.but('mine', objective=DPO())
    with pytest.raises(MaftError, match='objective dpo cannot train on what select gives generator-0 .*rejected_ids'):
        check_objective_takes(recipe, agent, [turn])
    check_objective_takes(MULTIAGENT_FT, agent, [turn])


# Engines

ENGINE = """
from multiagent_ft import Completion


class Mine:
    batch_size = 8

    def render(self, chat):
        return tuple(chat[-1].content.encode())

    def identity(self, adapter=None):
        return dict(engine='mine')

    def generate(self, requests):
        return [Completion('1', 'stop', self.render(r.chat), (1,)) for r in requests]


class Raises(Mine):
    def generate(self, requests):
        raise ConnectionError('refused')


class Unbuilt(Mine):
    def __init__(self):
        raise RuntimeError('no GPU')


class Nameless(Mine):
    def identity(self):
        return dict(engine='mine')


class Text(Mine):
    def identity(self, adapter=None):
        return 'mine'

"""


class FixedAnswers(ScriptedEngine):
    made = None

    def generate(self, requests):
        return self.made


@pytest.mark.parametrize('quiet', [True, False])
@pytest.mark.parametrize(
    'made, words',
    [
        (None, 'one per request, in their order; not NoneType'),
        (['1'] * 6, 'one per request, in their order; not str'),
        ([Completion('1', 'stop', (1,), (1,))], 'generated 1 completions for'),
    ],
)
def test_engine_that_generates_something_else_is_refused_and_nothing_is_stored(tmp_path, made, words, quiet):
    engine = FixedAnswers(by_seed)
    engine.made = made
    e = Experiment(engine=engine, task=TASK, recipe='debate', **SMALL | dict(quiet=quiet))
    with pytest.raises(MaftError, match=words):
        e.run(tmp_path / 'run')
    assert not list((tmp_path / 'store').glob('generate/*/*'))


@pytest.mark.parametrize(
    'name, words',
    [
        ('Raises', ['ConnectionError: refused', 'mine.py, line 20', 'what is finished is kept']),
        ('Unbuilt', ['RuntimeError: no GPU', 'mine.py, line 25']),
        ('Nameless', ['engine Nameless has no identity that can stand in a key', 'identity(adapter=None) -> dict']),
        ('Text', ["it is 'mine'", 'identity(adapter=None) -> dict']),
    ],
)
def test_own_engine_that_fails_is_one_line_with_its_place(tmp_path, run_maft, name, words):
    (tmp_path / 'mine.py').write_text(ENGINE)
    flags = '--train 4 --eval 3 --agents 2 --iterations 0 --recipe debate --wandb off --out run'
    done = run_maft('run', '--engine', f'mine.py:{name}', *flags.split())
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    assert last.startswith('error: ') and all(w in last for w in words), last


def test_own_engine_that_fails_in_a_worker_is_one_line_with_its_place(tmp_path):
    (tmp_path / 'mine.py').write_text(ENGINE)
    job = Job('generate', dict(n=1), 'multiagent_ft.runs.jobs:generate_block', dict(requests=[]))
    spec = EngineSpec(f'{tmp_path}/mine.py:Raises')
    reply = answer_message(dict(store=str(tmp_path / 'store'), spec=vars(spec), job=vars(job)))
    assert reply['expected'] and 'ConnectionError: refused' in reply['error'] and 'mine.py, line 20' in reply['error']


def test_line_of_user_is_empty_for_errors_of_this_package(tmp_path):
    with pytest.raises(MaftError) as e:
        load_object(f'{tmp_path}/none.py:mine')
    assert line_of_user(e.value) == ''


# Executors


class NeverClosed:
    def run(self, jobs, store, engine, done=None):
        return []


def test_executor_without_its_methods_is_refused(tmp_path):
    (tmp_path / 'mine.py').write_text('class Mine:\n    pass\n')
    with pytest.raises(MaftError, match='executor Mine has no method run and no method close'):
        executor_named(f'{tmp_path}/mine.py:Mine')
    with pytest.raises(MaftError, match='executor NeverClosed has no method close'):
        check_executor(NeverClosed())
    assert check_executor(local := LocalExecutor()) is local
