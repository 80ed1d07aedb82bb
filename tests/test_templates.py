"Chat templates as people have them: what alters a chat is refused, what only has habits of its own is followed."

import json

import pytest
import tiny_models

from multiagent_ft.core import MaftError, Message
from multiagent_ft.engines.chat import Renderer, read_template
from multiagent_ft.engines.huggingface import load_tokenizer

TURN = "{{ '<|im_start|>' + m['role'] + '\n' + CONTENT + '<|im_end|>\n' }}"
TEMPLATE = (
    f'{{% for m in messages %}}{TURN}{{% endfor %}}'
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = TEMPLATE.replace('CONTENT', "m['content']")
ASKED = (Message('user', '6+6?'),)
READY = '<|im_start|>user\n6+6?<|im_end|>\n<|im_start|>assistant\n'


@pytest.fixture(scope='module')
def tokenizer():
    _, kind, special, control, _, _ = tiny_models.MODELS['qwen2']
    return tiny_models.tokenizer(kind, special, control, [], PLAIN)


def renderer(tokenizer, template, **how):
    tokenizer.chat_template = template
    return Renderer(tokenizer, 'm', **how)


@pytest.mark.parametrize(
    'change, said',
    [
        ("m['content'] | upper", 'changes messages'),
        ("m['content'] | e", 'changes messages'),
        ("m['content'] | tojson", 'changes messages'),
        ("m['content'] | replace('\n', ' ')", 'changes messages'),
        ("m['content'][:40]", 'leaves out'),
        ("m['content'].split('\n')[0]", 'leaves out'),
        ("(m['content'] if loop.last else m['content'][:40])", 'changes messages'),
        ("m['content'] * 2", 'changes messages'),
        ("m['content'] ~ (range(10**5) | random)", 'another text every time'),
        ("m['content'][m['content'].index('zzz'):]", 'refuses a chat of user.*substring not found'),
        ("(1 // 0) ~ m['content']", 'refuses a chat of user.*zero'),
    ],
)
def test_template_that_alters_a_chat_is_refused(tokenizer, change, said):
    with pytest.raises(MaftError, match=said):
        renderer(tokenizer, TEMPLATE.replace('CONTENT', change))


@pytest.mark.parametrize('kept', ['messages[-3:]', 'messages | reverse'])
def test_template_that_drops_or_reorders_turns_of_long_debates_is_refused(tokenizer, kept):
    with pytest.raises(MaftError, match='changes messages, or their order|leaves out'):
        renderer(tokenizer, PLAIN.replace('messages', kept, 1))


def test_template_without_a_generation_prompt_gets_the_header_of_an_answer(tokenizer):
    silent = renderer(tokenizer, PLAIN.partition('{% if add')[0])
    assert silent.text(ASKED) == READY == renderer(tokenizer, PLAIN).text(ASKED)
    assert silent.identity()['opening'] == '<|im_start|>assistant\n'
    assert 'opening' not in renderer(tokenizer, PLAIN).identity()
    inst = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
    inst += '<|im_end|>{% endif %}{% endfor %}'
    assert renderer(tokenizer, inst).text(ASKED) == '[INST] 6+6? [/INST]'


def test_template_of_a_model_that_also_sees_takes_contents_in_parts(tokenizer):
    parts = "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}"
    seeing = PLAIN.replace("'\n' + m['content'] + '<|im_end|>\n' }}", f"'\n' }}}}{parts}{{{{ '<|im_end|>\n' }}}}")
    assert renderer(tokenizer, seeing).text(ASKED) == READY


def test_date_in_formats_that_a_template_makes_itself(tokenizer):
    dated = "{% set how = '%F and %-d %b' %}{{ strftime_now(how) }} " + PLAIN
    assert renderer(tokenizer, dated).text(ASKED).startswith('2024-07-26 and 26 Jul <|im_start|>')


def test_template_files(tokenizer, tmp_path):
    def read(name, contents):
        (tmp_path / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return read_template(tmp_path / name)

    assert read('bom.jinja', '\ufeff' + PLAIN) == PLAIN
    named = [dict(name='tool_use', template='{{ tools }}'), dict(name='default', template=PLAIN)]
    assert read('named.json', json.dumps(dict(chat_template=named))) == PLAIN
    for name, contents in (
        ('empty.jinja', ' \n'),
        ('none.json', '{"chat_template": null}'),
        ('number.json', '{"chat_template": 3}'),
        ('list.json', '[1]'),
        ('utf16.jinja', PLAIN.encode('utf-16')),
    ):
        with pytest.raises(MaftError, match=f'{name} (holds no template|cannot be read).*Give a Jinja file'):
            read(name, contents)


@pytest.mark.parametrize('name', ['chat_template.json', 'processor_config.json'])
def test_template_beside_the_tokenizer(tokenizer, tmp_path, name):
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / 'config.json').write_text('{"model_type": "qwen2"}')
    assert load_tokenizer(str(tmp_path)).chat_template is None
    (tmp_path / name).write_text(json.dumps(dict(chat_template=PLAIN)))
    assert load_tokenizer(str(tmp_path)).chat_template == PLAIN
