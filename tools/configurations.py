"""Write the heads of configurations/*.yaml again: what their settings come to.

python tools/configurations.py
"""

from pathlib import Path

from multiagent_ft.machines.configurations import header, room_of
from multiagent_ft.runs.settings import load_config

for file in sorted((Path(__file__).resolve().parents[1] / 'configurations').glob('*.yaml')):
    rest = file.read_text(encoding='utf-8').splitlines()[4:]
    file.write_text('\n'.join([*header(load_config(file), room_of(file)), *rest]) + '\n', encoding='utf-8')
    print(file.name)
