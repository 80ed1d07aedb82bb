"""What a Ray cluster brings and costs on this machine: one worker against two on the same run, and an empty job.

    .venv-ray/bin/python tools/cluster.py                                      150 + 150 questions, one iteration
    .venv-ray/bin/python tools/cluster.py --train 500 --eval 500 --iterations 3 --times 1           the demo

Each figure is taken `--times` times, one after the other; two workers want two free cores. Prints a table.
"""

import argparse, os, resource, subprocess, sys, tempfile, time
from contextlib import closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests'))

JOBS = 200  # empty ones


@contextmanager
def cluster(workers: int):
    "The address of one with so many nodes of one core each."
    from ray.cluster_utils import Cluster

    node = dict(num_cpus=1, object_store_memory=100 << 20)
    made = Cluster(initialize_head=True, head_node_args=node | dict(include_dashboard=False))
    for _ in range(workers - 1):
        made.add_node(**node)
    made.wait_for_nodes()
    try:
        yield made.address
    finally:
        made.shutdown()


def timed_run(folder: Path, settings: list[str]) -> tuple[float, list[str]]:
    "(seconds of `maft run` from start to end, digests of what it came to)."
    from making import run_results

    code = 'from multiagent_ft.cli import main; main()'
    places = ['--out', folder / 'run', '--store', folder / 'store', '--wandb', 'off', '--quiet']
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', code, 'run', *map(str, [*settings, *places])], check=True, stdout=sys.stderr)
    return time.perf_counter() - start, run_results(folder / 'run')


def empty_jobs(executor, folder: Path) -> float:
    "Milliseconds for one job that does nothing, among `JOBS`; the workers are up."
    from multiagent_ft.method.prompts import EngineSpec
    from multiagent_ft.runs.jobs import Job
    from multiagent_ft.runs.store import Store

    store, fn = Store(folder), 'multiagent_ft.runs.jobs:write_text'
    jobs = [Job('generate', dict(n=n), fn, dict(text='')) for n in range(JOBS + 8)]
    executor.run(jobs[:8], store, EngineSpec())
    start = time.perf_counter()
    executor.run(jobs[8:], store, EngineSpec())
    return (time.perf_counter() - start) / JOBS * 1e3


def overheads(folder: Path) -> dict[str, float]:
    "Milliseconds of an empty job by executor."
    from multiagent_ft.machines.ray import RayExecutor
    from multiagent_ft.runs.jobs import LocalExecutor, ProcessExecutor

    found = {'this process': empty_jobs(LocalExecutor(), folder / 'local')}
    with closing(ProcessExecutor(2)) as pool:
        found['two worker processes'] = empty_jobs(pool, folder / 'processes')
    with cluster(2) as address:
        for shared in (True, False):
            with closing(RayExecutor(address, shared=shared)) as pool:
                found[f'Ray, two nodes, shared={shared}'] = empty_jobs(pool, folder / f'ray-{shared}')
    return found


def compared(args, folder: Path) -> dict[str, list[float]]:
    "Seconds of the run with each executor, as often as asked for, in turn; all must come to the same bytes."
    size = ['--train', args.train, '--eval', args.eval, '--iterations', args.iterations]
    seconds, seen = {}, []
    for n in range(args.times):
        for workers in (1, 2):
            with cluster(workers) as address:
                how = [*size, '--executor', 'ray', '--set', f'executor.address={address}']
                took, results = timed_run(folder / f'ray-{workers}-{n}', how)
            seconds.setdefault(f'Ray, {workers} worker{"s" * (workers > 1)}', []).append(took)
            seen.append(results)
    took, results = timed_run(folder / 'alone', [*size, '--workers', 0])
    seconds['this process alone'] = [took]
    if any(other != results for other in seen):
        sys.exit('the runs did not come to the same bytes')
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (('train', 150), ('eval', 150), ('iterations', 1), ('times', 2)):
        parser.add_argument(f'--{name}', type=int, default=usual)
    args = parser.parse_args()
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    with tempfile.TemporaryDirectory() as folder:
        before = os.getloadavg()[0]
        seconds = compared(args, Path(folder))
        for name, took in seconds.items():
            print(f'{name:32}', *(f'{t:7.1f} s' for t in took))
        best = {name: min(took) for name, took in seconds.items()}
        gain = best['Ray, 1 worker'] / best['Ray, 2 workers']
        print(f'same bytes; two workers are {gain:.2f} times as fast as one')
        for name, ms in overheads(Path(folder)).items():
            print(f'{name:32} {ms:7.1f} ms for an empty job')
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f'load before {before:.1f}, now {os.getloadavg()[0]:.1f}; {used.ru_utime + used.ru_stime:.0f} CPU s')


if __name__ == '__main__':
    main()
