"Comparisons: counted by hand, resumed after kills, and every way to ask for nonsense."

import json, os, subprocess, sys
from collections import Counter
import pytest
from multiagent_ft.studies.compare import (
    StudyRow,
    addresses,
    compare,
    config_for,
    init_study_dir,
    requests,
    seeds_from,
    shared_tokens,
    study_row,
    write_study,
)
from multiagent_ft.runs.settings import load_config
from multiagent_ft.core import MaftError, write_jsonl
from multiagent_ft.method.recipes import RECIPES
from multiagent_ft.studies.outcomes import (
    Study,
    at_iteration,
    by_iteration,
    load_records,
    load_study,
    outcomes_table,
    pass_at_k,
    record,
    right_counts,
    save_records,
    scores,
    study_table,
    training_tokens,
    transitions,
)
from multiagent_ft.runs.store import Store
from conftest import maft
from making import check_killed_and_resumed

BASE = load_config(flags=dict(train='10', eval='8', agents='2', iterations='1', workers='0', wandb='off'))


def outcome(i, right, first=(True, False, True), seed=0):
    return dict(
        problem=f'p/{seed}-{i}',
        first=['1', None, '1'],
        final=['1', '1', '1'],
        right_first=list(first),
        right_final=[True, True, right],
        debate=dict(right=right, cast=3),
        majority=dict(right=not right, cast=0),
    )


def healthy(asked, generated):
    "The health of `asked` debates of one round."
    votes = dict(tied=dict(majority=0, debate=0), unparsed=dict(first=0, final=0), agreement=dict(first=0.5, final=0.6))
    cost = dict(debate=dict(calls=3 * asked, prompt=9 * asked, generated=generated))
    return dict(asked=asked, cost=cost, flips=[], finish=dict(stop=3 * asked), empty_summaries=0, **votes)


def rec(label, seed, k, right, questions=None, **training):
    it = dict(
        iteration=k,
        consensus=dict(kept=1, asked=2, pseudo_label_accuracy=0.5),
        examples=dict(generator=[1], critic=[2]),
        health=healthy(len(right), 10 * len(right)),
    )
    if training:
        it |= dict(
            agents=dict(a=dict(seen=training['seen'])),
            sampled=healthy(2, training['collected']),
        )
    outcomes = [outcome(i, bool(x), seed=questions or seed) for i, x in enumerate(right)]
    return record(label, task='play', seed=seed, it=it, outcomes=outcomes, epochs=2)


def test_record_counts_by_hand(tmp_path):
    r = rec('a', 3, 1, [1, 0, 1], seen=7, collected=50)
    assert r['right'] == dict(debate=[1, 0, 1], majority=[0, 1, 0], single=[2, 2, 2], single_final=[3, 2, 3])
    assert r['unparsed'] == dict(debate=[0] * 3, majority=[1] * 3, single=[1] * 3, single_final=[0] * 3)
    assert (r['questions'], r['agents']) == (3, 3)
    sums = dict(generated=50, trained=14, examples=3, by_role=dict(generator=1, critic=2))
    assert r['training'] == sums | dict(agents=dict(a=dict(seen=7)), debates=healthy(2, 50))
    whole = healthy(3, 30)
    assert r['health'] == {k: whole[k] for k in whole if k not in ('asked', 'cost')} and r['cost'] == whole['cost']
    # more agents than a digit could say
    assert right_counts([outcome(0, True, [True] * 40)])['single'] == [40]
    a, b = save_records(tmp_path / 'a.gz', [r]).read_bytes(), save_records(tmp_path / 'b.gz', [r]).read_bytes()
    assert a == b and load_records(tmp_path / 'a.gz') == [r]


def test_corrupt_outcomes_file_is_named(tmp_path):
    whole = save_records(tmp_path / 'a.gz', [rec('a', 3, 1, [1, 0, 1])]).read_bytes()
    (tmp_path / 'bad.gz').write_bytes(b'not gzip')
    (tmp_path / 'truncated.gz').write_bytes(whole[:20])
    for name in ('none.gz', 'bad.gz', 'truncated.gz'):
        with pytest.raises(MaftError, match=name):
            load_records(tmp_path / name)


