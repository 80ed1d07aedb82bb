"A real Ray cluster of two nodes on this machine: `make test-engines`."

import importlib.util, json, os, signal, subprocess, sys, time
from contextlib import suppress
from pathlib import Path

import pytest
from making import run_results

from multiagent_ft.core import MaftError
from multiagent_ft.machines.ray import RayExecutor

HAVE = bool(importlib.util.find_spec('ray'))
pytestmark = [pytest.mark.engines, pytest.mark.skipif(not HAVE, reason='no Ray here: make test-engines')]
SMALL = '--train 12 --eval 10 --iterations 1 --agents 2 --set samples=3 --set batch_size=4 --wandb off'.split()
NODE = dict(num_cpus=1, object_store_memory=100 << 20)


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '0')
    made = Cluster(initialize_head=True, head_node_args=NODE | dict(include_dashboard=False))
    yield made
    made.shutdown()


def start(out, store, *more):
    code = 'from multiagent_ft.cli import main; main()'
    command = [sys.executable, '-c', code, 'run', *SMALL, '--out', out, '--store', store, *more]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp('alone')
    process = start(folder / 'run', folder / 'store', '--workers', 0)
    _, err = process.communicate()
    assert process.returncode == 0, err
    return folder / 'run'


def workers(nodes):
    "Processes of these nodes that are at work on a job."
    raylets = {str(p.process.pid) for n in nodes for p in n.all_processes['raylet']}
    for f in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):
            title, stat = (f / 'cmdline').read_bytes(), (f / 'stat').read_text()
            if title.startswith(b'ray::job_task') and stat.rpartition(')')[2].split()[1] in raylets:
                yield int(f.name)


def entries(store):
    return {f: f.stat().st_ino for f in store.glob('*/*/*') if f.parent.parent.name in ('generate', 'finetune')}


def wait_for(condition, process, seconds=900):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_two_nodes_a_worker_and_a_node_killed_same_bytes_as_one_process(cluster, alone, tmp_path):
    second = cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    store = tmp_path / 'store'
    run = start(tmp_path / 'run', store, '--executor', 'ray', '--set', f'executor.address={cluster.address}')
    wait_for(lambda: len(entries(store)) >= 3, run)
    (pid, *_) = wait_for(lambda: list(workers(cluster.list_all_nodes())), run)
    os.kill(pid, signal.SIGKILL)
    n = len(entries(store))
    wait_for(lambda: len(entries(store)) >= n + 2 and list(workers([second])), run)
    before = entries(store)
    cluster.remove_node(second, allow_graceful=False)
    _, err = run.communicate(timeout=1800)
    assert run.returncode == 0, err[-3000:]
    assert run_results(tmp_path / 'run') == run_results(alone)
    after = entries(store)
    assert before == {f: after[f] for f in before}  # what was finished stayed as it was
    done = [json.loads(line) for line in open(tmp_path / 'run' / 'metrics.jsonl')][-1]
    assert sum(done['made'].get(k, 0) for k in ('generate', 'finetune')) == len(after)


def test_results_sent_back_without_a_shared_disk(cluster, alone, tmp_path):
    more = ['--executor', 'ray', '--set', f'executor.address={cluster.address}', '--set', 'executor.shared=false']
    run = start(tmp_path / 'run', tmp_path / 'store', *more)
    _, err = run.communicate(timeout=1800)
    assert run.returncode == 0, err[-3000:]
    assert run_results(tmp_path / 'run') == run_results(alone)


def test_no_cluster_at_that_address_is_one_line():
    with pytest.raises(MaftError, match='no Ray cluster at 127.0.0.1:9') as e:
        RayExecutor('127.0.0.1:9')
    assert len(str(e.value).splitlines()) == 1


def test_job_that_no_node_could_take_is_refused(cluster):
    with pytest.raises(MaftError, match='no node of the Ray cluster has 1 CPU and 8 GPU'):
        RayExecutor(cluster.address, num_gpus=8)
    import ray

    ray.shutdown()
