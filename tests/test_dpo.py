"DPO: pairs, mask, reference and its guards, resume; the seam that any objective goes through."

import json
from dataclasses import replace
from unittest.mock import patch

import pytest
import tiny_models
import torch
from multiagent_ft.core import Answer, Completion, MaftError, Message, Problem, Transcript, Turn, file_digest
from multiagent_ft.engines.huggingface import HFEngine, load_base
from multiagent_ft.method.consensus import Vote
from multiagent_ft.method.debate import Agent
from multiagent_ft.method.examples import Example, save_examples
from multiagent_ft.training import dpo
from multiagent_ft.training import trainer as tr
from multiagent_ft.training.base import base_of
from multiagent_ft.training.dpo import DPO, Pair
from multiagent_ft.training.finetune import finetune_job, finetune_key
from multiagent_ft.training.guards import GuardError
from making import finetuned, payload

FAST = dict(learning_rate=2e-2, epochs=2, batch_size=4, rank=4, alpha=8)


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    return HFEngine(tiny_models.make('llama', tmp_path_factory.mktemp('models') / 'llama'), device='cpu')


def some_pairs(engine, n=10):
    def one(i):
        prompt = engine.render((Message('user', f'What is {i}+4?'),))
        return Pair(prompt, engine.encode(f'{i}+4={i + 4}'), f'q{i}', rejected_ids=engine.encode(f'{i}+4 is {i + 5}.'))

    return [one(i) for i in range(n)]


@pytest.fixture
def job(engine, tmp_path):
    file = save_examples(tmp_path / 'pairs.jsonl', some_pairs(engine))

    def run(name='out', parent=None, seed=0, file=file, objective=DPO(), scratch=None, progress=None, **settings):
        how = dict(objective=objective, parent=parent, seed=seed, scratch=scratch, progress=progress)
        return finetuned(tmp_path / name, engine, file, settings=FAST | settings, **how)

    return run


def curve(folder):
    return json.loads((folder / 'training.json').read_text())['curve']


# Training


@pytest.mark.parametrize('settings', [{}, dict(method='full', learning_rate=1e-3), dict(dropout=0.1)], ids=str)
def test_margin_rises_from_zero_in_every_generation(job, settings):
    "The grandchild's reference is the child, so its margin begins at zero as well. The same bytes every time."
    child = job('child', **settings)
    grandchild = job('grandchild', parent=child, seed=1, **settings)
    for folder in (child, grandchild):
        c = curve(folder)
        assert abs(c[0]['margin']) < 1e-4 < c[-1]['margin'] and len(c) == 6
    assert payload(job('again', parent=child, seed=1, **settings)) == payload(grandchild)


def test_dpo_sigkill_and_resume_is_byte_identical(job, tmp_path):
    class Killed(BaseException):
        pass

    def killer(p):
        if p['step'] == 4:
            raise Killed

    parent, steps = job('parent'), []
    whole = job('whole', parent=parent)
    with pytest.raises(Killed):
        job('killed', parent=parent, scratch=str(tmp_path / 'scratch'), progress=killer)
    killed = job('killed', parent=parent, scratch=str(tmp_path / 'scratch'), progress=lambda p: steps.append(p['step']))
    assert steps[0] in (4, 5) and payload(killed) == payload(whole)


def test_dpo_leaves_engine_and_tokenizer_unchanged(job, engine):
    tok = engine.base.tokenizer
    before = (tok.pad_token, tok.padding_side, tok.chat_template)
    ids = [(5, 6, 7)], [(8, 9)]
    logprobs = engine.logprobs(*ids)[0]
    job()
    assert (tok.pad_token, tok.padding_side, tok.chat_template) == before
    assert (engine.logprobs(*ids)[0] == logprobs).all() and 'forward' not in vars(engine.base.model)


# The mask


def test_mask_covers_own_turns_and_stop_tokens(engine):
    pairs = some_pairs(engine, 3)
    items = [dict(row=i, ref_chosen_logps=-1.0, ref_rejected_logps=-2.0) for i in range(3)]
    collate = dpo.PairCollator(pairs, engine.base.pad_id)
    batch = collate(items)
    on = batch['completion_mask'].bool()
    turns = [p.preferred for p in pairs] + [p.rejected for p in pairs]
    for row, turn in enumerate(turns):
        assert batch['input_ids'][row][on[row]].tolist() == list(turn.token_ids)
        assert batch['input_ids'][row][batch['attention_mask'][row].bool()].tolist() == turn.input_ids
        assert turn.token_ids[-1] in engine.stop_ids
    assert collate.seen == 3


