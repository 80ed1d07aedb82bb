"The whole loop on the real embedded model: what it writes, what it refuses, what it shares."

import json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

import pytest

from multiagent_ft.runs.settings import load_config
from multiagent_ft.core import Completion, MaftError, Problem, Transcript, Turn, read_jsonl
from multiagent_ft.method.examples import load_examples
from multiagent_ft.runs.run import SCHEMA
from multiagent_ft.runs.tasks import normalized

AGENTS, TRAIN, EVAL = 2, 24, 16
SMALL = dict(agents=AGENTS, train=TRAIN, eval=EVAL, iterations=1, workers=0, wandb='off', seed=3)


def go(out, **kw):
    from multiagent_ft.runs.run import run

    return run(load_config(None, dict(SMALL, out=str(out)) | kw))


def prints(folder, skip=('metrics.jsonl', 'config.yaml')):
    """Every file of a run folder that must not depend on when or how often it was run (the commit in provenance.json
    aside: a commit may be made meanwhile)."""
    files = {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(Path(folder).rglob('*'))
        if f.is_file() and f.name not in skip and 'wandb' not in f.parts
    }
    if 'provenance.json' in files:
        files['provenance.json'] = {k: v for k, v in json.loads(files['provenance.json']).items() if k != 'commit'}
    return files


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp('runs')
    return root, go(root / 'demo')


def test_summary(runs):
    root, s = runs
    on_disk = json.loads((root / 'demo' / 'summary.json').read_text())
    assert on_disk['schema'] == SCHEMA and {k: s[k] for k in on_disk} == on_disk
    assert [i['iteration'] for i in s['iterations']] == [0, 1]
    for it in s['iterations']:
        for m in ('single', 'majority', 'debate'):
            r = it['methods'][m]
            assert set(r) >= {'accuracy', 'stderr', 'n', 'unparsed'} and r['n'] == EVAL
            k = r['accuracy'] * r['n'] * (AGENTS if m == 'single' else 1)
            assert abs(k - round(k)) < 1e-9, 'an accuracy is k/n'
    assert 'maj@6' in s['iterations'][0]['methods']
    c = s['iterations'][1]['consensus']
    assert 0 < c['kept'] <= c['asked'] == TRAIN and 0 <= c['pseudo_label_accuracy'] <= 1
    assert all(
        len(s['iterations'][1]['examples'][r]) == AGENTS and sum(s['iterations'][1]['examples'][r]) > 0
        for r in ('generator', 'critic')
    )


def test_summary_matches_outcomes(runs):
    root, s = runs
    outcomes = read_jsonl(root / 'demo' / 'outcomes.jsonl')
    assert len(outcomes) == 2 * EVAL
    for it in s['iterations']:
        mine = [o for o in outcomes if o['iteration'] == it['iteration']]
        assert it['methods']['debate']['accuracy'] == sum(o['debate']['right'] for o in mine) / len(mine)
        assert it['methods']['single']['accuracy'] == pytest.approx(
            sum(sum(o['right_first']) for o in mine) / (AGENTS * len(mine))
        )


def test_evaluation_questions_and_gold_are_not_trained_on(runs):
    root, _ = runs
    trained = {
        normalized(t['problem']['text']) for t in read_jsonl(root / 'demo' / 'iteration-1' / 'transcripts.jsonl')
    }
    from multiagent_ft.runs.tasks import load_task, split

    train, evaluation = split(load_task('arithmetic'), TRAIN, EVAL, 3)
    assert trained == {normalized(p.text) for p in train}
    assert not trained & {normalized(p.text) for p in evaluation}


def test_examples_are_own_prompts_and_completions(runs):
    "Every example holds, id for id, the prompt and the completion of that very agent."
    root, _ = runs
    turns = {}
    for t in read_jsonl(root / 'demo' / 'iteration-1' / 'transcripts.jsonl'):
        for u in t['turns']:
            turns[u['role'], u['agent'], t['problem']['id'], u['round']] = (
                tuple(u['completion']['prompt_ids']),
                tuple(u['completion']['token_ids']),
            )
    files = sorted((root / 'demo' / 'iteration-1' / 'examples').glob('*.jsonl'))
    assert len(files) == 2 * AGENTS
    for f in files:
        role, i = f.stem.rsplit('-', 1)
        for r in load_examples(f):
            assert turns[role, int(i), r.problem, r.round] == (r.prompt_ids, r.token_ids)


