"""What the store costs and what it saves, measured on this machine.

    python tools/measure_store.py overhead [PAIRS]   our generation against the same without store, checksums and seeds, in alternating pairs
    python tools/measure_store.py sharing            three recipes over one store: tokens generated once / tokens of three separate runs
    python tools/measure_store.py resume             a run killed at half time: how long the rest takes

Run alone: a busy machine makes the first and the last meaningless. Times are wall time, ratios are taken inside one run.
"""
import json, os, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MAFT_QUIET', '1')
HERE = Path(tempfile.mkdtemp(prefix='maft-measure-'))


def overhead(pairs=5, questions=512):
    import torch
    from multiagent_ft import hf
    from multiagent_ft.debate import Luck, generator_requests, untrained, Protocol
    from multiagent_ft.engine import Sampling
    from multiagent_ft.jobs import Here, Spoken
    from multiagent_ft.store import Store
    from multiagent_ft.tasks import load_task, split
    engine, seeded = hf.HFEngine('nano', batch_size=128), hf.SeededSampler
    problems, protocol = split(load_task('arithmetic'), 1, questions, 0).evaluation, Protocol(sampling=Sampling(1., 1., 160))

    class Unseeded(seeded):
        "torch's own dice."
        def pick(self, logits, step): return torch.multinomial(logits.float().softmax(-1), 1)[:, 0]

    def ours(i):
        requests = generator_requests(problems, untrained(1).generators, protocol, Luck(i))
        t = time.perf_counter()
        said = Spoken(engine, Here(Store(HERE/f'store-{i}'), engine), 128).generate(requests)
        return sum(len(c.token_ids) for c in said)/(time.perf_counter() - t)

    def bare(i):
        torch.manual_seed(i)
        requests = generator_requests(problems, untrained(1).generators, protocol, Luck(i))
        hf.SeededSampler = Unseeded
        t = time.perf_counter()
        try: said = engine.generate(requests)
        finally: hf.SeededSampler = seeded
        return sum(len(c.token_ids) for c in said)/(time.perf_counter() - t)

    ours(1000); bare(1000)
    ratios = []
    for i in range(pairs):
        a, b = (ours(i), bare(i)) if i % 2 else (bare(i), ours(i))[::-1]
        ratios.append(b/a)
        print(f'pair {i}: ours {a:.0f} tokens/s; no store, no checksums, no seeds {b:.0f} tokens/s; time per token {ratios[-1]:.3f}', flush=True)
    print(f'median of {pairs} pairs: {statistics.median(ratios):.3f} of the time without them')


def tokens(store, names):
    from multiagent_ft.core import read_jsonl
    total = 0
    for n in names:
        f = store/'generate'/n[:2]/n/'completions.jsonl'
        if f.is_file(): total += sum(len(d['token_ids']) for d in read_jsonl(f))
    return total


RECIPES = ('multiagent-ft', 'majority-ft', 'single-agent-ft')

def sharing(train=96, evaluation=96):
    from multiagent_ft.config import load_config
    from multiagent_ft.run import run
    keys = {}
    for name in RECIPES:
        run(load_config(None, dict(out=str(HERE/'runs'/name), recipe=name, train=train, eval=evaluation, iterations=1, wandb='off')))
        keys[name] = set(json.loads((HERE/'runs'/name/'keys.json').read_text()))
    apart = {n: tokens(HERE/'runs'/'store', k) for n, k in keys.items()}
    once = tokens(HERE/'runs'/'store', set().union(*keys.values()))
    print(f'apart {apart}, together {sum(apart.values())}; over one store {once}: {once/sum(apart.values()):.3f}')


def resume(train=128, evaluation=96):
    maft = [str(Path(sys.executable).with_name('maft')), 'run', '--train', str(train), '--eval', str(evaluation), '--iterations', '1', '--workers', '0', '--set', 'wandb=off', '--out']
    def timed(out, limit=None):
        t = time.perf_counter(); p = subprocess.Popen([*maft, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try: p.wait(limit)
        except subprocess.TimeoutExpired: os.kill(p.pid, signal.SIGKILL); p.wait()
        return time.perf_counter() - t
    whole = timed(HERE/'a'/'run'); again = timed(HERE/'a'/'run')
    timed(HERE/'b'/'run', whole/2); rest = timed(HERE/'b'/'run')
    print(f'whole run {whole:.1f} s (of these {again:.1f} s are imports, reading and reporting: the time of a run that finds all done); killed at {whole/2:.1f} s, the rest took {rest:.1f} s')


if __name__ == '__main__':
    what = {f.__name__: f for f in (overhead, sharing, resume)}.get(sys.argv[1] if len(sys.argv) > 1 else '')
    if not what: sys.exit(__doc__)
    what(*map(int, sys.argv[2:]))
