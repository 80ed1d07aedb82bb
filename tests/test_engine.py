"The engines: seeded draws, adapters, names, room, memory, errors, replay."

import json, random, shutil
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from tiny_models import make
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList

from multiagent_ft.method import prompts as definition
from multiagent_ft.engines import decoding
from multiagent_ft.engines import huggingface as hf, weights
from multiagent_ft.answers.reading import extract, same
from multiagent_ft.core import Completion, MaftError, Message, read_jsonl, seed_for
from multiagent_ft.method.prompts import Engine, ReplayEngine, Request, Sampling
from multiagent_ft.engines.decoding import SeededSampler
from multiagent_ft.engines.huggingface import HFEngine, adapter_identity, let_go
from multiagent_ft.method.prompts import opening


@pytest.fixture(scope='module')
def llama(tmp_path_factory):
    return make('llama', tmp_path_factory.mktemp('models') / 'llama')


@pytest.fixture(scope='module')
def engine(llama):
    return HFEngine(llama)


@pytest.fixture(scope='module')
def adapters(llama, tmp_path_factory):
    "Three adapters with random weights."
    out = []
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        with weights.silence():
            lora = get_peft_model(
                AutoModelForCausalLM.from_pretrained(llama),
                LoraConfig(r=4, lora_alpha=16, target_modules='all-linear', task_type='CAUSAL_LM'),
            )
            for n, p in lora.named_parameters():
                if 'lora_' in n:
                    torch.nn.init.normal_(p, std=0.3)
            out.append(tmp_path_factory.mktemp('adapters') / str(seed))
            lora.save_pretrained(out[-1])
    return out


def asks(n, adapters=(None,), max_new_tokens=24, seed=0):
    "Requests of different lengths, samplings and adapters."
    rng, hows = random.Random(seed), [(1, 0.9), (0.7, 1), (0, 1), (1.3, 0.5)]
    return [
        Request(
            (Message('user', 'What is ' + '+'.join(str(rng.randint(0, 30)) for _ in range(rng.randint(2, 12))) + '?'),),
            seed_for('asks', i),
            Sampling(*hows[i % 4], max_new_tokens),
            adapters[i % len(adapters)] and str(adapters[i % len(adapters)]),
        )
        for i in range(n)
    ]


def texts(completions):
    return [(c.text, c.finish, c.token_ids) for c in completions]


# Drawing


def test_gumbel_noise_against_its_definition():
    seeds, ids = [0, 1, 2**63 - 1, seed_for('x')], np.array([0, 1, 255, 151_935, 2**31])
    for step in (0, 1, 4095):
        got = decoding.gumbel(torch.tensor(seeds), step, torch.tensor(ids).expand(4, -1)).numpy()
        assert np.allclose(got, [definition.gumbel(s, step, ids) for s in seeds], rtol=1e-12, atol=1e-12)
    x = torch.tensor([0, 1, -1, 2**62], dtype=torch.int64)
    assert [v % 2**64 for v in decoding.mix64(x).tolist()] == definition.mix64(
        np.array([v % 2**64 for v in x.tolist()], np.uint64)
    ).tolist()


def test_sampler_against_its_definition():
    rng, hows = np.random.default_rng(1), [Sampling(t, p) for t in (0, 0.5, 1, 2) for p in (0.1, 0.9, 1)]
    wrong = 0
    for width in (0, 1, 4, 20):
        # rounded: equal logits abound
        x = np.round(rng.normal(size=(len(hows) * 25, 300)) * width, 1).astype(np.float32)
        seeds = [seed_for('d', width, i) for i in range(len(x))]
        got = SeededSampler(seeds, hows * 25, 0).pick(torch.tensor(x), 2).tolist()
        wrong += sum(g != definition.draw(x[i], seeds[i], 2, (hows * 25)[i]) for i, g in enumerate(got))
    assert wrong <= 2, 'the border of a nucleus may round either way, but hardly ever'


@pytest.mark.parametrize('how', [Sampling(1, 1, 1), Sampling(0.6, 0.9, 1), Sampling(1.5, 0.7, 1)], ids=str)
def test_first_tokens_follow_the_model_distribution(engine, how):
    "The engine's first token over many seeds, against the model's own distribution."
    chat, n = (Message('user', 'What is 3+4?'),), 2000
    drawn = np.bincount(
        [c.token_ids[0] for c in engine.generate([Request(chat, seed_for('chi', i), how) for i in range(n)])],
        minlength=len(engine.base.tokenizer),
    )
    with engine.base.adapters.with_adapter(None) as model:
        logits = model(torch.tensor([engine.render(chat)])).logits[0, -1].double().numpy()
    p = np.exp(logits / how.temperature)
    p /= p.sum()
    p = np.where(definition.nucleus(p, how.top_p), p, 0)
    p /= p.sum()
    assert not drawn[p == 0].any()
    often = p * n >= 5
    counts, want = [*drawn[often], drawn[~often].sum()], [*(p[often] * n), p[~often].sum() * n]
    if want[-1] == 0:
        counts, want = counts[:-1], want[:-1]
    assert chisquare(counts, want).pvalue > 1e-4


