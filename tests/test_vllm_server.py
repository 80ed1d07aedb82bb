"A real `vllm.entrypoints.openai.api_server` on this machine, with nano and two adapters: `make test-engines`."

import json, os, signal, socket, subprocess, sys, time
from pathlib import Path

import httpx
import pytest
from conftest import ROOT
from test_vllm import ENV, HAVE, PYTHON, questions
from tiny_models import random_adapters

from multiagent_ft.core import MaftError
from multiagent_ft.engines.huggingface import HFEngine, adapter_identity
from multiagent_ft.engines.weights import find_model
from multiagent_ft.engines.server import ServerEngine, probe_adapter, use

pytestmark = [pytest.mark.engines, pytest.mark.skipif(not HAVE, reason='no vLLM here: make test-engines')]
DRAWS = 'multiagent_ft.engines.vllm:SeededDraws'


@pytest.fixture(scope='module')
def vllm_url(tmp_path_factory):
    "nano behind vLLM, our draws in it; it may load adapters while it runs."
    folder = tmp_path_factory.mktemp('vllm')
    (folder / 'multiagent_ft').symlink_to(ROOT / 'multiagent_ft')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    lora = '--enable-lora --max-loras 2 --max-cpu-loras 4 --max-lora-rank 8'.split()
    named = ['--model', find_model('nano'), '--served-model-name', 'nano', '--dtype', 'float32']
    more = ['--generation-config', 'vllm', '--logits-processors', DRAWS, '--max-model-len', '1024', *lora]
    env = {**os.environ, **ENV, 'VLLM_ALLOW_RUNTIME_LORA_UPDATING': 'True', 'PYTHONPATH': str(folder)}
    with open(folder / 'log', 'wb') as log:
        server = subprocess.Popen(
            [PYTHON or sys.executable, '-m', 'vllm.entrypoints.openai.api_server', '--host', '127.0.0.1']
            + ['--port', str(port), *named, *more],
            env=env | dict(VLLM_NO_USAGE_STATS='1'),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f'http://127.0.0.1:{port}/v1'
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            httpx.get(f'{url}/models').raise_for_status()
            break
        except httpx.HTTPError:
            time.sleep(1)
    try:
        assert server.poll() is None, (folder / 'log').read_text()[-3000:]
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope='module')
def adapters(tmp_path_factory):
    return [str(a) for a in random_adapters(tmp_path_factory.mktemp('adapters'), 2)]


@pytest.fixture(scope='module')
def hf():
    return HFEngine('nano')


def test_what_vllm_can_do_is_found_out(vllm_url):
    engine = ServerEngine(vllm_url, 'nano')
    assert (engine.model, engine.context, engine.chat) == ('nano', 1024, False)
    assert engine.capabilities() == (True, False, False, True)  # adapters, logprobs, exact_repeat, token_ids


@pytest.mark.parametrize('temperature, top_p', [(0.0, 1.0), (1.0, 0.9)])
def test_two_adapters_behind_vllm_equal_transformers(vllm_url, hf, adapters, temperature, top_p):
    "Greedy and drawn, token for token; the base apart from the adapters, as the CPU build needs it."
    engine = ServerEngine(vllm_url, 'nano', draws=True)
    for folders in ([None], adapters):
        requests = questions(40, folders, temperature=temperature, top_p=top_p)
        same = [a.token_ids == b.token_ids for a, b in zip(engine.generate(requests), hf.generate(requests))]
        assert sum(same) >= 39
    assert len([n for n in engine.names() if n.startswith('maft-')]) >= 2


def test_without_our_draws_greedy_texts_equal(vllm_url, hf):
    requests = questions(20, [None], temperature=0)
    made = ServerEngine(vllm_url, 'nano').generate(requests)
    assert [c.text for c in made] == [c.text for c in hf.generate(requests)]


def test_adapters_are_compared_with_transformers_when_loaded(vllm_url, adapters, tmp_path):
    "By log-probabilities, which vLLM sends; another adapter's weights under this one's name are detected."
    engine = ServerEngine(vllm_url, 'nano')
    engine.generate(questions(4, adapters))
    probe = probe_adapter(engine, adapters[0], use(engine, adapters[0]))
    assert probe.measured and probe.adapter < 1e-3 < probe.base and probe.verdict() == 'same'
    assert engine.notes == []
    (fresh,) = map(str, random_adapters(tmp_path, 1, size=0.05))
    name = f'maft-{adapter_identity(fresh)[:24]}'
    engine.call('/load_lora_adapter', dict(lora_name=name, lora_path=adapters[0]), plain=True)
    with pytest.raises(MaftError, match='computes something else than transformers'):
        engine.generate(questions(1, [fresh]))
    engine.call('/unload_lora_adapter', dict(lora_name=name), plain=True)


def test_adapter_that_vllm_cannot_take_is_one_line(vllm_url, tmp_path):
    (folder,) = random_adapters(tmp_path, 1, r=16)
    with pytest.raises(MaftError, match='cannot load .*adapter-0') as e:
        ServerEngine(vllm_url, 'nano').generate(questions(1, [str(folder)]))
    assert len(str(e.value).splitlines()) <= 2


def test_lost_adapter_is_loaded_again(vllm_url, hf, adapters):
    engine = ServerEngine(vllm_url, 'nano', draws=True)
    requests = questions(3, adapters[:1], temperature=0)
    before = engine.generate(requests)
    (name,) = engine.loaded
    engine.call('/unload_lora_adapter', dict(lora_name=name), plain=True)
    assert engine.generate(requests) == before == hf.generate(requests)


def test_a_whole_run_debates_trains_and_debates_again(vllm_url, run_maft, tmp_path):
    small = ['--train', 6, '--eval', 4, '--iterations', 1, '--set', 'rank=8', '--set', 'engine.args.draws=true']
    named = ['--engine', 'server', '--set', f'engine.url={vllm_url}', '--out', tmp_path / 'run']
    done = run_maft('run', *named, *small, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in open(Path(tmp_path) / 'run' / 'outcomes.jsonl')]
    assert {r['iteration'] for r in rows} == {0, 1}
