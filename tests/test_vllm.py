"""Engine vllm: adapters it refuses, our draws inside its batches, its process, its errors; then vLLM itself, where an
interpreter has it (MAFT_VLLM_PYTHON, or this one): `make test-engines`."""

import importlib.util, json, os, signal, threading
from types import SimpleNamespace
import numpy as np
import pytest
from hypothesis import given, strategies as st
from multiagent_ft.core import MaftError, seed_for
from multiagent_ft.engines import vllm
from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.engines.vllm import Adapter, Draw, EngineProcess, VLLMEngine
from multiagent_ft.method.prompts import Request, Sampling, draw, mix64, opening
from tiny_models import random_adapters

PYTHON = os.environ.get('MAFT_VLLM_PYTHON')
HAVE = bool(PYTHON or importlib.util.find_spec('vllm'))
needs_vllm = pytest.mark.skipif(not HAVE, reason='no vLLM here: make test-engines')
ENV = dict(VLLM_CPU_KVCACHE_SPACE='1', VLLM_CPU_OMP_THREADS_BIND='nobind', OMP_NUM_THREADS='1')

WORDS = st.integers(0, 2**64 - 1)


@given(st.lists(WORDS, min_size=1))
def test_unmix_undoes_mix(words):
    words = np.array(words, np.uint64)
    with np.errstate(over='ignore'):
        assert (vllm.unmix64(mix64(words)) == words).all()


@given(st.integers(0, 2**63 - 1), st.integers(0, 2000), st.sampled_from([0.0, 0.7, 1.0]), st.sampled_from([0.3, 1.0]))
def test_sampler_of_mixed_steps_against_its_definition(seed, step, temperature, top_p):
    import torch

    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(step))
    draws = [Draw(seed, temperature, top_p, prompt=5), Draw(seed ^ 1, 1.0, 0.9, prompt=5), Draw(1, 0, 1, 5, given=49)]
    expected = [draw(logits[0].numpy(), seed, step, Sampling(temperature, top_p))]
    expected += [draw(logits[1].numpy(), seed ^ 1, step + 3, Sampling(1.0, 0.9)), 49]
    assert vllm.draw_rows(logits, draws, [step, step + 3, 0]).tolist() == expected


def test_nan_logits_are_reported():
    import torch

    with pytest.raises(MaftError, match='not numbers'):
        vllm.draw_rows(torch.full((1, 9), float('nan')), [Draw(0, 1.0, 0.9, 5)], [0])


def params(i):
    return SimpleNamespace(extra_args=dict(maft=list(Draw(i, 1.0, 1.0, 5))))


@given(st.lists(st.tuples(st.sampled_from(['join', 'leave', 'move', 'swap']), st.integers(0, 99)), max_size=30))
def test_batch_rows_follow_joins_removals_and_moves(events):
    "Against a plain list of who sits where; a row is removed and another moved into its place, as vLLM condenses."
    kept, rows = vllm._Draws(None), []
    for n, (event, where) in enumerate(events):
        removed, added, moved = [], [], []
        if event == 'join':
            added = [(len(rows), params(n), None, [0] * n)]
            rows.append((n, n))
        elif rows and event == 'leave':
            where %= len(rows)
            last = len(rows) - 1
            removed = [where]
            if where != last:
                moved = [(last, where, SimpleNamespace(name='UNIDIRECTIONAL'))]
            rows[where] = rows[last]
            rows.pop()
        elif len(rows) > 1 and event == 'swap':
            where %= len(rows) - 1
            moved = [(where, where + 1, SimpleNamespace(name='SWAP'))]
            rows[where], rows[where + 1] = rows[where + 1], rows[where]
        kept.update_state(SimpleNamespace(removed=removed, added=added, moved=moved))
        assert [(d.seed, len(written)) for _, (d, written) in sorted(kept.places.items())] == rows
    kept.update_state(None)


def test_reused_slots_are_reset():
    kept = vllm._Draws(None)
    assert kept.add_request(3, params(7)) and not kept.add_request(3, SimpleNamespace(extra_args={}))
    assert kept.places == {}


