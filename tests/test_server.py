"The server engine, against a real HTTP server on this machine that serves a real (tiny) model."

import json, shutil, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from serve import serve
from tiny_models import make, random_adapters
from transformers import AutoModelForCausalLM

from faults import Proxy
from multiagent_ft.engines import huggingface as hf, weights

from multiagent_ft.engines import server as module
from multiagent_ft.core import Completion, MaftError, Message, seed_for
from multiagent_ft.method.prompts import Engine, EngineSpec, Request, Sampling, opening
from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.engines.by_name import engine_for
from multiagent_ft.engines.server import ServerEngine


@pytest.fixture(scope='module')
def llama(tmp_path_factory):
    return make('llama', tmp_path_factory.mktemp('models') / 'llama', context=512)


@pytest.fixture(scope='module')
def local(llama):
    return HFEngine(llama)


@pytest.fixture
def served(local):
    "serve(...) with the local engine; shut down afterwards."
    servers = []

    def start(**kw):
        s, url = serve(local, **kw)
        servers.append(s)
        return url

    yield start
    for s in servers:
        s.shutdown()
        s.server_close()


def jittered(waits, expected):
    "Is each wait the expected one, and up to a second more?"
    return len(waits) == len(expected) and all(e <= w <= e + 1 for w, e in zip(waits, expected))


def asks(n, adapter=None):
    return [
        Request(
            (Message('user', f'What is {i}+4? <|eot_id|>'),),
            seed_for('server', i) % 2**31,
            Sampling(0.8, 0.95, 20),
            adapter,
        )
        for i in range(n)
    ]


def test_server_matches_local_engine(served, local, llama):
    remote = ServerEngine(served(), llama)
    assert isinstance(remote, Engine)
    got, want = remote.generate(asks(12)), local.generate(asks(12))
    assert [(c.text, c.finish, c.prompt_ids, c.token_ids) for c in got] == [
        (c.text, c.finish, c.prompt_ids, c.token_ids) for c in want
    ]
    assert remote.render(asks(1)[0].chat) == local.render(asks(1)[0].chat) and remote.context == 512


def test_server_with_nano():
    folder = hf.Path(weights.find_model('nano'))
    if not (folder / 'model.safetensors').is_file():
        pytest.skip('the embedded model is not here')
    local = HFEngine('nano')
    s, url = serve(local)
    assert ServerEngine(url, 'nano').generate(asks(4)) == local.generate(asks(4))
    s.shutdown()
    s.server_close()


def test_server_adapters_by_content(served, local, llama, tmp_path):
    torch.manual_seed(0)
    with weights.silence():
        lora = get_peft_model(
            AutoModelForCausalLM.from_pretrained(llama),
            LoraConfig(r=4, target_modules='all-linear', task_type='CAUSAL_LM'),
        )
        for n, p in lora.named_parameters():
            if 'lora_' in n:
                torch.nn.init.normal_(p, std=0.3)
        lora.save_pretrained(tmp_path / 'a')
    url = served()
    for _ in range(2):  # a second client finds the adapter loaded
        remote = ServerEngine(url, llama)
        assert remote.model == str(llama)
        mixed = [r for pair in zip(asks(4), asks(4, str(tmp_path / 'a'))) for r in pair]
        assert [c.text for c in remote.generate(mixed)] == [c.text for c in local.generate(mixed)]
    assert len({c.text for c in remote.generate([asks(1)[0], asks(1, str(tmp_path / 'a'))[0]])}) == 2


def test_retry_when_the_server_is_busy(served, local, llama, monkeypatch):
    monkeypatch.setattr(module.time, 'sleep', lambda s: waits.append(s))
    waits, replies = [], [(503, 'loading'), (500, 'oops'), (429, 'slow down')]
    remote = ServerEngine(
        served(trouble=lambda path: replies.pop() if replies and path == '/v1/completions' else None),
        llama,
        concurrency=1,
    )
    assert [c.text for c in remote.generate(asks(3))] == [c.text for c in local.generate(asks(3))]
    assert jittered(waits, [1, 2, 4])
    replies[:] = [(503, 'still loading')] * 5
    with pytest.raises(MaftError, match=r'did not answer in 5 tries \(last: 503 still loading\)'):
        remote.generate(asks(1))


