"What a base is loaded from and as what: number format, memory, GGUF files, recurrent models, long thoughts."

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import make

from multiagent_ft.core import MaftError, Message, Problem, seed_for
from multiagent_ft.engines import huggingface as hf, weights
from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.method.debate import Protocol, Seeds, debate, untrained
from multiagent_ft.method.prompts import Request, Sampling, ScriptedEngine

CPU = torch.device('cpu')
RECURRENT = dict(
    rwkv=('qwen2', ('RwkvConfig', dict(hidden_size=64, attention_hidden_size=64, num_hidden_layers=2))),
    recurrent_gemma=(
        'gemma',
        (
            'RecurrentGemmaConfig',
            dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, lru_width=64),
        ),
    ),
)


def asks(n, max_new_tokens=12):
    "Questions of different lengths."
    return [
        Request(
            (Message('user', 'What is ' + '+'.join('3' * (1 + i % 3) for _ in range(1 + i % 5)) + '?'),),
            seed_for('loading', i),
            Sampling(1.0, 1.0, max_new_tokens),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize('name', RECURRENT)
def test_batch_size_does_not_change_answers_of_recurrent_models(name, tmp_path):
    base, architecture = RECURRENT[name]
    folder = make(base, tmp_path / name, architecture=architecture)
    alone, together = HFEngine(folder, batch_size=1), HFEngine(folder, batch_size=16)
    assert together.base.one_by_one
    a, b = alone.generate(asks(12)), together.generate(asks(12))
    assert [c.text for c in a] == [c.text for c in b]
    prompts, tokens = [c.prompt_ids for c in a], [c.token_ids for c in a]
    for x, y in zip(alone.logprobs(prompts, tokens), together.logprobs(prompts, tokens)):
        assert np.abs(x - y).max() < 1e-4


def test_pads_do_not_matter_to_attention_and_mamba(tmp_path):
    mamba = ('MambaConfig', dict(hidden_size=64, num_hidden_layers=2, state_size=8))
    assert not HFEngine(make('qwen2', tmp_path / 'mamba', architecture=mamba)).base.one_by_one
    assert not HFEngine('nano').base.one_by_one


def test_dtype_auto_by_size_and_processor(monkeypatch):
    monkeypatch.setattr(weights, 'multiplies_bfloat16', lambda: True)
    sizes = (1_172_960, 199_999_999, 200_000_000, 8_000_000_000)
    assert [weights.pick_dtype('auto', CPU, n) for n in sizes] == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert weights.pick_dtype('float32', CPU, sizes[-1]) == torch.float32
    monkeypatch.setattr(weights, 'multiplies_bfloat16', lambda: False)
    assert weights.pick_dtype('auto', CPU, sizes[-1]) == torch.float32
    assert HFEngine('nano').identity()['dtype'] == 'float32'


def test_not_enough_memory_says_what_would_fit(monkeypatch):
    monkeypatch.setattr(weights, 'free_memory', lambda device: 3_000_000)
    with pytest.raises(
        MaftError, match=r'nano needs 0.0 GB in float32.*dtype=bfloat16 \(0.0 GB\) or 8bit \(0.0 GB\) or 4bit'
    ) as e:
        HFEngine('nano', dtype='float32')
    assert 'float16 (' not in str(e.value).replace('bfloat16 (', '')
    monkeypatch.setattr(weights, 'free_memory', lambda device: 1000)
    with pytest.raises(MaftError, match='no number format would fit'):
        HFEngine('nano')


def write_gguf(folder: Path, file: Path, architecture='qwen2'):
    "The tiny Qwen2 of `folder` as a GGUF file."
    gguf = pytest.importorskip('gguf')
    from safetensors.torch import load_file

    config, spelled = (json.loads((folder / n).read_text()) for n in ('config.json', 'tokenizer.json'))
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_context_length(config['max_position_embeddings'])
    writer.add_embedding_length(config['hidden_size'])
    writer.add_feed_forward_length(config['intermediate_size'])
    writer.add_block_count(config['num_hidden_layers'])
    writer.add_head_count(config['num_attention_heads'])
    writer.add_head_count_kv(config['num_key_value_heads'])
    writer.add_rope_freq_base(config['rope_parameters']['rope_theta'])
    writer.add_layer_norm_rms_eps(config['rms_norm_eps'])
    words = spelled['model']['vocab'] | {t['content']: t['id'] for t in spelled['added_tokens']}
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('qwen2')
    writer.add_token_list(sorted(words, key=words.get))
    special = {t['content'] for t in spelled['added_tokens']}
    writer.add_token_types([3 if w in special else 1 for w in sorted(words, key=words.get)])
    writer.add_token_merges([m if isinstance(m, str) else ' '.join(m) for m in spelled['model']['merges']])
    writer.add_eos_token_id(config['eos_token_id'])
    writer.add_pad_token_id(config['pad_token_id'])
    writer.add_chat_template((folder / 'chat_template.jinja').read_text())
    parts = dict(
        [
            ('self_attn.q_proj', 'attn_q'),
            ('self_attn.k_proj', 'attn_k'),
            ('self_attn.v_proj', 'attn_v'),
            ('self_attn.o_proj', 'attn_output'),
            ('mlp.gate_proj', 'ffn_gate'),
            ('mlp.up_proj', 'ffn_up'),
            ('mlp.down_proj', 'ffn_down'),
            ('post_attention_layernorm', 'ffn_norm'),
            ('input_layernorm', 'attn_norm'),
            ('model.embed_tokens', 'token_embd'),
            ('model.norm', 'output_norm'),
            ('lm_head', 'output'),
            ('model.layers', 'blk'),
        ]
    )
    for name, tensor in load_file(folder / 'model.safetensors').items():
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_file_as_model(tmp_path):
    folder, file = make('qwen2', tmp_path / 'qwen2'), tmp_path / 'tiny.gguf'
    write_gguf(folder, file)
    a, b = HFEngine(folder), HFEngine(file)
    assert [c.text for c in a.generate(asks(4))] == [c.text for c in b.generate(asks(4))]
    assert list(b.identity()['base']['files']) == ['tiny.gguf'] and b.identity()['base'] != a.identity()['base']
    assert not hasattr(b.base.model.config, 'quantization_config')


def test_gguf_files_that_cannot_be_read(tmp_path):
    folder, file = make('qwen2', tmp_path / 'qwen2'), tmp_path / 'odd.gguf'
    write_gguf(folder, file, architecture='nosuch')
    with pytest.raises(MaftError, match='cannot read a GGUF file of this kind of model.*safetensors') as e:
        HFEngine(file)
    assert '\n' not in str(e.value)
    with pytest.raises(MaftError, match='no such file'):
        HFEngine(tmp_path / 'absent.gguf')
    (tmp_path / 'torn.gguf').write_bytes(file.read_bytes()[:100])
    with pytest.raises(MaftError, match='torn.gguf'):
        HFEngine(tmp_path / 'torn.gguf')


# Models that think first: a template that cuts earlier thoughts itself, as Qwen3's, and one that does not, as SmolLM3's
SMOLLM3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize('template', [None, SMOLLM3], ids=['qwen3', 'smollm3'])
@pytest.mark.parametrize('keep', [False, True])
@pytest.mark.parametrize('summary', [False, True])
def test_thoughts_of_earlier_rounds(template, keep, summary, tmp_path):
    tok = hf.load_tokenizer(str(make('qwen3', tmp_path / 'qwen3')))
    tok.chat_template = template or tok.chat_template
    renderer, asked = hf.Renderer(tok, 'thinker'), []

    def think(request):
        asked.append(renderer.render(request.chat))
        return f'<think>\nMUSING {request.where.draw}\n</think>\n\nRESULT \\boxed{{7}}'

    engine, problem = ScriptedEngine(think, name='thinker'), Problem('q', 'What is 3+4?', '7')
    protocol = Protocol(summary=summary, keep_thinking=keep)
    debate([problem], untrained(3), protocol, generate=engine.generate, seeds=Seeds())
    later = [tok.decode(ids) for ids in asked[3:]]
    assert all('RESULT' in text for text in later) and len(later) == (6 if summary else 3)
    assert all(('MUSING' in text) == keep for text in later)
    if not keep:
        assert not any('think' in text.rpartition('assistant')[0] for text in later)


def test_turns_that_only_think_are_not_read_by_others():
    asked = []

    def musing(request):
        asked.append(request.chat)
        return '<think> on and on'

    debate(
        [Problem('q', 'What is 3+4?', '7')],
        untrained(3),
        Protocol(),
        generate=ScriptedEngine(musing, name='musing').generate,
        seeds=Seeds(),
    )
    assert len(asked) == 6 and not any('on and on' in m.content for chat in asked for m in chat), 'nothing to summarize'
    assert asked[-1][1].content == '(no answer)'
