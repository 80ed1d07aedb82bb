"Finetuning: the guards, each broken on purpose; the same bytes every time; killed and continued; many architectures."

import json, os, random, signal, subprocess, sys

import pytest
import tiny_models
from multiagent_ft.training import finetune as ft
from multiagent_ft.training import guards
from multiagent_ft.training import trainer as tr
from multiagent_ft.core import MaftError, Message
from multiagent_ft.training.finetune import finetune_job, finetune_key
from multiagent_ft.training.guards import GuardError
from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.runs.jobs import ReportingEngine
from multiagent_ft.method.examples import Example, load_examples, save_examples
from multiagent_ft.training.settings import TrainingSettings
from multiagent_ft.training.base import base_tensors, plain_name
from making import payload

FAST = dict(learning_rate=2e-3, epochs=2, batch_size=8, rank=4, alpha=8)


def some_rows(engine, n=20, seed=0):
    "Sums as an agent of this engine might have generated them: its own prompts, its own stop token."
    rng, rows = random.Random(seed), []
    for i in range(n):
        a, b = rng.randrange(30), rng.randrange(30)
        words = f'{a}+{b}={a + b}\n' * rng.randrange(1, 4) + f'\\boxed{{{a + b}}}'
        rows.append(
            Example(engine.render((Message('user', f'What is the result of {a}+{b}?'),)), engine.encode(words), f'q{i}')
        )
    return rows


@pytest.fixture(scope='session')
def models(tmp_path_factory):
    "Folder of a tiny model by name, made once."
    made, at = {}, tmp_path_factory.mktemp('models')

    def get(name):
        if name not in made:
            made[name] = tiny_models.make(name, at / name)
        return made[name]

    return get


@pytest.fixture(scope='session')
def engine(models):
    return HFEngine(models('llama'), device='cpu')


@pytest.fixture
def rows_file(engine, tmp_path):
    return save_examples(tmp_path / 'rows.jsonl', some_rows(engine))


@pytest.fixture
def job(engine, rows_file, tmp_path):
    "Run a job; its folder comes back."

    def run(name='out', parent=None, seed=0, rows=rows_file, eng=engine, **settings):
        finetune_job(tmp_path / name, eng, parent and str(parent), str(rows), FAST | settings, seed)
        return tmp_path / name

    return run


@pytest.fixture
def with_checkpoints(engine, rows_file, tmp_path):
    "Run a job that writes a checkpoint after every step."

    def run(name, seed=0):
        how = dict(scratch=str(tmp_path / 'scratch'), checkpoint_seconds=0)
        finetune_job(tmp_path / name, engine, None, str(rows_file), FAST, seed, **how)

    return run


def report_of(folder):
    return json.loads((folder / 'training.json').read_text())


# What a job does