def test_requests_are_order_independent(engine, adapters):
    rs = asks(40, (None, *adapters[:2]))
    straight, order = engine.generate(rs), random.Random(0).sample(range(40), 40)
    shuffled = engine.generate([rs[i] for i in order])
    assert [straight[i] for i in order] == shuffled
    assert engine.generate(rs) == straight


def test_batch_size_does_not_change_texts(llama):
    rs = asks(120)
    answers = texts(HFEngine(llama).generate(rs))
    for size, n in ((7, 120), (1, 12)):
        assert sum(a == b for a, b in zip(answers, texts(HFEngine(llama, batch_size=size).generate(rs[:n])))) >= n - 1


@pytest.mark.slow
def test_batch_size_does_not_change_texts_of_nano():
    "At least 999 of 1,000 texts of the embedded model, at batches of 64 and of 500."
    rng = random.Random(3)
    questions = [
        'What is the result of {}+{}*{}+{}-{}*{}?'.format(*(rng.randint(0, 29) for _ in range(6))) for _ in range(1000)
    ]
    rs = [Request(opening(q), seed_for('nano', q)) for q in questions]
    a, b = (HFEngine('nano', batch_size=n).generate(rs) for n in (64, 500))
    assert sum(x == y for x, y in zip(a, b)) >= 999


def test_equal_requests_are_generated_once(engine, monkeypatch):
    rows, batch = [], hf.generate_batch
    monkeypatch.setattr(
        hf, 'generate_batch', lambda e, m, now, **how: (rows.append(len(now)), batch(e, m, now, **how))[1]
    )
    a, b, c = engine.generate([asks(1)[0]] * 2 + [asks(2)[1]])
    assert a == b != c and rows == [2]


def test_batch_compaction_does_not_change_texts(engine):
    "Our decoding loop against transformers' own with the same sampler."
    rs = asks(30, max_new_tokens=120)
    ours = engine.generate(rs)
    assert {c.finish for c in ours} == {'stop', 'length'}, 'the test wants rows of both kinds'
    ids, mask = hf.pad_left([c.prompt_ids for c in ours], engine.base.pad_id, 'cpu')
    sampler = SeededSampler([r.seed for r in rs], [r.sampling for r in rs], ids.shape[1])
    with engine.base.adapters.with_adapter(None) as model:
        theirs = model.generate(
            input_ids=ids,
            attention_mask=mask,
            logits_processor=LogitsProcessorList([sampler]),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=120, eos_token_id=engine.stop_ids, pad_token_id=engine.base.pad_id
            ),
        )[:, ids.shape[1] :]
    assert [hf.completion(engine, c.prompt_ids, t.tolist()) for c, t in zip(ours, theirs)] == ours


def test_equal_prompts_without_padding(engine):
    chat = (Message('user', '1+1?'),)
    together = engine.generate([Request(chat, s, Sampling(max_new_tokens=16)) for s in range(10)])
    assert together == [engine.generate([Request(chat, s, Sampling(max_new_tokens=16))])[0] for s in range(10)]


# What comes back


def test_completion_finish_and_stop_token(engine):
    for c in engine.generate(asks(60, max_new_tokens=100)):
        stops = [t in engine.stop_ids for t in c.token_ids]
        assert not any(stops[:-1]) and (c.finish == 'stop') == stops[-1] and (c.finish == 'length') == (not stops[-1])
        assert c.finish == 'stop' or len(c.token_ids) == 100
        assert c.text == engine.decode(c.token_ids[:-1] if stops[-1] else c.token_ids)
        assert not any(t in c.text for t in engine.base.tokenizer.all_special_tokens)


def test_stop_ids_from_config_tokenizer_and_template(llama, tmp_path):
    m = shutil.copytree(llama, tmp_path / 'm')
    g = json.loads((m / 'generation_config.json').read_text())
    (m / 'generation_config.json').write_text(json.dumps(g | dict(eos_token_id=[7, 9])))
    assert HFEngine(m).stop_ids == [1, 4, 7, 9]  # <|end_of_text|>, <|eot_id|> from the template, and the two
    out = HFEngine(m).generate(asks(60, max_new_tokens=100))
    assert {c.token_ids[-1] for c in out if c.finish == 'stop'} & {7, 9}


