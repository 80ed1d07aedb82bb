"What several tests need: keys of every shape, a folder in memory, programs that are killed."

import json, os, signal, subprocess, sys, tempfile
from pathlib import Path
from hypothesis import strategies as st
from multiagent_ft.core import file_digest

# A program that begins with this has no torch and no transformers.
WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'transformers'):
            raise ImportError(f'{name} is not to be imported here')

sys.meta_path.insert(0, NoTorch())
"""

# What takes seconds to import, or is optional: light commands and the method import none of them.
HEAVY = {
    *('torch', 'transformers', 'trl', 'peft', 'datasets', 'wandb', 'accelerate'),
    *('pandas', 'scipy', 'statsmodels', 'matplotlib', 'vllm', 'openai', 'ray'),
}

leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
# anything JSON can say
value = st.recursive(leaf, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4), max_leaves=12)
keys = st.dictionaries(st.text(), value, max_size=5)


def shuffled(o):
    "The same value, every field in another place."
    return (
        {k: shuffled(o[k]) for k in reversed(o)}
        if isinstance(o, dict)
        else [shuffled(v) for v in o]
        if isinstance(o, list)
        else o
    )


# where thousands of fsyncs cost nothing
def memory():
    return tempfile.TemporaryDirectory(dir='/dev/shm' if os.access('/dev/shm', os.W_OK) else None)


def killing(*args, timeout=600):
    "Run tests/killing.py; its lines."
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name('killing.py'), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_results(folder):
    "Digests of what a run of one iteration leaves behind that holds no time and no path."
    names = ['summary.json', 'outcomes.jsonl', 'keys.json', *(f'iteration-{k}/eval.jsonl' for k in (0, 1))]
    weights = sorted(folder.glob('iteration-1/adapters/*/adapter_model.safetensors'))
    return [file_digest(f) for f in (*(folder / n for n in names), *weights)]


def drawn(leader):
    "All that is written to the other side of a pseudo-terminal, until it closes."
    text = b''
    while True:
        try:
            got = os.read(leader, 4096)
        except OSError:
            return text  # Linux says so when the other side has closed
        if not got:
            return text
        text += got


def kill_at_lines(lines, *args, cwd):
    """Start `maft ARGS` again and again, and SIGKILL it at each of `lines` of its progress unless it ends before; how
    often it was killed. Lines are counted, not seconds: a busy machine is killed at the same places."""
    command = [sys.executable, '-c', 'from multiagent_ft.cli import main; main()', *map(str, args)]
    for kills, last in enumerate(lines):
        p = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for i, _ in enumerate(p.stderr, 1):
            if i == last:
                p.kill()
                break
        p.communicate()
        if p.returncode == 0:
            return kills
        assert p.returncode == -signal.SIGKILL
    return len(lines)


def check_killed_and_resumed(lines, *args, results, cwd):
    "Killed at each of `lines` and started again, `maft ARGS` leaves the same `results(folder)` as undisturbed."
    from conftest import maft

    assert maft(*args, '--out', 'whole', cwd=cwd).returncode == 0
    kills = kill_at_lines(lines, *args, '--out', 'killed', cwd=cwd)
    done = maft(*args, '--out', 'killed', cwd=cwd)
    assert kills == len(lines) and done.returncode == 0 and results(cwd / 'killed') == results(cwd / 'whole')
    again = maft(*args, '--out', 'killed', cwd=cwd)
    assert 'Nothing was left to do: 0 generations' in again.stdout
    assert results(cwd / 'killed') == results(cwd / 'whole')


def finetuned(folder, engine, file, *, objective, settings, parent=None, seed=0, **how):
    "Train an agent on the examples in `file`, with a checkpoint after every step; its folder."
    from multiagent_ft.training.finetune import finetune_job
    from multiagent_ft.training.trainer import objective_name

    how |= dict(objective=objective_name(objective), checkpoint_seconds=0)
    finetune_job(folder, engine, parent and str(parent), str(file), settings, seed, **how)
    return folder


def payload(folder):
    "{file: digest} of what a job wrote."
    from multiagent_ft.core import file_digest

    return {f.name: file_digest(f) for f in Path(folder).iterdir()}