def test_layers_run_twice_for_long_micro_batches_alone_and_change_no_byte(job, engine, monkeypatch):
    whole, kept = payload(job('whole', micro_batch=2)), []
    lengths = sorted(len(e.input_ids) for e in some_rows(engine))
    room = 2 * lengths[len(lengths) // 2] * tr.activation_bytes(engine.base.model)  # two examples of usual length
    remembered = tr.remembered
    monkeypatch.setattr(tr, 'activation_room', lambda base: room)
    monkeypatch.setattr(tr, 'remembered', lambda layers: kept.append(len(layers)) or remembered(layers))
    assert payload(job('twice', micro_batch=2)) == whole
    assert min(kept) == 0 < max(kept)  # layers are run twice in some micro-batches, remembered in others


def test_progress_moves_within_a_step_of_training(job, engine):
    said = []
    watched = ReportingEngine(engine, on_trained=lambda *tokens: said.append(tokens))
    r = report_of(job('watched', eng=watched, micro_batch=1))
    assert len(said) == 40 > r['steps']  # 20 examples, twice, one by one
    assert said == sorted(set(said)) and said[-1] == (2 * r['tokens'],) * 2
    assert job('silent', micro_batch=1).joinpath('adapter_model.safetensors').read_bytes() == (
        job('again', eng=watched, micro_batch=1).joinpath('adapter_model.safetensors').read_bytes()
    )


def test_loss_falls_and_report_is_complete(job, engine, rows_file):
    seen = []
    folder = job()
    finetune_job(folder.with_name('again'), engine, None, str(rows_file), FAST, 0, progress=seen.append)
    r, rows = report_of(folder), load_examples(rows_file)
    assert (
        r['rows'] == 20
        and r['steps'] == 6 == len(r['curve']) == len(seen)
        and r['learned'] == sum(len(x.token_ids) for x in rows)
    )
    assert (
        seen[-1]['tokens'] == 2 * r['tokens']
        and [x['step'] for x in seen] == [1, 2, 3, 4, 5, 6]
        and seen[0]['steps'] == 6
    )
    assert r['curve'][-1]['loss'] < r['curve'][0]['loss']
    assert {f.name for f in folder.iterdir()} == {'adapter_model.safetensors', 'adapter_config.json', 'training.json'}
    gain = [sum(engine.logprobs([x.prompt_ids], [x.token_ids], a)[0]) for x in rows for a in (None, str(folder))]
    assert sum(gain[1::2]) > sum(gain[::2])


@pytest.mark.parametrize(
    'settings', [{}, dict(method='full', learning_rate=1e-4), dict(dropout=0.1), dict(dtype='bfloat16')], ids=str
)
def test_training_twice_is_byte_identical(job, settings):
    first, again = job('a', **settings), job('b', **settings)
    assert payload(first) == payload(again)
    child = [job(n, parent=first, seed=1, **settings) for n in ('c', 'd')]
    assert payload(child[0]) == payload(child[1]) != payload(first)


def test_artifact_does_not_depend_on_path_or_time(job, tmp_path):
    files = sorted(job(parent=job('parent')).iterdir())
    assert 'adapter_model.safetensors' in [f.name for f in files]
    for f in files:
        text = f.read_bytes().decode('latin1')
        assert str(tmp_path) not in text and os.uname().nodename not in text, f.name


def test_agents_are_order_independent(job):
    a, b = job('a', seed=1), job('b', seed=2)
    assert payload(job('b2', seed=2)) == payload(b) and payload(job('a2', seed=1)) == payload(a) != payload(b)


# so is one that was killed and resumed, see below
@pytest.mark.slow
def test_another_process_is_byte_identical(job, models, rows_file, tmp_path):
    code = (
        'import sys, json; from multiagent_ft.engines.huggingface import HFEngine; '
        'from multiagent_ft.training.finetune import finetune_job; '
        'model, rows, out, settings = sys.argv[1:]; '
        'finetune_job(out, HFEngine(model, device="cpu"), None, rows, json.loads(settings), 0)'
    )
    subprocess.run(
        [sys.executable, '-c', code, models('llama'), rows_file, tmp_path / 'there', json.dumps(FAST)], check=True
    )
    assert payload(tmp_path / 'there') == payload(job())


def test_finetune_key_covers_every_input(engine, job):
    rows = some_rows(engine)
    parent = str(job())

    def key(rows=rows, parent=None, seed=0, **s):
        return json.dumps(finetune_key(engine, parent, rows, TrainingSettings(**FAST | s), seed), sort_keys=True)

    keys = {
        key(),
        key(parent=parent),
        key(seed=1),
        key(rows=rows[1:]),
        key(rows=rows[::-1]),
        key(rank=8),
        key(dtype='bfloat16'),
        key(schedule='linear'),
    }
    keys.add(key(rows=[Example((*rows[0].prompt_ids, 5), rows[0].token_ids), *rows[1:]]))
    assert len(keys) == 9 and key() in keys
    # where a row came from does not touch the weights
    assert key(rows=[Example(r.prompt_ids, r.token_ids) for r in rows]) == key()


def test_fused_lora_matches_peft(engine):
    "Same logits, same gradients, up to rounding."
    import torch

    s, rows = TrainingSettings(rank=4), some_rows(engine)

    def grads(model):
        with torch.no_grad():
            for n, p in model.named_parameters():
                if 'lora_B' in n:
                    p.copy_(torch.linspace(-0.1, 0.1, p.numel()).view_as(p))
        b = tr.Collator(rows, engine.base.pad_id)(
            [dict(input_ids=r.input_ids, labels=r.labels, row=i) for i, r in enumerate(rows)]
        )
        loss = tr.completion_loss(model, b['input_ids'], b['labels'])
        loss.backward()
        ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        plain = (
            model(
                input_ids=b['input_ids'], attention_mask=b['attention_mask'], labels=b['labels'], use_cache=False
            ).loss
            * (b['labels'] != -100).sum()
        )
        plain.backward()  # every position, every layer
        assert all(
            (ours[n] - p.grad).abs().max() < 1e-3 * max(1, p.grad.abs().max())
            for n, p in model.named_parameters()
            if p.grad is not None
        )
        return float(loss.detach()), float(plain.detach()), ours

    (a, whole, ga), (b, _, gb) = (
        grads(ft.init_model(engine.base, None, s, 0)),
        grads(tr.fuse_lora(ft.init_model(engine.base, None, s, 0))),
    )
    assert abs(a - b) < 1e-3 and abs(a - whole) < 1e-3 and ga.keys() == gb.keys() and len(ga) > 10
    assert all((ga[k] - gb[k]).abs().max() < 1e-3 * max(1, ga[k].abs().max()) for k in ga)


def test_fused_lora_beside_bfloat16_matches_peft():
    "More rows than are summed at a time; what comes out, and every gradient."
    import torch
    from multiagent_ft.engines.huggingface import plain_lora_layers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(48, 80), torch.nn.SiLU(), torch.nn.Linear(80, 32)).bfloat16()
    model = get_peft_model(net, LoraConfig(r=4, lora_alpha=8, target_modules=['0', '2'], init_lora_weights=False))
    x = torch.randn(2, 150, 48).bfloat16().requires_grad_()

    def grads():
        model.zero_grad()
        x.grad = None
        out = model(x)
        out.float().square().sum().backward()
        return [out.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]

    plain = grads()
    assert len(plain_lora_layers(model, 'default')) == 2 and tr.fuse_lora(model) is model
    fused = grads()
    assert len(plain) == len(fused) == 6
    assert all((a - b).abs().max() <= 0.02 * a.abs().max() for a, b in zip(plain, fused))