def test_truncated_response_is_retried(monkeypatch):
    """A reply shorter than its Content-Length, a truncated line, a truncated refusal: retried, and in the end
    one sentence."""
    monkeypatch.setattr(module.time, 'sleep', lambda s: waits.append(s))
    waits, replies = [], []

    class Dying(BaseHTTPRequestHandler):
        def log_message(self, *a):
            pass

        def do_GET(self):
            status, body, promised = replies.pop() if replies else (200, b'{"data": []}', 12)
            if status is None:
                self.wfile.write(body)
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header('Content-Length', str(promised))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

    s = ThreadingHTTPServer(('127.0.0.1', 0), Dying)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{s.server_address[1]}/v1/models'
    for truncated in ((200, b'{"data"', 12), (503, b'{"err', 90), (None, b'', 0), (None, b'HTT', 0)):
        waits.clear()
        replies[:] = [truncated] * 2
        assert module.call_server(url) == json.loads('{"data": []}') and jittered(waits, [1, 2]), truncated
        replies[:] = [truncated] * 5
        with pytest.raises(MaftError, match=r'did not answer in 5 tries \(last: .*\w'):
            module.call_server(url)
    s.shutdown()
    s.server_close()


def test_bad_server_addresses(llama):
    for url in ('localhost:8000/v1', '127.0.0.1:8000/v1', 'file:///etc/hostname'):
        with pytest.raises(MaftError, match='begins with http'):
            ServerEngine(url, llama)
    with pytest.raises(MaftError, match='--set engine.url=.* or OPENAI_BASE_URL'):
        ServerEngine('', llama)
    with pytest.raises(MaftError, match='put it into OPENAI_API_KEY') as e:
        ServerEngine('http://me:hunter2@localhost:8000/v1', llama)
    assert 'hunter2' not in str(e.value)


def test_client_errors_are_not_retried_and_quoted(served, llama, monkeypatch):
    calls = []

    def no(path):
        calls.append(path)
        return (400, 'max_tokens must be at least 1') if path == '/v1/completions' else None

    remote = ServerEngine(served(trouble=no), llama, chat=False)
    with pytest.raises(MaftError, match='max_tokens must be at least 1'):
        remote.generate(asks(1))
    assert calls.count('/v1/completions') == 1
    url = served()
    with pytest.raises(MaftError, match='not gpt-9'):
        ServerEngine(url, llama, model='gpt-9')
    with pytest.raises(MaftError, match='did not answer'):
        monkeypatch.setattr(module.time, 'sleep', lambda s: None)
        ServerEngine('http://127.0.0.1:9/v1', llama)
    with pytest.raises(MaftError, match='HFEngine'):
        ServerEngine(url, llama).logprobs([(1,)], [(1,)])


def test_api_key_is_sent_and_never_shown(served, local, llama, monkeypatch):
    url = served(key='sk-secret-123')
    monkeypatch.delenv('MY_KEY', raising=False)
    with pytest.raises(MaftError, match='MY_KEY') as e:
        ServerEngine(url, llama, key_env='MY_KEY')
    monkeypatch.setenv('MY_KEY', 'sk-secret-123')
    remote = ServerEngine(url, llama, key_env='MY_KEY')
    assert remote.generate(asks(1))[0].text == local.generate(asks(1))[0].text
    assert 'secret' not in str(e.value) + repr(remote.identity()) + repr(vars(remote))