@pytest.mark.parametrize('side', ['preferred', 'rejected'])
def test_guard_labels_shifted_mask_in_either_half(job, side):
    real = dpo.pad_right

    def shifted(sequences, pad):
        half = len(sequences) // 2
        if pad == 0 and set(sum(map(list, sequences), [])) == {0, 1}:  # the completion mask
            rows = range(half) if side == 'preferred' else range(half, 2 * half)
            sequences = [s[1:] + [0] if i in rows else s for i, s in enumerate(sequences)]
        return real(sequences, pad)

    with patch.object(dpo, 'pad_right', shifted), pytest.raises(GuardError) as e:
        job()
    assert e.value.guard == 'labels'


# The reference


def test_guard_reference_is_the_base_not_the_parent(job):
    "What DPO with LoRA does by default from the second generation on."
    child, real = job('child'), dpo.reference_logprobs
    with patch.object(dpo, 'reference_logprobs', lambda base, pairs, parent: real(base, pairs, None)):
        with pytest.raises(GuardError, match='not the agent.s own parent') as e:
            job('grandchild', parent=child)
    assert e.value.guard == 'reference'


def test_guard_reference_inside_trl_loss(job):
    "Numbers that reach the loss wrongly, though they were computed right."
    real = DPO.trainer
    wrong = lambda self, model, run, reference: real(self, model, run, [r + 1 for r in reference])  # noqa: E731
    with patch.object(DPO, 'trainer', wrong), pytest.raises(GuardError, match='before the first step') as e:
        job()
    assert e.value.guard == 'reference'


def test_no_second_adapter_in_memory(job):
    seen, real = [], tr.run_trainer

    def look(trainer, *args, **kw):
        seen.append((list(trainer.model.peft_config), trainer.ref_model))
        return real(trainer, *args, **kw)

    with patch.object(dpo, 'run_trainer', look):
        job()
    assert seen == [(['default'], None)]


# Pairs


def turn(agent, role, answer, ids, finish='stop', prompt=(1, 2)):
    return Turn(agent, role, 1, Completion(answer or '', finish, prompt, ids), answer and Answer(answer, answer))


def test_pairs_share_agent_and_prompt():
    "Own turns only, complete ones, equal ones once, none used twice; nothing without a pseudo-label."
    turns = [
        turn(0, 'generator', '7', (7, 2)),
        turn(0, 'generator draw', '8', (8, 2)),
        turn(0, 'generator draw', '8', (8, 2)),  # the same again
        turn(0, 'generator draw', None, (9, 2)),  # could not be read: it does not agree
        turn(0, 'generator draw', '6', (6,), finish='length'),  # truncated
        turn(0, 'generator draw', '5', (5, 2), prompt=(1, 3)),  # another prompt
        turn(1, 'generator draw', '4', (4, 2)),  # another agent
        turn(0, 'critic draw', '3', (3, 2)),
    ]
    transcript = Transcript(Problem('q', 'What is 3+4?', '7'), turns)
    vote = Vote(Answer('7', '7'), 2, 3, 0, False, 1)
    pairs = [p for ps in dpo.pairs_of(transcript, vote, Agent('generator', 0)) for p in ps]
    assert [(p.prompt_ids, p.token_ids, p.rejected_ids) for p in pairs] == [((1, 2), (7, 2), (8, 2))]
    none = replace(vote, answer=None)
    assert not any(dpo.pairs_of(transcript, none, Agent('generator', 0)))


@pytest.mark.parametrize(
    'spoil,what',
    [
        (lambda p: replace(p, rejected_ids=p.rejected_ids[:-1]), 'cut'),
        (lambda p: replace(p, token_ids=p.token_ids * 2), 'more than one turn'),
        (lambda p: replace(p, rejected_ids=p.token_ids), 'to itself'),
        (lambda p: replace(p, rejected_ids=(10**6, *p.rejected_ids)), 'outside the vocabulary'),
    ],
)
def test_guard_examples(engine, job, tmp_path, spoil, what):
    pairs = some_pairs(engine)
    pairs[3] = spoil(pairs[3])
    with pytest.raises(GuardError, match=what) as e:
        job(file=save_examples(tmp_path / 'bad.jsonl', pairs))
    assert e.value.guard == 'examples'


# The seam