@pytest.mark.parametrize(
    'settings, fault',
    [
        (dict(use_dora=True), 'use_dora=True'),
        (dict(bias='all'), 'bias=all'),
        (dict(modules_to_save=['norm']), r"modules_to_save=\['norm'\]"),
        (dict(target_modules=['lm_head']), 'lm_head'),
        (dict(target_modules=['embed_tokens', 'q_proj']), 'embed_tokens'),
        (dict(trainable_token_indices=[1, 2]), 'trainable_token_indices'),
        (dict(target_modules=[], target_parameters=['layers.0.mlp.up_proj.weight']), 'target_parameters'),
        (dict(r=24), 'Set max_lora_rank to 24'),
        (dict(rank_pattern={'q_proj': 40}), 'rank 40'),
        (dict(init_lora_weights='pissa'), 'init_lora_weights=pissa'),
    ],
)
def test_unsupported_adapters_are_refused_in_one_line(tmp_path, settings, fault):
    (folder,) = random_adapters(tmp_path, 1, **settings)
    with pytest.raises(MaftError, match=fault) as e:
        vllm.check_adapter(folder, max_lora_rank=16)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(use_rslora=True, lora_dropout=0.1, target_modules=['q_proj'], layers_to_transform=[0, 1]),
        dict(init_lora_weights='gaussian', rank_pattern={'q_proj': 4}, target_modules=['q_proj', 'v_proj']),
    ],
)
def test_plain_lora_is_accepted(tmp_path, settings):
    (folder,) = random_adapters(tmp_path, 1, **settings)
    assert vllm.check_adapter(folder, max_lora_rank=8) == 8


def test_unknown_peft_setting_is_refused(tmp_path):
    (folder,) = random_adapters(tmp_path, 1)
    page = json.loads((folder / 'adapter_config.json').read_text())
    (folder / 'adapter_config.json').write_text(json.dumps(page | dict(brand_new=True)))
    with pytest.raises(MaftError, match='brand_new=True'):
        vllm.check_adapter(folder, max_lora_rank=8)


def test_full_weights_are_refused(tmp_path):
    with pytest.raises(MaftError, match='full weights'):
        vllm.check_adapter(tmp_path, max_lora_rank=8)


def test_lora_capacity():
    assert [vllm.lora_capacity(r) for r in (1, 4, 16, 17, 512)] == [1, 8, 16, 32, 512]
    for rank in (0, 513):
        with pytest.raises(MaftError, match='from 1 to 512'):
            vllm.lora_capacity(rank)


@pytest.mark.skipif(importlib.util.find_spec('vllm') is not None, reason='vLLM is installed here')
def test_vllm_not_installed_is_one_line():
    with pytest.raises(MaftError, match='has no vLLM. Install it there'):
        VLLMEngine('nano')
    with pytest.raises(AttributeError, match='no attribute nonsense'):
        getattr(vllm, 'nonsense')


def test_worker_import_error_is_one_line():
    "Without vLLM its process still starts and answers; what fails in it comes back as one line."
    process = EngineProcess('nano')
    pid = process.process.pid
    with pytest.raises(MaftError, match='^nano: vLLM failed') as e:
        process.call('complete', batches=[[{}]])
    assert '\n' not in str(e.value) and process.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_sigkilled_worker_is_reported_as_oom():
    process = EngineProcess('nano')
    os.kill(process.process.pid, signal.SIGKILL)
    with pytest.raises(MaftError, match='not enough memory .* killed'):
        process.call('start')


def test_worker_ends_with_the_engine():
    process = EngineProcess('nano')
    child = process.process
    del process
    assert child.wait(timeout=60) in (0, -signal.SIGKILL)


def test_adapter_slots_for_all_agents_of_a_run():
    from multiagent_ft.runs.run import spec_for
    from multiagent_ft.runs.settings import Config

    spec = spec_for(Config(engine=dict(name='vllm', args=dict(python='/x')), agents=4, rank=24))
    assert spec.engine == 'vllm' and spec.args['max_loras'] == 8 and spec.args['python'] == '/x'
    assert vllm.VLLMSettings(**{k: v for k, v in spec.args.items() if k != 'model'}).max_lora_rank == 32


@pytest.mark.parametrize('training', [dict(method='full'), dict(method='qlora'), dict(target_modules=['lm_head'])])
def test_unsupported_training_is_refused_before_the_run(training):
    from multiagent_ft.runs.run import spec_for
    from multiagent_ft.runs.settings import Config

    with pytest.raises(MaftError, match='engine vllm serves plain LoRA on linear layers; .* needs engine hf'):
        spec_for(Config(engine=dict(name='vllm'), training=training))