def test_retry_after_header(monkeypatch):
    "A rate limit that names its seconds is waited for; refusals are not retried; the error says that it is busy."
    waits, replies, asked = [], [], []
    monkeypatch.setattr(module.time, 'sleep', lambda s: waits.append(s))

    class Limited(BaseHTTPRequestHandler):
        def log_message(self, *a):
            pass

        def do_GET(self):
            asked.append(self.path)
            status, after, body = replies.pop() if replies else (200, None, b'{"data": []}')
            self.send_response(status)
            if after:
                self.send_header('Retry-After', after)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    s = ThreadingHTTPServer(('127.0.0.1', 0), Limited)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{s.server_address[1]}/v1/models'
    busy = b'{"error": {"message": "Rate limit reached"}}'
    replies[:] = [(429, '20', busy)]
    assert module.call_server(url) == {'data': []} and jittered(waits, [20])
    waits.clear()
    replies[:] = [(429, '0.5', busy), (503, None, busy), (408, None, b'')]
    assert module.call_server(url) == {'data': []} and jittered(waits, [1, 2, 4])
    replies[:] = [(429, '20', busy)] * 5
    with pytest.raises(MaftError, match='last: 429 Rate limit reached.*busy'):
        module.call_server(url)
    for status in (400, 401, 403, 404, 422):
        asked.clear()
        replies[:] = [(status, '20', b'{"detail": "no"}')] * 2
        with pytest.raises(MaftError, match=f'HTTP {status}'):
            module.call_server(url)
        assert len(asked) == 1, status
    waits.clear()
    replies[:] = [(429, '86400', busy)]
    with pytest.raises(MaftError, match='left alone for 1440 minutes'):
        module.call_server(url)
    assert waits == []
    s.shutdown()
    s.server_close()


def test_clients_do_not_come_back_at_the_same_moment(monkeypatch):
    "Forty clients are told the same number of seconds, and come back spread over one more."
    waits = []
    monkeypatch.setattr(module.time, 'sleep', lambda s: waits.append(s))

    def busy_once(made, **how):
        made.append(1)
        if len(made) % 2:
            raise module.Unanswered(429, 'slow down', 20.0)
        return {}

    monkeypatch.setattr(module, 'call_once', lambda *args, made, **how: busy_once(made))
    for _ in range(40):
        module.call_server('http://127.0.0.1:9/v1/models', client=object())
    assert len(set(waits)) == 40 and 20 <= min(waits) < 20.3 and 20.7 < max(waits) <= 21


@pytest.fixture(scope='module')
def nano_served():
    server, url = serve(HFEngine('nano'))
    yield server, url
    server.shutdown()
    server.server_close()


@pytest.fixture
def nano_handle(nano_served):
    "(server, url) of one that can be told to misbehave; as new for each test."
    server, url = nano_served
    yield server, url
    server.ignores.clear()
    server.adapters.clear()


@pytest.fixture(scope='module')
def nano_server(nano_served):
    return nano_served[1]


@pytest.fixture
def two_adapters(tmp_path):
    return [
        str(folder) for folder in random_adapters(tmp_path / 'adapters', 2, size=0.15)
    ]  # other texts than the base's


@pytest.mark.parametrize('ignored', [(), ('logprobs',), ('logprobs', 'return_token_ids')])
def test_server_that_ignores_the_adapter_is_detected(nano_handle, two_adapters, ignored):
    "Whether it sends log-probabilities, token ids, or a text only."
    server, url = nano_handle
    remote = ServerEngine(url, 'nano')
    server.ignores.update(ignored)
    first, second = (str(f) for f in two_adapters)
    remote.generate([Request(opening('1+1?'), 1, Sampling(max_new_tokens=4), first)])
    assert remote.notes == []
    server.ignores.add('adapters')
    with pytest.raises(MaftError, match='as the base model does: it ignores the adapter') as e:
        remote.generate([Request(opening('1+1?'), 1, Sampling(max_new_tokens=4), second)])
    assert len(str(e.value).splitlines()) <= 2
    with pytest.raises(MaftError, match='ignores the adapter'):  # nor is it used when asked again
        remote.generate([Request(opening('1+1?'), 1, Sampling(max_new_tokens=4), second)])


def test_stale_weights_on_a_server_are_detected(nano_handle, two_adapters):
    "Another adapter's folder under this one's name, as a cache may have it."
    server, url = nano_handle
    first, second = two_adapters
    server.adapters[f'maft-{hf.adapter_identity(second)[:24]}'] = first
    with pytest.raises(MaftError, match='computes something else than transformers with .*adapter-1'):
        ServerEngine(url, 'nano').generate([Request(opening('1+1?'), 1, Sampling(max_new_tokens=4), second)])