def test_adapters_differ(runs):
    from multiagent_ft.engines.huggingface import adapter_identity

    root, _ = runs
    ids = {adapter_identity(f) for f in (root / 'demo' / 'iteration-1' / 'adapters').iterdir()}
    assert len(ids) == 2 * AGENTS


def test_finished_run_is_a_no_op(runs):
    root, _ = runs
    before = prints(root / 'demo')
    assert sum(go(root / 'demo')['made'].values()) == 0
    assert prints(root / 'demo') == before


def test_finished_run_is_reused_only_with_equal_inputs(runs, tmp_path, monkeypatch):
    "A study reads finished runs from their folders; whatever could change the result sends it through the steps again."
    from multiagent_ft.runs import run
    from multiagent_ft.engines.huggingface import HFEngine
    from multiagent_ft.method.recipes import MULTIAGENT_FT, own_turns

    root, s = runs
    shutil.copytree(root / 'demo', home := tmp_path / 'demo')
    shutil.copytree(root / 'store', tmp_path / 'store')

    class LookedUp(Exception):
        pass

    def look_up(*a, **kw):
        raise LookedUp

    monkeypatch.setattr(run, 'evaluate_iteration', look_up)

    def config(**kw):
        return load_config(None, dict(SMALL, out=str(home), store=str(tmp_path / 'store')) | kw)

    def is_read(**kw):
        try:
            return run.run(config(**kw), again=False)['iterations'] == s['iterations']
        except LookedUp:
            return False

    assert is_read() and is_read(workers=2)
    with pytest.raises(LookedUp):
        run.run(config())  # `maft run` itself always looks
    assert not is_read(iterations=2)
    with monkeypatch.context() as m:
        m.setattr(run, 'source_digest', lambda: 'another')
        assert not is_read()
    with monkeypatch.context() as m:
        m.setattr(run, 'versions', lambda: dict(torch='1.0'))
        assert not is_read()
    with monkeypatch.context() as m:
        m.setattr(HFEngine, 'identity', lambda self, adapter=None: dict(weights='another'))
        assert not is_read()
    with monkeypatch.context() as m:
        mine = MULTIAGENT_FT.but('multiagent-ft', select=lambda *a: own_turns(*a))
        m.setattr(run, 'load_recipe', lambda name: mine)
        with pytest.raises(MaftError, match='another recipe'):
            is_read()
    # the last two: what transfer and diversity read
    for name in (
        'outcomes.jsonl',
        'summary.json',
        'keys.json',
        'provenance.json',
        'iteration-1/society.json',
        'iteration-0/eval.jsonl',
    ):
        whole = (home / name).read_bytes()
        if name != 'provenance.json':
            (home / name).write_bytes(whole[:-20] + b'0' + whole[-19:])
            assert not is_read(), name
        (home / name).write_bytes(b'[]')
        assert not is_read(), name
        (home / name).unlink()
        assert not is_read(), name
        (home / name).write_bytes(whole)
    assert is_read()
    entry = next((tmp_path / 'store' / 'finetune').glob('*/*'))
    entry.rename(tmp_path / 'moved')
    assert not is_read()


def test_every_recipe_has_a_source():
    from multiagent_ft.method.recipes import RECIPES, recipe_source

    assert all(recipe_source(r) for r in RECIPES.values())


def test_other_settings_are_refused(runs):
    root, _ = runs
    before = prints(root / 'demo')
    with pytest.raises(MaftError, match='learning_rate'):
        go(root / 'demo', learning_rate=1e-5)
    with pytest.raises(MaftError, match='w 0.5 -> 0.3'):
        go(root / 'demo', w=0.3)
    assert prints(root / 'demo') == before


def test_more_iterations_extend_a_run(runs):
    root, s = runs
    shutil.copytree(root / 'demo', root / 'longer')
    longer = go(root / 'longer', iterations=2)
    assert longer['iterations'][:2] == s['iterations'] and len(longer['iterations']) == 3
    assert longer['made']['finetune'] == 2 * AGENTS
    from multiagent_ft.engines.huggingface import adapter_identity

    assert adapter_identity(root / 'longer' / 'iteration-2' / 'adapters' / 'generator-0') != adapter_identity(
        root / 'longer' / 'iteration-1' / 'adapters' / 'generator-0'
    )


