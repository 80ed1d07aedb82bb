"Weighted SFT, KTO and GRPO: keys, masks, the reference and its guards, kills; the same bytes every time."

import json
from dataclasses import dataclass, replace
from typing import Callable
from unittest.mock import patch

import pytest
import tiny_models
from multiagent_ft.core import MaftError, Message, file_digest
from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.method.examples import Example, save_examples
from multiagent_ft.neighbours import grpo, kto, weighted
from multiagent_ft.training import trainer as tr
from multiagent_ft.training.finetune import finetune_key
from multiagent_ft.training.guards import GuardError
from making import finetuned, payload

FAST = dict(learning_rate=2e-2, epochs=2, batch_size=4, rank=4, alpha=8)


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    return HFEngine(tiny_models.make('llama', tmp_path_factory.mktemp('models') / 'llama'), device='cpu')


@dataclass
class Case:
    objective: object
    example: Callable  # (example, number) -> example of the objective's kind
    module: object


CASES = dict(
    weighted=Case(weighted.WeightedSFT(), lambda e, i: weighted.weighted(e, 1 + i % 3), weighted),
    kto=Case(kto.KTO(), lambda e, i: kto.judged(e, i % 2 == 0), kto),
    grpo=Case(grpo.GRPO(), lambda e, i: grpo.Rollout(**vars(e), advantage=(1.0, -1.0)[i % 2]), grpo),
)


def turns(engine, n=10):
    def one(i):
        prompt = engine.render((Message('user', f'What is {i // 2}+4?'),))
        return Example(prompt, engine.encode(f'{i // 2}+4={i // 2 + 4 + i % 2}'), f'q{i // 2}')

    return [one(i) for i in range(n)]


@pytest.fixture
def job(engine, tmp_path):
    def run(case, name='out', parent=None, seed=0, spoil=None, scratch=None, progress=None, **settings):
        examples = [case.example(e, i) for i, e in enumerate(turns(engine))]
        file = save_examples(tmp_path / f'{name}.jsonl', spoil(examples) if spoil else examples)
        how = dict(objective=case.objective, parent=parent, seed=seed, scratch=scratch, progress=progress)
        return finetuned(tmp_path / name, engine, file, settings=FAST | settings, **how)

    return run


def adapter(folder):
    return file_digest(folder / 'adapter_model.safetensors')


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


# Training


@pytest.mark.parametrize('settings', [{}, dict(method='full', learning_rate=1e-3)], ids=str)
def test_grandchild_trains_to_the_same_bytes_twice(job, case, settings):
    child = job(case, 'child', **settings)
    grandchild = job(case, 'grandchild', parent=child, seed=1, **settings)
    assert payload(job(case, 'again', parent=child, seed=1, **settings)) == payload(grandchild)
    assert len(json.loads((grandchild / 'training.json').read_text())['curve']) == 6


def test_sigkill_and_resume_is_byte_identical(job, case, tmp_path):
    class Killed(BaseException):
        pass

    def killer(p):
        if p['step'] == 4:
            raise Killed

    whole, steps = job(case, 'whole'), []
    with pytest.raises(Killed):
        job(case, 'killed', scratch=str(tmp_path / 'scratch'), progress=killer)
    killed = job(case, 'killed', scratch=str(tmp_path / 'scratch'), progress=lambda p: steps.append(p['step']))
    assert steps[0] in (4, 5) and payload(killed) == payload(whole)


def test_preferences_move_the_log_probability_of_turns(job, engine):
    "What is desirable, or has a positive advantage, gains on what is not."
    examples = turns(engine)
    ids = [e.prompt_ids for e in examples], [e.token_ids for e in examples]

    def gap(folder):
        scores = [float(x.sum()) for x in engine.logprobs(*ids, adapter=folder and str(folder))]
        return sum(scores[::2]) - sum(scores[1::2])

    for name in ('kto', 'grpo'):
        assert gap(job(CASES[name], name, epochs=8)) > gap(None) + 0.05, name


def test_objective_leaves_engine_and_tokenizer_unchanged(job, engine, case):
    tok, ids = engine.base.tokenizer, ([(5, 6, 7)], [(8, 9)])
    before, logprobs = (tok.pad_token, tok.padding_side, tok.chat_template), engine.logprobs(*ids)[0]
    job(case)
    assert (tok.pad_token, tok.padding_side, tok.chat_template) == before
    assert (engine.logprobs(*ids)[0] == logprobs).all() and 'forward' not in vars(engine.base.model)


def test_no_second_model_or_adapter_in_memory(job, case):
    seen, real = [], tr.run_trainer

    def look(trainer, *args, **kw):
        seen.append((list(trainer.model.peft_config), getattr(trainer, 'ref_model', None)))
        return real(trainer, *args, **kw)

    with patch.object(case.module, 'run_trainer', look):
        job(case)
    assert seen == [(['default'], None)]


# Weights


def test_equal_weights_and_no_weights_train_to_the_bytes_of_sft(job):
    no_weights = replace(CASES['weighted'], example=lambda e, i: weighted.weighted(e, None))
    equal = replace(CASES['weighted'], example=lambda e, i: weighted.weighted(e, 7))
    sft = Case(tr.SFT(), lambda e, i: e, tr)
    assert adapter(job(no_weights, 'none')) == adapter(job(sft, 'sft')) == adapter(job(equal, 'equal'))
    assert adapter(job(CASES['weighted'], 'uneven')) != adapter(job(sft, 'sft'))


