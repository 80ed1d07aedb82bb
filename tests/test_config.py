"Configuration: the layers, the round trip, and every way to get it wrong in one or two lines."

import os, subprocess, sys
from importlib.resources import files
import pytest
from hypothesis import given, strategies as st
from multiagent_ft.runs.settings import (
    Config,
    PATHS,
    QUICK,
    check_same,
    config_of,
    describe,
    dump_config,
    is_operational,
    load_config,
    model_defaults,
    parse_yaml,
    save_config,
    semantic,
)
from multiagent_ft.core import MaftError


def fault(**kw):
    "The message of a refused configuration: one or two lines."
    with pytest.raises(MaftError) as e:
        load_config(**kw)
    assert 1 <= len(str(e.value).splitlines()) <= 2
    return str(e.value)


def test_import_config_is_light():
    code = (
        'import sys, multiagent_ft.runs.settings as c; c.load_config(); '
        "heavy = ('torch', 'transformers', 'numpy', 'pandas', 'rich', 'typer'); "
        'print([m for m in heavy if m in sys.modules])'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '[]\n'


def test_precedence_of_layers(tmp_path):
    f = tmp_path / 'mine.yaml'
    f.write_text('agents: 4\ntrain: 100\nseed: 7\ntemperature: 0.5\n')
    c = load_config(f, dict(agents='5', seed=None), ['temperature=0.9'])
    # flag, file, file, set, default
    assert (c.agents, c.train, c.seed, c.temperature, c.rounds) == (5, 100, 7, 0.9, 2)
    q = load_config(f, dict(eval='60'), quick=True)
    # quick beats the file, a flag beats quick
    assert (q.train, q.eval, q.iterations, q.agents) == (QUICK['train'], 60, 1, 4)


def test_model_named_in_any_layer_selects_its_file(tmp_path):
    f = tmp_path / 'mine.yaml'
    f.write_text('model: org/big\n')
    assert (
        load_config(f).learning_rate
        == float(model_defaults('org/big')['training.learning_rate'])
        != load_config().learning_rate
    )
    assert load_config(f, sets=['model=nano']) == load_config()
    assert load_config(f, sets=['method=full']).learning_rate < load_config(f).learning_rate
    # a model's name is not a way into other files
    assert model_defaults('../settings/nano') == model_defaults('default')


def test_settings_files_are_in_the_package():
    assert {f.name for f in (files('multiagent_ft') / 'settings').iterdir() if f.name.endswith('.yaml')} >= {
        'default.yaml',
        'nano.yaml',
    }


def test_config_is_frozen_and_documented():
    c = load_config()
    with pytest.raises(Exception):
        c.seed = 3
    assert [r['key'] for r in describe()] == list(PATHS) and all(r['meaning'] for r in describe())


text = st.text(
    st.characters(exclude_categories=('Cs', 'Cc'), exclude_characters='\x85\u2028\u2029\ufeff\ufffe\uffff'),
    min_size=1,
    max_size=12,
).filter(lambda s: s.strip() == s and s.lower() not in ('null', '~', 'none') and s.rstrip('/'))


@given(
    task=text,
    project=text,
    seed=st.integers(0, 2**70),
    w=st.none() | st.floats(0, 1),
    lr=st.floats(1e-9, 1, exclude_max=True),
    agents=st.integers(2, 9),
    summary=st.booleans(),
    levels=st.none() | st.lists(st.integers(1, 5), min_size=1),
    workers=st.just('auto') | st.integers(0, 64),
    fresh=st.booleans(),
)
def test_config_round_trip(tmp_path_factory, task, project, seed, w, lr, agents, summary, levels, workers, fresh):
    c = load_config(
        flags=dict(
            task=task,
            project=project,
            seed=seed,
            agents=agents,
            summary=summary,
            workers=workers,
            fresh=fresh,
            learning_rate=lr,
            levels=levels,
        )
    )
    c = c.but(w=w)
    folder = tmp_path_factory.getbasetemp() / 'round-trip'
    save_config(c, folder)
    assert config_of(folder) == c
    check_same(parse_yaml(dump_config(c), '')[0], c)


@pytest.mark.parametrize(
    'sets, parts',
    [
        (['agnets=3'], ['unknown key agnets', 'did you mean agents?']),
        (['lr=3'], ['unknown key lr', 'maft config']),
        (['rounds=0'], ['rounds is 0', 'a whole number, 1 or more']),
        (['train=-1'], ['train is -1']),
        (['eval=-1'], ['eval is -1']),
        (['iterations=-1'], ['iterations is -1']),
        (['train=2.5'], ['train is 2.5']),
        (['agents=1'], ['critic', '1 round']),
        (['agents=0'], ['agents is 0']),
        (['min_support=4'], ['min_support 4 with agents 3']),
        (['w=1.01'], ['w is 1.01', 'from 0 to 1']),
        (['w=-0.1'], ['w is -0.1']),
        (['top_p=1.2'], ['top_p']),
        (['temperature=-1'], ['temperature']),
        (['temperature=inf'], ['temperature']),
        (['critic_loss=first'], ['critic_loss is first', 'last, critic_turns or all']),
        (['dtype=int8'], ['dtype']),
        (['method=magic'], ['lora, full or qlora']),
        (['summary=maybe'], ['true or false']),
        (['workers=-1'], ['auto or a whole number']),
        (['levels=hard'], ['levels is hard']),
        (['device=tpu'], ['device is tpu']),
        (['learning_rate=0'], ['learning_rate is 0']),
        (['rank=null'], ['rank is null']),
        (['task='], ['task is null']),
        (['training.epocs=3'], ['unknown key training.epocs', 'did you mean training.epochs?']),
        (['training.epochs=0'], ['training.epochs is 0', 'a whole number, 1 or more']),
        (['micro_batch=5'], ['micro_batch 5 with train_batch 32', 'divisor']),
        (['train=5', 'task.train=6'], ['train is set twice', 'task.train']),
        (['debate=long'], ['debate is long', 'settings']),
        (['seed'], ['KEY=VALUE']),
        (['=3'], ['KEY=VALUE']),
        (['agents=x', 'rounds=x', 'train=x', 'eval=x'], ['train is x', 'eval is x', '(and 2 more)']),
    ],
)
def test_bad_values(sets, parts):
    message = fault(sets=sets)
    assert all(p in message for p in parts), message


@pytest.mark.parametrize(
    'content, parts',
    [
        (b'train: 5\nagnets: 3\n', ['line 2', 'agnets', 'did you mean agents?']),
        (b'train: 5\n\nrounds: 0\n', ['line 3', 'rounds is 0']),
        (b'train: 5\nagents: [3\n', ['line 2', 'not valid YAML', 'flow sequence']),
        (b'a: b: c\n', ['line 1', 'not valid YAML']),
        (b'- train\n- eval\n', ['line 1', 'key: value']),
        (b'seed: 1\nseed: 2\n', ['line 2', 'twice', 'line 1']),
        (b'model: {name: nano}\n', ['line 1', 'model is']),
        (b'training:\n  rank: 4\n  epocs: 3\n', ['line 3', 'training.epocs', 'did you mean training.epochs?']),
        (b'debate:\n  agents: 0\n', ['line 2', 'agents is 0']),
        (b'debate:\n  agents: 3\n  agents: 4\n', ['line 3', 'twice', 'line 2']),
        (b'agents: 3\ndebate:\n  agents: 4\n', ['agents is set twice']),
        (b'{[a]: 1}\n', ['line 1', 'not valid YAML']),
        (b'a: &x [*x]\n', ['a']),
        (b'a: ' + b'[' * 5000 + b']' * 5000, ['mine.yaml']),
        (b'task: caf\xe9\n', ['UTF-8', 'byte 9']),
        (b'task: \x00\n', ['mine.yaml']),
    ],
)
def test_bad_files(tmp_path, content, parts):
    f = tmp_path / 'mine.yaml'
    f.write_bytes(content)
    message = fault(file=f)
    assert 'mine.yaml' in message and all(p in message for p in parts), message


def test_missing_file(tmp_path):
    assert 'No such file' in fault(file=tmp_path / 'none.yaml') and 'directory' in fault(file=tmp_path).lower()
    (tmp_path / 'empty.yaml').write_text('')
    assert load_config(tmp_path / 'empty.yaml') == load_config()
    with pytest.raises(MaftError, match='holds no run'):
        config_of(tmp_path)


SECRETS = ['hf_' + 'Ab1' * 10, 'https://me:pass1234@host.org/x', 'sk-' + 'a1' * 20, 'ghp_' + 'Q' * 36]


@pytest.mark.parametrize('secret', SECRETS)
def test_secrets_in_settings_are_refused(secret, tmp_path):
    for sets in (
        [f'project={secret}'],
        [f'data={secret}'],
        [f'token={secret}'],
        [f'{secret}=1'],
        [f'levels=[{secret}]'],
    ):
        assert secret not in fault(sets=sets)
    f = tmp_path / 'c.yaml'
    f.write_text(f'project: x\ntoken: {secret}\n')
    assert secret not in fault(file=f)
    c = Config(project=secret)  # even one that came another way is not written
    with pytest.raises(MaftError):
        dump_config(c)


def test_environment_secrets_are_not_written(monkeypatch):
    monkeypatch.setenv('WANDB_API_KEY', 'c0ffee' * 6)
    assert 'c0ffee' not in fault(sets=['project=' + 'c0ffee' * 6])
    assert 'c0ffee' not in dump_config(load_config())


def test_check_same_ignores_operational_settings(tmp_path):
    old = load_config(flags=dict(out=tmp_path))
    for k, v in dict(iterations=9, device='cpu', workers=2, wandb='off', store=tmp_path / 's', project='p').items():
        check_same(old, load_config(flags={'out': tmp_path, k: v}))
    for k in semantic(old):
        assert not is_operational(k)
    other = load_config(flags=dict(out=tmp_path, seed=1), sets=['w=null', 'levels=1-3'])
    with pytest.raises(MaftError) as e:
        check_same(old.model_dump(mode='json'), other)
    message = str(e.value)
    assert (
        'seed 0 -> 1' in message
        and 'w 0.5 -> None' in message
        and 'levels None -> [1, 2, 3]' in message
        and str(tmp_path) in message
        and len(message.splitlines()) == 2
    )
    with pytest.raises(MaftError, match=r'and \d+ more'):
        check_same(
            old, load_config(flags=dict(out=tmp_path, model='org/big', seed=3, train=1, eval=1, agents=5, rounds=3))
        )


def test_derived_settings():
    c = load_config()
    assert c.calls == c.votes == 9 and load_config(sets=['samples=4']).votes == 4
    assert str(c.folder) == 'runs/arithmetic-nano' and str(c.store_folder) == 'runs/store'
    assert str(load_config(sets=['task=my/quiz.yaml', 'model=org/big/']).folder) == 'runs/quiz-big'
    assert load_config(flags=dict(out='~/x')).folder == type(c.folder)(os.path.expanduser('~/x'))


def test_tree_and_short_names_agree():
    a = Config(train=12, rank=8, gradient_checkpointing=True, task='words')
    b = Config(task=dict(name='words', train=12), training=dict(rank=8, gradient_checkpointing=True))
    assert a == b == load_config(sets=['task.train=12', 'training.rank=8', 'gradient_checkpointing=yes', 'task=words'])
    assert a.rank == a.training.rank == 8 and a.but(rank=4).training.rank == 4 and a.but(rank=4).but(rank=8) == a
    assert Config() == load_config() and Config().training.epochs == 2
    with pytest.raises(MaftError, match='epochs is 0: it must be a whole number, 1 or more'):
        Config(training=dict(epochs=0))
    with pytest.raises(AttributeError):
        getattr(a, 'no_such_setting')


def test_every_trainer_setting_has_a_key():
    from dataclasses import asdict

    sets = ['gradient_checkpointing=true', 'target_modules=q_proj,v_proj', 'micro_batch=8', 'max_grad_norm=0.5']
    sets += ['train_dtype=float32', 'group_by_length=false', 'train_batch=16', 'learning_rate=1e-3', 'epochs=3']
    sets += ['rank=4', 'alpha=8', 'dropout=0.1', 'warmup=0', 'weight_decay=0.1', 'schedule=linear', 'method=full']
    sets += ['exclude_modules=lm_head', 'rslora=true', 'dora=true']
    chosen, usual = (asdict(load_config(sets=s).training) for s in (sets, ()))
    assert [k for k in chosen if chosen[k] == usual[k]] == []


def test_nested_and_flat_files_agree(tmp_path):
    (tmp_path / 'flat.yaml').write_text(
        'train: 12\nengine_args: {url: x}\ntarget_modules: [q, v]\nmanner: cooperative\n'
    )
    (tmp_path / 'tree.yaml').write_text(
        'task: {train: 12}\nengine:\n  args: {url: x}\n'
        'training: {target_modules: [q, v]}\ndebate: {prompts: cooperative}\n'
    )
    c = load_config(tmp_path / 'tree.yaml', sets=['engine.args.key=y'])
    assert c.engine.args == dict(url='x', key='y') and c.but(engine_args=dict(url='x')) == load_config(
        tmp_path / 'flat.yaml'
    )


def test_numbers_among_the_arguments_of_an_engine():
    "`max_length` from a YAML file or `--set` once reached the engine as text."
    c = load_config(sets=['engine.args.max_length=2048', 'engine.args.url=http://localhost:8000/v1'])
    assert c.engine.args == dict(max_length=2048, url='http://localhost:8000/v1')


def test_model_of_a_long_name_has_the_usual_defaults():
    assert load_config(None, dict(model='m' * 300)).max_new_tokens == load_config(None, dict(model='m')).max_new_tokens