def test_w_changes_critics_only(runs):
    "Another w: debates, votes and generators are found; only critics are trained again, and only they answer again."
    root, s = runs
    other = go(root / 'w', w=1.0)
    kinds = json.loads((root / 'demo' / 'keys.json').read_text()), json.loads((root / 'w' / 'keys.json').read_text())
    assert other['made']['finetune'] <= AGENTS
    assert other['made'].get('generate', 0) <= AGENTS  # round 2 of the evaluation, one block per critic
    assert len(set(kinds[1]) - set(kinds[0])) == sum(other['made'].values())
    assert other['iterations'][0] == s['iterations'][0]
    assert prints(root / 'w')['iteration-1/transcripts.jsonl'] == prints(root / 'demo')['iteration-1/transcripts.jsonl']


def test_recipes_share_the_store(runs):
    root, s = runs
    other = go(root / 'majority', recipe='majority-ft')
    assert other['made']['finetune'] == 1
    assert other['iterations'][0]['methods']['single'] == s['iterations'][0]['methods']['single']
    assert (
        other['made']['generate'] == AGENTS
    )  # only the completions of the new model in the evaluation; the rest is cached


# so is a run with workers that is killed and resumed: tests/test_resume.py
@pytest.mark.slow
def test_workers_are_byte_identical(runs):
    root, _ = runs
    go(root.parent / (root.name + '-workers') / 'demo', workers=2)
    assert prints(root.parent / (root.name + '-workers') / 'demo') == prints(root / 'demo')


def test_society_ask(runs):
    from multiagent_ft import Society

    root, _ = runs
    t = Society.load(root / 'demo').ask('What is the result of 3+7*1+4-9*6?')
    assert [u.role for u in t.turns] == ['generator'] * AGENTS + ['summarizer'] * AGENTS + ['critic'] * AGENTS
    assert t == Society.load(root / 'demo', 1).ask('What is the result of 3+7*1+4-9*6?')
    with pytest.raises(MaftError, match='there is no 5'):
        Society.load(root / 'demo', 5)


def test_society_loads_from_a_moved_folder(runs, tmp_path):
    import shutil
    from multiagent_ft import Society

    root, _ = runs
    shutil.copytree(root / 'demo', tmp_path / 'moved')
    q = 'What is the result of 3+7*1+4-9*6?'
    assert Society.load(tmp_path / 'moved').ask(q).turns == Society.load(root / 'demo').ask(q).turns


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    with pytest.raises(MaftError, match='not a run folder'):
        go(tmp_path / 'mine')
    assert [f.name for f in (tmp_path / 'mine').iterdir()] == ['thesis.tex']


def test_early_stop_saves_calls_and_tokens(runs):
    root, s = runs
    in_eval, both = go(root / 'early-eval', early_stop='eval'), go(root / 'early-all', early_stop='all')

    def calls(r, k):
        return r['iterations'][k]['health']['cost']['debate']['calls']

    assert calls(in_eval, 0) < calls(s, 0) and in_eval['iterations'][1]['early'] == dict(
        debates=0, critic_examples_lost=0
    )
    assert (
        prints(root / 'early-eval')['iteration-1/transcripts.jsonl']
        == prints(root / 'demo')['iteration-1/transcripts.jsonl']
    )
    early = both['iterations'][1]['early']
    assert early['debates'] > 0 and early['critic_examples_lost'] == AGENTS * early['debates']
    assert sum(both['iterations'][1]['examples']['critic']) < sum(s['iterations'][1]['examples']['critic'])


def debated(rounds, truncated_turns=(), say='7'):
    "A debate of two agents on one question, all answering `say`; `truncated_turns`: (role, agent) of each."
    from multiagent_ft.answers.reading import read

    def role(m):
        return 'generator' if m == 1 else 'critic'

    def turn(n, m):
        finish = 'length' if (role(m), n) in truncated_turns else 'stop'
        return Turn(n, role(m), m, Completion(rf'\boxed{{{say}}}', finish, (1, m), (10 * m + n, 2)), read(say))

    return Transcript(Problem('q', '3+4?', '7'), [turn(n, m) for m in range(1, rounds + 1) for n in range(2)])