def test_what_a_probe_cannot_tell_is_noted(nano_handle, two_adapters, tmp_path):
    "An adapter that does nothing; a tokenizer without weights beside it; and none of it where it is not wanted."
    server, url = nano_handle
    (idle,) = map(str, random_adapters(tmp_path / 'idle', 1, size=0.0))
    remote = ServerEngine(url, 'nano')
    remote.generate([Request(opening('1+1?'), 1, Sampling(max_new_tokens=4), idle)])
    assert len(remote.notes) == 1 and 'cannot be told from its answer to one probe' in remote.notes[0]
    bare = tmp_path / 'bare'
    shutil.copytree(weights.find_model('nano'), bare, ignore=shutil.ignore_patterns('*.safetensors'))
    blind = ServerEngine(url, bare, model='nano')
    for folder in two_adapters:
        blind.generate([Request(opening('1+1?'), 1, Sampling(max_new_tokens=4), folder)])
    assert len(blind.notes) == 1 and 'are not compared with what was trained' in blind.notes[0]
    trusting = ServerEngine(url, 'nano', check_adapters=False)
    trusting.generate([Request(opening('1+1?'), 1, Sampling(max_new_tokens=4), idle)])
    assert trusting.notes == []


@pytest.mark.parametrize(
    'adapter, base, noise, measured, verdict',
    [
        (1e-6, 0.05, 1e-6, True, 'same'),
        (0.05, 1e-6, 1e-6, True, 'base'),
        (0.05, 0.06, 1e-6, True, 'other'),
        (0.5, 0.06, 1e-6, True, 'other'),  # a weak adapter under the name of a strong one
        (1e-6, 1e-6, 1e-6, True, 'unclear'),  # an adapter that does nothing
        (0.1, 0.9, 0.08, True, 'same'),  # 16 bits there
        (0.9, 0.1, 0.08, True, 'base'),
        (0.1, 0.12, 0.08, True, 'unclear'),
        (float('nan'), 0.1, 1e-6, True, 'other'),
        (0.5, 0.7, 0.0, False, 'unclear'),  # greedy texts part somewhere: rounding, perhaps
        (0.5, 0.0, 0.0, False, 'base'),
    ],
)
def test_verdict_of_a_probe(adapter, base, noise, measured, verdict):
    assert module.AdapterProbe(adapter, base, noise, measured).verdict() == verdict


SAYS_LITTLE = [(), ('detokenize',), ('detokenize', 'return_token_ids'), ('detokenize', 'return_token_ids', 'usage')]


@pytest.mark.parametrize('ignored', SAYS_LITTLE)
def test_another_tokenizer_is_refused_before_anything_is_asked(nano_handle, llama, ignored):
    "Named by hand, by what the server spells, by the ids or their number it makes of a known text; else a note."
    server, url = nano_handle
    server.ignores.update(ignored)
    same = ServerEngine(url, 'nano')
    assert bool(same.notes) == ('usage' in ignored)
    if 'usage' in ignored:
        other = ServerEngine(url, llama, model='nano')
        assert 'has the tokenizer of' in other.notes[0] and 'cannot be told' in other.notes[0]
        return
    with pytest.raises(MaftError, match='whose tokenizer is not that of .*: what is .* here is .* there') as e:
        ServerEngine(url, llama, model='nano')
    assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize('text', ['42', '{', ''])
def test_another_tokenizer_is_refused_though_its_short_answers_decode_alike(llama, tmp_path, text):
    "A server that says two bytes spells them alike in every byte-level vocabulary; a longer text tells."
    other = HFEngine(make('qwen2', tmp_path / 'qwen2', context=512))
    server, url = serve(other)
    ids = other.base.renderer.tok(text).input_ids
    server.RequestHandlerClass = type('Short', (server.RequestHandlerClass,), {})
    server.RequestHandlerClass.generate = lambda self, prompt, body: Completion(text, 'stop', prompt, tuple(ids))
    with pytest.raises(MaftError, match='whose tokenizer is not that of'):
        ServerEngine(url, llama, model=other.name).generate(asks(2))
    server.shutdown()
    server.server_close()


def test_completions_of_another_tokenizer_are_refused(local, llama, tmp_path):
    "Where the server says nothing of its tokenizer at the start, each completion is compared."
    server, url = serve(local)
    server.ignores.update(['detokenize', 'usage', 'prompt_token_ids'])
    other = make('qwen2', tmp_path / 'qwen2', context=512)
    remote = ServerEngine(url, other, model=str(llama), max_length=400)
    with pytest.raises(MaftError, match='it sent .*, and its token ids mean'):
        remote.generate([Request((Message('user', f'What is {i}+4?'),), i, Sampling(0.8, 0.95, 20)) for i in range(4)])
    server.shutdown()
    server.server_close()


