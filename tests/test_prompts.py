"Prompts as a value: what is refused, what stays byte for byte; engines without a model."

from dataclasses import fields, replace
import pytest
from hypothesis import given, strategies as st
from multiagent_ft.core import Completion, MaftError, Message, Problem
from multiagent_ft.method.debate import Protocol, Seeds, debate, untrained
from multiagent_ft.method.prompts import (
    COOPERATIVE,
    DEBATE,
    PLACEHOLDERS,
    UNIQUE_ID,
    Address,
    Capabilities,
    Engine,
    Prompts,
    ReplayEngine,
    Request,
    ScriptedEngine,
    adapter_digest,
    load_prompts,
    recorded_texts,
)

texts = st.text(max_size=40)


@given(texts, texts, st.lists(texts, max_size=3), texts, texts)
def test_braces_in_values_are_not_placeholders(question, how, peers, summary, answer):
    "A question may hold braces: only the template's own are placeholders."
    for prompts in (DEBATE, COOPERATIVE, UNIQUE_ID):
        for name in ('question', 'peers', 'summary', 'summarize', 'reflect', 'hint'):
            text = prompts.fill(name, question, how, peers=peers, summary=summary, answer=answer)
            assert question in text and (how in text or name == 'summarize')
        assert question in prompts.question_for(question, 'critic', 2)


def test_template_placeholders_are_checked():
    assert [f.name for f in fields(Prompts)] == [*PLACEHOLDERS]
    for name, allowed in PLACEHOLDERS.items():
        complete = ' '.join(f'{{{p}}}' for p in allowed)
        assert getattr(replace(DEBATE, **{name: complete}), name) == complete
        for wrong, fault in (
            (complete + '{unknown}', 'unknown placeholder {unknown}'),
            (complete + '{', 'prompt'),
            (complete + '}', 'prompt'),
            (complete + '{}', 'unknown placeholder'),
            (7, 'must be text'),
            *((complete.replace(f'{{{p}}}', 'x'), f'lacks {{{p}}}') for p in allowed),
            *((complete.replace(f'{{{p}}}', f'{{{p}!r}}'), 'unknown placeholder') for p in allowed),
            *((complete.replace(f'{{{p}}}', f'{{{p}.upper}}'), 'unknown placeholder') for p in allowed),
        ):
            with pytest.raises(MaftError) as e:
                replace(DEBATE, **{name: wrong})
            assert fault in str(e.value) and name in str(e.value) and len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize(
    'text, fault',
    [
        ('sumary: x', "unknown prompt 'sumary'"),
        ('reflect: "{question}"', 'prompt reflect lacks {how}'),
        ('hint: "{question} {how} {answer} {gold}"', 'unknown placeholder {gold}'),
        ('- question', 'prompts are written as'),
        ('question: [', 'line 1: not valid YAML'),
        ('question: [a, b]', 'must be text'),
        ('question: ""', 'prompt question is empty'),
    ],
)
def test_bad_prompt_file_is_named_in_one_line(tmp_path, text, fault):
    (tmp_path / 'mine.yaml').write_text(text)
    with pytest.raises(MaftError) as e:
        load_prompts(tmp_path / 'mine.yaml')
    assert fault in str(e.value) and 'mine.yaml' in str(e.value) and len(str(e.value).splitlines()) == 1


def test_load_prompts_by_name_file_and_object(tmp_path):
    (tmp_path / 'mine.yaml').write_text('system: Be brief.\n')
    (tmp_path / 'mine.py').write_text(
        'from multiagent_ft.method.prompts import *\nmine = Prompts(system="Be brief.")\n'
    )
    brief = Prompts(system='Be brief.')
    for named in (tmp_path / 'mine.yaml', f'{tmp_path}/mine.py:mine', brief):
        assert load_prompts(named) == brief
    (tmp_path / 'empty.yaml').write_text('')
    assert load_prompts(tmp_path / 'empty.yaml') == DEBATE
    for missing in (tmp_path / 'none.yaml', 'socratic', tmp_path / 'mine.txt', f'{tmp_path}/mine.py:other'):
        with pytest.raises(MaftError):
            load_prompts(missing)


def test_system_prompt_is_for_agents_not_the_summarizer():
    chats = {}

    def listen(request):
        chats[request.where.role] = request.chat
        return 'x'

    protocol = Protocol(prompts=replace(UNIQUE_ID, system='Be brief.'))
    debate([Problem('p', 'why?')], untrained(2), protocol, ScriptedEngine(listen, name='listen').generate)
    assert chats['generator'][0] == chats['critic'][0] == Message('system', 'Be brief.')
    assert [m.role for m in chats['critic']] == ['system', 'user', 'assistant', 'user']
    assert [m.role for m in chats['summarizer']] == ['user']
    assert 'why? (You are critic 2.)' in chats['critic'][-1].content


def request(role='generator', draw=0, adapter=None):
    return Request((Message('user', 'why?'),), 0, adapter=adapter, where=('eval', 'p', 1, role, draw))


def test_address_of_a_request():
    assert request().where == ('eval', 'p', 1, 'generator', 0) and request().where.draw == 0
    assert Request((Message('user', 'x'),), 0).where == () and isinstance(request().where, Address)


def test_scripted_engine_by_function_address_and_list():
    def role(r):
        return r.where.role

    asked = [request(), request('critic', 1)]
    for script, expected in (
        (role, ['generator', 'critic']),
        ({'generator': 'a', ('critic', 1): 'b'}, ['a', 'b']),
        ({('p', 1, 'generator', 0): 'a', (1, 'critic', 1): 'b'}, ['a', 'b']),
        (['a', 'b'], ['a', 'b']),
        (['a'], ['a', 'a']),
    ):
        engine = ScriptedEngine(script)
        assert [c.text for c in engine.generate(asked)] == expected
        assert isinstance(engine, Engine) and isinstance(engine.capabilities(), Capabilities)
        assert engine.identity() == ScriptedEngine(script).identity()
    for script in ({'critic': 'b'}, [], lambda r: None):
        with pytest.raises(MaftError, match='no text'):
            ScriptedEngine(script, name='x').generate([request()])
    whole = Completion('cut', 'length', (1,), (2,))
    assert ScriptedEngine(lambda r: whole, name='x').generate([request()]) == [whole]


def test_scripted_engine_without_a_name_is_refused():
    with pytest.raises(MaftError, match='name=') as e:
        ScriptedEngine(max)
    assert len(str(e.value).splitlines()) <= 2
    assert ScriptedEngine(max, name='mine').identity()['name'] == 'mine'
    one, two = (ScriptedEngine(lambda r, n=n: str(n)).identity() for n in (1, 2))
    assert one != two


def test_adapter_identity_is_its_files(tmp_path):
    for name, data in (('a', b'1'), ('b', b'1'), ('c', b'2')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'weights').write_bytes(data)
    a, b, c = (adapter_digest(str(tmp_path / n)) for n in 'abc')
    assert a == b != c and adapter_digest(None) is None and adapter_digest('nowhere')
    engine = ScriptedEngine(['x'])
    assert engine.identity(str(tmp_path / 'a')) != engine.identity()


def test_debate_replay():
    script = ScriptedEngine({'generator': 'a', 'summarizer': 's', 'critic': 'b'})
    problems = [Problem(f'p{i}', f'{i}?') for i in range(3)]
    debates = debate(problems, untrained(2), Protocol(rounds=3), script.generate, seeds=Seeds(1))
    replay = ReplayEngine(recorded_texts(debates))
    assert debate(problems, untrained(2), Protocol(rounds=3), replay.generate, seeds=Seeds(1)) == debates