def report_of(transcripts, label='7', **kw):
    from multiagent_ft.answers.reading import read
    from multiagent_ft.method.consensus import Vote
    from multiagent_ft.method.debate import untrained
    from multiagent_ft.method.recipes import RecipeContext
    from multiagent_ft.runs.run import RunContext, Selection, training_report

    ws = RunContext(load_config(None, dict(agents=2, **kw)))
    votes = [Vote(read(label), 2, 2, 0, False, 2)] * len(transcripts)
    ctx = RecipeContext(None, None, ws.protocol, ws.task.read)
    examples = ws.recipe.select(ctx, untrained(2), transcripts, votes)
    return training_report(ws, Selection(transcripts, votes, examples))


def test_early_stop_keeps_critic_examples():
    "With three rounds: one ended before any critic spoke, one after round 2 (each critic has its row), one not at all."
    a = report_of([debated(1), debated(2), debated(3)], rounds=3, early_stop='all')
    assert a['early'] == dict(debates=2, critic_examples_lost=2) and a['agents']['critic-0']['examples'] == 2
    assert report_of([debated(1)], rounds=1)['early'] == dict(debates=0, critic_examples_lost=0)


def test_pseudo_labels_that_rest_on_reading_last_are_counted():
    from multiagent_ft.answers.reading import read
    from multiagent_ft.runs.run import pseudo_label_accuracy
    from multiagent_ft.runs.tasks import Task
    from multiagent_ft.method.examples import pseudo_labels

    def said(*texts):
        turns = [Turn(n, 'generator', 1, Completion(x, 'stop'), read(x, reading='last')) for n, x in enumerate(texts)]
        return Transcript(Problem('q', '3+4?', '7'), turns)

    boxed, loose, other = r'\boxed{7}', '3 and 4 make 7', '3 and 4 make 8'
    debates = [said(boxed, boxed, loose), said(boxed, boxed, other), said(loose, loose, other), said(loose, other, '')]
    found = pseudo_label_accuracy(Task('t', 'number'), debates, pseudo_labels(debates))
    assert (found['kept'], found['read_last']) == (3, 2), 'a label counts if one answer behind it was read so'


def test_summary_table_says_what_was_not_sent_and_read_last():
    from multiagent_ft.runs.run import summary_table

    labels = dict(kept=3, asked=4, pseudo_label_accuracy=None)
    ended = dict(examples=dict(generator=[0], critic=[]), methods={}, health=dict(finish=dict(stop=9)))
    plain = dict(iteration=0, consensus=labels, **ended)
    assert summary_table(dict(iterations=[plain]))[0] == ['iteration', 'pseudo-labels', 'right', 'examples per agent']
    lost = dict(sampled=dict(finish=dict(context_overflow=2)), health=dict(finish=dict(stop=8, context_overflow=1)))
    rows = summary_table(dict(iterations=[plain, plain | lost | dict(consensus=labels | dict(read_last=2))]))
    assert [row[-1] for row in rows] == ['prompts that did not fit', '', '3']
    assert [row[3] for row in rows] == ['read last', '', '2']


def test_truncated_turns_are_counted_per_agent():
    def truncated(recipe, *truncated_turns):
        return {n: a['truncated'] for n, a in report_of([debated(2, truncated_turns)], recipe=recipe)['agents'].items()}

    assert truncated('multiagent-ft', ('critic', 0)) == {
        'generator-0': 0,
        'generator-1': 0,
        'critic-0': 1,
        'critic-1': 0,
    }
    assert truncated('multiagent-ft', ('generator', 1)) == {
        'generator-0': 0,
        'generator-1': 1,
        'critic-0': 0,
        'critic-1': 0,
    }
    all_agents = [(r, n) for r in ('generator', 'critic') for n in range(2)]
    assert truncated('union-ft', *all_agents) == {'generator-0': 4} and truncated('union-ft', ('critic', 1)) == {
        'generator-0': 1
    }
    assert truncated('single-agent-ft', *all_agents) == {
        'generator-0': 2
    }  # final turns only: the first are no examples anyway

    def one(recipe, *truncated_turns):
        return report_of([debated(1, truncated_turns)], recipe=recipe)['agents']['generator-0']['truncated']

    assert one('majority-ft', *all_agents) == 2 == 2 * one('majority-ft', ('generator', 1))
    assert report_of([debated(2)], recipe='union-ft')['agents']['generator-0']['unique'] == 4


