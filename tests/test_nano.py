"The embedded model: its folder, its tokenizer, its training text, its training run, and how good it is."

import json, re, shutil, signal, subprocess, sys, time
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st

from conftest import ROOT
from multiagent_ft.core import MaftError, file_digest, held_out, rng_for
from multiagent_ft.nano import text as nano_text
from multiagent_ft.nano import train as nano_train
from multiagent_ft.runs import tasks as words
from multiagent_ft.nano.text import arithmetic_sketch, as_text, author, carry_lost, chats, reviser, slipped, summary
from multiagent_ft.method.prompts import DEBATE
from multiagent_ft.runs.tasks import word_problem, word_sketch, work

NANO = ROOT / 'multiagent_ft/nano'
TINY = dict(nano_train.SHAPE, hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32)


@pytest.fixture(scope='module')
def tok():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(NANO)


@pytest.fixture(scope='module')
def engine():
    from multiagent_ft.engines.huggingface import HFEngine

    return HFEngine('nano', batch_size=256)


# The folder
def test_nano_loads_with_transformers(tok):
    import torch
    from transformers import AutoModelForCausalLM

    m = AutoModelForCausalLM.from_pretrained(NANO)
    assert m.dtype == torch.float32 and len(tok) == m.config.vocab_size == m.get_input_embeddings().num_embeddings
    assert (
        m.config.eos_token_id
        == m.generation_config.eos_token_id
        == tok.eos_token_id
        == tok.convert_tokens_to_ids('<|end|>')
    )
    ids = tok.apply_chat_template(
        [dict(role='user', content=DEBATE.fill('question', 'What is the result of 1+2*3+4-5*6?'))],
        add_generation_prompt=True,
        return_tensors='pt',
    )
    out = m.generate(**ids, do_sample=False, max_new_tokens=80)
    assert '\\boxed{' in tok.decode(out[0])


def test_nano_folder_is_complete_and_small():
    assert nano_train.check_nano(NANO) == NANO
    files = {f.name: f.stat().st_size for f in NANO.iterdir() if f.is_file()}
    assert sum(files.values()) < 8e6 and 'README.md' in files
    assert not [f for f in files if f.endswith(('.bin', '.pt', '.pkl'))]


def test_weights_are_finite_half_precision():
    from safetensors.torch import load_file
    import torch

    t = load_file(NANO / 'model.safetensors')
    assert {v.dtype for v in t.values()} == {torch.float16} and all(v.isfinite().all() for v in t.values())


# The tokenizer
def decoded_again(text):
    t = nano_tokenizer()
    ids = t(text, add_special_tokens=False).input_ids
    return t.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=['Cs'])))
def test_tokenizer_round_trip(text):
    assert decoded_again(text) == text


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            nano_train.phrases() + [' ', '\n', '12', '-', '*', ' Ada', '\\boxed{', '}', '```', 'é', '<|user|>']
        )
    ).map(''.join)
)
def test_tokenizer_round_trip_of_prompt_pieces(text):
    assert decoded_again(text) == text


_tokenizer = []


def nano_tokenizer():
    from transformers import AutoTokenizer

    if not _tokenizer:
        _tokenizer.append(AutoTokenizer.from_pretrained(NANO))
    return _tokenizer[0]


def test_tokenizer_rebuild_is_byte_identical(tok):
    assert nano_train.make_tokenizer().backend_tokenizer.to_str() == tok.backend_tokenizer.to_str()
    assert tok.chat_template == nano_train.TEMPLATE


@pytest.mark.parametrize('n', ['0', '7', '29', '405', '1234567890'])
def test_tokenizer_splits_digits(tok, n):
    assert tok.convert_ids_to_tokens(tok(n).input_ids) == list(n)


def test_training_text_matches_chat_template(tok):
    block = chats(3, 7, 100)
    rendered = [tok.apply_chat_template([dict(role=r, content=c) for r, c in x], tokenize=False) for x in block]
    encoded = nano_train.encode(block, tok)
    assert [i for i, _ in encoded] == tok(rendered, add_special_tokens=False).input_ids
    for chat, (ids, learn) in zip(block, encoded):
        trained_on = tok.decode([i for i, l in zip(ids, learn) if l]).split('<|end|>')[:-1]
        assert trained_on == [c for r, c in chat if r == 'assistant']


