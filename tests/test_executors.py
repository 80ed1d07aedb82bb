"Worker processes on a machine with several GPUs: who sees which. None is needed: only the assignment is looked at."

import os, signal
from contextlib import closing
from pathlib import Path

import pytest
from tiny_models import make

from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.method.prompts import EngineSpec
from multiagent_ft.runs.jobs import Job, ProcessExecutor
from multiagent_ft.runs.run import RunContext, executor_for, gpus_of
from multiagent_ft.runs.settings import Config
from multiagent_ft.runs.store import Store

TEXTS = [Job('generate', dict(n=n), 'multiagent_ft.runs.jobs:write_text', dict(text=f'{n}')) for n in range(9)]


def gpu_seen_by(worker):
    "What CUDA_VISIBLE_DEVICES is in a worker's process."
    pairs = Path(f'/proc/{worker.process.pid}/environ').read_bytes().split(b'\0')
    return dict(p.decode().split('=', 1) for p in pairs if b'=' in p).get('CUDA_VISIBLE_DEVICES')


@pytest.mark.skipif(not Path('/proc/self/environ').exists(), reason='reads /proc, which this system has not')
def test_each_worker_sees_one_gpu_and_its_successor_the_same(tmp_path, monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    store = Store(tmp_path / 'store')
    with closing(ProcessExecutor(3, gpus=['2', '5'])) as pool:
        pool.run(TEXTS[:3], store, EngineSpec())
        workers = list(pool.alive)
        assert sorted(map(gpu_seen_by, workers)) == ['2', '2', '5']
        (killed,) = [w for w in workers if gpu_seen_by(w) == '5']
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        pool.run(TEXTS[3:], store, EngineSpec())
        assert sorted(map(gpu_seen_by, pool.alive)) == ['2', '2', '5'] and killed not in pool.alive
    with closing(ProcessExecutor(1)) as pool:
        pool.run(TEXTS[:1], Store(tmp_path / 'other'), EngineSpec())
        assert [gpu_seen_by(w) for w in pool.alive] == [None]


@pytest.mark.parametrize(
    'visible, device, gpus',
    [
        (None, 'auto', ['0', '1', '2']),
        ('3,1,GPU-8932f937', 'cuda', ['3', '1', 'GPU-8932f937']),
        (None, 'cuda:1', []),  # all workers on the one that is named
        (None, 'cpu', []),
    ],
)
def test_workers_for_the_gpus_of_a_machine(monkeypatch, visible, device, gpus):
    import torch

    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 3)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert gpus_of(Config(device=device)) == gpus
    for engine in ('hf', 'vllm'):
        pool = executor_for(Config(device=device, executor='processes', engine=engine))
        dealt = [gpu for gpu, _ in pool.free.queue]
        assert dealt == gpus if gpus else set(dealt) == {None}
        assert pool.n == len(dealt)
    five = executor_for(Config(device=device, executor='processes', workers=5))
    assert [gpu for gpu, _ in five.free.queue] == ((gpus * 2)[:5] if gpus else [None] * 5)
    alone = executor_for(Config(device=device, engine='vllm'))
    assert type(alone).__name__ == 'LocalExecutor'  # one GPU, and one engine, unless asked for


@pytest.mark.parametrize('name', ['llama', 'qwen3', 'phi3', 'gemma2'])
def test_identity_without_weights_is_that_with_them(tmp_path, name):
    "Number format, attention, stop ids and all: it stands in every key."
    folder = make(name, tmp_path / name, context=256)
    if name == 'llama':  # not every model comes with one
        (folder / 'generation_config.json').unlink()
    for how in (dict(), dict(dtype='bfloat16', max_length=100)):
        lazy, loaded = (HFEngine(folder, lazy=x, device='cpu', **how) for x in (True, False))
        assert lazy.identity() == loaded.identity() and lazy.stop_ids == loaded.stop_ids
        assert lazy.context == loaded.context and not lazy.base.is_loaded()


def test_process_that_hands_out_jobs_reads_no_weights(tmp_path):
    "It names and renders like one that holds them; what does need them reads them."
    places = dict(out=tmp_path / 'run', store=tmp_path / 'store', wandb='off')
    with RunContext(Config(**places, workers=2)) as names, RunContext(Config(**places, workers=0)) as holds:
        assert not names.engine.base.is_loaded()
        assert names.engine.identity() == holds.engine.identity()
        assert names.engine.versions() == holds.engine.versions() and not names.engine.base.is_loaded()
        ids = ([names.engine.encode('1+1?')], [names.engine.encode('2')])
        assert (names.engine.logprobs(*ids)[0] == holds.engine.logprobs(*ids)[0]).all()
        assert names.engine.base.is_loaded()
