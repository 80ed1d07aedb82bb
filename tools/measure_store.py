"""What the store costs and what it saves, measured on this machine.

    python tools/measure_store.py overhead [PAIRS]   our generation (store, checksums, seeds) against bare transformers, in alternating pairs
    python tools/measure_store.py sharing            three recipes over one store: tokens generated once / tokens of three separate runs
    python tools/measure_store.py resume             a run killed at half time: how long the rest takes

Run alone: a busy machine makes the first and the last meaningless. Times are wall time, ratios are taken inside one run.
"""
import json, os, signal, statistics, subprocess, sys, tempfile, time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MAFT_QUIET', '1')
HERE = Path(tempfile.mkdtemp(prefix='maft-measure-'))


def overhead(pairs=5, questions=256):
    import torch
    from transformers import GenerationConfig
    from multiagent_ft.debate import Luck, Protocol, generator_requests, untrained
    from multiagent_ft.engine import Sampling
    from multiagent_ft.hf import HFEngine
    from multiagent_ft.jobs import Here, Spoken
    from multiagent_ft.store import Store
    from multiagent_ft.tasks import load_task, split
    engine = HFEngine('nano')
    problems = split(load_task('arithmetic'), 1, questions, 0).evaluation

    def ours(i):
        requests = generator_requests(problems, untrained(1).generators, Protocol(sampling=Sampling(max_new_tokens=160)), Luck(i))
        t = time.perf_counter()
        said = Spoken(engine, Here(Store(HERE/f'store-{i}'), engine), 64).generate(requests)
        return time.perf_counter() - t, [len(c.token_ids) for c in said]

    def bare(i):
        torch.manual_seed(i)
        requests = generator_requests(problems, untrained(1).generators, Protocol(), Luck(i))
        config = GenerationConfig(do_sample=True, temperature=1., top_p=.9, top_k=0, max_new_tokens=160, eos_token_id=engine.stop_ids, pad_token_id=engine.pad_id, use_cache=True)
        prompts, lengths = [engine.render(r.chat) for r in requests], []
        t = time.perf_counter()
        with torch.inference_mode():
            for b in range(0, len(prompts), 64):
                ids, mask = engine._pad(sorted(prompts[b:b+64], key=len))
                new = engine.base.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, ids.shape[1]:]
                lengths += [int((row != engine.pad_id).sum()) for row in new]
        return time.perf_counter() - t, lengths

    def steps(lengths): return sum(max(lengths[b:b+64]) for b in range(0, len(lengths), 64))   # forward passes: the longest row of each batch
    ours(1000); bare(1000)
    ratios = []
    for i in range(pairs):
        (a, la), (b, lb) = (ours(i), bare(i)) if i % 2 else (bare(i), ours(i))[::-1]
        ratios.append((a/steps(la))/(b/steps(lb)))
        print(f'pair {i}: ours {a:.2f} s for {steps(la)} steps, bare {b:.2f} s for {steps(lb)} steps, time per step {ratios[-1]:.3f}')
    print(f'median of {pairs} pairs: {statistics.median(ratios):.3f} of bare generation')


def tokens(store, names):
    from multiagent_ft.core import read_jsonl
    total = 0
    for n in names:
        f = store/'generate'/n[:2]/n/'completions.jsonl'
        if f.is_file(): total += sum(len(d['token_ids']) for d in read_jsonl(f))
    return total


def sharing(train=96, evaluation=96):
    from multiagent_ft.config import load_config
    from multiagent_ft.run import run
    keys = {}
    for name in ('multiagent-ft', 'majority-ft', 'single-agent-ft'):
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
