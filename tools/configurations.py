"""Write the heads of configurations/*.yaml again: what their settings come to.

python tools/configurations.py
"""

from pathlib import Path

from multiagent_ft.machines.configurations import gpu_of, header
from multiagent_ft.runs.settings import load_config

for file in sorted((Path(__file__).resolve().parents[1] / 'configurations').glob('*.yaml')):
    rest = [line for line in file.read_text(encoding='utf-8').splitlines() if not line.startswith('#')]
    file.write_text('\n'.join([*header(load_config(file), gpu_of(file)), *rest]) + '\n', encoding='utf-8')
    print(file.name)