def two_recipes():
    "Two seeds of a recipe with two iterations, and of one that is not trained."
    trained = dict(seen=100, collected=1000)
    rs = [rec('a', s, k, [1, 1, 0, s], **{n: k * x for n, x in trained.items() if k}) for s in (0, 1) for k in range(3)]
    return Study(rs + [rec('base', s, 0, [1, 0, 0, 0]) for s in (0, 1)])


def reached(study, iteration=None):
    rows = at_iteration(study.iterations, iteration)
    return {(r.recipe, r.seed): r.iteration for r in rows.itertuples()}


def test_tidy_table_by_hand():
    study = two_recipes()
    assert len(study.outcomes) == len(study.records) * 4 * 4 and len(study.iterations) == len(study.records)
    row = study.outcomes.query('recipe == "a" and seed == 1 and iteration == 2 and method == "single"').iloc[0]
    assert (row.right, row.answers, row.unparsed) == (2 / 3, 3, 1)
    debate = study.outcomes.query('recipe == "a" and seed == 1 and iteration == 2 and method == "debate"')
    assert debate.right.tolist() == [1, 1, 0, 1] and set(debate.tokens) == {10} and debate.question.nunique() == 4


def test_scores_and_costs_by_hand():
    study = two_recipes()
    assert reached(study) == {('a', 0): 2, ('a', 1): 2, ('base', 0): 0, ('base', 1): 0}
    last = at_iteration(study.outcomes)
    assert scores(last)['a'][1].sum() == 3
    assert scores(last, 'single')['a'][0].dropna().tolist() == [2 / 3] * 4
    assert scores(last, 'single_final')['a'][0].dropna().tolist() == [1, 1, 2 / 3, 2 / 3]
    # both iterations, two epochs
    assert training_tokens(study.iterations)['a'] == dict(collected=3000, trained=600)
    assert training_tokens(study.iterations, 1)['a'] == dict(collected=1000, trained=200)
    assert training_tokens(study.iterations)['base'] == dict(collected=0, trained=0)
    a, base = study_table(study, 'base')
    assert (a.right, a.accuracy.questions, base.right, a.generated) == (5, 8, 2, 10)
    assert a.difference.mean == pytest.approx(3 / 8) and set(a.within) == {0, 1}
    assert [p.iteration for p in by_iteration(study.outcomes)['a']] == [0, 1, 2]


def test_without_gold_tokens_are_unknown():
    "Where gold is not known, debates are not scored and their tokens not counted."
    rs = [rec('a', s, 1, [1], seen=100, collected=None) for s in (0, 1)]
    assert training_tokens(Study(rs).iterations)['a'] == dict(collected=None, trained=200)


def test_pass_at_k_by_hand():
    "Two of three right: pass@1 is 2/3, and of any two samples one is right."
    table = outcomes_table([rec('a', 0, 0, [1, 0])])
    for k, expected in ((1, 2 / 3), (2, 1), (3, 1)):
        assert scores(pass_at_k(table, k), f'pass@{k}')['a'][0].tolist() == pytest.approx([expected] * 2)
    with pytest.raises(MaftError, match='pass@4 needs at least 4 answers'):
        pass_at_k(table, 4)


def test_transitions_by_hand():
    rs = [rec('a', s, k, right) for s in (0, 1) for k, right in enumerate(([1, 0, 0], [1, 1, 1], [0, 1, 1]))]
    found = transitions(outcomes_table([*rs, rec('untrained', 0, 0, [1, 0, 0])]))
    assert found.values.tolist() == [['a', 1, 4, 0], ['a', 2, 0, 2]]


def test_runs_of_unequal_length_count_to_the_last_common_iteration():
    rs = [rec('a', 0, k, [1]) for k in (0, 1, 2)] + [rec('a', 1, k, [1]) for k in (0, 1)]
    assert set(reached(Study(rs)).values()) == {1}
    with pytest.raises(MaftError, match='no iteration 2 of seed 1'):
        at_iteration(Study(rs).outcomes, 2)


