"Diversity: checked against pencil, exact sums, a model, and an encoder."

import json, subprocess, sys
from unittest.mock import Mock
import numpy as np
import pytest
from hypothesis import given, strategies as st
from multiagent_ft.answers.reading import read
from multiagent_ft.core import Completion, MaftError, Problem, Transcript, Turn
from multiagent_ft.method.debate import Agent, Society, untrained
from multiagent_ft.studies.diversity import (
    Measure,
    char_ngrams,
    consensus_diversity,
    dissimilarity,
    diversity,
    embedding_diversity,
    encoder,
    likelihood_measures,
    likelihoods,
    over_questions,
)
from multiagent_ft.method.prompts import ReplayEngine, ScriptedEngine


def debate(i, *rounds):
    "A debate; texts of every agent, round by round."

    def turn(n, m, text):
        completion = Completion(text, 'stop', (9,), range(len(text.split())))
        return Turn(n, 'generator' if m == 1 else 'critic', m, completion, read(text))

    turns = [turn(n, m, text) for m, texts in enumerate(rounds, 1) for n, text in enumerate(texts)]
    return Transcript(Problem(f'd/{i}', '?', '7'), turns)


def box(*answers):
    return [r'\boxed{%s}' % a if a is not None else 'hm' for a in answers]


def engine_with(table):
    "An engine with a log-probability per (adapter, token), which remembers whom it was asked about."
    engine = ScriptedEngine([], token_logprobs=table)
    engine.logprobs = Mock(wraps=engine.logprobs)
    return engine


def asked(engine):
    return [call.args[2] for call in engine.logprobs.call_args_list]


def debated(tokens, adapters, role='critic', round=2):
    turns = (
        [Turn(n, 'generator', 1, Completion('x', 'stop', (1,), (0,))) for n in range(len(tokens))] if round == 2 else []
    )
    turns += [Turn(n, role, round, Completion('w', 'stop', (1, 2), t)) for n, t in enumerate(tokens)]

    def agents(r):
        return tuple(Agent(r, i, a if r == role else 'other') for i, a in enumerate(adapters))

    return Transcript(Problem('p', '?'), turns), Society(agents('generator'), agents('critic'))


def test_likelihoods_by_hand():
    t, society = debated([(0, 1), (1,)], ['a', 'b'])
    engine = engine_with({'a': [-1, -2], 'b': [-3, -0.5], None: [-4, -4], 'other': [0, 0]})
    L, T = likelihoods([t], society, engine)
    assert L.tolist() == [[[-3, -3.5, -8], [-2, -0.5, -4]]] and T.tolist() == [[2, 1]]
    m = likelihood_measures(L, T)
    assert m['nll_of_others'].value == pytest.approx((3.5 + 2) / 3)
    assert m['kl_between'].value == pytest.approx((0.5 + 1.5) / 3)
    assert m['kl_to_base'].value == pytest.approx((5 + 3.5) / 3)
    assert asked(engine) == ['a', 'b', None], 'critics are read by critics and the base alone'


def test_generators_are_paired_with_generators():
    t, society = debated([(0,), (0,)], ['a', None], 'generator', 1)
    engine = engine_with({'a': [-1], None: [-2]})
    L, _ = likelihoods([t], society, engine)
    assert L.tolist() == [[[-1, -2, -2], [-1, -2, -2]]] and asked(engine) == ['a', None], 'the base is asked once'


def test_three_agents_average_over_ordered_pairs():
    rng = np.random.default_rng(0)
    L, T = rng.normal(-5, 1, (4, 3, 4)), rng.integers(1, 9, (4, 3)).astype(float)
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    m = likelihood_measures(L, T, 50)
    assert m['nll_of_others'].value == pytest.approx(-sum(L[:, a, b].sum() for a, b in pairs) / (2 * T.sum()))
    assert m['kl_between'].value == pytest.approx(
        sum((L[:, a, a] - L[:, a, b]).sum() for a, b in pairs) / (2 * T.sum())
    )
    assert m['kl_to_base'].value == pytest.approx(sum((L[:, a, a] - L[:, a, 3]).sum() for a in range(3)) / T.sum())


def test_questions_are_weighted_by_tokens():
    assert over_questions([1, 30], [1, 10]).value == pytest.approx(31 / 11)
    m = over_questions([1, 2, 3, 4], [1, 1, 1, 1], 500)
    assert m.value == 2.5 and m.low < 2.5 < m.high and m.questions == 4
    assert over_questions([]) == over_questions([None]) == Measure(None, None, None, 0)


def test_interval_coverage():
    rng = np.random.default_rng(1)
    held = []
    for _ in range(60):
        n = rng.integers(1, 6, 60)
        m = over_questions(list(rng.exponential(1, 60) * n), list(n), 300)
        held.append(m.low <= 1 <= m.high)
    assert np.mean(held) > 0.85


words = st.lists(st.sampled_from(['7', '7.0', '8', None]), min_size=3, max_size=3)


