"""Count texts of fewer than 60 tokens, which hold no working, in the study's run folders: among the first
answers of each evaluation, and among what was trained on.

python nbs/results/arithmetic/short.py FOLDER/out-arithmetic/runs > nbs/results/arithmetic/short.json
"""

import json
import sys
from pathlib import Path

SHORT = 60  # tokens
counts = {}
for file in sorted(Path(sys.argv[1]).glob('*/seed-*/iteration-*/eval.jsonl')):
    first = [u for line in file.open(encoding='utf-8') for u in json.loads(line)['turns'] if u['round'] == 1]
    recipe, k = file.parents[2].name.rpartition('-')[0], file.parent.name.removeprefix('iteration-')
    counts[f'{recipe} {k}'] = [sum(len(u['completion']['token_ids']) < SHORT for u in first), len(first)]
for folder in sorted(Path(sys.argv[1]).glob('*/seed-*/iteration-1/examples')):
    lines = [json.loads(line) for file in folder.glob('*.jsonl') for line in file.open(encoding='utf-8')]
    recipe = folder.parents[2].name.rpartition('-')[0]
    counts[f'{recipe}, trained on'] = [sum(len(e['token_ids']) < SHORT for e in lines), len(lines)]
print(json.dumps(counts, indent=1))
