"""Rewrite constraints.txt from the environment this runs in: the exact versions, without this package and without
build tags such as +cpu."""

import re, subprocess, sys
from pathlib import Path

PATH = Path(__file__).resolve().parents[1] / 'constraints.txt'
frozen = subprocess.run(
    [sys.executable, '-m', 'pip', 'freeze', '--all', '--exclude', 'multiagent-ft', '--exclude', 'pip'],
    capture_output=True,
    text=True,
    check=True,
).stdout
pins = [re.sub(r'\+[\w.]+$', '', line) for line in frozen.splitlines() if re.fullmatch(r'[\w.-]+==\S+', line)]
head = [line for line in PATH.read_text().splitlines() if line.startswith('#')]
PATH.write_text('\n'.join(head + sorted(pins, key=str.lower)) + '\n')
print(f'{len(pins)} pins in {PATH.name}')