@given(st.lists(words, min_size=1, max_size=5), st.permutations(range(3)))
def test_agents_are_order_independent(debates, order):
    a, b = (
        [debate(i, box(*d)) for i, d in enumerate(debates)],
        [debate(i, box(*(d[s] for s in order))) for i, d in enumerate(debates)],
    )
    assert consensus_diversity(a, resamples=20).value == pytest.approx(consensus_diversity(b, resamples=20).value)
    assert 0 <= consensus_diversity(a, resamples=20).value <= 1
    for agreeing in (False, True):
        x, y = (embedding_diversity(d, agreeing=agreeing, resamples=20).value for d in (a, b))
        assert x is y is None or x == pytest.approx(y, abs=1e-9)


def test_consensus_is_one_minus_agreement():
    from multiagent_ft.runs.evaluate import health, outcome
    from multiagent_ft.runs.tasks import Task

    debates = [
        debate(0, box('7', '7.0', '8'), box('7', '7', None)),
        debate(1, box('1', None, None), box('1', '2', '3')),
    ]
    agreement = health([outcome(d, Task('d', 'number')) for d in debates])['agreement']
    assert consensus_diversity(debates).value == pytest.approx(1 - agreement['final'])
    assert consensus_diversity(debates, round=1).value == pytest.approx(1 - agreement['first'])


def test_embeddings_do_not_depend_on_the_process():
    code = (
        'from multiagent_ft.studies.diversity import *; import hashlib; '
        'print(hashlib.sha256(char_ngrams(["14+80=94", "é ☃"]).tobytes()).hexdigest())'
    )
    assert (
        len(
            {
                subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
                for _ in range(2)
            }
        )
        == 1
    )


def test_embedding_of_empty_and_odd_texts():
    e = char_ngrams(['', ' \n', '\ud800 lone', '\x00', '☃' * 5000])
    assert (
        np.isfinite(e).all() and dissimilarity(['☃', '☃']) == pytest.approx(0, abs=1e-6) and dissimilarity([]) is None
    )
    assert embedding_diversity([debate(0, ['a', ' ', 'a'])]).value == pytest.approx(0, abs=1e-6)
    assert embedding_diversity([debate(0, ['a', ' ', ''])]).value is None


def test_user_embedder():
    seen = []

    def lengths(texts):
        seen.extend(texts)
        return [[len(t), 1] for t in texts]

    page = diversity([debate(0, ['a', 'bb', 'bb'])], embed=lengths, resamples=20)
    cos = (1 * 2 + 1) / (2**0.5 * 5**0.5)
    assert page['measures']['embedding']['value'] == pytest.approx(2 / 3 * (1 - cos)) and set(seen) == {'a', 'bb'}


def test_error_messages():
    t, society = debated([(0,), (0,)], ['a', 'b'])
    empty, _ = debated([(), ()], ['a', 'b'])
    for wrong, word in (
        (lambda: diversity([]), 'no agent answered'),
        (lambda: consensus_diversity([debate(0, box('7'))], round=3), 'round 3'),
        (lambda: encoder('/nowhere'), 'encoder'),
        (lambda: likelihoods([t], untrained(1), None), 'more agents'),
        (lambda: likelihoods([empty], society, None), 'token ids'),
        (lambda: likelihoods([t], society, ReplayEngine({})), 'recorded'),
    ):
        with pytest.raises(MaftError, match=word) as e:
            wrong()
        assert len(str(e.value).splitlines()) <= 2


def test_measures_are_json():
    t, society = debated([(0,), (0,)], ['a', 'b'])
    page = diversity([t], society, engine_with({'a': [-1], 'b': [-2], None: [-3]}), resamples=20)
    assert json.loads(json.dumps(page)) == page and set(page['measures']) == {
        'consensus',
        'embedding',
        'embedding_agreeing',
        'nll_of_others',
        'kl_between',
        'kl_to_base',
    }
    assert page['round'] == 2 and page['unparsed'] == sum(u.answer is None for u in t.final()) / 2


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A tiny model and two adapters with random weights."
    import torch
    from peft import LoraConfig, get_peft_model
    from tiny_models import make
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp('tiny')
    make('llama', folder / 'base')
    for i in range(2):
        torch.manual_seed(i)
        m = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder / 'base'),
            LoraConfig(r=8, lora_alpha=64, init_lora_weights=False, target_modules=['q_proj', 'v_proj', 'down_proj']),
        )
        m.save_pretrained(folder / f'adapter-{i}')
    return folder