def test_different_questions_are_not_paired():
    with pytest.raises(MaftError, match='not asked the same questions'):
        study_table(Study([rec('a', 0, 0, [1, 0]), rec('b', 0, 0, [1, 0], questions=7)]), 'a')


def test_unknown_method_error_lists_methods():
    with pytest.raises(MaftError, match='maj@9.*there are debate, majority, single, single_final'):
        scores(outcomes_table([rec('a', 0, 0, [1])]), 'maj@9')


def test_common_random_numbers_share_addresses():
    def of(t, **kw):
        return config_for(BASE.but(**kw), study_row(t), seed=0, root='x')

    def both(a, b):
        return requests([of(a), of(b)])

    assert both('base', 'debate') == dict(apart=8 * (1 + 6), together=8 * 6)
    assert both('multiagent-ft', 'multiagent-ft:w=0.9')['together'] < requests([of('multiagent-ft')])['together'] * 2
    assert both('single-agent-ft', 'single-agent-ft-alone')['together'] == requests([of('single-agent-ft')])['together']
    assert both('debate', 'debate:temperature=0.5')['together'] == 2 * 8 * 6  # nothing to share
    one = addresses(of('multiagent-ft'))
    # collect, two evaluations, the rest of self-consistency
    assert sum(one.values()) == 10 * 6 + 8 * 6 * 2 + 8 * 4 and isinstance(one, Counter)
    # at most: every first answer may be wrong
    assert sum(addresses(of('star')).values()) == 2 * 10 + 2 * 8 + 8 * 5


def test_run_dirs_are_distinct():
    outs = {
        config_for(BASE.but(**kw), study_row(t), seed=s, root='x').out
        for kw in ({}, dict(eval=9), dict(iterations=2))
        for t in ('debate', 'multiagent-ft', 'multiagent-ft:w=0.2')
        for s in (0, 1)
    }
    # debate does not care about iterations
    assert len(outs) == 6 + 6 + 4
    assert (
        config_for(BASE, StudyRow(label='a/../b c', recipe='debate'), seed=0, root='x').out.parts[:2] == ('x', 'runs')
        and len(config_for(BASE, StudyRow(label='a/../b c', recipe='debate'), seed=0, root='x').out.parts) == 4
    )


def test_study_dir_of_another_study_is_refused(tmp_path):
    init_study_dir(tmp_path / 'new', BASE)
    init_study_dir(tmp_path / 'new', BASE)
    init_study_dir(tmp_path / 'new', BASE.but(seed=5, recipe='debate'))
    with pytest.raises(MaftError, match='eval 8 -> 9'):
        init_study_dir(tmp_path / 'new', BASE.but(eval=9))
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    for bad in ('file', 'mine'):
        with pytest.raises(MaftError, match='nothing in it was touched'):
            init_study_dir(tmp_path / bad, BASE)
    before = (tmp_path / 'new' / 'study.json').read_text()
    for base, what in ((None, 'reproduction'), (BASE, 'reproduction'), (None, 'comparison')):
        with pytest.raises(MaftError, match='another study .a comparison.'):
            init_study_dir(tmp_path / 'new', base, what)
    assert (tmp_path / 'new' / 'study.json').read_text() == before
    (tmp_path / 'new' / 'study.json').write_text('{')
    with pytest.raises(MaftError, match='cannot be read'):
        init_study_dir(tmp_path / 'new', BASE)
    assert seeds_from(3, 2) == [3, 4]


def test_tokens_are_counted_once(tmp_path):
    store = Store(tmp_path / 'store')

    def completions(n):
        return lambda f: write_jsonl(f / 'completions.jsonl', [dict(token_ids=[1] * n)])

    a, b, c = (store.job('generate', dict(i=n), completions(n)).name for n in (5, 7, 11))
    t = store.job('finetune', dict(i=0), lambda f: (f / 'x').write_text('y')).name
    for name, keys in (('r1', [a, b, t]), ('r2', [a, c])):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'keys.json').write_text(json.dumps(keys))
    for _ in range(2):
        assert shared_tokens([tmp_path / 'r1', tmp_path / 'r2'], store, tmp_path / 'memo.json') == dict(
            apart=28, together=23
        )