def test_engines_by_name(llama, tmp_path, served):
    "By name, or from a file; built once; what cannot be built is one line."
    hf_spec = EngineSpec('hf', dict(model=str(llama), device='cpu'))
    assert engine_for(hf_spec) is engine_for(EngineSpec('hf', dict(device='cpu', model=str(llama))))
    remote = engine_for(EngineSpec('server', dict(url=served(), tokenizer=str(llama))))
    assert isinstance(remote, ServerEngine)
    (tmp_path / 'mine.py').write_text(
        'class Mine:\n    def __init__(self, word): self.word = word\n    def render(self, chat): return (1,)\n'
        '    def generate(self, requests): return []\n    def identity(self, adapter=None): return {}\n'
        'class Half:\n    def render(self, chat): return (1,)\n'
    )
    assert engine_for(EngineSpec(f'{tmp_path}/mine.py:Mine', dict(word='x'))).word == 'x'
    for name, args, line in [
        ('vlm', {}, "unknown engine 'vlm'.*hf, vllm, server"),
        ('mine.py', {}, "unknown engine 'mine.py'.*mine.py:NAME"),
        (f'{tmp_path}/mine.py:Yours', {}, 'defines no'),
        (f'{tmp_path}/mine.py:Half', {}, 'no method generate'),
        ('hf', dict(modle='nano'), 'modle'),
    ]:
        with pytest.raises(MaftError, match=line):
            engine_for(EngineSpec(name, args))


def test_context_overflow(served, llama):
    remote = ServerEngine(served(), llama)
    (c,) = remote.generate([Request((Message('user', '1 ' * 600),), 0)])
    assert c.finish == 'context_overflow' and c.prompt_ids and remote.generate([]) == []


def test_not_a_completion_server(llama):
    "A web page, or a server that forgets to complete."

    class Page(BaseHTTPRequestHandler):
        def log_message(self, *a):
            pass

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.page)

        def do_POST(self):
            self.do_GET()

        page = b'<html>Welcome</html>'

    s = ThreadingHTTPServer(('127.0.0.1', 0), Page)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{s.server_address[1]}/v1'
    with pytest.raises(MaftError, match="tries .last: 200 no JSON object but '<html>Welcome"):
        ServerEngine(url, llama, wait=0.01)
    Page.page = b'{"data": []}'
    with pytest.raises(MaftError, match='serves no model'):
        ServerEngine(url, llama)
    Page.page = b'{"data": [{"id": "m", "max_model_len": 400}]}'
    with pytest.raises(MaftError, match='no completion'):
        ServerEngine(url, llama, model='m').generate(asks(1))
    Page.page = b'{"data": [{"id": "m"}]}'
    with pytest.raises(MaftError, match='give max_length'):
        ServerEngine(url, llama, model='m', chat=False)
    s.shutdown()
    s.server_close()


def lines(file):
    return [json.loads(line) for line in open(file, encoding='utf-8')]


FAULTS = ['busy', 'broken', 'cut', 'rubbish', 'closed', 'slow']


@pytest.mark.parametrize('fault', FAULTS)
def test_each_fault_is_survived_and_nothing_answered_is_asked_twice(nano_server, fault):
    requests = [Request(opening(f'What is the result of {i}+2?'), i, Sampling(max_new_tokens=40)) for i in range(6)]
    with Proxy(nano_server, lambda n: fault if n in (1, 3) else None) as proxy:
        remote = ServerEngine(proxy.url, 'nano', wait=0.01, timeout=3, concurrency=2)
        asked = proxy.count('/completions')
        assert remote.generate(requests) == HFEngine('nano').generate(requests)
        assert proxy.count('/completions') - asked == len(requests) and proxy.faults == 2


