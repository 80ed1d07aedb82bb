"Bases in few bits: rounded while loading, stored rounded, unpacked, or refused in a line."

import json, shutil
from dataclasses import asdict

import pytest
import torch
from tiny_models import make

from multiagent_ft.core import MaftError, Message, seed_for
from multiagent_ft.engines import weights
from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.method.examples import Example, save_examples
from multiagent_ft.method.prompts import Request, Sampling
from multiagent_ft.training.base import weight_sharing_copy
from multiagent_ft.training.finetune import check_trainable, finetune_job
from multiagent_ft.training.settings import TrainingSettings

FAST = TrainingSettings(rank=4, alpha=8, epochs=1, batch_size=4, learning_rate=1e-3)


def asks(n=6):
    return [
        Request((Message('user', f'What is {"+".join("3" * (1 + i))}?'),), seed_for('few', i), Sampling(1.0, 1.0, 8))
        for i in range(n)
    ]


def trained(engine, folder, parent=None):
    "The folder of an agent trained by one job."
    rows = [Example(engine.render(r.chat), engine.encode(f'It is {i}.')) for i, r in enumerate(asks(4))]
    file = save_examples(folder.parent / 'rows.jsonl', rows)
    folder.mkdir(parents=True)
    finetune_job(folder, engine, parent, str(file), asdict(FAST), 0)
    return str(folder)


@pytest.fixture(scope='module')
def llama(tmp_path_factory):
    return make('llama', tmp_path_factory.mktemp('rounded') / 'llama')


@pytest.mark.parametrize('dtype,name', [('8bit', 'int8'), ('4bit', 'nf4')])
def test_base_rounded_while_loading(llama, tmp_path, dtype, name):
    pytest.importorskip('bitsandbytes')
    one, many = HFEngine(llama, device='cpu', dtype=dtype, batch_size=1), HFEngine(llama, device='cpu', dtype=dtype)
    assert one.identity()['dtype'] == f'float32, {name}' and not one.base.adapters.merged
    assert [c.text for c in one.generate(asks())] == [c.text for c in many.generate(asks())]
    first = trained(many, tmp_path / 'a')
    second = trained(many, tmp_path / 'b', parent=first)
    guards = json.loads((tmp_path / 'b' / 'training.json').read_text())['guards']
    assert guards['start'] < 1e-3 and guards['saved'] < 1e-3
    many.generate([Request(r.chat, r.seed, r.sampling, adapter=second) for r in asks(2)])
    mine = dict(weight_sharing_copy(many.base).named_parameters())
    theirs = {n.replace('.base_layer', ''): p for n, p in many.base.model.named_parameters() if '.lora_' not in n}
    assert mine.keys() == theirs.keys() and all(p.data_ptr() == theirs[k].data_ptr() for k, p in mine.items())
    with pytest.raises(MaftError, match=f'method full cannot train .*{name}'):
        check_trainable(many, asdict(FAST) | dict(method='full'))


@pytest.mark.parametrize('bits', [4, 8])
def test_base_stored_rounded(llama, tmp_path, bits):
    "As published: saved by transformers with its quantization_config."
    pytest.importorskip('bitsandbytes')
    shutil.copytree(llama, tmp_path / 'm')
    rounded = weights.load_weights(str(llama), torch.device('cpu'), torch.float32, asked=f'{bits}bit')
    rounded.save_pretrained(tmp_path / 'm')
    stored = [weights.stored_rounding(str(folder)) for folder in (tmp_path / 'm', llama)]
    assert stored == ['bitsandbytes', None]
    now, before = HFEngine(tmp_path / 'm', device='cpu'), HFEngine(llama, device='cpu', dtype=f'{bits}bit')
    assert [c.text for c in now.generate(asks())] == [c.text for c in before.generate(asks())]
    assert trained(now, tmp_path / 'a')
    with pytest.raises(MaftError, match='in fewer bits already'):
        HFEngine(tmp_path / 'm', device='cpu', dtype='4bit')


def with_config(llama, folder, **config):
    "A copy of the model whose config.json says that it is rounded."
    shutil.copytree(llama, folder)
    page = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(page | dict(quantization_config=config)))
    return folder


@pytest.mark.parametrize(
    'config,said',
    [
        (dict(quant_method='bitsandbytes', load_in_4bit=True, bnb_4bit_quant_type='nf4'), 'and they are not'),
        (dict(quant_method='bitsandbytes', load_in_8bit=True), 'and they are not'),
        (dict(quant_method='gptq', bits=4, group_size=128), 'optimum|gptqmodel'),
        (dict(quant_method='awq', bits=4, group_size=128), 'gptqmodel'),
        (dict(quant_method='hqq', bits=4), 'hqq'),
        (dict(quant_method='quanto', weights='int8'), 'optimum-quanto'),
        (dict(quant_method='compressed-tensors', format='pack-quantized'), 'compressed-tensors'),
        (dict(quant_method='torchao', quant_type='int8_weight_only'), 'torchao'),
        (dict(quant_method='nosuch'), 'nosuch'),
        (dict(bits=4), 'quant_method'),
    ],
)
def test_rounded_base_that_cannot_be_loaded_is_refused_in_a_line(llama, tmp_path, config, said):
    with pytest.raises(MaftError, match=said) as e:
        HFEngine(with_config(llama, tmp_path / 'm', **config), device='cpu').generate(asks(1))
    assert '\n' not in str(e.value) and len(str(e.value)) < 400 and 'not keep a cache' not in str(e.value)


def test_fp8_base_is_unpacked_on_a_cpu(tmp_path):
    "Blocks of float8 with scales, as DeepSeek publishes them: ordinary weights where no GPU computes in fp8."
    from safetensors.torch import load_file, save_file

    llama = make('llama', tmp_path / 'llama')
    fp8 = dict(quant_method='fp8', activation_scheme='dynamic', weight_block_size=[16, 16], fmt='e4m3')
    folder = with_config(llama, tmp_path / 'm', **fp8)
    stored = {}
    for name, t in load_file(folder / 'model.safetensors').items():
        if name.endswith('_proj.weight'):
            stored[name] = t.to(torch.float8_e4m3fn)
            stored[f'{name}_scale_inv'] = torch.ones(-(-t.shape[0] // 16), -(-t.shape[1] // 16))
        else:
            stored[name] = t
    save_file(stored, folder / 'model.safetensors', metadata=dict(format='pt'))
    engine = HFEngine(folder, device='cpu')
    assert engine.identity()['dtype'] == 'float32' and engine.base.model.dtype == torch.float32
    assert not hasattr(engine.base.model.config, 'quantization_config') and trained(engine, tmp_path / 'a')