def test_kl_estimate_against_the_exact_sum(tiny):
    "One-token answers: the whole next-token distribution is at hand, so the KL is known."
    from multiagent_ft.engines.huggingface import HFEngine

    engine = HFEngine(str(tiny / 'base'))
    prompt, V = (5, 6, 7), len(engine.base.tokenizer)
    adapters = [str(tiny / 'adapter-0'), str(tiny / 'adapter-1')]
    p = {
        a: np.exp(np.concatenate(engine.logprobs([prompt] * V, [(v,) for v in range(V)], a)).astype(float))
        for a in [*adapters, None]
    }
    for q in p.values():
        assert q.sum() == pytest.approx(1, abs=1e-4)

    def kl(a, b):
        return float((p[a] * np.log(p[a] / p[b])).sum())

    rng = np.random.default_rng(0)
    drawn_tokens = [[int(rng.choice(V, p=p[a] / p[a].sum())) for _ in range(400)] for a in adapters]
    debates = [
        Transcript(
            Problem(str(i), '?'),
            [Turn(n, 'generator', 1, Completion('w', 'stop', prompt, (drawn_tokens[n][i],))) for n in range(2)],
        )
        for i in range(400)
    ]
    society = Society(tuple(Agent('generator', i, a) for i, a in enumerate(adapters)), ())
    m = likelihood_measures(*likelihoods(debates, society, engine), 500)
    between, base = (kl(*adapters) + kl(*adapters[::-1])) / 2, sum(kl(a, None) for a in adapters) / 2
    assert between > 0.01 and base > 0.01
    assert m['kl_between'].value == pytest.approx(between, abs=0.25 * between + 0.02) and m[
        'kl_to_base'
    ].value == pytest.approx(base, abs=0.25 * base + 0.02)
    same = likelihood_measures(*likelihoods(debates[:20], untrained(2), engine), 50)
    assert same['kl_between'].value == same['kl_to_base'].value == 0, 'untrained agents are the base model'


def test_t5_encoder_mean_pooling(tmp_path):
    "A tiny T5 from a folder: the mean over tokens, whatever the batch; long text in pieces."
    import torch
    from tiny_models import tokenizer, MODELS
    from transformers import T5Config, T5Model

    _, kind, special, control, _, _ = MODELS['llama']
    tok = tokenizer(kind, ('<s>', '</s>', '<pad>'), [], [], '')
    tok.model_max_length = 16
    tok.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = T5Model(
        T5Config(vocab_size=len(tok), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )
    model.save_pretrained(tmp_path)
    texts = ['7', 'a much longer text about ducks and eggs ' * 4, 'eggs']
    e = encoder(tmp_path)(texts)
    assert e.shape == (3, 16) and np.isfinite(e).all()
    assert np.allclose(e, encoder(tmp_path, batch_size=1)(texts), atol=1e-5)
    ids = tok('7', return_tensors='pt').input_ids
    with torch.no_grad():
        assert np.allclose(
            e[0], model.eval().get_encoder()(input_ids=ids).last_hidden_state[0].mean(0).numpy(), atol=1e-5
        )
    assert not np.allclose(encoder(tmp_path)([texts[1]]), encoder(tmp_path)([texts[1][:40]]))
    assert embedding_diversity([debate(0, texts)], encoder(tmp_path)).value > 0


def run_folder(tmp_path, evaluations):
    from multiagent_ft.core import transcript_to_dict, write_jsonl
    from multiagent_ft.runs.society import save_society

    for k, transcripts in enumerate(evaluations):
        save_society(untrained(2), tmp_path / f'iteration-{k}')
        write_jsonl(tmp_path / f'iteration-{k}' / 'eval.jsonl', map(transcript_to_dict, transcripts))
    return tmp_path


def test_measure_is_cached_until_the_debates_change(tmp_path):
    from multiagent_ft.studies.diversity import SPELLING, diversity_table, run_diversity

    folder = run_folder(
        tmp_path, [[debate(i, box('1', '2')) for i in range(4)], [debate(i, box('1', '1')) for i in range(4)]]
    )
    pages = run_diversity(folder, likelihood=False)
    assert [p['measures']['consensus']['value'] for p in pages] == [0.5, 0] and {p['embedder'] for p in pages} == {
        SPELLING
    }
    stamp = (folder / 'iteration-0' / 'diversity.json').stat().st_mtime_ns
    assert (
        run_diversity(folder, likelihood=False) == pages
        and (folder / 'iteration-0' / 'diversity.json').stat().st_mtime_ns == stamp
    )
    assert run_diversity(folder, 2, likelihood=False)[0]['questions'] == 2
    run_folder(tmp_path, [[debate(i, box('1', '1')) for i in range(4)]])
    assert run_diversity(folder, likelihood=False)[0]['measures']['consensus']['value'] == 0
    assert diversity_table(pages)[1][:4] == ['0', '4', '0.000', '0.500 [0.500, 0.500]']


def test_folder_without_debates_is_refused(tmp_path):
    from multiagent_ft.studies.diversity import embedder, run_diversity

    (run_folder(tmp_path, [[debate(0, box('1', '2'))]]) / 'iteration-0' / 'eval.jsonl').unlink()
    for wrong in (
        lambda: run_diversity(tmp_path),
        lambda: run_diversity(tmp_path / 'none'),
        lambda: embedder(str(tmp_path)),
    ):
        with pytest.raises(MaftError) as e:
            wrong()
        assert len(str(e.value).splitlines()) == 1
