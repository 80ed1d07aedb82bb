"""One iteration of the whole method on ordinary architectures with their own chat templates: recorded completions, real
examples, real training."""

import json

import pytest
from tiny_models import MODELS, make

from multiagent_ft.runs.settings import load_config
from multiagent_ft.core import Problem
from multiagent_ft.method.debate import Seeds, Protocol, untrained
from multiagent_ft.method.prompts import ReplayEngine, Sampling

N, QUESTIONS = 3, 8


def words():
    """Recorded debates: agents 0 and 1 right at first, agent 2 corrected on odd questions and always silent as a
    generator of even ones."""
    texts = {}
    for i in range(QUESTIONS):
        for n in range(N):
            first = (
                f'I count step by step: {i} and 7 make {i + 7}.\n\\boxed{{{i + 7}}}'
                if n < 2
                else (f'Perhaps \\boxed{{{i + 1}}}' if i % 2 else 'I do not know.')
            )
            texts[f'q{i}', 1, 'generator', n] = first
            # blanks that some templates trim
            texts[f'q{i}', 2, 'critic', n] = f'  Agent {n} now agrees: \\boxed{{{i + 7}}}\n'
    return texts


# One of each kind of tokenizer and template; the others when there is time.
QUICK = ('qwen3', 'mistral', 'gemma2')


@pytest.mark.parametrize('name', [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
def test_one_iteration(name, tmp_path):
    from multiagent_ft.engines.huggingface import HFEngine, adapter_identity
    from multiagent_ft.runs.run import RunContext, recipe_context

    make(name, tmp_path / name)
    cfg = load_config(
        None,
        dict(
            model=str(tmp_path / name),
            out=str(tmp_path / 'runs' / 'x'),
            workers=0,
            wandb='off',
            epochs=2,
            train_batch=4,
            rank=4,
            learning_rate=1e-2,
        ),
    )
    with RunContext(cfg) as ws:
        engine = ws.engine
        assert isinstance(engine, HFEngine)
        recorded = ReplayEngine(words(), engine.render, engine.encode)
        problems = [Problem(f'q{i}', f'What is {i}+7?', str(i + 7)) for i in range(QUESTIONS)]
        from dataclasses import replace

        means = replace(recipe_context(ws, 1), generate=recorded.generate, protocol=Protocol(summary=False))
        r, society = ws.recipe, untrained(N)
        debates = r.sample(means, society, problems, Seeds(0, 'train', 1))
        votes = means.labels(debates)
        assert [v.answer.text for v in votes] == [str(i + 7) for i in range(QUESTIONS)]
        rows = r.select(means, society, debates, votes)
        assert {a.name: len(x) for a, x in rows.items()} == {
            'generator-0': 8,
            'generator-1': 8,
            'generator-2': 0,
            'critic-0': 8,
            'critic-1': 8,
            'critic-2': 4,
        }
        for a, rs in rows.items():
            for row in rs:  # the trained tokens decode to the agent's own turn, the stop token at its end
                assert row.token_ids[-1] in engine.stop_ids
                assert f'Agent {a.index} now agrees' in engine.decode(row.token_ids) or a.role == 'generator'
        new = r.train(means, society, rows)
        identities = {a.name: a.adapter and adapter_identity(a.adapter) for a in new.agents}
        assert identities.pop('generator-2') is None, 'without rows an agent stays its parent'
        assert len(set(identities.values())) == 5 and None not in identities.values()
        for a in new.agents:
            if a.adapter is None:
                continue
            guards = json.loads(open(f'{a.adapter}/training.json').read())['guards']
            assert set(guards) == {'start', 'saved'} and all(v is not None and v < 1e-2 for v in guards.values())
        # the trained society uses the same template
        out = r.answer(
            replace(recipe_context(ws, 1), protocol=Protocol(summary=False, sampling=Sampling(max_new_tokens=8))),
            new,
            problems[:2],
            Seeds(),
        )
        assert all(t.rounds == 2 for t in out)