def test_refusals_end_at_once_and_connection_refused_is_reported(nano_server, monkeypatch):
    for fault, line in (('unauthorized', 'refuses the key'), ('missing', 'HTTP 404'), ('moved', 'has moved to')):
        with Proxy(nano_server, lambda n: fault) as proxy:
            with pytest.raises(MaftError, match=line):
                ServerEngine(proxy.url, 'nano')
            assert proxy.faults == 1
    monkeypatch.setenv('OPENAI_BASE_URL', proxy.url)
    with pytest.raises(MaftError, match='did not answer in 2 tries .* Is the server up'):
        ServerEngine(tokenizer='nano', tries=2, wait=0.01)


@pytest.mark.parametrize('key', ['sk-1\u20112', 'a\tb'])
def test_key_that_no_header_can_carry(monkeypatch, key):
    monkeypatch.setenv('OPENAI_API_KEY', key)
    with pytest.raises(MaftError, match='holds characters that no key has'):
        ServerEngine('http://127.0.0.1:9/v1', 'nano')


SMALL = ['--train', 3, '--eval', 2, '--agents', 2, '--iterations', 1, '--set', 'samples=2', '--set', 'temperature=0']


@pytest.mark.slow
def test_a_run_through_a_failing_proxy_trains_and_asks_nothing_twice(nano_server, run_maft, tmp_path):
    """Every fifth call fails somehow; in the middle the key stops working; the same command continues, at another
    address. Adapters are loaded on the server. Outcomes equal those of the engine in process."""

    def out(name):
        return ['--out', tmp_path / name / 'run']

    here = run_maft('run', *SMALL, '--workers', 0, *out('here'))
    assert here.returncode == 0, here.stderr
    with Proxy(nano_server, lambda n: 'unauthorized' if n == 20 else FAULTS[n % 4] if n % 3 == 2 else None) as first:
        named = ['run', '--engine', 'server', '--set', f'engine.url={first.url}', *SMALL, *out('there')]
        named += ['--set', 'engine.args.weights=nano', '--set', 'engine.args.wait=0.01']
        failed = run_maft(*named)
        assert failed.returncode == 2 and 'refuses the key' in failed.stderr and 'Traceback' not in failed.stderr
    with Proxy(nano_server, lambda n: None) as second:
        named[4] = f'engine.url={second.url}'
        done = run_maft(*named)
        assert done.returncode == 0, done.stderr
    answers = [lines(tmp_path / w / 'run' / 'outcomes.jsonl') for w in ('here', 'there')]
    assert answers[0] == answers[1]
    requests = sum(len(lines(f)) for f in (tmp_path / 'there' / 'store').glob('generate/*/*/completions.jsonl'))
    asked = first.count('/completions') + second.count('/completions')
    loaded = first.count('/load_lora_adapter') + second.count('/load_lora_adapter')
    assert loaded > 2
    probes = asked - requests - 2  # one token each to find out what the server can do
    assert loaded <= probes <= 2 * (4 + 1)  # an adapter per agent and the base, in either process


def test_a_server_that_only_chats_debates_and_says_what_training_needs(nano_server, run_maft, tmp_path):
    with Proxy(nano_server, lambda n: None, hidden=('/v1/completions', '/v1/load_lora_adapter')) as proxy:
        named = ['run', '--engine', 'server', '--set', f'engine.url={proxy.url}', *SMALL, '--out', tmp_path / 'run']
        refused = run_maft(*named)
        assert refused.returncode == 2 and proxy.count('/chat/completions') == 0
        assert 'cannot return token ids and cannot use adapters' in refused.stderr
        assert '--enable-lora' in refused.stderr and len(refused.stderr.strip().splitlines()) <= 3
        done = run_maft(*named[:-1], tmp_path / 'debate', '--recipe', 'debate')
        assert done.returncode == 0, done.stderr
        assert proxy.count('/chat/completions') > 0 and '/chat/completions' not in done.stdout


def test_a_server_that_loads_no_adapters_says_how_it_would(nano_server, run_maft, tmp_path):
    "It completes token ids, so it can debate; training is refused before anything is asked."
    with Proxy(nano_server, lambda n: None, hidden=('/v1/load_lora_adapter',)) as proxy:
        named = ['run', '--engine', 'server', '--set', f'engine.url={proxy.url}', *SMALL, '--out', tmp_path / 'run']
        refused = run_maft(*named)
        assert refused.returncode == 2 and proxy.count('/completions') == 1  # the one that finds out what it can do
        assert 'cannot use adapters' in refused.stderr and 'token ids and' not in refused.stderr
        assert 'VLLM_ALLOW_RUNTIME_LORA_UPDATING=True' in refused.stderr