def test_weight_of_two_is_the_example_twice(engine, job):
    "The gradient of one step, up to its length: what counts twice is what is there twice."
    one_step = dict(epochs=1, batch_size=8, group_by_length=False, schedule='constant', warmup=0, max_grad_norm=0)
    double = job(
        CASES['weighted'], 'double', spoil=lambda es: [replace(es[0], weight=2), replace(es[1], weight=1)], **one_step
    )
    twice = job(
        CASES['weighted'],
        'twice',
        spoil=lambda es: [replace(es[0], weight=None), replace(es[0], weight=None), replace(es[1], weight=None)],
        **one_step,
    )
    e = turns(engine)[:2]
    ids = [x.prompt_ids for x in e], [x.token_ids for x in e]
    a, b = (engine.logprobs(*ids, adapter=str(f)) for f in (double, twice))
    assert all(abs(x - y).max() < 1e-3 for x, y in zip(a, b))  # Adam's first step has the gradient's direction


@pytest.mark.parametrize(
    'weights, fault', [((1, None), 'has the weight None'), ((1, -1), 'weight -1'), ((0, 0), 'all 2 weights are 0')]
)
def test_bad_weights_are_refused(job, weights, fault):
    with pytest.raises(GuardError, match=fault):
        job(CASES['weighted'], spoil=lambda es: [replace(e, weight=w) for e, w in zip(es, weights)])


# Keys


def test_keys_of_unweighted_examples_are_those_of_sft(engine):
    plain = [Example((1, 2), (3, 4)), Example((1, 2), (5, 4))]
    sft = finetune_key(engine, None, plain, {}, 0)
    bare = [weighted.weighted(e, None) for e in plain]
    assert finetune_key(engine, None, bare, {}, 0, objective='weighted-sft') == sft
    uneven = [weighted.weighted(e, w) for e, w in zip(plain, (1, 3))]
    scaled = [weighted.weighted(e, w) for e, w in zip(plain, (2, 6))]
    a, b = (finetune_key(engine, None, es, {}, 0, objective='weighted-sft') for es in (uneven, scaled))
    assert a == b != sft


def test_marks_and_advantages_are_part_of_the_key(engine):
    plain = [Example((1, 2), (3, 4)), Example((1, 2), (5, 4))]
    marks = [[kto.judged(e, m) for e, m in zip(plain, ms)] for ms in ((True, False), (False, True))]
    gains = [[grpo.Rollout(**vars(e), advantage=a) for e, a in zip(plain, xs)] for xs in ((1.0, -1.0), (0.5, -1.0))]
    keys = [finetune_key(engine, None, es, {}, 0, objective='kto') for es in marks]
    keys += [finetune_key(engine, None, es, {}, 0, objective='grpo') for es in gains]
    keys += [finetune_key(engine, None, gains[0], {}, 0, objective=grpo.GRPO(beta=0))]
    assert len({json.dumps(k) for k in keys}) == 5


# Masks


@pytest.mark.parametrize('name', ['kto', 'grpo'])
def test_mask_shifted_by_a_token_is_detected(job, name):
    case, real = CASES[name], CASES[name].module.pad_right

    def shifted(sequences, pad):
        if pad == 0 and {x for s in sequences for x in s} <= {0, 1} and any(0 in s for s in sequences):  # KTO's mask
            sequences = [list(s[1:]) + [0] for s in sequences]
        elif pad == 0 and name == 'grpo' and {x for s in sequences for x in s} == {1}:
            sequences = [list(s[:-1]) + [0] for s in sequences]
        return real(sequences, pad)

    with patch.object(case.module, 'pad_right', shifted), pytest.raises(GuardError) as e:
        job(case)
    assert e.value.guard == 'labels'


@pytest.mark.parametrize('name', ['weighted', 'kto', 'grpo'])
def test_truncated_turn_is_refused(job, name):
    with pytest.raises(GuardError, match='it was cut'):
        job(CASES[name], spoil=lambda es: [replace(es[0], token_ids=es[0].token_ids[:-1]), *es[1:]])


# The reference


@pytest.mark.parametrize('name', ['kto', 'grpo'])
def test_reference_that_is_the_base_and_not_the_parent_is_detected(job, engine, name):
    case = CASES[name]
    child, real = job(case, 'child'), type(engine.base).logprobs

    def of_the_base(self, prompts, turns, adapter=None, batch=None):
        return real(self, prompts, turns, None if batch is not None else adapter, batch)

    with patch.object(type(engine.base), 'logprobs', of_the_base):
        with pytest.raises(GuardError, match='own parent') as e:
            job(case, 'grandchild', parent=child)
    assert e.value.guard == 'reference'


@pytest.mark.parametrize('name', ['kto', 'grpo'])
def test_reference_spoiled_on_its_way_into_the_loss_is_detected(job, name):
    case = CASES[name]
    kind = type(case.objective)
    real = kind.trainer

    def wrong(self, model, run, reference):
        spoiled = [x + 1 for x in reference]
        return real(self, model, run, spoiled)

    with patch.object(kind, 'trainer', wrong), pytest.raises(GuardError, match='before the first step') as e:
        job(case)
    assert e.value.guard == 'reference'


def test_constant_rewards_are_not_trained_on(job):
    with pytest.raises(GuardError, match='all 10 advantages are 0'):
        job(CASES['grpo'], spoil=lambda es: [replace(e, advantage=0.0) for e in es])


def test_one_example_per_pass_is_made_two_for_kto(job):
    assert json.loads((job(CASES['kto'], micro_batch=1) / 'training.json').read_text())['curve']
    with pytest.raises(MaftError, match='choose an even number'):
        job(CASES['kto'], 'odd', micro_batch=1, batch_size=3)


@pytest.mark.parametrize(
    'objective, fault', [(dict(name='kto', beta=0), 'beta is 0'), (dict(name='grpo', rate=-1), 'rate is -1')]
)
def test_impossible_fields_are_one_line(objective, fault):
    with pytest.raises(MaftError, match=fault):
        tr.objective_of(objective)
