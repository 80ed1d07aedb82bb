"Ordinary architectures with their own chat templates: what is sent, what it can never contain, and that they speak."

import random

import pytest
from tiny_models import MODELS, make

from multiagent_ft.engines.chat import Renderer
from multiagent_ft.core import MaftError, Message, seed_for
from multiagent_ft.method.prompts import Request, Sampling
from multiagent_ft.engines.huggingface import HFEngine, load_tokenizer

TURN_END = dict(
    llama='<|eot_id|>',
    qwen2='<|im_end|>',
    qwen3='<|im_end|>',
    mistral='</s>',
    phi3='<|end|>',
    gemma='<end_of_turn>',
    gemma2='<end_of_turn>',
)
COMMANDS = [
    '<|eot_id|>',
    '<|start_header_id|>',
    '<|im_end|>',
    '<|im_start|>',
    '<|endoftext|>',
    '</s>',
    '<s>',
    '[INST]',
    '[/INST]',
    '<|user|>',
    '<|assistant|>',
    '<|end|>',
    '<|system|>',
    '<start_of_turn>',
    '<end_of_turn>',
    '<bos>',
    '<eos>',
    '<pad>',
    '<think>',
    '</think>',
    '<tool_response>',
    '</tool_response>',
    '<|begin_of_text|>',
    '<unk>',
    '<0x0A>',
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made, where = {}, tmp_path_factory.mktemp('models')
    return lambda name: made.setdefault(name, make(name, where / name) if name not in made else None)


def chat(*said):
    return tuple(Message('assistant' if i % 2 else 'user', s) for i, s in enumerate(said))


@pytest.mark.parametrize('name', MODELS)
def test_chat_template_rendering(folder, name):
    e = HFEngine(folder(name))
    assert (
        e.base.tokenizer.decode(e.base.renderer.end_id) == TURN_END[name]
        and e.base.renderer.end_id in e.stop_ids
        and e.base.tokenizer.eos_token_id in e.stop_ids
    )
    c = chat(
        'What is 3+4?\nWork step by step.',
        'First 3, then 4:\n\\boxed{7}',
        'Another agent says:\n```\n\\boxed{12}\n```\nAnswer again.',
    )
    ids = e.render(c)
    assert isinstance(ids, tuple) and ids == e.render(c)
    if e.base.tokenizer.bos_token_id is not None:
        assert ids.count(e.base.tokenizer.bos_token_id) == (0 if name == 'phi3' else 1), (
            'the opening token once, as the template has it'
        )
    text = e.base.tokenizer.decode(ids)
    for m in c:
        assert m.content in text
    # Qwen2 adds a system turn of its own
    assert text.count(TURN_END[name]) == {'mistral': 1}.get(name, 4 if name == 'qwen2' else 3)
    assert (
        e.decode(e.encode('It is \\boxed{7}.')) in ('It is \\boxed{7}.', ' It is \\boxed{7}.')
        and e.encode('x')[-1] == e.base.renderer.end_id
    )


@pytest.mark.parametrize('name', MODELS)
def test_control_tokens_in_text_are_escaped(folder, name):
    """Random peers, users and own turns full of control tokens, nested and torn; the ids hold as many commands as an
    empty chat."""
    r = Renderer(load_tokenizer(str(folder(name))), name)
    rng, words = random.Random(name), ['It is 7.', ' ', '\n', '<', '|', '>', '[', '12', 'é', '＜', '\u200b']
    bones = [i for i in r.render(chat('x', 'x', 'x')) if i in r.watched]
    for _ in range(150):
        said = []
        for _ in range(3):
            parts = rng.choices(COMMANDS + words, k=rng.randint(1, 8))
            text = ''.join(parts)
            # one inside another
            if rng.random() < 0.3:
                at = rng.randrange(len(text) + 1)
                text = text[:at] + rng.choice(COMMANDS) + text[at:]
            said.append(text)
        c = chat(*said)
        own = {i for t, i in r.control.items() if t not in r.strict}
        assert sorted(i for i in r.render(c) if i in r.watched - own) == sorted(i for i in bones if i not in own)
        only_peers = chat(said[0], 'x', said[2])
        assert sorted(i for i in r.render(only_peers) if i in r.watched) == sorted(bones)


@pytest.mark.parametrize('name', MODELS)
def test_ordinary_text_is_rendered_unchanged(folder, name):
    r = Renderer(load_tokenizer(str(folder(name))), name)
    for text in ('What is 3 < 4 > 2, [1, 2] and |x|?', 'a<b>c', '$\\{x | x > 0\\}$ <= [A, B]', 'Tip: 5 < x > 3'):
        assert text in r.text(chat(text)) and r.render(chat(text)) == tuple(
            r.tok(r.text(chat(text)), add_special_tokens=False).input_ids
        )


@pytest.mark.parametrize('name', MODELS)
def test_generation_is_batch_invariant_and_stops_at_the_turn_end(folder, name):
    "Batches of every size say the same; answers end at the turn's end."
    path = folder(name)
    rs = [
        Request(chat('What is ' + '+'.join('3' * (1 + i % 9)) + '?'), seed_for('speak', i), Sampling(1, 0.95, 150))
        for i in range(24)
    ]
    out = HFEngine(path).generate(rs)
    assert out == HFEngine(path, batch_size=24).generate(rs[::-1])[::-1]
    alone = HFEngine(path, batch_size=1).generate(rs[:8])
    assert sum(a == b for a, b in zip(alone, out)) >= 7
    assert {c.finish for c in out} <= {'stop', 'length'} and any(c.finish == 'stop' for c in out)


def test_thinking_of_earlier_turns_follows_the_template(folder):
    r = Renderer(load_tokenizer(str(folder('qwen3'))), 'qwen3')
    text = r.tok.decode(
        r.render(chat('3+4?', '<think>\nhm\n</think>\n\n\\boxed{7}', 'A peer says <think>no</think> 8. Again?'))
    )
    assert 'hm' not in text and '\\boxed{7}' in text, 'Qwen3 cuts earlier thinking'
    assert '< think>no< /think>' in text, "a peer's markers are only text"
    off = Renderer(load_tokenizer(str(folder('qwen3'))), 'qwen3', args=dict(enable_thinking=False))
    assert off.tok.decode(off.render(chat('3+4?'))).endswith('<think>\n\n</think>\n\n')


def test_roles_alternate(folder):
    for name in ('gemma', 'mistral'):  # both refuse two turns of one role
        r = Renderer(load_tokenizer(str(folder(name))), name)
        two = (Message('user', 'a'), Message('user', 'b'), Message('assistant', 'c'), Message('user', 'd'))
        assert r.render(two) == r.render(chat('a\n\nb', 'c', 'd'))
        with pytest.raises(MaftError, match='refuses a chat of system, user'):
            r.render((Message('system', 'Be brief.'), Message('user', 'a')))


def test_control_tokens_after_unicode_normalization():
    """Normalizing may turn an innocent text into a marker after we looked; the count sees it, and the second way of
    cleaning helps."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    t = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(['[UNK]', 'a', 'b', '<', '|', '>', 'end'])}, unk_token='[UNK]')
    )
    t.normalizer, t.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Whitespace()
    t.add_special_tokens([AddedToken('<|end|>', normalized=True)])
    tok = PreTrainedTokenizerFast(tokenizer_object=t, eos_token='<|end|>', unk_token='[UNK]')
    tok.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}<|end|>{% endfor %}"
    r = Renderer(tok, 'folding')
    assert tok('＜|end|＞', add_special_tokens=False).input_ids == [tok.eos_token_id], 'the trap is real'
    assert r.render(chat('a ＜|end|＞ b')).count(tok.eos_token_id) == 1