# The text
def test_held_out_questions_are_not_in_the_training_text():
    seen = set()
    for block in (0, 1, 100, nano_text.LATE, nano_train.BLOCKS - 1):
        for chat in chats(0, block):
            for role, content in chat:
                if role == 'user':
                    seen.update(re.findall(r'^(?:What is the result|[A-Z]).*\?$', content, re.M))
    assert len(seen) > 1500 and not any(map(held_out, seen))


def test_training_prompts_match_the_package():
    kinds = set()
    for chat in chats(5, 0, 300):
        if chat[0][1].startswith(nano_text.DRILL):
            continue
        for role, content in chat:
            if role != 'user':
                continue
            q = next(l for l in content.split('\n') if l.endswith('?'))
            heard = re.findall(r'```\n(.*?)\n```', content, re.S)
            made = dict(
                answer=DEBATE.fill('question', q),
                reflect=DEBATE.fill('reflect', q),
                peers=DEBATE.fill('peers', q, peers=heard),
                summarize=DEBATE.fill('summarize', q, peers=heard),
                summary=DEBATE.fill('summary', q, summary=heard[0] if heard else ''),
            )
            kind = [k for k, v in made.items() if v == content]
            assert len(kind) == 1, content
            kinds.update(kind)
    assert kinds == {'answer', 'reflect', 'peers', 'summarize', 'summary'}


def test_text_depends_on_its_address_only():
    assert chats(0, 3, 10) == chats(0, 3, 10)
    assert chats(0, 3, 10) != chats(0, 4, 10) != chats(1, 4, 10)


def test_word_problem_answers_are_correct():
    texts = set()
    for i in range(3000):
        text, answer, lines = word_problem(rng_for('sound', i))
        assert answer >= 0 and '{' not in text and text.endswith('?')
        for l in lines:
            assert (m := re.fullmatch(r'(-?\d+)([-+*/])(-?\d+)=(-?\d+)', l)), l
            x, op, y, r = int(m[1]), m[2], int(m[3]), int(m[4])
            assert r == words.OPS[op](x, y) >= 0 and (op != '/' or x == y * r)
        texts.add(text)
    assert len(texts) > 2990


def test_plan_evaluates_to_the_answer_of_the_question():
    for i in range(500):
        s = arithmetic_sketch(rng_for('plan', i))
        a, b, c, d, e, f = map(int, re.findall(r'\d+', s.text))
        assert work(s.plan)[1] == a + b * c + d - e * f and max(a, b, c, d, e, f) <= 29
        if s.tempting:
            assert (a + b) % 10 == 0 and work(s.tempting)[1] == (a + b) * c + d - e * f


def test_slips_and_lost_carries():
    assert all(slipped(n, rng_for(n, i)) != n for n in range(-50, 51) for i in range(20))
    lost = [(x, y) for x in range(30) for y in range(30) if carry_lost(x, y) is not None]
    assert (
        all(0 < carry_lost(x, y) < x * y and (x * y - carry_lost(x, y)) % 10 == 0 for x, y in lost)
        and 40 < len(lost) < 60
    )


@pytest.mark.parametrize('make', [arithmetic_sketch, word_sketch])
def test_systematic_error_rate(make):
    rng = rng_for('systematic')
    with patch.dict(nano_text.SLIP, dict.fromkeys(nano_text.SLIP, 0)):
        wrong = sum(author(s := make(rng), rng)[1] != work(s.plan)[1] for _ in range(4000)) / 4000
    assert 0.11 < wrong < 0.20


def test_critics_follow_a_majority_only():
    s = arithmetic_sketch(rng_for('follow'))
    own, other = work(s.plan), (['1+1=3'], 3)
    took = sum(reviser(s, [own, other, other], rng_for('took', i)) == other for i in range(2000)) / 2000
    assert 0.45 < took < 0.55
    assert not any(reviser(s, [own, other], rng_for('none', i)) == other for i in range(200))