# From here on with vLLM. One engine for all: it takes half a minute to start.
engines = pytest.mark.engines


@pytest.fixture(scope='module')
def adapters(tmp_path_factory):
    return [str(a) for a in random_adapters(tmp_path_factory.mktemp('adapters'), 3)]


@pytest.fixture(scope='module')
def hf():
    return HFEngine('nano')


@pytest.fixture(scope='module')
def engine():
    engine = VLLMEngine('nano', max_loras=2, max_lora_rank=5, python=PYTHON, env=ENV)
    yield engine
    engine.close()


def questions(n, adapters=(None,), temperature=1.0, top_p=0.9, most=120):
    how = Sampling(temperature, top_p, most)
    texts = [f'What is the result of {i}+7*{i % 5}-3?' for i in range(n)]
    return [
        Request(opening(t), seed_for('t', i), how, adapter=adapters[i % len(adapters)]) for i, t in enumerate(texts)
    ]


@engines
@needs_vllm
@pytest.mark.parametrize('temperature, top_p', [(0.0, 1.0), (1.0, 1.0), (1.0, 0.9), (0.7, 0.5)])
def test_vllm_matches_transformers(engine, hf, adapters, temperature, top_p):
    "Base and more adapters than fit a batch, float32: at least 97 of 100 token for token (rounding)."
    requests = questions(100, [None, *adapters], temperature=temperature, top_p=top_p)
    same = [a.token_ids == b.token_ids for a, b in zip(engine.generate(requests), hf.generate(requests))]
    assert sum(same) >= 97


@engines
@needs_vllm
def test_base_rows_in_a_batch_with_adapters(engine, hf, adapters):
    "The CPU build takes the weights of the last slot for rows without an adapter, if they share a batch."
    engine.generate(questions(4, adapters[:2]))  # both slots are taken
    requests = questions(60, [None, *adapters], temperature=0)
    assert engine.generate(requests)[::4] == hf.generate(requests)[::4]


def test_base_has_batches_of_its_own_on_cpu_only():
    rows = [dict(adapter=a, score=s) for a, s in [(None, 0), (None, 0), ('x', 0), ('y', 0)]]
    cpu, gpu = (SimpleNamespace(about=SimpleNamespace(device=d), with_lora=True) for d in ('cpu', 'cuda'))
    assert vllm.batches(cpu, rows) == [rows[:2], rows[2:]] and vllm.batches(gpu, rows) == [rows]
    assert vllm.batches(cpu, rows[:2]) == [rows[:2]] and vllm.batches(cpu, rows[2:]) == [rows[2:]]
    scored = [r | dict(score=3) for r in rows]
    assert vllm.batches(cpu, scored) == [[r] for r in scored] and vllm.batches(gpu, scored) == [scored]
    cpu.with_lora = False
    assert vllm.batches(cpu, scored) == [scored]


@engines
@needs_vllm
def test_completions_match_transformers(engine, hf):
    requests = [*questions(3, temperature=0), *questions(3, temperature=0, most=4), *questions(1, temperature=0)]
    long = Request(opening('1+1? ' * 900), 0)
    assert engine.generate([*requests, long]) == hf.generate([*requests, long])
    assert engine.generate([]) == [] and engine.generate([long])[0].finish == 'context_overflow'


@engines
@needs_vllm
def test_logprobs_of_given_tokens(engine, hf, adapters):
    made = engine.generate(questions(5))
    prompts, tokens = [c.prompt_ids for c in made], [c.token_ids for c in made]
    tokens[1], tokens[2] = (), tokens[2][:1]
    full = hf.context - len(prompts[3])
    tokens[3] = (tokens[3] * 200)[:full]  # to the last token of the context
    for adapter in (None, adapters[0]):
        ours, theirs = (e.logprobs(prompts, tokens, adapter) for e in (engine, hf))
        assert [len(a) for a in ours] == [len(t) for t in tokens] and ours[0].dtype == np.float32
        assert max(np.abs(a - b).max() for a, b in zip(ours, theirs) if len(a)) < 1e-3
    assert engine.logprobs([], []) == []