def test_generation_config_of_the_model_is_ignored(llama, tmp_path, engine):
    m = shutil.copytree(llama, tmp_path / 'm')
    g = json.loads((m / 'generation_config.json').read_text())
    (m / 'generation_config.json').write_text(
        json.dumps(
            g
            | dict(
                do_sample=True,
                repetition_penalty=5.0,
                top_k=2,
                temperature=0.01,
                no_repeat_ngram_size=1,
                suppress_tokens=list(range(20, 200)),
                max_new_tokens=3,
                min_new_tokens=20,
                num_beams=4,
                forced_eos_token_id=11,
            )
        )
    )
    assert HFEngine(m).generate(asks(12)) == engine.generate(asks(12))


def test_context_overflow_and_max_new_tokens(llama):
    e = HFEngine(llama, max_length=100)
    assert (
        e.token_budget(50, Sampling(max_new_tokens=40)) == 40 and e.token_budget(70, Sampling(max_new_tokens=40)) == 30
    )
    assert (
        e.token_budget(90, Sampling(max_new_tokens=40)) == 10
        and e.token_budget(91, Sampling(max_new_tokens=40)) == 0
        and e.token_budget(400, Sampling()) == 0
    )
    chats = [(Message('user', '1' * n),) for n in (10, 70, 78, 200)]
    out = e.generate([Request(c, 5, Sampling(1, 1, 40)) for c in chats])
    assert (
        [c.finish for c in out[2:]] == ['context_overflow'] * 2
        and not out[3].token_ids
        and out[3].prompt_ids == e.render(chats[3])
    )
    assert len(out[0].prompt_ids) + 40 <= 100 and 10 <= 100 - len(out[1].prompt_ids) < 40
    assert out[1].finish == 'stop' or len(out[1].prompt_ids + out[1].token_ids) == 100


def test_logprobs(engine, adapters):
    out = engine.generate(asks(20, max_new_tokens=30))
    got = engine.logprobs([c.prompt_ids for c in out], [c.token_ids for c in out])
    for c, lp in zip(out, got):
        with engine.base.adapters.with_adapter(None) as model:
            logits = model(torch.tensor([c.prompt_ids + c.token_ids])).logits[0].float()
        want = (
            logits.log_softmax(-1)[len(c.prompt_ids) - 1 : -1]
            .gather(-1, torch.tensor(c.token_ids)[:, None])[:, 0]
            .numpy()
        )
        assert lp.shape == want.shape and np.abs(lp - want).max() < 1e-4
    assert engine.logprobs([out[0].prompt_ids], [()])[0].shape == (0,) and engine.logprobs([], []) == []
    assert np.abs(engine.logprobs([out[0].prompt_ids], [out[0].token_ids], str(adapters[0]))[0] - got[0]).max() > 0.01


# Adapters


@pytest.mark.parametrize('keep,merged', [(1, False), (2, False), (16, False), (2, True), (16, True)])
def test_switching_adapters_matches_peft(llama, adapters, keep, merged):
    "Whatever was on before, an adapter answers as PEFT loaded alone, and the base as if none had ever been there."
    e = HFEngine(llama, keep_adapters=keep, merge_below=hf.MERGE_BELOW if merged else 0)
    assert e.base.adapters.merged == merged and e.identity()['folded'] == merged
    prompts = [e.render(r.chat) for r in asks(3)]
    endings = [p[-20:] for p in prompts]
    alone = {None: HFEngine(llama).logprobs(prompts, endings)}
    for a in adapters:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), a).eval()
        with torch.inference_mode():
            alone[a] = [
                model(input_ids=torch.tensor([p + s]))
                .logits[0]
                .log_softmax(-1)[len(p) - 1 : -1]
                .gather(-1, torch.tensor(s)[:, None])[:, 0]
                .numpy()
                for p, s in zip(prompts, endings)
            ]
    for a in random.Random(keep).choices([None, *adapters], k=10):
        for got, want in zip(e.logprobs(prompts, endings, a and str(a)), alone[a]):
            assert np.abs(got - want).max() < 1e-4
    assert len(e.base.adapters.held) <= keep
    assert all((x == y).all() for x, y in zip(e.logprobs(prompts, endings), alone[None])), (
        'the base is not merely close, it is the same'
    )


