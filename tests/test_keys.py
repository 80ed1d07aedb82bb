"""A content key misses nothing: change one thing that matters and the job is another; change nothing that matters and
it is the same."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
from tiny_models import make

from multiagent_ft.core import Message, digest
from multiagent_ft.method.prompts import Request, Sampling
from multiagent_ft.runs.jobs import generate_key
from multiagent_ft.method.examples import Example


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A tiny model and one adapter of it."
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    import torch

    root = tmp_path_factory.mktemp('keys')
    make('qwen2', root / 'model')
    torch.manual_seed(0)
    peft = get_peft_model(
        AutoModelForCausalLM.from_pretrained(root / 'model'),
        LoraConfig(r=4, target_modules='all-linear', init_lora_weights=False),
    )
    peft.save_pretrained(root / 'adapter')
    return root


def engine(folder, **kw):
    from multiagent_ft.engines.huggingface import HFEngine

    return HFEngine(str(folder), **kw)


def requests(adapter, **kw):
    return [
        replace(
            Request(
                (Message('user', f'What is {i}+1?'),),
                100 + i,
                Sampling(1.0, 0.9, 8),
                adapter and str(adapter),
                ('train', f'q{i}', 1, 'generator', 0),
            ),
            **kw,
        )
        for i in range(3)
    ]


def key(world, model='model', adapter='adapter', change={}, **kw):
    return digest(generate_key(engine(world / model, **kw), requests(**dict(adapter=world / adapter) | change)))


def copied(world, name, new):
    if not (world / new).exists():
        shutil.copytree(world / name, world / new)
    return world / new


def flip(file, at=-1):
    b = bytearray(file.read_bytes())
    b[at] ^= 1
    file.write_bytes(bytes(b))


def edit(file, **change):
    d = json.loads(file.read_text())
    d.update(change)
    file.write_text(json.dumps(d))


def byte_of_adapter(w):
    flip(copied(w, 'adapter', 'a1') / 'adapter_model.safetensors')
    return dict(adapter='a1')


def scale_of_adapter(w):
    edit(copied(w, 'adapter', 'a2') / 'adapter_config.json', lora_alpha=99)
    return dict(adapter='a2')


def byte_of_base(w):
    flip(copied(w, 'model', 'm1') / 'model.safetensors')
    return dict(model='m1')


def template(w):
    f = copied(w, 'model', 'm2') / 'chat_template.jinja'
    f.write_text(f.read_text() + '{# changed #}')
    return dict(model='m2')


def tokenizer(w):
    f = copied(w, 'model', 'm3') / 'tokenizer.json'
    d = json.loads(f.read_text())
    d['model']['merges'] = d['model']['merges'][:-1]
    f.write_text(json.dumps(d))
    return dict(model='m3')


def stop_id(w):
    edit(copied(w, 'model', 'm4') / 'generation_config.json', eos_token_id=[1, 5])
    return dict(model='m4')


def shape(w):
    edit(copied(w, 'model', 'm5') / 'config.json', rms_norm_eps=1e-3)
    return dict(model='m5')


FILES = [byte_of_adapter, scale_of_adapter, byte_of_base, template, tokenizer, stop_id, shape]
CALLS = [dict(dtype='bfloat16'), dict(batch_size=7), dict(max_length=512)]
REQUESTS = [
    dict(seed=1),
    dict(chat=(Message('user', 'What is 1+1? '),)),
    dict(adapter=None),
    *(dict(sampling=Sampling(*s)) for s in ((0.9, 0.9, 8), (1.0, 0.8, 8), (1.0, 0.9, 9))),
]


@pytest.mark.parametrize('change', FILES, ids=lambda f: f.__name__)
def test_changed_file_is_a_cache_miss(world, change):
    assert key(world, **change(world)) != key(world)


@pytest.mark.parametrize('kw', CALLS, ids=str)
def test_changed_engine_is_a_cache_miss(world, kw):
    assert key(world, **kw) != key(world)


@pytest.mark.parametrize('change', REQUESTS, ids=str)
def test_changed_request_is_a_cache_miss(world, change):
    assert key(world, change=change) != key(world)


def test_attention_and_device_are_in_the_key(world):
    e = engine(world / 'model')
    assert {
        'attention',
        'device',
        'dtype',
        'stop_ids',
        'template',
        'tokenizer',
        'batch_size',
        'engine',
        'base',
        'adapter',
    } <= set(e.identity(str(world / 'adapter')))


def test_order_and_number_of_requests(world):
    e, rs = engine(world / 'model'), requests(world / 'adapter')
    keys = {digest(generate_key(e, x)) for x in (rs, rs[::-1], rs[:2])}
    assert len(keys) == 3


def test_key_does_not_depend_on_paths(world):
    copied(world, 'model', 'moved')
    copied(world, 'adapter', 'renamed')
    f = world / 'renamed' / 'adapter_config.json'
    d = json.loads(f.read_text())
    d['base_model_name_or_path'] = '/somewhere/else'
    d['target_modules'] = d['target_modules'][::-1]
    f.write_text(json.dumps(dict(reversed(d.items()))))
    assert key(world, model='moved', adapter='renamed') == key(world)


def test_finetune_key(world):
    from multiagent_ft.training.finetune import finetune_key
    from multiagent_ft.training.settings import TrainingSettings

    e, rows, s = engine(world / 'model'), [Example((1, 2), (3, 4)), Example((5,), (6, 4))], TrainingSettings()
    base = digest(finetune_key(e, str(world / 'adapter'), rows, s, 0))
    assert base == digest(finetune_key(e, str(world / 'adapter'), list(rows), asdict(s), 0))
    others = [
        finetune_key(e, None, rows, s, 0),
        finetune_key(e, str(world / 'adapter'), rows, s, 1),
        finetune_key(e, str(world / 'adapter'), rows[::-1], s, 0),
        finetune_key(e, str(world / 'adapter'), rows[:1], s, 0),
        finetune_key(e, str(world / 'adapter'), [Example((1, 2), (3, 5)), rows[1]], s, 0),
        finetune_key(e, str(world / 'adapter'), [Example((1, 3), (3, 4)), rows[1]], s, 0),
    ]
    for f, v in dict(
        learning_rate=0.5,
        epochs=7,
        batch_size=7,
        rank=7,
        alpha=7,
        dropout=0.5,
        warmup=0.5,
        weight_decay=0.5,
        schedule='linear',
        max_grad_norm=7.0,
        dtype='bfloat16',
        method='full',
        group_by_length=False,
    ).items():
        others.append(finetune_key(e, str(world / 'adapter'), rows, replace(s, **{f: v}), 0))
    digests = {digest(k) for k in others}
    assert base not in digests and len(digests) == len(others)