def test_oom_reduces_the_micro_batch(job, monkeypatch):
    whole, real, sizes = job('whole'), tr.SFT.train, []

    def tight(self, model, run):
        sizes.append(run.micro)
        if run.micro > 2:
            raise MemoryError
        return real(self, model, run)

    monkeypatch.setattr(tr.SFT, 'train', tight)
    halved = job('halved')
    assert sizes == [8, 4, 2] and report_of(halved)['micro_batch'] == 2 and report_of(whole)['micro_batch'] == 8
    from safetensors.torch import load_file

    a, b = (load_file(f / 'adapter_model.safetensors') for f in (whole, halved))
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-4  # the same steps, up to rounding
    monkeypatch.setattr(tr.SFT, 'train', lambda *a: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MaftError, match='not even one example'):
        job('never')


def test_micro_batches_that_do_not_divide_the_batch(job):
    from safetensors.torch import load_file

    # 20 rows: the last step has 4
    a, b = (load_file(job(str(m), micro_batch=m, learning_rate=1e-4) / 'adapter_model.safetensors') for m in (8, 4))
    assert max((a[k] - b[k]).abs().max() for k in a) < 1e-5


# Killed and continued

KILLED = """import os, signal, sys, json
from multiagent_ft.training import finetune as ft
from multiagent_ft.engines.huggingface import HFEngine
model, rows, out, scratch, settings, at = sys.argv[1:]
def progress(p):
    print(p['step'], flush=True)
    if p['step'] == int(at): os.kill(os.getpid(), signal.SIGKILL)
engine = HFEngine(model, device='cpu')
how = dict(scratch=scratch, progress=progress, checkpoint_seconds=0)
ft.finetune_job(out, engine, None, rows, json.loads(settings), 0, **how)
"""


