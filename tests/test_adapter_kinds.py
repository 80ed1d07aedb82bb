"Adapters as others train them: what they hold beside their matrices, and what an engine that shares one base can take."

import shutil

import numpy as np
import pytest
import torch
from tiny_models import make, random_adapters

from multiagent_ft.core import MaftError, Message
from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.engines.weights import check_model_name
from multiagent_ft.training import finetune as ft
from multiagent_ft.training.settings import TrainingSettings
from multiagent_ft.training.trainer import init_model

CHAT = (Message('user', '6+6?'),)


@pytest.fixture(scope='module')
def llama(tmp_path_factory):
    return make('llama', tmp_path_factory.mktemp('models') / 'llama')


def scored(engine, adapter=None):
    (scores,) = engine.logprobs([engine.render(CHAT)], [engine.encode('It is 12.')], adapter)
    return scores


def adapter(folder, llama, **settings):
    (place,) = random_adapters(folder, 1, size=0.1, model=str(llama), **settings)
    return place


def test_base_embeddings_beside_an_adapter_are_no_mismatch_unless_they_were_trained(llama, tmp_path):
    "PEFT saves whole embeddings where a layer at them is adapted, or when it is told to."
    from safetensors.torch import load_file, save_file

    place = adapter(tmp_path, llama)
    plain, file = scored(HFEngine(llama), str(place)), place / 'adapter_model.safetensors'
    embeddings = load_file(llama / 'model.safetensors')['model.embed_tokens.weight']
    name = 'base_model.model.model.embed_tokens.weight'
    tensors = load_file(file)
    save_file(tensors | {name: embeddings}, file, metadata=dict(format='pt'))
    for merge_below in (1 << 26, 0):
        engine = HFEngine(llama, merge_below=merge_below)
        assert np.abs(scored(engine, str(place)) - plain).max() < 1e-4
    own = TrainingSettings(rank=8, alpha=16)
    ft.check_parent_taken_over(init_model(engine.base, str(place), own, seed=0), str(place))
    save_file(tensors | {name: embeddings + 1}, file, metadata=dict(format='pt'))
    engine = HFEngine(llama, merge_below=0)
    before = scored(engine)
    with pytest.raises(MaftError, match=r'brings model.embed_tokens.weight of its own.*merge_and_unload'):
        scored(engine, str(place))
    assert np.array_equal(before, scored(engine))


@pytest.mark.parametrize(
    'settings, said',
    [
        (dict(init_lora_weights='pissa'), r'changes the weights of its base \(pissa\)'),
        (dict(init_lora_weights='olora'), r'changes the weights of its base \(olora\)'),
        (dict(layer_replication=[[0, 2], [1, 2]]), 'adds layers to its base'),
        (dict(alora_invocation_tokens=[5, 6]), 'acts from some tokens of the prompt on'),
    ],
    ids=['pissa', 'olora', 'replication', 'alora'],
)
def test_adapter_that_would_change_the_shared_base_is_refused_and_the_base_is_as_before(
    llama, tmp_path, settings, said
):
    place, engine = adapter(tmp_path, llama, **settings), HFEngine(llama, merge_below=0)
    before = scored(engine)
    with pytest.raises(MaftError, match=f'{said}.*merge_and_unload'):
        scored(engine, str(place))
    assert np.array_equal(before, scored(engine))
    with pytest.raises(MaftError, match='agents are plain LoRA'):
        HFEngine(llama, adapter=str(place))


def test_adapter_that_cannot_be_merged_stays_beside_the_base(llama, tmp_path):
    biased = adapter(tmp_path / 'biased', llama, lora_bias=True)
    plain = adapter(tmp_path / 'plain', llama)
    engine, beside = HFEngine(llama), HFEngine(llama, merge_below=0)
    assert engine.base.adapters.merged
    for place in (biased, plain, None, biased):
        place = place and str(place)
        assert np.abs(scored(engine, place) - scored(beside, place)).max() < 1e-4


def test_folder_of_an_adapter_or_above_a_model_is_named(llama, tmp_path):
    place = adapter(tmp_path, llama)
    with pytest.raises(MaftError, match=f'is an adapter.*--set adapter={place}'):
        check_model_name(str(place))
    shutil.copytree(llama, tmp_path / 'models--a--b' / 'snapshots' / 'c0ffee')
    with pytest.raises(MaftError, match='Did you mean .*/models--a--b/snapshots/c0ffee'):
        check_model_name(str(tmp_path / 'models--a--b'))


def test_positions_without_numbers_are_generated_one_by_one(tmp_path):
    "BART's decoder counts its positions itself, pads among them."
    small = dict(d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64)
    fields = small | dict(max_position_embeddings=256, is_decoder=True, init_std=0.1)
    bart = make('qwen2', tmp_path / 'bart', architecture=('BartConfig', fields))
    together = HFEngine(bart, batch_size=8)
    assert together.base.one_by_one and not HFEngine('nano').base.one_by_one
    chats = [(Message('user', '3+' * n + '3?'),) for n in (1, 4, 9)]
    prompts, answers = [together.render(c) for c in chats], [together.encode('It is 12.')] * 3
    alone = [together.logprobs([p], [a])[0] for p, a in zip(prompts, answers)]
    for a, b in zip(alone, together.logprobs(prompts, answers)):
        assert np.abs(a - b).max() < 1e-4


def test_model_that_reads_both_ways_is_refused(tmp_path):
    "It would be loaded, train, and write nonsense: RoBERTa when it is not called a decoder, XLNet always."
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    small |= dict(max_position_embeddings=256)
    xlnet = ('XLNetConfig', dict(d_model=32, n_layer=1, n_head=2, d_inner=64))
    encoder, decoder = (('RobertaConfig', small | dict(is_decoder=own)) for own in (False, True))
    for i, architecture in enumerate((encoder, xlnet)):
        folder = make('qwen2', tmp_path / str(i), architecture=architecture)
        with pytest.raises(MaftError, match='later tokens change what it says.*"is_decoder": true') as e:
            HFEngine(folder)
        assert str(folder) in str(e.value) and len(str(e.value).splitlines()) == 1
    engine = HFEngine(make('qwen2', tmp_path / 'decoder', architecture=decoder))
    assert torch.isfinite(torch.tensor(scored(engine))).all()