def test_write_study_from_records(tmp_path):
    rs = [rec(n, s, k, [1, s, k, 0] * 5) for n in ('a', 'b') for s in (0, 1) for k in (0, 1, 2)]
    write_study(tmp_path / 'x', 'T', Study(rs), 'a')
    write_study(tmp_path / 'y', 'T', load_study(tmp_path / 'x' / 'outcomes.jsonl.gz'), 'a')
    files = sorted(f.name for f in (tmp_path / 'x').iterdir())
    assert files == sorted(
        'table.md table.csv iterations.csv health.csv outcomes.jsonl.gz accuracy.png accuracy.svg cost.png cost.svg'
        ' iterations.png iterations.svg'.split()
    )
    assert all((tmp_path / 'x' / f).read_bytes() == (tmp_path / 'y' / f).read_bytes() for f in files)
    assert (tmp_path / 'x' / 'outcomes.jsonl.gz').read_bytes()[4:8] == bytes(4)  # no time in it


@pytest.mark.parametrize(
    'args, expected',
    [
        (('magic',), "unknown recipe 'magic'"),
        (('base', '--seeds', 0), 'at least one seed'),
        (('base', 'base'), 'named twice'),
        (('base:x=1',), 'cannot be set for one row'),
        (('base', '--baseline', 'debate'), 'not among the rows'),
        (('debate:rounds=0',), 'debate:rounds=0: rounds is 0'),
        (('base', '--set', 'out=x'), 'the folder is --out DIR'),
        (('base', '--set', 'recipe=star'), 'named one after the other'),
        (('base', '--out', '.'), 'not the folder of a comparison'),
    ],
    ids=lambda a: str(a[0]),
)
def test_bad_arguments_are_one_line(tmp_path, args, expected):
    (tmp_path / 'note.txt').write_text('mine')
    done = maft('compare', *args, cwd=tmp_path)
    errors = [l for l in done.stderr.splitlines() if l.startswith('error:')]
    assert done.returncode == 2 and len(errors) == 1 and expected in errors[0] and 'Traceback' not in done.stderr
    assert [f.name for f in tmp_path.iterdir() if f.name != 'runs'] == ['note.txt']


def test_iterations_from_flag_set_or_file(tmp_path):
    "`--set iterations=2` was once ignored: the command's own default of 1 won."

    def answers(*flags):
        return maft(
            'compare',
            'multiagent-ft',
            '--train',
            2,
            '--eval',
            2,
            '--seeds',
            1,
            '--workers',
            0,
            '--plan',
            *flags,
            cwd=tmp_path,
        ).stdout.splitlines()[0]

    assert answers('--set', 'iterations=2') == answers('--iterations', 2) != answers()


ROWS = ('base', 'debate', 'multiagent-ft')
ARGS = ('compare', *ROWS, '--train', 12, '--eval', 8, '--agents', 2, '--seeds', 2, '--workers', 0)


def results(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.is_file()}


@pytest.mark.slow
def test_sigkill_and_resume_is_byte_identical(tmp_path):
    check_killed_and_resumed((4, 9, 6, 12), *ARGS, results=results, cwd=tmp_path)


@pytest.mark.slow
def test_seeds_run_by_several_processes_are_merged(tmp_path):
    "As on two machines: each its own seed over one folder; the whole, asked for at the end, finds everything."
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    part = [
        subprocess.Popen(
            [
                sys.executable,
                '-c',
                'from multiagent_ft.cli import main; main()',
                *map(str, ARGS[:-3]),
                '1',
                '--workers',
                '0',
                '--seed',
                str(s),
                '--out',
                'x',
            ],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for s in (0, 1)
    ]
    assert [p.wait() for p in part] == [0, 0]
    done = maft(*ARGS, '--out', 'x', cwd=tmp_path)
    assert 'Nothing was left to do' in done.stdout
    assert maft(*ARGS, '--out', 'y', cwd=tmp_path).returncode == 0
    assert results(tmp_path / 'x') == results(tmp_path / 'y')


def test_compare_without_recipes_is_refused():
    with pytest.raises(MaftError, match='nothing to compare'):
        compare([], BASE)
    assert all(study_row(n).recipe == n for n in RECIPES)
