"""The doors of a run: tasks, prompts, recipes, engines and executors as objects or by name, and every way to hand in a
wrong one: one or two lines that say what and where, before anything is lost."""

import json
from dataclasses import replace

import pytest

from multiagent_ft import (
    DEBATE,
    MULTIAGENT_FT,
    EngineSpec,
    Experiment,
    Grader,
    LocalExecutor,
    MaftError,
    ProcessExecutor,
    Recipe,
    ScriptedEngine,
    Task,
)
from multiagent_ft.method.prompts import Capabilities
from multiagent_ft.method.recipes import full_debate
from multiagent_ft.runs.settings import load_config

SMALL = dict(train=4, eval=3, agents=2, iterations=1, wandb='off', quiet=True)
ROWS = [dict(question=f'What is {i}+0?', answer=str(i)) for i in range(12)]


def by_seed(request):
    return rf'\boxed{{{request.seed % 2}}}'


def experiment(**kw):
    base = dict(engine=ScriptedEngine(by_seed), task=Task.from_rows(ROWS, kind='number'), recipe='debate')
    return Experiment(**base | SMALL | kw)


MINE = """
from multiagent_ft import DEBATE, MULTIAGENT_FT, ScriptedEngine, Task
from multiagent_ft.method.recipes import RECIPES, full_debate


def by_seed(request):
    return rf'\\boxed{{{request.seed % 2}}}'


def answer(ctx, society, problems, seeds):
    return full_debate(ctx, society, problems, seeds)


engine = ScriptedEngine(by_seed)
task = Task.from_rows([dict(question=f'What is {i}+0?', answer=str(i)) for i in range(12)], kind='number')
mine = RECIPES['debate'].but('mine', answer=answer)
number = 7
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / 'mine.py').write_text(MINE)
    (tmp_path / 'raises.py').write_text('import os\n\n1 / 0\n')
    (tmp_path / 'critic.yaml').write_text("summary: 'They say {summary}. Are they right? {question} {how}'\n")
    return tmp_path


def files_of(folder):
    return {
        f.name: f.read_bytes()
        for f in folder.rglob('*')
        if f.is_file() and f.name not in ('config.yaml', 'metrics.jsonl')
    }


def refusal(tmp_path, **kw):
    "The message of an experiment that cannot be run: one or two lines; no society came of it."
    with pytest.raises(MaftError) as e:
        experiment(**kw).run(tmp_path / 'run')
    assert 1 <= len(str(e.value).splitlines()) <= 2, e.value
    assert not (tmp_path / 'run' / 'iteration-1' / 'society.json').exists()
    return str(e.value)


# What works


def test_experiment_returns_a_table_and_resumes(tmp_path):
    e = experiment()
    result = e.run(tmp_path / 'run')
    assert list(result.table.columns[:5]) == ['recipe', 'seed', 'iteration', 'method', 'accuracy']
    assert set(result.table.method) == {'single', 'majority', 'debate'} and len(result.outcomes) == 3
    assert result.made['generate'] and len(result.society) == 2 and result.folder == tmp_path / 'run'
    before = files_of(tmp_path / 'run')
    again = e.run(tmp_path / 'run')
    assert again.made == {} and again.outcomes == result.outcomes and files_of(tmp_path / 'run') == before


def test_names_and_objects_are_the_same_run(files):
    from multiagent_ft.runs.run import run

    prompts = replace(DEBATE, summary='They say {summary}. Are they right? {question} {how}')
    result = experiment(prompts=prompts, store=files / 'store').run(files / 'objects')
    names = dict(engine=f'{files}/mine.py:engine', task=f'{files}/mine.py:task', recipe='debate')
    cfg = load_config(
        flags=SMALL | names | dict(prompts=f'{files}/critic.yaml', out=files / 'names', store=files / 'store')
    )
    assert run(cfg)['made'] == {}, 'the very same jobs'
    assert (files / 'names' / 'outcomes.jsonl').read_bytes() == (result.folder / 'outcomes.jsonl').read_bytes()


def test_evaluating_a_run_of_objects_asks_for_them(files):
    "Python objects have no names: the evaluation takes them, or says in one line what to pass."
    from multiagent_ft.method.prompts import DEBATE
    from multiagent_ft.method.recipes import load_recipe
    from multiagent_ft.runs.run import evaluate_run, evaluate_society

    own = load_recipe('debate').but('mine')
    prompts = replace(DEBATE, summary='They say {summary}. Are they right? {question} {how}')
    given = experiment(recipe=own, prompts=prompts)
    folder = given.run(files / 'objects').folder
    for what in ('task', 'recipe', 'prompts', 'engine'):
        with pytest.raises(MaftError, match=f'evaluate_society.*Objects\\({what}=…\\)') as e:
            evaluate_society(folder, objects=replace(given.objects, **{what: None}))
        assert len(str(e.value).splitlines()) == 1
    with pytest.raises(MaftError, match='is a Python object'):
        evaluate_run(folder)
    assert evaluate_society(folder, objects=given.objects).made == {}, 'all is found'


def test_command_line_takes_files(files, run_maft):
    flags = [
        '--engine',
        'mine.py:engine',
        '--task',
        'mine.py:task',
        '--recipe',
        'mine.py:mine',
        '--prompts',
        'critic.yaml',
    ]
    more = [x for k, v in SMALL.items() if k not in ('quiet',) for x in (f'--{k}', v)]
    done = run_maft('run', *flags, *more, '--out', 'run', '--set', 'quiet=true', cwd=files)
    assert done.returncode == 0 and 'debate' in done.stdout, done.stderr
    kept = json.loads((files / 'run' / 'objects.json').read_text())
    assert set(kept) == {'recipe', 'task', 'prompts'} and kept['recipe']['answer']['name'] == 'answer'
    before = files_of(files / 'run')
    (files / 'mine.py').write_text(
        MINE.replace('return full_debate(', 'return list(full_debate(').replace(
            'problems, seeds)\n\n\nengine', 'problems, seeds))\n\n\nengine'
        )
    )
    done = run_maft('run', *flags, *more, '--out', 'run', cwd=files)
    assert done.returncode == 2 and 'another recipe: its answer has changed' in done.stderr, done.stderr
    assert files_of(files / 'run') == before


def test_wrapped_recipe_has_the_same_counts(tmp_path):
    def wrapped(*args):
        return full_debate(*args)

    from multiagent_ft.method.recipes import RECIPES

    mine = RECIPES['debate'].but('wrapped', answer=wrapped)
    ours, theirs = (experiment(recipe=r).run(tmp_path / n) for r, n in (('debate', 'ours'), (mine, 'wrapped')))
    assert [o['debate'] for o in ours.outcomes] == [o['debate'] for o in theirs.outcomes]


def test_executors_are_objects(tmp_path):
    assert experiment(executor=LocalExecutor()).run(tmp_path / 'run').made['generate'] > 0


def test_workers_do_not_import_from_the_current_folder(tmp_path, monkeypatch):
    "A `queue.py` or a folder `datasets` beside the user's data is none of the worker's business."
    from multiagent_ft.runs.jobs import Job
    from multiagent_ft.runs.store import Store

    monkeypatch.chdir(tmp_path)
    (tmp_path / 'queue.py').write_text('raise RuntimeError("imported")\n')
    pool = ProcessExecutor(1)
    try:
        job = Job('generate', dict(n=1), 'multiagent_ft.runs.jobs:write_text', dict(text='done'))
        (path,) = pool.run([job], Store(tmp_path / 'store'), EngineSpec())
    finally:
        pool.close()
    assert (path / 'text.txt').read_text() == 'done'


def test_parsed_answers_are_cached_by_parser_version(tmp_path, monkeypatch):
    from multiagent_ft.runs import run

    first = experiment().run(tmp_path / 'run')
    assert first.made['read'] > 0
    monkeypatch.setattr(run, 'PARSER_VERSION', 10_000)
    again = experiment().run(tmp_path / 'run')
    assert set(again.made) == {'read'} and again.outcomes == first.outcomes


# What is refused


@pytest.mark.parametrize('door', ['recipe', 'task', 'engine', 'prompts'])
@pytest.mark.parametrize(
    'name, parts',
    [
        ('none.py:mine', ['none.py', 'no file']),
        ('mine.py:absent', ['mine.py', "'absent'"]),
        ('raises.py:mine', ['raises.py, line 3', 'ZeroDivisionError']),
        ('mine.py:number', ['mine.py:number']),
        ('no-such-name', ['no-such-name']),
    ],
)
def test_unknown_names_are_refused(files, door, name, parts):
    name = f'{files}/{name}' if '.py' in name else name
    message = refusal(files, **{door: name})
    assert all(p in message for p in parts), message


@pytest.mark.parametrize(
    'kw, parts',
    [
        (dict(task={}), ['task is of type dict', 'Task']),
        (dict(recipe=full_debate), ['recipe is of type function', 'Recipe']),
        (dict(engine=object()), ['engine is of type object', 'generate']),
        (dict(agnets=3), ['unknown key agnets', 'did you mean agents?']),
        (dict(train=0), ['train is 0', 'a whole number, 1 or more']),
    ],
)
def test_objects_of_the_wrong_type_are_refused(tmp_path, kw, parts):
    message = refusal(tmp_path, **kw)
    assert all(p in message for p in parts), message


class NoAdapters(ScriptedEngine):
    def capabilities(self):
        return Capabilities(adapters=False)


class NoIdentity(ScriptedEngine):
    def identity(self, adapter=None):
        return dict(model=object())


def test_engine_without_adapters_is_refused_for_training(tmp_path):
    message = refusal(tmp_path, engine=NoAdapters(by_seed), recipe='multiagent-ft')
    assert 'multiagent-ft trains adapters' in message and 'NoAdapters' in message
    assert experiment(engine=NoAdapters(by_seed)).run(tmp_path / 'debate').outcomes


def test_engine_without_identity_is_refused(tmp_path):
    assert 'engine NoIdentity has no identity' in refusal(tmp_path, engine=NoIdentity(by_seed))


def test_engine_object_with_process_executor_is_refused(tmp_path):
    message = refusal(tmp_path, executor=ProcessExecutor(1))
    assert 'worker processes build their own engine' in message and 'FILE.py:NAME' in message


def test_function_without_source_is_refused(tmp_path):
    nameless = MULTIAGENT_FT.but('mine', select=eval('lambda *a: {}'))
    message = refusal(tmp_path, recipe=nameless)
    assert 'source' in message and 'FILE.py:NAME' in message


def recipe_with(**parts):
    return MULTIAGENT_FT.but('mine', **parts)


def raises(ctx, transcripts):
    return {}['nothing']


def too_few(ctx, society, problems, seeds):
    return full_debate(ctx, society, problems[1:], seeds)


def for_nobody(ctx, society, transcripts, votes):
    return {'critic-9': []}


def for_an_absent_agent(ctx, society, transcripts, votes):
    return {replace(society.critics[0], index=9): []}


def all_of_agent_0(ctx, society, transcripts, votes):
    "Every turn of generator 0, for generator 1."
    from multiagent_ft.method.examples import example_of

    turns = [(tr, t) for tr in transcripts for t in tr.at(1) if t.agent == 0]
    return {society.generators[1]: [example_of(t, tr.problem.id, bucket='agreed') for tr, t in turns]}


def by_agent(request):
    return rf'\boxed{{{request.where.draw}}} says {request.where.role} {request.where.draw}'


@pytest.mark.parametrize(
    'parts, words',
    [
        (dict(label=raises), ['its label (raises) raises KeyError', 'test_doors.py, line']),
        (dict(sample=too_few), ['sample', '3 transcripts for 4 problems']),
        (dict(select=for_nobody), ['select', 'critic-9']),
        (dict(select=for_an_absent_agent), ['select', 'critic-9', 'generator-0']),
        (dict(select=all_of_agent_0), ['select', 'generator-1', 'own turns']),
    ],
)
def test_recipe_return_values_are_checked(tmp_path, parts, words):
    message = refusal(tmp_path, recipe=recipe_with(**parts), engine=ScriptedEngine(by_agent))
    assert all(w in message for w in words), message
    assert list((tmp_path / 'store').glob('generate/*/*')) != [] or 'sample' in parts, 'finished work is kept'


@pytest.mark.parametrize(
    'template, parts',
    [
        ("summary: 'They say {sumary}. {question}'", ['summary', 'sumary']),
        ("summary: 'They say nothing. {question} {how}'", ['summary', '{summary}']),
        ("sumary: 'x'", ['sumary']),
        ('summary: [', ['line 2', 'not valid YAML']),
    ],
)
def test_template_with_unknown_placeholder_is_refused(tmp_path, template, parts):
    (tmp_path / 'critic.yaml').write_text(template + '\n')
    message = refusal(tmp_path, prompts=tmp_path / 'critic.yaml')
    assert 'critic.yaml' in message and all(p in message for p in parts), message


def half(a, b):
    return a <= b


def broken(a, b):
    raise LookupError('no dictionary')


@pytest.mark.parametrize(
    'same, parts', [(half, ['not symmetric']), (broken, ['same fails', 'LookupError: no dictionary'])]
)
def test_grader_that_raises_or_is_asymmetric_is_refused(tmp_path, same, parts):
    task = Task.from_rows(ROWS, kind='number', grader=Grader(same=same))
    message = refusal(tmp_path, task=task, engine=ScriptedEngine(by_agent))
    assert all(p in message for p in parts), message
    assert list((tmp_path / 'store').glob('generate/*/*')) != [], 'finished work is kept'


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    def one(*args):
        return full_debate(*args)

    def two(*args):
        return full_debate(*args)[::1]

    from multiagent_ft.method.recipes import RECIPES

    experiment(recipe=RECIPES['debate'].but('mine', answer=one)).run(tmp_path / 'run')
    before = files_of(tmp_path / 'run')
    with pytest.raises(MaftError, match='another recipe: its answer has changed'):
        experiment(recipe=RECIPES['debate'].but('mine', answer=two)).run(tmp_path / 'run')
    with pytest.raises(MaftError, match='another task: its supply has changed'):
        experiment(
            recipe=RECIPES['debate'].but('mine', answer=one), task=Task.from_rows(ROWS[::-1][:11], kind='number')
        ).run(tmp_path / 'run')
    assert files_of(tmp_path / 'run') == before


def test_command_line_errors_exit_2(files, run_maft):
    done = run_maft('run', '--recipe', 'none.py:mine', '--out', 'run', cwd=files)
    assert (
        done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith('error: ') and 'none.py' in done.stderr
    )
    assert 'Traceback' not in done.stderr and not (files / 'run').exists()


def test_public_names_are_importable_from_the_package():
    import multiagent_ft

    assert all(getattr(multiagent_ft, n) is not None for n in multiagent_ft.__all__) and len(multiagent_ft.__all__) < 40
    assert Recipe is multiagent_ft.Recipe
