"""How many examples of runs of `debate-distill` would `debate-distill-worked` leave out? Of the folders of seeds.

python nbs/results/arithmetic/rule.py FOLDER/out-arithmetic/runs/debate-distill-*/seed-0
python nbs/results/arithmetic/rule.py runs/questions/passes/runs/debate-distill-*/seed-80?
"""

import json
import sys
from pathlib import Path


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.open(encoding='utf-8')]


for folder in map(Path, sys.argv[1:]):
    shortest = {}  # first answer to each question, in tokens
    for t in lines(folder / 'iteration-1' / 'transcripts.jsonl'):
        firsts = [len(u['completion']['token_ids']) for u in t['turns'] if u['round'] == 1]
        shortest[t['problem']['id']] = min(firsts)
    examples = lines(folder / 'iteration-1' / 'examples' / 'generator-0.jsonl')
    left_out = sorted(len(e['token_ids']) for e in examples if 2 * len(e['token_ids']) < shortest[e['problem']])
    print(f'{folder}: {len(left_out)} of {len(examples)} left out, of {left_out} tokens')