@pytest.mark.parametrize('says, hint', [('Not Found', True), ('No adapter found for disk/lora', False)])
def test_hint_for_a_server_that_loads_no_adapters_whatever_the_folder_is_called(says, hint):
    class Refusing:
        url = 'http://h/v1'

        def call(self, page, *a, **kw):
            raise module.refusal(f'{self.url}{page}', 404, says, {}, 'KEY')

        def names(self):
            return []

    with pytest.raises(MaftError) as e:
        module.load(Refusing(), 'maft-1', Path('disk/lora'))
    assert ('VLLM_ALLOW_RUNTIME_LORA_UPDATING=True' in str(e.value)) == hint


def test_hint_at_a_missing_v1_begins_a_sentence():
    assert 'Not Found. An address ends in /v1' in str(module.refusal('http://h/models', 404, 'Not Found', {}, 'KEY'))


def test_wrong_model_name_is_refused(nano_server, run_maft, tmp_path):
    done = run_maft('run', '--engine', 'server', '--set', f'engine.url={nano_server}', '--model', 'Qwen/Qwen3-8B')
    assert done.returncode == 2 and 'serves nano, not Qwen/Qwen3-8B' in done.stderr
    done = run_maft('run', '--engine', 'server')
    assert done.returncode == 2 and 'OPENAI_BASE_URL' in done.stderr
    done = run_maft('run', '--engine', 'server', '--set', f'engine.url={nano_server.removesuffix("/v1")}')
    assert done.returncode == 2 and 'An address ends in /v1' in done.stderr


class Says:
    "An engine of which only what a server answers is looked at."

    url, how, stop_ids, chat = 'http://server/v1', module.ServerSettings(model='m'), [], True

    def __init__(self, page):
        self.page = page

    def call(self, path, body=None, **how):
        if isinstance(self.page, Exception):
            raise self.page
        return self.page

    names = module.ServerEngine.names


@pytest.mark.parametrize(
    'page, context',
    [
        ({'data': [{'id': 'm', 'max_model_len': 2048}]}, 2048),
        ({'data': [{'id': 'm', 'context_length': 4096, 'max_model_len': None}]}, 4096),
        (module.read_body(b'[{"id": "m", "context_window": 8192}]'), 8192),
        ({'models': [{'name': 'm', 'max_context_length': 16}]}, 16),
        (module.ServerRefusal('no list of models', 404), None),
    ],
)
def test_models_as_servers_list_them(page, context):
    assert module.choose_model(Says(page), 'm') == ('m', context)


def test_contents_in_parts_and_ends_in_other_words():
    parts = [dict(type='thinking', thinking=['…']), dict(type='text', text='It is '), dict(type='text', text='12.')]
    for content, finish, expected in (
        (parts, 'eos_token', ('It is 12.', 'stop')),
        ('It is 12.', 'end_turn', ('It is 12.', 'stop')),
        (None, 'MAX_TOKENS', ('', 'length')),
        ([None, 'odd'], 'content_filter', ('', 'error')),
    ):
        page = dict(choices=[dict(message=dict(content=content), finish_reason=finish)])
        asked = Request((Message('user', '6+6?'),), 0, Sampling())
        completion = module.complete_chat(Says(page), asked, 'm')
        assert (completion.text, completion.finish) == expected


def test_waiting_time_in_words_is_waited_for_and_an_empty_account_is_not():
    def after(status, text):
        return module.refusal('http://server/v1', status, text, headers={}, key_env='KEY')

    assert after(429, 'Rate limit reached. Please try again in 1m2.5s. Visit …').seconds == 62.5
    assert after(503, 'Loading: retry after 20 seconds').seconds == 20
    assert after(429, 'Too many requests').seconds == 0
    empty = after(429, 'You exceeded your current quota, please check your plan and billing details.')
    assert isinstance(empty, module.ServerRefusal) and 'account' in str(empty)
    assert module.read_body(b'[{"error": {"message": "API key not valid"}}]') == 'API key not valid'
