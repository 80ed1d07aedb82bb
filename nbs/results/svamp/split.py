"""Split SVAMP: its first 800 rows are the study's, the last 200 were used to choose the wording of prompts.

python nbs/results/svamp/split.py /work/shared/data/svamp/test.jsonl /work/study/real
"""

import sys
from pathlib import Path

STUDY = 800  # rows

rows = Path(sys.argv[1]).read_text(encoding='utf-8').splitlines()
for name, part in (('svamp-study', rows[:STUDY]), ('svamp-development', rows[STUDY:])):
    file = Path(sys.argv[2]) / f'{name}.jsonl'
    file.write_text('\n'.join(part) + '\n', encoding='utf-8')
    print(f'{file}: {len(part)} questions')