def test_adapters_share_one_base_in_memory(llama, adapters):
    "Only models so small that it does not matter get copies to merge adapters into."
    e = HFEngine(llama, merge_below=0)
    where = e.base.model.get_input_embeddings().weight.data_ptr()
    n = sum(p.numel() for p in e.base.model.parameters())
    e.generate(asks(9, adapters, 2))
    lora = sum(t.numel() for t in load_file(adapters[0] / 'adapter_model.safetensors').values())
    assert (
        e.base.model.get_input_embeddings().weight.data_ptr() == where
        and sum(p.numel() for p in e.base.adapters.model.parameters()) == n + 3 * lora
    )


def test_base_answers_after_its_last_adapter_was_dropped(llama, adapters):
    "As after each job on a large base: PEFT without an adapter once said KeyError, at the second agent of a run."
    e = HFEngine(llama, merge_below=0)
    plain, first = asks(2), asks(2, adapters=adapters[:1])
    want = texts(e.generate(plain)), texts(e.generate(first))
    for names in (adapters[:1], adapters[:2]):
        for a in names:
            e.generate(asks(1, adapters=[a]))
        for name in list(e.base.adapters.held):
            e.base.adapters.drop(name)
        assert e.base.adapters.model is e.base.model
        assert (texts(e.generate(plain)), texts(e.generate(first))) == want


def test_retrained_adapter_in_the_same_folder_is_reloaded(llama, adapters, tmp_path):
    e, f = HFEngine(llama), shutil.copytree(adapters[0], tmp_path / 'a')
    q = asks(1, (f,))
    first = e.generate(q)
    shutil.copy(adapters[1] / 'adapter_model.safetensors', f / 'adapter_model.safetensors')
    second = e.generate(q)
    assert texts(first) != texts(second) and texts(second) == texts(e.generate(asks(1, (adapters[1],))))