def test_summaries_name_every_answer():
    s = [(['1+1=2'], 2), (['1+2=3'], 3), (['2+0=2'], 2)]
    grouped = '2 agents say \\boxed{2}:\n1+1=2\n1 agent says \\boxed{3}:\n1+2=3'
    assert summary(s, rng_for('x', 1), listed=False) == grouped
    assert summary(s, rng_for('x', 1)) == 'Answers:\n\\boxed{2}\n\\boxed{3}\n\\boxed{2}\n' + grouped
    assert as_text(s[0]) == '1+1=2\n\\boxed{2}'


# The training
SCRIPT = """
import sys
from pathlib import Path
from multiagent_ft.nano import train as N
from multiagent_ft.nano.text import chats
def four(seed, block):
    return chats(seed, block, 4)
small = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=1, intermediate_size=32)
N.train_nano(Path(sys.argv[1]), blocks=30, shape=dict(N.SHAPE, **small), every=2, text=four)
"""


def four(seed, block):
    return chats(seed, block, 4)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The folder of an uninterrupted run."
    return nano_train.train_nano(tmp_path_factory.mktemp('whole'), blocks=30, shape=TINY, every=2, text=four)


@pytest.mark.parametrize('moment', ['at a checkpoint', 'in between'])
def test_sigkill_and_resume_is_byte_identical(tmp_path, whole, moment):
    p = subprocess.Popen([sys.executable, '-c', SCRIPT, str(tmp_path / 'killed')], cwd=ROOT, stderr=subprocess.DEVNULL)
    state, t = tmp_path / 'killed/checkpoint.safetensors', time.monotonic()
    while p.poll() is None and not state.exists() and time.monotonic() - t < 300:
        time.sleep(0.001)
    if moment == 'in between':
        time.sleep(0.1)
    p.send_signal(signal.SIGKILL)
    p.wait()
    assert state.exists() and not (tmp_path / 'killed/nano').exists(), 'killed too late to test anything'
    killed = nano_train.train_nano(tmp_path / 'killed', blocks=30, shape=TINY, every=2, text=four)
    for f in ('model.safetensors', 'config.json', 'tokenizer.json', '../loss.jsonl', '../checkpoint.safetensors'):
        assert file_digest(whole / f) == file_digest(killed / f), f


def test_seed_changes_the_weights(tmp_path):
    a, b, c = (
        nano_train.train_nano(tmp_path / n, seed=s, blocks=1, shape=TINY, text=four)
        for n, s in (('a', 0), ('b', 1), ('c', 0))
    )
    assert (
        file_digest(a / 'model.safetensors')
        == file_digest(c / 'model.safetensors')
        != file_digest(b / 'model.safetensors')
    )


def test_checkpoint_of_another_training_run_is_refused(tmp_path):
    nano_train.train_nano(tmp_path, blocks=1, shape=TINY, text=four)
    with pytest.raises(MaftError, match='other settings'):
        nano_train.train_nano(tmp_path, blocks=2, shape=TINY, text=four)
    with pytest.raises(MaftError, match='other settings'):
        nano_train.train_nano(tmp_path, seed=1, blocks=1, shape=TINY, text=four)
    nano_train.train_nano(tmp_path, blocks=2, shape=TINY, resume=False, text=four)


def test_corrupt_checkpoint_is_refused(tmp_path):
    nano_train.train_nano(tmp_path, blocks=1, shape=TINY, text=four)
    f = tmp_path / 'checkpoint.safetensors'
    f.write_bytes(f.read_bytes()[:-100])
    with pytest.raises(MaftError, match='damaged checkpoint'):
        nano_train.train_nano(tmp_path, blocks=1, shape=TINY, text=four)


def test_full_disk_is_refused_before_training(tmp_path):
    with patch.object(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**9, 10**9, 10**6)):
        with pytest.raises(MaftError, match='200 MB'):
            nano_train.train_nano(tmp_path / 'x', blocks=1, shape=TINY, text=four)
    (tmp_path / 'file').write_text('x')
    with pytest.raises(MaftError, match='cannot make'):
        nano_train.train_nano(tmp_path / 'file', blocks=1, shape=TINY, text=four)


