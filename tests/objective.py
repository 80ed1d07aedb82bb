"An objective of a user's own, in a file: `objective.py:ThreeSteps`. It costs next to nothing and keeps each step."

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
import torch
from multiagent_ft.core import digest, seed_for, write_atomic
from multiagent_ft.method.examples import load_examples


@dataclass(frozen=True)
class ThreeSteps:
    "Weights that follow from parent, examples and seed, after three steps with a checkpoint each."

    name: ClassVar[str] = 'three-steps'

    def load(self, file):
        return load_examples(Path(file))

    def key(self, examples):
        return dict(objective=self.name)

    def check_examples(self, examples, base):
        assert examples

    def turns(self, examples):
        return examples

    def lengths(self, examples):
        return [len(e.input_ids) for e in examples]

    def train(self, model, run):
        run.folder.mkdir(parents=True, exist_ok=True)
        at = run.folder / 'step.json'
        rows = digest([[e.prompt_ids, e.token_ids] for e in run.examples])
        begin = seed_for(run.seed, run.base.identity(run.parent), rows)
        step, weight = json.loads(at.read_text()) if at.exists() else (0, begin)
        for step in range(step, 3):
            weight = seed_for(weight)
            write_atomic(at, json.dumps([step + 1, weight]))
        draws = torch.Generator().manual_seed(weight)
        for p in model.parameters():
            if p.requires_grad:
                p.data.normal_(std=0.02, generator=draws)
        return model, [dict(step=3, loss=0.0)]