def test_full_weights_of_an_agent(llama, tmp_path, engine):
    model = AutoModelForCausalLM.from_pretrained(llama)
    torch.manual_seed(9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    model.save_pretrained(tmp_path / 'full')  # no tokenizer there
    both = shutil.copytree(llama, tmp_path / 'alone')
    shutil.copy(tmp_path / 'full' / 'model.safetensors', both / 'model.safetensors')
    e, rs = HFEngine(llama), asks(8, (None, tmp_path / 'full'))
    out = e.generate(rs)
    alone = HFEngine(both).generate([Request(r.chat, r.seed, r.sampling) for r in rs])
    assert texts(out[1::2]) == texts(alone[1::2]) and texts(out[::2]) == texts(engine.generate(rs[::2]))
    assert e.identity(tmp_path / 'full')['adapter'] == adapter_identity(tmp_path / 'full')


@pytest.mark.parametrize('merge_below', [hf.MERGE_BELOW, 0], ids=['merged', 'beside'])
def test_adapter_that_does_not_fit_the_base_is_refused(llama, adapters, tmp_path, merge_below):
    other = HFEngine(make('llama', tmp_path / 'wide', hidden=96), merge_below=merge_below)
    with pytest.raises(MaftError, match='does not fit'):
        other.generate(asks(1, adapters))
    t = load_file(adapters[0] / 'adapter_model.safetensors')
    for name, change in dict(
        extra=lambda t: t | {min(t).replace('layers.0', 'layers.7'): t[min(t)].clone()},
        less=lambda t: {k: v for k, v in t.items() if k != min(t)},
    ).items():
        f = shutil.copytree(adapters[0], tmp_path / name)
        save_file(change(t), f / 'adapter_model.safetensors')
        e = HFEngine(llama, merge_below=merge_below)
        with pytest.raises(MaftError, match='does not fit'):
            e.generate(asks(1, (f,)))
        assert texts(e.generate(asks(4, adapters[:1]))) == texts(HFEngine(llama).generate(asks(4, adapters[:1]))), (
            'and the engine still works'
        )
    (tmp_path / 'pickled').mkdir()
    (tmp_path / 'pickled' / 'adapter_model.bin').write_bytes(b'x')
    (tmp_path / 'pickled' / 'adapter_config.json').write_text('{}')
    with pytest.raises(MaftError, match='Pickled'):
        HFEngine(llama).generate(asks(1, (tmp_path / 'pickled',)))


# Names


def test_identity_changes_with_every_file_and_setting(llama, adapters, tmp_path):
    "One thing is changed at a time, and each time the name is another."

    def name(folder=llama, adapter=adapters[0], **kw):
        return json.dumps(HFEngine(folder, **kw).identity(str(adapter) if adapter else None), sort_keys=True)

    def changed(**files):
        f = shutil.copytree(llama, tmp_path / str(len(list(tmp_path.iterdir()))))
        for file, edit in files.items():
            file = f / file.replace('__', '.')
            file.write_bytes(edit(file.read_bytes()))
        return f

    def edit(**new):
        return lambda b: json.dumps(json.loads(b) | new).encode()

    def flip(b):
        return b[:-1] + bytes([b[-1] ^ 1])

    touched = shutil.copytree(adapters[0], tmp_path / 'touched')
    (touched / 'adapter_model.safetensors').write_bytes(flip((touched / 'adapter_model.safetensors').read_bytes()))
    scaled = shutil.copytree(adapters[0], tmp_path / 'scaled')
    (scaled / 'adapter_config.json').write_text(
        json.dumps(json.loads((scaled / 'adapter_config.json').read_text()) | dict(lora_alpha=17))
    )
    (tmp_path / 't.jinja').write_text((llama / 'chat_template.jinja').read_text() + ' ')
    names = [
        name(),
        name(adapter=None),
        name(adapter=adapters[1]),
        name(adapter=touched),
        name(adapter=scaled),
        name(batch_size=32),
        name(dtype='bfloat16'),
        name(max_length=1000),
        name(chat_template=tmp_path / 't.jinja'),
        name(template_args=dict(date='2020-01-01')),
        name(changed(model__safetensors=flip)),
        name(changed(config__json=edit(rms_norm_eps=1e-5))),
        name(changed(generation_config__json=edit(eos_token_id=[1, 4, 7]))),
        name(changed(tokenizer__json=edit(normalizer=None))),
    ]
    assert len(set(names)) == len(names)
    assert name(changed()) == name(changed(generation_config__json=edit(top_k=3))) == names[0], (
        'a copy elsewhere is the same model'
    )


def test_adapter_identity_is_its_content(adapters, tmp_path):
    f = shutil.copytree(adapters[0], tmp_path / 'f')
    c = json.loads((f / 'adapter_config.json').read_text())
    (f / 'adapter_config.json').write_text(
        json.dumps(
            {k: c[k] for k in sorted(c, reverse=True)}
            | dict(base_model_name_or_path='/elsewhere', target_modules=c['target_modules'][::-1], peft_version='9')
        )
    )
    t = load_file(f / 'adapter_model.safetensors')
    save_file(dict(reversed(t.items())), f / 'adapter_model.safetensors', metadata=dict(written='later'))
    assert adapter_identity(f) == adapter_identity(adapters[0]) == adapter_identity(str(adapters[0]))
    t[max(t)].view(torch.uint8).view(-1)[5] ^= 1
    save_file(t, f / 'adapter_model.safetensors')
    assert adapter_identity(f) != adapter_identity(adapters[0])
    with pytest.raises(MaftError, match='no such folder'):
        adapter_identity(tmp_path / 'nowhere')
    with pytest.raises(MaftError, match='no adapter here'):
        adapter_identity(tmp_path)


def test_identity_is_plain_data(engine, adapters):
    assert json.loads(json.dumps(engine.identity(str(adapters[0])))) == engine.identity(str(adapters[0]))
    assert isinstance(engine, Engine) and set(engine.versions()) > {'torch', 'transformers', 'peft'}


def test_prompts_that_come_again_are_not_prefilled_again(llama, adapters, monkeypatch):
    passes, forward = [], decoding.forward_prompts
    monkeypatch.setattr(decoding, 'forward_prompts', lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    first = asks(24)
    again = [replace(r, seed=r.seed + 1) for r in first]
    want, _ = HFEngine(llama).generate(again), passes.clear()
    e = HFEngine(llama)
    e.generate(first)
    made = len(passes)
    assert e.generate(again) == want and len(passes) == made
    with_adapter = [replace(r, adapter=str(adapters[0])) for r in again]
    fresh = HFEngine(llama).generate(with_adapter)
    passes.clear()
    assert e.generate(with_adapter) == fresh and len(passes) > 0
    assert e.generate(again[:20]) == HFEngine(llama).generate(again[:20])


# Progress within a batch


def watched(engine, requests):
    "(completions, texts put together from what `on_tokens` gave, how many tokens and answers there were at each call)."
    pieces, counts = [''] * len(requests), []

    def watch(progress):
        counts.append((progress.tokens, progress.finished))
        for i in progress.changed:
            pieces[i] += progress.new_text(i)

    return engine.generate(requests, on_tokens=watch), pieces, counts


def test_progress_within_a_batch_gives_words_as_they_come(engine, adapters):
    rs = asks(30, (None, adapters[0]))
    rs += [rs[0], replace(rs[1], chat=(Message('user', '1 ' * 3000),))]  # one twice, one that does not fit
    out, pieces, counts = watched(engine, rs)
    assert out == engine.generate(rs) and pieces == [c.text for c in out] and out[-1].finish == 'context_overflow'
    assert counts == sorted(counts) and counts[-1] == (sum(len(c.token_ids) for c in out), len(rs))
    assert len(counts) > 20


def test_progress_starts_a_batch_again_after_oom(llama, monkeypatch):
    e, batch = HFEngine(llama), hf.generate_batch

    def fails_late(engine, model, rows, **how):
        out = batch(engine, model, rows, **how)
        if len(rows) > 6:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB')
        return out

    monkeypatch.setattr(hf, 'generate_batch', fails_late)
    out, pieces, counts = watched(e, asks(12))
    assert pieces == [c.text for c in out] and counts[-1] == (sum(len(c.token_ids) for c in out), 12)


def test_what_on_tokens_raises_ends_the_generation(engine):
    def enough(progress):
        if progress.tokens > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(asks(4), on_tokens=enough)


# Memory and noise


def test_oom_halves_the_batch(llama, engine, monkeypatch):
    e, batch, sizes = HFEngine(llama), hf.generate_batch, []

    def small(engine, model, rows, **how):
        sizes.append(len(rows))
        if len(rows) > 6:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB')
        return batch(engine, model, rows, **how)

    before = engine.generate(asks(20))
    monkeypatch.setattr(hf, 'generate_batch', small)
    assert texts(e.generate(asks(20))) == texts(before) and sizes == [20, 10, 5, 5, 5, 5]
    assert len(e.notes) == 2 and 'batches of 5' in e.notes[-1] and e.identity()['batch_size'] == 64
    monkeypatch.setattr(
        hf,
        'generate_batch',
        lambda *a, **k: (_ for _ in ()).throw(
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        ),
    )
    with pytest.raises(MaftError, match='out of memory'):
        e.generate(asks(1))
    monkeypatch.setattr(hf, 'generate_batch', lambda *a, **k: (_ for _ in ()).throw(RuntimeError('a bug')))
    with pytest.raises(RuntimeError, match='a bug'):
        e.generate(asks(1))


def test_engine_prints_and_warns_nothing(llama, adapters, capfd, recwarn):
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    HFEngine(llama).generate(asks(6, (None, *adapters)))
    assert capfd.readouterr() == ('', '') and not recwarn.list
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


def test_global_rng_and_threads_are_unchanged(llama):
    n = torch.get_num_threads()
    torch.manual_seed(5)
    random.seed(5)
    state = torch.get_rng_state()
    e = HFEngine(llama)
    e.generate(asks(3))
    assert (
        torch.get_num_threads() == n
        and torch.equal(torch.get_rng_state(), state)
        and not e.base.model.training
        and torch.is_grad_enabled()
    )


def test_bfloat16(llama):
    e = HFEngine(llama, dtype='bfloat16')
    out = e.generate(asks(8))
    assert e.base.dtype == torch.bfloat16 and out == e.generate(asks(8)) and all(c.token_ids for c in out)


# Errors a user can fix


def test_packed_weights_and_adapters_in_pieces_change_nothing(llama, adapters, monkeypatch):
    "In bfloat16 on a CPU: the same texts with weights packed, and adapters as PEFT computes them up to rounding."
    requests = asks(6, max_new_tokens=8)

    def answered(**how):
        e = HFEngine(llama, dtype='bfloat16', merge_below=0, **how)
        scores = e.logprobs([e.render(r.chat) for r in requests], [(5, 6, 7)] * 6, str(adapters[0]))
        return texts(e.generate(requests)), np.concatenate(scores), e

    plain, beside, e = answered()
    assert e.base.packed.layers == [] or not hf.can_pack() or e.base.packed.weights
    monkeypatch.setattr(hf, 'PACK_FROM', 1)
    packed, _, e = answered()
    assert packed == plain and len(e.base.packed.weights) == (15 if hf.can_pack() else 0)
    assert not any('forward' in vars(m) for m in e.base.model.modules())
    e.base.packed.drop()
    assert texts(e.generate(requests)) == plain
    monkeypatch.setattr(e.base.packed, 'fits', lambda: False)
    e.base.packed.drop()
    assert texts(e.generate(requests)) == plain and e.base.packed.weights == []  # no room for a copy
    monkeypatch.setattr(hf, 'plain_lora_layers', lambda *a: [])
    assert np.abs(answered()[1] - beside).max() < 0.05


def test_unusable_models_are_one_line(llama, tmp_path):
    def broken(name, edit):
        f = shutil.copytree(llama, tmp_path / name)
        edit(f)
        return f

    def no_template(f):
        (f / 'chat_template.jinja').unlink()

    def half(f):
        t = load_file(f / 'model.safetensors')
        t.pop('model.norm.weight')
        save_file(t, f / 'model.safetensors', metadata=dict(format='pt'))

    def pickled(f):
        torch.save(load_file(f / 'model.safetensors'), f / 'pytorch_model.bin')
        (f / 'model.safetensors').unlink()

    def torn(f):
        (f / 'model.safetensors').write_bytes((f / 'model.safetensors').read_bytes()[:1000])

    def bad_template(f):
        (f / 'chat_template.jinja').write_text("{{ raise_exception('Not today') }}")

    (tmp_path / 'empty').mkdir()
    for model, want in [
        (tmp_path / 'empty', 'not a model folder'),
        (tmp_path / 'nowhere', 'no such folder'),
        ('no/such/model/at/all', 'no such folder'),
        (llama / 'config.json', 'is a file'),
        ('no-such-owner/nothing-7b', 'fetch it first'),
        (broken('a', no_template), '--set chat_template=FILE'),
        (broken('b', half), 'weights are missing'),
        (broken('c', pickled), 'safetensors'),
        (broken('d', torn), 'damaged|cannot be loaded'),
        (broken('e', bad_template), 'Not today'),
    ]:
        with pytest.raises(MaftError, match=want) as e:
            HFEngine(model)
        assert str(e.value).count('\n') <= 1 and len(str(e.value)) < 400, str(e.value)
    for kw, want in [
        (dict(dtype='int7'), 'unknown dtype'),
        (dict(device='abacus'), 'unknown device'),
        (dict(chat_template=tmp_path / 'none.jinja'), 'cannot be read'),
        (dict(template_args=dict(colour='red')), "no use for 'colour' of template_args"),
    ]:
        with pytest.raises(MaftError, match=want):
            HFEngine(llama, **kw)


def test_hub_errors_become_maft_errors():
    for error, want in [
        ('You are trying to access a gated repo. 401 Client Error', 'accept its licence'),
        ('Please set `trust_remote_code=True`', 'trust_remote_code=true'),
        ("We couldn't connect to 'https://huggingface.co'", 'cannot be reached'),
        ('x is not a local folder and is not a valid model identifier', 'no such model'),
    ]:
        assert want in weights.explain_load_error('a/b', error)
    for path in ('/home/u/exp401/m', '/home/u/404/offline', '/data/gated/m'):
        assert 'cannot be loaded' in weights.explain_load_error(path, f'cannot read {path}/config.json: torn')
    assert 'trust_remote_code=true' in weights.explain_load_error('m', 'Please set `trust_remote_code=True`')


def test_top_p_one_keeps_all_tokens():
    assert definition.nucleus(np.array([1 - 1e-10, 1e-10]), 1).all() and list(
        definition.nucleus(np.array([1 - 1e-10, 1e-10]), 0.99)
    ) == [True, False]


def test_chat_template_from_a_file(llama, tmp_path):
    f = shutil.copytree(llama, tmp_path / 'm')
    (f / 'chat_template.jinja').unlink()
    e = HFEngine(f, chat_template=llama / 'chat_template.jinja')
    assert e.render(asks(1)[0].chat) == HFEngine(llama).render(asks(1)[0].chat)


# Replay


def test_replay_of_recorded_solutions(shared):
    """Four real models as four agents: the replay returns their words, and their answers are right exactly where OpenAI
    says so."""
    rows = read_jsonl(shared / 'data' / 'gsm8k' / 'model_solutions.jsonl')
    models = ['6b_finetuning', '6b_verification', '175b_finetuning', '175b_verification']
    engine = ReplayEngine(
        {
            (f'gsm8k/{i}', 1, 'generator', n): row[m]['solution']
            for i, row in enumerate(rows)
            for n, m in enumerate(models)
        }
    )
    out = engine.generate(
        [
            Request(
                (Message('user', row['question']),), seed_for(i, n), where=('test', f'gsm8k/{i}', 1, 'generator', n)
            )
            for i, row in enumerate(rows)
            for n in range(4)
        ]
    )
    assert len(out) == 5276 and all(c.finish == 'stop' for c in out)
    agree = 0
    for c, (row, m) in zip(out, ((row, m) for row in rows for m in models)):
        assert c.text == row[m]['solution'] and bytes(c.token_ids[:-1]).decode() == c.text
        answer = extract(c.text, 'number')
        agree += (answer is not None and same(answer, row['ground_truth'].split('A:')[-1].strip())) == row[m][
            'is_correct'
        ]
    assert agree == 5276


def test_replay_tokenized_by_a_model(engine):
    words = {('q', 1, 'generator', 0): 'It is 12.<|eot_id|>'}
    replay = ReplayEngine(words, engine.render, engine.encode)
    chat = (Message('user', '6+6?'),)
    (c,) = replay.generate([Request(chat, 0, where=('train', 'q', 1, 'generator', 0))])
    assert (
        c.prompt_ids == engine.render(chat)
        and c.token_ids[-1] == engine.base.renderer.end_id
        and sum(t in engine.stop_ids for t in c.token_ids) == 1
    )
    assert isinstance(c, Completion) and isinstance(replay, Engine)
    with pytest.raises(MaftError, match='nothing on record'):
        replay.generate([Request(chat, 0, where=('train', 'q', 2, 'critic', 0))])
    with pytest.raises(MaftError, match='no probabilities'):
        replay.logprobs([(1,)], [(2,)])


# Templates


def test_chat_template_date_is_fixed(llama):
    "Llama 3.2, SmolLM3, Granite and gpt-oss ask the clock; a date of one's own is part of the identity."
    from multiagent_ft.engines.chat import Renderer

    tok = hf.load_tokenizer(str(llama))
    plain = tok.chat_template
    tok.chat_template = '{{ strftime_now("%d %b %Y") }} ' + plain
    chat = (Message('user', '6+6?'),)
    assert '26 Jul 2024' in Renderer(tok, 'm').text(chat)
    other = Renderer(tok, 'm', args=dict(date='2026-11-28'))
    assert '28 Nov 2026' in other.text(chat) and other.identity() != Renderer(tok, 'm').identity()
    tok.chat_template = (
        '{%- if not date_string is defined %}{% set date_string = "never" %}{% endif %}{{ date_string }} ' + plain
    )
    assert '26 Jul 2024' in Renderer(tok, 'm').text(chat)
    with pytest.raises(MaftError, match='2024-07-26'):
        Renderer(tok, 'm', args=dict(date='tomorrow'))
    tok.chat_template = '{% set how = "%d %b" %}{{ strftime_now(how) }} {{ strftime_now(format="%Y") }} ' + plain
    assert '26 Jul 2024' in Renderer(tok, 'm').text(chat)


def test_chat_template_without_the_question_is_refused(llama, tmp_path):
    from multiagent_ft.engines.chat import Renderer, read_template

    tok = hf.load_tokenizer(str(llama))
    plain = tok.chat_template
    for template in ('Answer the question.', "{% for m in messages %}{{ m['text'] }}{% endfor %}"):
        tok.chat_template = template
        with pytest.raises(MaftError, match='leaves out what the user says'):
            Renderer(tok, 'm')
    each = "{%% for m in messages if m.role in (%s) %%}{{ m.role }}: {{ m['content']%s }}\n{%% endfor %%}"
    for roles, cut, lost in (
        ("'user'", '', 'agent itself'),
        ("'user', 'assistant'", '[:100]', 'end of a long question'),
    ):
        tok.chat_template = each % (roles, cut)
        with pytest.raises(MaftError, match=f'leaves out .*{lost}'):
            Renderer(tok, 'm')
    tok.chat_template = each % ("'user', 'assistant'", '')
    assert Renderer(tok, 'm').render((Message('user', '6+6?'),))
    with pytest.raises(MaftError, match='leaves out the system prompt'):
        Renderer(tok, 'm').render((Message('system', 'Be brief.'), Message('user', '6+6?')))
    tok.chat_template = dict(default=plain, tool_use='{{ tools }}')  # named templates
    assert '6+6?' in Renderer(tok, 'm').text((Message('user', '6+6?'),))
    (tmp_path / 'chat_template.json').write_text(json.dumps(dict(chat_template=plain)))
    assert read_template(tmp_path / 'chat_template.json') == plain


@pytest.mark.parametrize('error', [AttributeError, psutil.AccessDenied])
def test_memory_is_not_given_back_where_its_map_cannot_be_read(monkeypatch, error):
    "A kernel without /proc/self/smaps, a container that forbids it: generation must not fail for a hint."

    def unreadable(self, grouped):
        raise error

    monkeypatch.setattr(psutil.Process, 'memory_maps', unreadable)
    numbers = torch.arange(1 << 16)
    assert let_go([numbers]) is None
    assert numbers.sum() == (1 << 16) * ((1 << 16) - 1) // 2