def test_agent_without_examples_is_explained(capfd):
    from multiagent_ft.method.debate import untrained
    from multiagent_ft.runs.run import report_idle_agents
    from multiagent_ft.runs.tracking import Progress

    a, b = untrained(2).generators
    report_idle_agents({a: [], b: [1]}, Progress())
    message = capfd.readouterr().err
    assert (
        message.startswith(
            'no examples for generator-0: none of their turns was complete and agreed with a pseudo-label'
        )
        and 'max_new_tokens' in message
        and 'generator-1' not in message
    )
    report_idle_agents({b: [1]}, Progress())
    assert capfd.readouterr().err == ''


def test_corrupt_adapter_is_trained_again_in_store_and_folder(tmp_path):
    "A run folder's adapters are links into the store: what spoils one spoils both, and only the store would notice."
    from multiagent_ft.runs.society import same_files

    small = dict(recipe='majority-ft', train=12, eval=4, agents=2)
    go(tmp_path / 'one', **small)
    before = prints(tmp_path / 'one')
    (entry,) = (tmp_path / 'store' / 'finetune').glob('*/*')
    weights, home = entry / 'adapter_model.safetensors', tmp_path / 'one' / 'iteration-1' / 'adapters'
    assert (home / 'critic-1' / weights.name).samefile(weights)
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert prints(tmp_path / 'one') != before
    again = go(tmp_path / 'one', **small)
    assert (
        again['made'] == dict(finetune=1)
        and prints(tmp_path / 'one') == before
        and same_files(home / 'critic-1', entry)
    )
    shutil.rmtree(entry)  # pruned: rebuilt, and linked again
    assert go(tmp_path / 'one', **small)['made'] == dict(finetune=1)
    assert prints(tmp_path / 'one') == before and same_files(home / 'generator-0', entry)


def test_evaluation_excludes_training_questions(tmp_path):
    "One pool, fresh questions in each iteration: a larger evaluation later, or an overlapping file, would repeat them."
    from multiagent_ft.runs.run import evaluate_run

    def line(i):
        return json.dumps(dict(question=f'What is the result of {i}+{i * 3 % 7}?', answer=str(i + i * 3 % 7))) + '\n'

    (tmp_path / 'pool.jsonl').write_text(''.join(map(line, range(30))))
    home = tmp_path / 'one'
    go(
        home,
        task=str(tmp_path / 'pool.jsonl'),
        recipe='majority-ft',
        agents=2,
        train=6,
        eval=6,
        iterations=2,
        fresh=True,
    )
    learned = [
        {t['problem']['text'] for t in read_jsonl(home / f'iteration-{k}' / 'transcripts.jsonl')} for k in (1, 2)
    ]
    assert not learned[0] & learned[1]
    assert evaluate_run(home, workers=0)['iterations'][-1]['methods']['debate']['n'] == 6
    with pytest.raises(MaftError, match='^6 of these 24 evaluation questions were training questions') as e:
        evaluate_run(home, eval=24, workers=0)
    assert '\n' not in str(e.value)
    # society 1 never saw the second six
    assert evaluate_run(home, eval=24, iteration=1, workers=0)['iterations'][-1]['methods']['debate']['n'] == 24
    (tmp_path / 'mine.jsonl').write_text(''.join(line(i).replace('What is', 'what  IS') for i in range(30)))
    with pytest.raises(MaftError, match='training questions in'):
        evaluate_run(home, task=str(tmp_path / 'mine.jsonl'), eval=29, workers=0)
    (tmp_path / 'new.jsonl').write_text(''.join(map(line, range(40, 50))))
    assert (
        evaluate_run(home, task=str(tmp_path / 'new.jsonl'), eval=4, workers=0)['iterations'][-1]['methods']['debate'][
            'n'
        ]
        == 4
    )


def test_generated_questions_never_overlap_evaluation(runs):
    from multiagent_ft.runs.run import check_unseen
    from multiagent_ft.runs.tasks import load_task, split

    root, _ = runs
    check_unseen(root / 'demo', 1, split(load_task('arithmetic'), 1, 2000, 3).evaluation)
    with pytest.raises(MaftError, match=f'^{TRAIN} of these {TRAIN}'):
        check_unseen(root / 'demo', 1, split(load_task('arithmetic'), TRAIN, EVAL, 3).train)