# Bad folders
@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(NANO, tmp_path / 'nano')


@pytest.mark.parametrize(
    'name', ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja']
)
def test_missing_file(copy, name):
    (copy / name).unlink()
    with pytest.raises(MaftError, match=name):
        nano_train.check_nano(copy)


@pytest.mark.parametrize('size', [0, 5, 1000, -50])
def test_truncated_weights(copy, size):
    f = copy / 'model.safetensors'
    f.write_bytes(f.read_bytes()[:size])
    with pytest.raises(MaftError, match='damaged'):
        nano_train.check_nano(copy)


def test_files_of_two_models_are_refused(copy):
    page = json.loads((copy / 'config.json').read_text())
    (copy / 'config.json').write_text(json.dumps(page | dict(num_hidden_layers=5)))
    with pytest.raises(MaftError, match='do not fit'):
        nano_train.check_nano(copy)
    (copy / 'config.json').write_text('{')
    with pytest.raises(MaftError, match='damaged'):
        nano_train.check_nano(copy)
    (copy / 'config.json').write_text(json.dumps(page))
    t = json.loads((copy / 'tokenizer.json').read_text())
    t['added_tokens'].pop()
    (copy / 'tokenizer.json').write_text(json.dumps(t))
    with pytest.raises(MaftError, match='do not belong together'):
        nano_train.check_nano(copy)


# What it can do: bounds wide enough for 200 questions
@pytest.mark.parametrize('task', ['arithmetic', 'words'])
def test_base_accuracy(engine, task):
    from multiagent_ft.nano.measure import answering, answers, held_out_problems

    problems = held_out_problems(task, 200)
    assert all(held_out(p.text) for p in problems)
    got = answering(answers(engine, problems, 3), problems)
    assert 0.25 < got['single'][0] < 0.6 and got['unreadable'][0] < 0.03


@pytest.mark.slow
def test_debate_corrects_and_corrupts(engine):
    from multiagent_ft.method.debate import Seeds, Protocol, debate, untrained
    from multiagent_ft.nano.measure import held_out_problems, revising, summarizing

    debates = debate(
        held_out_problems('arithmetic', 100), untrained(3), Protocol(), engine.generate, seeds=Seeds(0, 'test')
    )
    page = revising(debates)
    assert page['vote_after'][0] >= page['vote_before'][0] - 0.1
    assert summarizing(debates)['keeps_all'][0] > 0.7


def test_measures_on_scripted_debates():
    from multiagent_ft.core import Completion, Problem, Transcript, Turn
    from multiagent_ft.nano.measure import heard_kind, revising, summarizing

    p = Problem('p', 'What is the result of 3+7*1+4-9*6?', '-40')

    def box(n):
        return f'\\boxed{{{n}}}'

    assert [heard_kind([box(a), box(b)], p) for a, b in ((-40, -40), (-40, 1), (1, 1), (1, 2))] == [
        'right',
        'split',
        'wrong, alike',
        'wrong, apart',
    ]

    def turns(role, m, texts):
        return [Turn(i, role, m, Completion(t, 'stop')) for i, t in enumerate(texts)]

    t = Transcript(
        p,
        turns('generator', 1, map(box, (-40, 1, 1)))
        + turns(
            'summarizer',
            2,
            [
                f'Answers:\n{box(1)}\n2 agents say {box(1)}:\nx',
                f'Answers:\n{box(-40)}\n1 agent says {box(-40)}:\nx',
                f'{box(1)}\n{box(-40)}\n1 agent says {box(1)}:\n1 agent says {box(-40)}:',
            ],
        )
        + turns('critic', 2, map(box, (1, 1, 1))),
    )
    got = revising([t])
    assert got['table'] == {'own right | heard wrong, alike': [1, 0], 'own wrong | heard split': [2, 0]} and got[
        'vote_after'
    ] == [0, 0]
    s = summarizing([t])
    assert s['by_answers'] == {'1': [1, 1], '2': [2, 0.5]} and s['invents'][0] == 0