def run_killed(models, rows_file, tmp_path, settings, at, out='killed'):
    r = subprocess.run(
        [
            sys.executable,
            '-c',
            KILLED,
            models('llama'),
            rows_file,
            tmp_path / out,
            tmp_path / 'scratch',
            json.dumps(FAST | settings),
            str(at),
        ],
        capture_output=True,
        text=True,
    )
    return r.returncode, list(map(int, r.stdout.split())), r.stderr


@pytest.mark.parametrize(
    'settings',
    [
        pytest.param(dict(dropout=0.1), marks=pytest.mark.slow),
        pytest.param(dict(method='full', learning_rate=1e-4, weight_decay=0.1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_sigkill_and_resume_is_byte_identical(job, models, rows_file, tmp_path, settings):
    whole = job('whole', **settings)
    rc, steps, _ = run_killed(models, rows_file, tmp_path, settings, 5)
    assert rc == -signal.SIGKILL and steps == [1, 2, 3, 4, 5] and not (tmp_path / 'killed' / 'training.json').exists()
    rc, steps, err = run_killed(models, rows_file, tmp_path, settings, 99)
    assert rc == 0, err
    assert steps[0] in (4, 5, 6) and steps[-1] == 6  # it resumed from the checkpoint, not from the start
    assert payload(tmp_path / 'killed') == payload(whole)
    assert not any((tmp_path / 'scratch').iterdir())  # and left nothing behind


def test_resume_skips_a_truncated_checkpoint(job, models, rows_file, tmp_path):
    whole = job('whole')
    run_killed(models, rows_file, tmp_path, {}, 5)
    marks = sorted((tmp_path / 'scratch').rglob('manifest.json'))
    newest = max((m.parent for m in marks), key=lambda f: int(f.name.split('-')[1]))
    (newest / 'optimizer.pt').write_bytes(b'truncated')
    assert tr.latest(newest.parent) != newest
    rc, steps, err = run_killed(models, rows_file, tmp_path, {}, 99)
    assert rc == 0 and payload(tmp_path / 'killed') == payload(whole), err
    assert 1 < steps[0] < 6 and steps[-1] == 6  # from the checkpoint before, not from the start


def test_resume_ignores_the_checkpoint_of_another_job(job, models, rows_file, tmp_path, with_checkpoints):
    run_killed(models, rows_file, tmp_path, {}, 5)
    with_checkpoints('other', seed=7)
    assert payload(tmp_path / 'other') == payload(job(seed=7))


def test_full_disk_while_writing_a_checkpoint(with_checkpoints, monkeypatch):
    import torch

    def full(*a, **kw):
        raise RuntimeError(
            '[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/0: file write'
            ' failed'
        )

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(MaftError, match='no room'):
        with_checkpoints('out')


def test_short_training_run_writes_no_checkpoint(engine, rows_file, tmp_path, monkeypatch):
    monkeypatch.setattr(tr, 'commit_checkpoint', lambda folder: pytest.fail('a checkpoint was written'))
    finetune_job(tmp_path / 'out', engine, None, str(rows_file), FAST, 0, scratch=str(tmp_path / 'scratch'))


# The guards, each broken on purpose


def test_guard_start_blank_adapter_instead_of_the_parent(job, monkeypatch):
    "What modelco 1.1.2 does from its second iteration on."
    parent, real = job('parent'), ft.init_model
    monkeypatch.setattr(ft, 'init_model', lambda base, parent, s, seed: real(base, None, s, seed))
    with pytest.raises(GuardError, match='did not take over the parent') as e:
        job('child', parent=parent)
    assert e.value.guard == 'start'


def test_guard_start_another_base(job, engine, monkeypatch):
    import torch

    real = tr.weight_sharing_copy

    def off(base, own=False):
        model = real(base, own)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 1.01, requires_grad=False)
        return model

    monkeypatch.setattr(tr, 'weight_sharing_copy', off)
    with pytest.raises(GuardError, match='differ by up to') as e:
        job()
    assert e.value.guard == 'start'


def test_guard_changed_a_frozen_adapter(job, monkeypatch):
    import torch

    monkeypatch.setattr(torch.optim.AdamW, 'step', lambda self, *a, **kw: None)
    with pytest.raises(GuardError) as e:
        job()
    assert e.value.guard == 'changed'


def test_guard_base_shared_base_is_trained(job, engine, monkeypatch):
    real, w = tr.SFT.train, engine.base.model.model.layers[0].mlp.up_proj
    w = getattr(w, 'base_layer', w).weight

    def faulty_train(*args):
        out = real(*args)
        w.data[0, 0] += 1e-3
        return out

    monkeypatch.setattr(tr.SFT, 'train', faulty_train)
    try:
        with pytest.raises(GuardError, match='layers.0.mlp.up_proj') as e:
            job()
    finally:
        w.data[0, 0] -= 1e-3
    assert e.value.guard == 'base'


def test_guard_base_adapter_of_another_agent_is_trained(job, models, monkeypatch):
    """An engine holds the adapters of all agents inside the base's layers, unless the base is tiny; training one may
    not touch another."""
    engine = HFEngine(models('llama'), device='cpu', merge_below=0)
    other, real = job('other', eng=engine), tr.SFT.train
    engine.logprobs([(5, 6)], [(7,)], str(other))
    held = next(p for k, p in engine.base.model.named_parameters() if 'lora_B' in k)

    def faulty_train(*args):
        out = real(*args)
        held.data += 1e-3
        return out

    monkeypatch.setattr(tr.SFT, 'train', faulty_train)
    try:
        with pytest.raises(GuardError, match='lora_B') as e:
            job('mine', seed=5, eng=engine)
    finally:
        held.data -= 1e-3
    assert e.value.guard == 'base'


def test_guard_parent_files_change(job, monkeypatch):
    parent, real = job('parent'), tr.SFT.train

    def faulty_train(*args):
        (parent / 'adapter_config.json').write_text((parent / 'adapter_config.json').read_text() + ' ')
        return real(*args)

    monkeypatch.setattr(tr.SFT, 'train', faulty_train)
    with pytest.raises(GuardError) as e:
        job('child', parent=parent)
    assert e.value.guard == 'parent'


def test_guard_labels_shifted_by_one(job, monkeypatch):
    monkeypatch.setattr(
        Example, 'labels', property(lambda r: [-100] * (len(r.prompt_ids) - 1) + list(r.token_ids) + [-100])
    )
    with pytest.raises(GuardError) as e:
        job()
    assert e.value.guard == 'labels'


def test_guard_labels_truncation(job, monkeypatch):
    real = tr.Collator.__call__
    monkeypatch.setattr(
        tr.Collator,
        '__call__',
        lambda self, items: real(
            self, [{k: v[:20] if isinstance(v, list) else v for k, v in x.items()} for x in items]
        ),
    )
    with pytest.raises(GuardError) as e:
        job()
    assert e.value.guard == 'labels'


def test_guard_rows_dropped_examples(job, monkeypatch):
    monkeypatch.setattr(tr.LengthGroupedSampler, '__len__', lambda self: 20)
    monkeypatch.setattr(tr.LengthGroupedSampler, '__iter__', lambda self: iter(range(18)))
    with pytest.raises(GuardError, match='36 examples .* where 40 examples') as e:
        job()
    assert e.value.guard == 'examples'


@pytest.mark.parametrize(
    'spoil,what',
    [
        (lambda r: Example(r.prompt_ids, r.token_ids[:-1]), 'cut'),
        (lambda r: Example(r.prompt_ids, r.token_ids * 2), 'more than one turn'),
        (lambda r: Example((), r.token_ids), 'empty'),
        (lambda r: Example(r.prompt_ids, (10**6, *r.token_ids)), 'outside the vocabulary'),
        (lambda r: Example(r.prompt_ids * 200, r.token_ids), 'truncated'),
    ],
)
def test_guard_rows(engine, job, tmp_path, spoil, what):
    rows = some_rows(engine)
    rows[3] = spoil(rows[3])
    with pytest.raises(GuardError, match=what) as e:
        job(rows=save_examples(tmp_path / 'bad.jsonl', rows))
    assert e.value.guard == 'examples' and 'example 3' in str(e.value)


def test_guard_finite_nan_loss(job, monkeypatch):
    cls = tr.trainer_class()
    real = cls.compute_loss
    monkeypatch.setattr(cls, 'compute_loss', lambda *a, **kw: real(*a, **kw) * float('nan'))
    with pytest.raises(GuardError, match='step 1') as e:
        job()
    assert e.value.guard == 'finite' and 'learning_rate' in str(e.value)


def test_guard_finite_nan_weights(job, monkeypatch):
    real = tr.SFT.train

    def faulty_train(self, model, run):
        model, log = real(self, model, run)
        next(p for p in model.parameters() if p.requires_grad).data[0] = float('inf')
        return model, log

    monkeypatch.setattr(tr.SFT, 'train', faulty_train)
    with pytest.raises(GuardError) as e:
        job()
    assert e.value.guard == 'finite'


def test_guard_saved_wrong_adapter(job, monkeypatch):
    real = ft.save_agent
    monkeypatch.setattr(
        ft,
        'save_agent',
        lambda base, model, folder, tensors: real(base, model, folder, {k: t * 2 for k, t in tensors.items()}),
    )
    with pytest.raises(GuardError) as e:
        job()
    assert e.value.guard == 'saved'


@pytest.mark.parametrize(
    'mine,theirs',
    [
        ([-1.0, -2.0], [-1.0, float('nan')]),
        ([float('nan'), -2.0], [-1.0, -2.0]),
        ([-1.0, -2.0], [float('-inf'), -2.0]),
        ([float('-inf')], [float('-inf')]),
    ],
    ids=['last', 'first', 'inf', 'both-inf'],
)
def test_guard_same_detects_nan(mine, theirs):
    "`max` keeps NaN only where it comes first."
    with pytest.raises(GuardError):
        guards.check_logprobs_agree([mine], [theirs], 'start', 1e-3, '')
    with pytest.raises(GuardError):
        guards.check_logprobs_agree([[-1.0], mine], [[-1.0], theirs], 'start', 1e-3, '')


def test_guard_error_leaves_no_checkpoints(with_checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(ft, 'check_finite', lambda t: (_ for _ in ()).throw(GuardError('finite', 'on purpose', '')))
    with pytest.raises(GuardError):
        with_checkpoints('out')
    assert not any((tmp_path / 'scratch').iterdir())


# The weight-sharing copy and the engine


def test_trainer_copy_is_not_shared_with_the_engine(engine, job):
    before = {id(m) for m in engine.base.model.modules()}
    model = tr.weight_sharing_copy(engine.base)
    assert not before & {id(m) for m in model.modules()}
    mine, theirs = dict(model.named_parameters()), base_tensors(engine.base)
    # one base in memory
    assert all(p.data_ptr() == theirs[k].data_ptr() and not p.requires_grad for k, p in mine.items())
    config = json.dumps(engine.base.model.config.to_dict(), sort_keys=True, default=str)
    words = engine.logprobs([(5, 6, 7)], [(8, 9)])[0]
    tok = (engine.base.tokenizer.pad_token, engine.base.tokenizer.padding_side, engine.base.tokenizer.chat_template)
    job()
    assert tok == (
        engine.base.tokenizer.pad_token,
        engine.base.tokenizer.padding_side,
        engine.base.tokenizer.chat_template,
    )
    assert 'forward' not in vars(engine.base.model) and not engine.base.model.training
    assert json.dumps(engine.base.model.config.to_dict(), sort_keys=True, default=str) == config
    assert (engine.logprobs([(5, 6, 7)], [(8, 9)])[0] == words).all()


def test_trl_telemetry_is_off(job, monkeypatch):
    "TRL reports each new trainer to its makers unless told not to."
    from trl.trainer import base_trainer

    monkeypatch.setattr(base_trainer, 'send_telemetry', lambda *a, **kw: pytest.fail('telemetry was sent'))
    for k in ('CI', 'HF_HUB_OFFLINE'):
        monkeypatch.delenv(k, raising=False)
    job()


def test_loss_matches_trl(engine, tmp_path, monkeypatch):
    "On a CPU we skip the logits of prompts; the number must not change."
    import torch

    rows, s = some_rows(engine, 4), TrainingSettings(**FAST | dict(batch_size=4))
    pairs, cls = [], tr.trainer_class()
    real, trls = cls.compute_loss, cls.__mro__[2].compute_loss

    def both(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with torch.no_grad():
            other = trls(self, model, dict(inputs), num_items_in_batch=num_items_in_batch)
        loss = real(self, model, inputs, return_outputs, num_items_in_batch)
        pairs.append((float(loss), float(other)))
        return loss

    monkeypatch.setattr(cls, 'compute_loss', both)
    with ft.silence_training():
        run = tr.TrainingRun(engine.base, None, rows, s, seed=0, micro=4, folder=tmp_path)
        tr.SFT().train(ft.init_model(engine.base, None, s, 0), run)
    assert pairs and all(abs(a - b) < 1e-5 for a, b in pairs)


@pytest.mark.parametrize('name', ['qwen2', 'phi3', 'gemma'])
def test_architectures(models, name, tmp_path):
    one_architecture(models, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('name', list(tiny_models.MODELS))
def test_all_architectures(models, name, tmp_path):
    one_architecture(models, name, tmp_path, ('lora', 'full'))


def one_architecture(models, name, tmp_path, methods=('lora',)):
    eng = HFEngine(models(name), device='cpu')
    rows = save_examples(tmp_path / 'rows.jsonl', some_rows(eng, 8))
    for method in methods:
        parent = None
        for k in range(2):
            out = tmp_path / f'{method}{k}'
            finetune_job(out, eng, parent, str(rows), FAST | dict(method=method, learning_rate=1e-4), k)
            assert report_of(out)['guards']['saved'] < 1e-3 and report_of(out)['guards']['start'] < 1e-3
            parent = str(out)


def test_qlora_4bit_base(models, job, tmp_path):
    pytest.importorskip('bitsandbytes', reason='bitsandbytes is not installed')
    eng = HFEngine(models('llama'), device='cpu', dtype='4bit')
    assert (
        eng.identity()['dtype'] == 'float32, nf4' and not eng.base.adapters.merged and eng.base.model.is_loaded_in_4bit
    )
    rows = save_examples(tmp_path / 'rows.jsonl', some_rows(eng))
    first = job('q1', eng=eng, method='qlora', rows=rows)
    second = job('q2', eng=eng, method='qlora', rows=rows, parent=first)
    assert (
        report_of(second)['curve'][-1]['loss'] < report_of(first)['curve'][0]['loss']
        and report_of(second)['guards']['start'] < 1e-3
    )
    assert payload(job('q3', eng=eng, method='qlora', rows=rows, parent=first)) == payload(second)
    mine, theirs = (
        dict(tr.weight_sharing_copy(eng.base).named_parameters()),
        {plain_name(k): p for k, p in eng.base.model.named_parameters() if '.lora_' not in k},
    )
    assert mine.keys() == theirs.keys() and all(p.data_ptr() == theirs[k].data_ptr() for k, p in mine.items())


# Errors a user can fix


def test_error_messages(engine, job, models, rows_file, tmp_path):
    with pytest.raises(MaftError, match='4bit'):
        job(method='qlora')
    for bad, expected in [
        (dict(method='prefix'), 'lora, full or qlora'),
        (dict(learning_rate=0), 'learning_rate'),
        (dict(epochs=0), 'epochs'),
        (dict(micro_batch=3), 'divisor'),
        (dict(lr=1), 'learning_rate, epochs'),
    ]:
        with pytest.raises(MaftError, match=expected):
            job(**bad)
    parent = job('parent')
    with pytest.raises(MaftError, match='rank 4.*rank 8'):
        job('child', parent=parent, rank=8)
    with pytest.raises(MaftError, match='no full weights'):
        job('child', parent=parent, method='full')
    with pytest.raises(MaftError, match='adapter_config.json'):
        job('child', parent=job('whole', method='full', learning_rate=1e-4))
    other = HFEngine(models('phi3'), device='cpu')
    with pytest.raises(MaftError, match='does not fit'):
        job('child', parent=parent, eng=other, rows=save_examples(tmp_path / 'q.jsonl', some_rows(other)))
    (tmp_path / 'broken.jsonl').write_text('{"prompt_ids": [1], "token_ids": [2]}\nnot json\n')
    with pytest.raises(MaftError, match='line 2'):
        job(rows=tmp_path / 'broken.jsonl')
    (tmp_path / 'strange.jsonl').write_text('{"prompt_ids": [1]}\n')
    with pytest.raises(MaftError, match='strange.jsonl'):
        job(rows=tmp_path / 'strange.jsonl')
    with pytest.raises(GuardError, match='no examples'):
        job(rows=save_examples(tmp_path / 'none.jsonl', []))


def test_training_prints_nothing(engine, rows_file, tmp_path, capfd):
    finetune_job(tmp_path / 'out', engine, None, str(rows_file), FAST, 0)
    assert capfd.readouterr() == ('', '')


def test_untrainable_model_is_refused_before_training(engine, models):
    "PEFT's refusal as one line, and the base as it was."
    before = guards.fingerprint(engine.base.model.state_dict())
    ft.check_trainable(engine.base, FAST)
    ft.check_trainable(HFEngine(models('phi3'), device='cpu').base, FAST)
    with pytest.raises(MaftError, match='cannot be trained with method lora.*target_modules'):
        ft.check_trainable(engine.base, FAST | dict(target_modules=['experts']))
    with pytest.raises(MaftError, match='4bit'):
        ft.check_trainable(engine.base, FAST | dict(method='qlora'))
    assert guards.fingerprint(engine.base.model.state_dict()) == before


def test_full_weights_keep_the_generation_config(models, job, tmp_path):
    "A base that stops at two tokens (Llama 3) has agents that do."
    import shutil

    folder = shutil.copytree(models('llama'), tmp_path / 'two-ends')
    config = (
        json.loads((folder / 'generation_config.json').read_text())
        if (folder / 'generation_config.json').exists()
        else {}
    )
    (folder / 'generation_config.json').write_text(json.dumps(config | dict(eos_token_id=[1, 4], top_k=7)))
    eng = HFEngine(folder, device='cpu')
    rows = save_examples(tmp_path / 'rows.jsonl', some_rows(eng, 8))
    out = job('out', eng=eng, rows=rows, method='full', learning_rate=1e-4)
    saved = json.loads((out / 'generation_config.json').read_text())
    assert saved['eos_token_id'] == [1, 4] and saved['top_k'] == 7
    assert HFEngine(out, device='cpu').stop_ids == eng.stop_ids


# The order of rows


def test_length_grouped_order_is_a_permutation_with_less_padding():
    rng = random.Random(0)
    lengths = [rng.randrange(20, 200) for _ in range(203)]
    for epoch in range(2):
        o = tr.length_grouped_order(lengths, 16, 0, epoch)
        assert sorted(o) == list(range(203)) and o == tr.length_grouped_order(lengths, 16, 0, epoch)
    assert (
        tr.length_grouped_order(lengths, 16, 0, 0)
        != tr.length_grouped_order(lengths, 16, 0, 1)
        != tr.length_grouped_order(lengths, 16, 1, 1)
    )

    def width(o):
        return sum(max(lengths[j] for j in o[i : i + 16]) * len(o[i : i + 16]) for i in range(0, len(o), 16))

    assert width(tr.length_grouped_order(lengths, 16, 0, 0)) < 0.8 * width(
        tr.length_grouped_order(lengths, 16, 0, 0, group=False)
    )


def test_weight_fingerprints():
    import torch

    g = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool):
        for n in (1, 3, 8, 1001):
            t = (torch.randn(n, generator=g) * 10).to(dtype)
            one = guards.fingerprint(dict(t=t))
            assert one == guards.fingerprint(dict(t=t.clone())) == guards.fingerprint(dict(t=torch.cat([t[:1], t])[1:]))
            u = t.clone()
            u[n // 2] = ~u[n // 2] if dtype == torch.bool else u[n // 2] + 1
            assert one != guards.fingerprint(dict(t=u)), (dtype, n)