def test_auto_workers_depend_on_model_size(tmp_path):
    "Every worker holds a copy of the base, so 'auto' gives none to a model whose copies would hurt."
    from multiagent_ft.runs.run import SMALL, worker_count

    with open(tmp_path / 'model.safetensors', 'wb') as f:
        f.truncate(SMALL + 1)

    def count(**kw):
        return worker_count(load_config(None, dict(device='cpu', **kw)))

    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    assert (
        count(model='nano') == (cores if cores > 1 else 0)
        and count(model=str(tmp_path)) == 0
        and count(model='owner/name') == 0
        and count(model=str(tmp_path), workers=2) == 2
    )


def test_training_without_gold_is_byte_identical(tmp_path):
    """Questions without answers: the same agents come of it as with answers, which were never looked at; all that reads
    the run copes."""
    from multiagent_ft.runs.explain import explain
    from multiagent_ft.studies.outcomes import records_of
    from multiagent_ft.studies.report import report
    from multiagent_ft.runs.run import summary_table
    from multiagent_ft.runs.tasks import load_task, split

    train, evaluation = split(load_task('arithmetic'), 24, 8)

    def asked(name, known):
        (tmp_path / name).mkdir()
        for part, ps in (('train', train), ('test', evaluation)):
            (tmp_path / name / f'{part}.jsonl').write_text(
                ''.join(
                    json.dumps(dict(question=p.text) | (dict(answer=p.gold) if known or part == 'test' else {})) + '\n'
                    for p in ps
                )
            )
        (tmp_path / f'{name}.yaml').write_text(f'name: sums\ndata: {name}\n')
        return go(
            tmp_path / f'run-{name}',
            task=str(tmp_path / f'{name}.yaml'),
            train=24,
            eval=8,
            store=str(tmp_path / 'store'),
        )

    known, unknown = asked('known', True), asked('unknown', False)
    assert sum(unknown['made'].values()) == 0, 'the very same jobs'
    a, b = known['iterations'][1], unknown['iterations'][1]
    assert (
        a['methods'] == b['methods']
        and a['examples'] == b['examples']
        and a['consensus']['pseudo_label_accuracy'] is not None is not a['sampled']
    )
    assert (
        b['consensus']['pseudo_label_accuracy'] is None
        and b['sampled'] is None
        and b['consensus']['kept'] == a['consensus']['kept']
    )
    folder = tmp_path / 'run-unknown'
    assert (
        summary_table(unknown)[2][-2] == ''
        and not explain(folder)[1]
        and report(folder).is_file()
        and records_of(folder, 'x')[1]['labels']['pseudo_label_accuracy'] is None
    )
    with pytest.raises(MaftError, match='gold|answer'):
        go(tmp_path / 'star', recipe='star', task=str(tmp_path / 'unknown.yaml'), train=24, eval=8)