@engines
@needs_vllm
def test_stale_adapter_weights_are_detected(engine, adapters, monkeypatch):
    "The number of one adapter with the folder of another: vLLM answers with the old weights, and does not say so."
    first, second = (vllm.use(engine, a) for a in adapters[:2])
    assert first.number != second.number and first.path != second.path
    assert vllm.probe_adapter(engine, adapters[1]).difference < 1e-3
    stale = Adapter(second.name, first.number, second.path)
    assert vllm.probe_adapter(engine, adapters[1], stale).difference > 0.01
    monkeypatch.setitem(engine.adapters, second.name, stale)
    engine.checked.pop(second.name, None)
    with pytest.raises(MaftError, match='stale or not understood'):
        engine.generate(questions(1, [adapters[1]]))
    assert engine.process is None  # ended: nothing wrong is left in it


@engines
@needs_vllm
def test_retrained_adapter_in_the_same_folder_is_reloaded(engine, hf, tmp_path):
    for start in (1, 2):
        folder = str(random_adapters(tmp_path, start)[0])
        (page := json.loads(open(f'{folder}/adapter_config.json').read()))['lora_alpha'] = 16 * start
        open(f'{folder}/adapter_config.json', 'w').write(json.dumps(page))
        requests = questions(10, [folder], temperature=0)
        assert engine.generate(requests) == HFEngine('nano').generate(requests)


@engines
@needs_vllm
def test_worker_stops_for_training_and_restarts(engine, adapters):
    requests = questions(4, adapters)
    before, process = engine.generate(requests), engine.process.process
    base = engine.base
    assert process.returncode is not None and engine.process is None and base is engine.in_process('cpu').base
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nor anything that it started
    assert engine.generate(requests) == before


@engines
@needs_vllm
def test_sigkilled_worker_is_reported_and_restarted(engine):
    engine.generate(questions(1))
    pid = engine.process.process.pid
    threading.Timer(0.5, lambda: os.kill(pid, signal.SIGKILL)).start()
    with pytest.raises(MaftError, match='not enough memory .* killed'):
        while True:
            engine.generate(questions(200))
    assert len(engine.generate(questions(1))) == 1


@engines
@needs_vllm
def test_oom_at_start_is_one_or_two_lines():
    engine = VLLMEngine('nano', python=PYTHON, env=ENV | dict(VLLM_CPU_KVCACHE_SPACE='100000'))
    with pytest.raises(MaftError, match='not enough memory to serve nano') as e:
        engine.generate(questions(1))
    assert len(str(e.value).splitlines()) <= 2


@engines
@needs_vllm
def test_unsupported_model_is_refused(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, OpenAIGPTConfig
    from multiagent_ft.engines.weights import find_model

    tokenizer = AutoTokenizer.from_pretrained(find_model('nano'))
    config = OpenAIGPTConfig(vocab_size=len(tokenizer), n_embd=64, n_layer=1, n_head=4, n_positions=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(MaftError, match='vLLM does not serve this kind of model. Use engine hf.'):
        VLLMEngine(tmp_path, python=PYTHON, env=ENV).generate(questions(1))


def test_4bit_is_refused():
    with pytest.raises(MaftError, match='4bit is for engine hf'):
        VLLMEngine('nano', dtype='4bit')


@engines
@needs_vllm
def test_identity_covers_version_and_flags(engine, adapters):
    page = engine.identity(adapters[0])
    assert json.loads(json.dumps(page)) == page
    assert page['engine'] == 'vllm' and page['version'] and page['flags']['max_lora_rank'] == 8
    assert page['dtype'] == 'float32' and page['adapter'] != engine.identity(adapters[1])['adapter']
    assert engine.capabilities() == (True, True, False, True)  # adapters, logprobs, exact_repeat, token_ids


@engines
@needs_vllm
def test_a_whole_run_debates_on_vllm_trains_and_debates_again(run_maft, tmp_path):
    named = ['--set', f'engine.args.python={PYTHON}'] if PYTHON else []
    small = ['--train', 6, '--eval', 4, '--iterations', 1, '--out', tmp_path / 'run', '--store', tmp_path / 'store']
    done = run_maft('run', '--engine', 'vllm', *named, *small, env=ENV, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in open(tmp_path / 'run' / 'outcomes.jsonl')]
    assert {r['iteration'] for r in rows} == {0, 1}
