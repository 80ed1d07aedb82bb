"""Tiny random models of ordinary architectures, each with its real chat template, as Hugging Face folders.

    python tools/tiny_models.py OUT [llama qwen2 qwen3 mistral phi3 gemma gemma2 ...]

Weights are random (seeded), a few hundred kilobytes a model; the tokenizers are trained here on a page of text and
carry the special tokens of the real ones. Chat templates are TRL's copies of the originals, except Mistral's, which is
written below to behave as the original does: no system role, strict alternation, trimmed turns.
"""

import sys
from pathlib import Path

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

# name: config class, kind of tokenizer, (bos, eos, pad), other control tokens, template file in TRL or text, more
# settings
MODELS = dict(
    llama=(
        'LlamaConfig',
        'bytes',
        ('<|begin_of_text|>', '<|end_of_text|>', None),
        ['<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>', '<|python_tag|>'],
        'llama3',
        {},
    ),
    qwen2=('Qwen2Config', 'bytes', (None, '<|im_end|>', '<|endoftext|>'), ['<|im_start|>'], 'qwen2_5', {}),
    qwen3=(
        'Qwen3Config',
        'bytes',
        (None, '<|im_end|>', '<|endoftext|>'),
        ['<|im_start|>'],
        'qwen3',
        dict(head_dim=16),
    ),
    mistral=(
        'MistralConfig',
        'pieces',
        ('<s>', '</s>', None),
        ['[INST]', '[/INST]'],
        MISTRAL,
        dict(sliding_window=None),
    ),
    phi3=(
        'Phi3Config',
        'pieces',
        ('<s>', '<|endoftext|>', '<|endoftext|>'),
        ['<|system|>', '<|user|>', '<|assistant|>', '<|end|>'],
        'phi3',
        dict(resid_pdrop=0.0),
    ),
    gemma=(
        'GemmaConfig',
        'pieces',
        ('<bos>', '<eos>', '<pad>'),
        ['<start_of_turn>', '<end_of_turn>'],
        'gemma',
        dict(head_dim=16),
    ),
    gemma2=(
        'Gemma2Config',
        'pieces',
        ('<bos>', '<eos>', '<pad>'),
        ['<start_of_turn>', '<end_of_turn>'],
        'gemma',
        dict(head_dim=16, sliding_window=64),
    ),
)
# added, but not special: kept when decoding
PLAIN = dict(qwen3=['<think>', '</think>', '<tool_response>', '</tool_response>'])
TEXT = (
    'What is the result of 3+7*1+4-9*6? Work step by step, then give the final answer as \\boxed{number}.',
    'Other agents answered the same question. Use their answers as advice. Look for mistakes in them and in your own '
    'answer, then answer the question again.',
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
    'every day with four.',
    'user assistant system model You are Qwen, created by Alibaba Cloud. You are a helpful assistant. '
    '0 1 2 3 4 5 6 7 8 9 10 11 12 20 100',
)


def tokenizer(kind, special, control, plain, template):
    """A small BPE: `bytes` as GPT-2, Llama 3 and Qwen have it, `pieces` as SentencePiece with byte fallback (Llama 2,
    Mistral, Phi-3, Gemma)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bos, eos, pad = special
    names = list(dict.fromkeys([t for t in (bos, eos, pad) if t] + control))
    if kind == 'bytes':
        tok = Tokenizer(models.BPE())
        tok.normalizer = normalizers.NFC()
        tok.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tok.decoder, first = decoders.ByteLevel(), names
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tok = Tokenizer(models.BPE(byte_fallback=True, unk_token='<unk>'))
        tok.normalizer = normalizers.Replace(' ', '▁')
        tok.pre_tokenizer = pre_tokenizers.Split('▁', 'merged_with_next')
        tok.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
        first, alphabet = names + ['<unk>'] + [f'<0x{i:02X}>' for i in range(256)], list('0123456789')
    tok.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=640, special_tokens=first, initial_alphabet=alphabet, show_progress=False),
    )
    if kind == 'pieces':  # the bytes were listed to get their ids; they must not match as text
        import json

        spec = json.loads(tok.to_str())
        spec['added_tokens'] = [t for t in spec['added_tokens'] if not t['content'].startswith('<0x')]
        tok = Tokenizer.from_str(json.dumps(spec))
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    if bos:
        tok.post_processor = processors.TemplateProcessing(
            single=f'{bos} $A', pair=f'{bos} $A {bos} $B', special_tokens=[(bos, tok.token_to_id(bos))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[t for t in names if t not in special],
    )
    fast.chat_template = template
    return fast


def make(
    name: str,
    folder: Path,
    hidden: int = 64,
    layers: int = 2,
    context: int = 2048,
    seed: int = 0,
    architecture: tuple | None = None,  # class of a configuration and its fields, in place of the model's own
) -> Path:
    "Write the model `name` of `MODELS` into `folder`."
    import torch, transformers, trl
    from transformers.utils import logging

    config, kind, special, control, template, more = MODELS[name]
    if not template.startswith('{'):
        template = (Path(trl.__file__).parent / 'chat_templates' / f'{template}.jinja').read_text()
    tok = tokenizer(kind, special, control, PLAIN.get(name, []), template)
    ids = dict(bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id)
    usual = dict(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.1,
        **more,
    )
    config, fields = architecture or (config, usual)
    config = getattr(transformers, config)(vocab_size=len(tok), **ids, **fields)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return Path(folder)


def random_adapters(folder: Path, n: int, size: float = 0.03, model: str = 'nano', **settings) -> list[Path]:
    "Write `n` LoRA adapters for `model` that change its answers, untrained; `settings` of PEFT's `LoraConfig`."
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from multiagent_ft.engines.weights import find_model, silence

    config = dict(r=8, lora_alpha=16, target_modules='all-linear', task_type='CAUSAL_LM') | settings
    folders = [Path(folder) / f'adapter-{i}' for i in range(n)]
    for i, place in enumerate(folders):
        with silence():
            base = AutoModelForCausalLM.from_pretrained(find_model(model), dtype=torch.float32)
            agent = get_peft_model(base, LoraConfig(**config))
            torch.manual_seed(i)
            for name, p in agent.named_parameters():
                if 'lora_' in name:
                    torch.nn.init.normal_(p, std=size)
            agent.save_pretrained(place)
    return folders


if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[2:] or MODELS:
        print(make(name, Path(sys.argv[1]) / name))