def test_run_lock(runs):
    "Two would number their lines alike and remove each other's temporary files. A killed process releases the lock."
    home = runs[0] / 'demo'
    code = (
        'import sys, time\nfrom pathlib import Path\nfrom multiagent_ft.runs.run import run_lock\nwith'
        " run_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    at_work = subprocess.Popen([sys.executable, '-c', code, home], stdout=subprocess.PIPE, text=True)
    try:
        assert at_work.stdout.readline() == 'held\n'
        half = home / '.summary.json.1.part'
        half.write_text('{')
        before = prints(home, skip=())
        with pytest.raises(MaftError, match='another process is at work'):
            go(home)
        assert prints(home, skip=()) == before
    finally:
        at_work.kill()
        at_work.wait()
    assert sum(go(home)['made'].values()) == 0 and not half.exists()


def a_base(folder, **change):
    "A copy of nano as a folder of its own, its first tensor changed by what `change` says."
    from multiagent_ft.engines.weights import find_model
    from safetensors.torch import load_file, save_file

    shutil.copytree(find_model('nano'), folder, dirs_exist_ok=True)
    if change:
        tensors = load_file(folder / 'model.safetensors')
        name = min(tensors)
        save_file(tensors | {name: tensors[name] + change['by']}, folder / 'model.safetensors', dict(format='pt'))
    return folder


TINY = dict(train=6, eval=4, iterations=1, max_new_tokens=120, summary_max_new_tokens=120)


def questions(file, rows=40, ask='What is the result of {}+7*2?', answer=lambda i: i + 14):
    rows = (dict(question=ask.format(i), answer=str(answer(i))) for i in range(rows))
    file.write_text('\n'.join(map(json.dumps, rows)))
    return str(file)


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    "A base, a file of questions, a run and its store in one folder, all named as seen from there."
    home = tmp_path_factory.mktemp('project')
    a_base(home / 'base')
    questions(home / 'q.jsonl')
    with pytest.MonkeyPatch.context() as m:
        m.chdir(home)
        go('runs/a', model='base', task='q.jsonl', **TINY)
    return home


def moved(project, tmp_path, *parts):
    for part in parts:
        (shutil.copytree if (project / part).is_dir() else shutil.copy)(project / part, tmp_path / part)
    return tmp_path


def fits(folder):
    from multiagent_ft.runs.explain import explain

    return explain(folder)[1] == []


def test_run_folder_works_from_any_current_folder(project, monkeypatch):
    from multiagent_ft.runs.run import evaluate_run
    from multiagent_ft.runs.society import Society

    paths = dict(model=str(project / 'base'), task=str(project / 'q.jsonl'))
    for where in (project.parent, project / 'runs' / 'a', project / 'runs'):
        monkeypatch.chdir(where)
        folder = Path(os.path.relpath(project / 'runs' / 'a'))
        assert fits(folder) and Society.load(folder).ask('What is the result of 1+1?').final()
        assert sum(go(folder, **paths, **TINY)['made'].values()) == 0, 'the same run under absolute names'
    assert evaluate_run(folder, workers=0)['iterations'][1]['iteration'] == 1


def test_run_folder_copied_alone_or_moved_with_its_project(project, tmp_path, monkeypatch):
    from multiagent_ft.runs.society import Society

    shutil.copytree(project / 'runs' / 'a', tmp_path / 'alone')
    monkeypatch.chdir(tmp_path)
    assert fits('alone') and Society.load('alone').ask('What is the result of 1+1?').final()
    named = dict(model=str(project / 'base'), task=str(project / 'q.jsonl'))
    assert sum(go('alone', **named, **TINY)['made'].values()) == 0, 'it remembers its store'
    shutil.copytree(project, tmp_path / 'whole')
    away = project.with_name('away')
    project.rename(away)
    try:
        monkeypatch.chdir(tmp_path / 'whole')
        assert fits('runs/a') and Society.load('runs/a').ask('What is the result of 1+1?').final()
        assert sum(go('runs/a', model='base', task='q.jsonl', **TINY)['made'].values()) == 0
    finally:
        away.rename(project)


def test_run_refuses_another_base_under_the_same_name(project, tmp_path, monkeypatch):
    from multiagent_ft.runs.explain import explain
    from multiagent_ft.runs.run import evaluate_run
    from multiagent_ft.runs.society import Society
    from multiagent_ft.studies.diversity import run_diversity

    home = moved(project, tmp_path, 'base', 'q.jsonl', 'runs')
    monkeypatch.chdir(home)
    go('runs/b', model='base', task='q.jsonl', **TINY)
    before = prints(home / 'runs' / 'b')
    a_base(home / 'base', by=0.05)
    attempts = [
        lambda: Society.load('runs/b').ask('What is the result of 1+1?'),
        lambda: evaluate_run('runs/b', workers=0),
        lambda: run_diversity('runs/b', 4),
        lambda: go('runs/b', model='base', task='q.jsonl', **TINY),
    ]
    for attempt in attempts:
        with pytest.raises(MaftError, match=r'another base model: the weights \(model.safetensors\)'):
            attempt()
    assert any('model.safetensors' in fault for fault in explain('runs/b')[1])
    assert {k: v for k, v in prints(home / 'runs' / 'b').items() if 'diversity' not in k} == before


def test_run_refuses_other_questions_and_says_that_golds_have_changed(project, tmp_path, monkeypatch, capsys):
    home = moved(project, tmp_path, 'base', 'q.jsonl')
    monkeypatch.chdir(home)
    first = go('runs/a', model='base', task='q.jsonl', **TINY)
    questions(home / 'q.jsonl', answer=lambda i: 1000 + i)
    again = go('runs/a', model='base', task='q.jsonl', **TINY)
    assert again['made'] == {} and again['regraded'] == 4 and first['regraded'] == 0
    assert '4 of 4 right answers have changed since' in capsys.readouterr().err
    kept = prints(home / 'runs' / 'a')
    questions(home / 'q.jsonl', ask='What is the result of {}+3*2?')
    with pytest.raises(MaftError, match='a run on other questions: those of q.jsonl for evaluation and training'):
        go('runs/a', model='base', task='q.jsonl', **TINY)
    assert prints(home / 'runs' / 'a') == kept


def test_questions_that_do_not_fit_are_counted_before_the_run(tmp_path, capsys):
    from multiagent_ft.runs.plan import lines, make_plan

    rows = [f'What is {i} + 1?' + ' word' * (4000 if i % 2 else 0) for i in range(40)]
    (tmp_path / 'q.jsonl').write_text('\n'.join(json.dumps(dict(question=q, answer='1')) for q in rows))
    go(tmp_path / 'a', task=str(tmp_path / 'q.jsonl'), **dict(TINY, train=10, eval=10, iterations=0))
    said = capsys.readouterr().err
    assert 'of 10 questions do not fit into the context of' in said.partition('answers  0/')[0]
    cfg = load_config(None, dict(task=str(tmp_path / 'q.jsonl'), train=10, eval=10, workers=0))
    assert 'of 20 questions do not fit' in lines(cfg, make_plan(cfg, 4))[-1]
    (tmp_path / 'long.jsonl').write_text(
        '\n'.join(json.dumps(dict(question=q + ' word' * 4000, answer='1')) for q in rows)
    )
    for attempt in (make_plan, lambda c: go(tmp_path / 'b', task=c.task.name, **TINY)):
        with pytest.raises(MaftError, match='none of the .* questions fits into the context'):
            attempt(cfg.but(task=str(tmp_path / 'long.jsonl')))


def test_run_copied_with_its_project_is_the_same_run_and_damaged_files_are_made_again(project, tmp_path, monkeypatch):
    from multiagent_ft.runs.society import Society, load_society

    home = moved(project, tmp_path, 'base', 'q.jsonl', 'runs')
    monkeypatch.chdir(home)
    last = home / 'runs' / 'a' / 'iteration-1'
    whole = json.loads((last / 'society.json').read_text())
    for page in (dict(whole, protocol=dict(whole['protocol'], x=1)), {}, [], dict(whole, agents=[{}])):
        (last / 'society.json').write_text(json.dumps(page))
        with pytest.raises(MaftError, match='society.json is damaged.*Run the same command again'):
            Society.load(home / 'runs' / 'a')
    config = next(last.glob('adapters/*/adapter_config.json'))
    config.unlink()
    config.write_text('{"peft')
    go('runs/a', model='base', task='q.jsonl', **TINY)
    assert json.loads(config.read_text()) and load_society(last).agents
    (home / 'runs' / 'a' / 'iteration-old').mkdir()
    shutil.copy(last / 'society.json', home / 'runs' / 'a' / 'iteration-old')
    assert Society.load(home / 'runs' / 'a').generators


FULL = """
import os, resource, sys
from dataclasses import replace
from pathlib import Path
from safetensors.numpy import save_file
import numpy
from multiagent_ft.core import MaftError
from multiagent_ft.method.debate import Agent, untrained
from multiagent_ft.runs.society import save_society
from multiagent_ft.runs.store import Store

here, elsewhere = map(Path, sys.argv[1:])
(elsewhere / 'made').mkdir()
save_file({'x': numpy.zeros(10_000)}, elsewhere / 'made' / 'adapter_model.safetensors')
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
two = untrained(2)
two = replace(two, generators=(Agent('generator', 0, str(elsewhere / 'made')), two.generators[1]))
for attempt in (
    lambda: save_society(two, here / 'run'),
    lambda: Store(here / 'store').job('finetune', {}, lambda d: save_file({'x': numpy.zeros(10_000)}, d / 'x')),
):
    try:
        attempt()
    except MaftError as e:
        print(e)
"""


@pytest.mark.skipif(not os.access('/dev/shm', os.W_OK), reason='no second disk (/dev/shm) to copy from')
def test_full_disk_while_adapters_are_copied_or_saved_is_one_line(tmp_path):
    with tempfile.TemporaryDirectory(dir='/dev/shm') as elsewhere:
        done = subprocess.run(
            [sys.executable, '-c', FULL, tmp_path, elsewhere], capture_output=True, text=True, timeout=100
        )
    said = done.stdout.splitlines()
    assert len(said) == 2, done.stderr
    assert 'cannot write' in said[0] and 'File too large. Free some room' in said[0]
    assert 'no room left in the store' in said[1] and 'nothing done so far is lost' in said[1]
