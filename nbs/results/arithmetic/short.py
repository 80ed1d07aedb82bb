"""Count answers of fewer than 60 tokens, which hold no working, in the evaluation debates of the study's run folders.

python nbs/results/arithmetic/short.py FOLDER/out-arithmetic/runs > nbs/results/arithmetic/short.json
"""

import json
import sys
from pathlib import Path

SHORT = 60  # tokens
counts = {}
for file in sorted(Path(sys.argv[1]).glob('*/seed-0/iteration-*/eval.jsonl')):
    first = [u for line in file.open(encoding='utf-8') for u in json.loads(line)['turns'] if u['round'] == 1]
    recipe, k = file.parents[2].name.rpartition('-')[0], file.parent.name.removeprefix('iteration-')
    counts[f'{recipe} {k}'] = [sum(len(u['completion']['token_ids']) < SHORT for u in first), len(first)]
print(json.dumps(counts, indent=1))