def test_sft_keys_are_unchanged_and_dpo_keys_differ(engine):
    from multiagent_ft.core import digest

    sft = finetune_key(engine, None, [Example((1, 2), (3, 4))], {}, 0)
    # computed before there were objectives
    assert digest({k: v for k, v in sft.items() if k != 'parent'}).startswith('fa7d6f72e1fd19eb')
    assert finetune_key(engine, None, [Example((1, 2), (3, 4))], {}, 0, objective='sft') == sft
    pairs = some_pairs(engine, 2)
    others = [replace(pairs[0], rejected_ids=pairs[1].rejected_ids), pairs[1]]
    keys = [
        finetune_key(engine, None, pairs, {}, 0, objective=o) for o in (None, 'dpo', DPO(beta=0.2), DPO(rate=1.0))
    ] + [finetune_key(engine, None, others, {}, 0, objective='dpo')]
    assert len({json.dumps(k) for k in keys}) == 5
    assert finetune_key(engine, None, pairs, {}, 0, objective=tr.objective_name(DPO(beta=0.2))) == keys[2]


def test_user_objective_from_a_file(engine, tmp_path):
    "Named as file.py:Name, it trains and is part of the key; one that only this process knows is refused."
    (tmp_path / 'mine.py').write_text(
        'from dataclasses import dataclass\n'
        'from typing import ClassVar\n'
        'from multiagent_ft.training.trainer import SFT\n'
        '@dataclass(frozen=True)\n'
        'class Short(SFT):\n'
        "    name: ClassVar[str] = 'short'\n"
        '    most: int = 40\n'
        '    def key(self, examples):\n'
        '        return dict(objective=dict(name=self.name, most=self.most))\n'
        '    def load(self, file):\n'
        '        return [e for e in super().load(file) if len(e.token_ids) <= self.most]\n'
    )
    examples = [p.preferred for p in some_pairs(engine, 6)]
    file, named = save_examples(tmp_path / 'e.jsonl', examples), dict(name=f'{tmp_path}/mine.py:Short', most=100)
    finetune_job(tmp_path / 'out', engine, None, str(file), FAST, 0, objective=named)
    finetune_job(tmp_path / 'sft', engine, None, str(file), FAST, 0)
    a, b = (file_digest(tmp_path / n / 'adapter_model.safetensors') for n in ('out', 'sft'))
    assert a == b and tr.objective_name(tr.objective_of(named)) == named
    assert finetune_key(engine, None, examples, FAST, 0, objective=named)['objective']['most'] == 100

    class Local(tr.SFT):
        pass

    with pytest.raises(MaftError, match='FILE.py:Local'):
        tr.objective_name(Local())


@pytest.mark.parametrize(
    'named,line',
    [
        ('ppo', "unknown objective 'ppo'.*sft, dpo"),
        ('nowhere.py:Mine', 'no file'),
        (dict(name='multiagent_ft.training.dpo:DPO', beta=0), 'beta is 0'),
        (dict(name='multiagent_ft.training.dpo:DPO', gamma=1), 'gamma'),
        ('multiagent_ft.training.dpo:Pair', 'objective'),
    ],
)
def test_bad_objectives_are_refused(named, line):
    with pytest.raises(MaftError, match=line):
        tr.objective_of(named)


def test_training_base_is_loaded_apart_from_the_engine(engine, tmp_path):
    "An engine that holds no model generates; training loads the base by name, and the bytes are the same."

    class NoModel:
        name = 'no-model'

    load = dict(model=engine.base.source, device='cpu')
    file = save_examples(tmp_path / 'e.jsonl', [p.preferred for p in some_pairs(engine, 6)])
    finetune_job(tmp_path / 'a', NoModel(), None, str(file), FAST, 0, load=load)
    finetune_job(tmp_path / 'b', engine, None, str(file), FAST, 0)
    finetune_job(tmp_path / 'c', load_base(**load), None, str(file), FAST, 0)
    assert payload(tmp_path / 'a') == payload(tmp_path / 'b') == payload(tmp_path / 'c')
    one = [Example((1, 2), (3, 4))]
    assert finetune_key(NoModel(), None, one, {}, 0, load=load) == finetune_key(engine, None, one, {}, 0)
    with pytest.raises(MaftError, match='NoModel holds no model that could be trained'):
        base_of(NoModel())
    assert torch.equal(base_of(None, load).model.lm_head.weight, engine.base.model.lm_head.weight)
