"A society behind OpenAI's interface: `maft serve` and OpenAI's own client."

import signal, socket, subprocess, sys, threading

import openai
import pytest
from starlette.testclient import TestClient

from multiagent_ft import ScriptedEngine, untrained
from multiagent_ft.core import MaftError
from multiagent_ft.machines.serve import Served, application
from multiagent_ft.method.debate import Protocol
from multiagent_ft.runs.society import Society, with_engine

SOCIETY = with_engine(untrained(2), None, Protocol(rounds=2))
SCRIPT = {(1, 'generator', 0): r'\boxed{4}', 'generator': r'\boxed{5}', 'critic': r'\boxed{4}', 'summarizer': 'x'}


def client(engine, key=None, waiting=16):
    served = Served(SOCIETY, engine=engine, waiting=waiting)
    return TestClient(application(served, key), raise_server_exceptions=False)


def ask(http, **page):
    return http.post('/v1/chat/completions', json=dict(messages=[dict(role='user', content='2+2?')]) | page)


def test_answer_in_one_piece_ends_with_the_vote():
    page = ask(client(ScriptedEngine(SCRIPT))).json()
    text = page['choices'][0]['message']['content']
    assert text.endswith('vote: 4 (by 2 of 2)') and text.count('**critic') == 2 and page['usage']['total_tokens'] > 0


@pytest.mark.parametrize(
    'page, status',
    [
        (dict(messages=None), 400),
        (dict(messages=[dict(role='user', content=' ')]), 400),
        (dict(messages=[dict(role='user', content=[dict(type='image_url', image_url='x')])]), 400),
        (dict(messages=['hello']), 400),
        (dict(temperature=-1), 400),
        (dict(temperature='hot'), 400),
        (dict(max_tokens=0), 400),
        (dict(max_tokens=2.5), 400),
        (dict(n=2), 400),
        (dict(stop=['x']), 400),
        (dict(model='gpt-5'), 404),
        (dict(seed=True), 400),
    ],
)
def test_what_a_society_cannot_do_is_refused(page, status):
    answer = ask(client(ScriptedEngine(SCRIPT)), **page)
    assert answer.status_code == status and answer.json()['error']['message']


def test_rubbish_is_refused():
    http = client(ScriptedEngine(SCRIPT))
    for body, status in ((b'', 400), (b'[' * 100_000, 400), (b'[]', 400), (b'x' * (1 << 20) + b'y', 413)):
        assert http.post('/v1/chat/completions', content=body).status_code == status
    assert http.get('/v1/chat/completions').status_code == 405 and http.get('/').status_code == 404


def test_key_is_asked_for():
    http = client(ScriptedEngine(SCRIPT), key='sk-1')
    assert ask(http).status_code == 401 and http.get('/v1/models').status_code == 401
    http.headers['Authorization'] = 'Bearer sk-1'
    assert ask(http).status_code == 200


def test_failure_of_the_engine_reaches_the_client():
    def fail(request):
        raise MaftError('no memory left')

    http = client(ScriptedEngine(fail, name='failing'))
    assert ask(http).status_code == 500 and ask(http).json()['error']['message'] == 'no memory left'
    assert 'no memory left' in ask(http, stream=True).text


def test_more_questions_than_may_wait():
    "One is answered, one waits, the third is told to come again; then both are answered."
    go = threading.Event()

    def slow(request):
        go.wait(30)
        return r'\boxed{4}'

    http, found = client(ScriptedEngine(slow, name='slow'), waiting=2), []
    threads = [threading.Thread(target=lambda: found.append(ask(http).status_code)) for _ in range(2)]
    for t in threads:
        t.start()
    while http.app is None or _waiting(http) > 0:
        pass
    refused = ask(http)
    go.set()
    for t in threads:
        t.join()
    assert refused.status_code == 429 and refused.headers['retry-after'] and found == [200, 200]


def _waiting(http):
    "How many more may wait."
    served = http.app.routes[1].endpoint.__closure__
    return next(c.cell_contents for c in served if isinstance(c.cell_contents, Served)).room._value


@pytest.fixture(scope='module')
def society(tmp_path_factory):
    from conftest import maft

    folder = tmp_path_factory.mktemp('served')
    small = '--train 6 --eval 2 --iterations 1 --agents 2 --set samples=2 --workers 0 --wandb off'.split()
    done = maft('run', *small, '--out', folder / 'run', cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / 'run'


def test_maft_serve_with_openais_client(society):
    "Port, model list, stream: the debate is that of `Society.ask`; Ctrl-C ends it."
    code = 'from multiagent_ft.cli import main; main()'
    process = subprocess.Popen(
        [sys.executable, '-c', code, 'serve', str(society), '--port', '0'], stdout=subprocess.PIPE, text=True
    )
    try:
        url = process.stdout.readline().split()[0]
        remote = openai.OpenAI(base_url=url, api_key='none', timeout=300)
        assert [m.id for m in remote.models.list()] == ['society']
        question = [dict(role='user', content='What is the result of 3+7*1+4-9*6?')]
        stream = remote.chat.completions.create(model='society', messages=question, seed=3, stream=True)
        text = ''.join(chunk.choices[0].delta.content or '' for chunk in stream)
        here = Society.load(society).ask(question[0]['content'], seed=3)
        assert text.splitlines()[-1].startswith('vote: ')
        assert all(turn.text.strip() in text for turn in here.turns) and text.count('**') == 2 * len(here.turns)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_bad_input_of_serve(run_maft, tmp_path, society):
    done = run_maft('serve', tmp_path)
    assert done.returncode == 2 and 'holds no finished iteration' in done.stderr
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        done = run_maft('serve', society, '--port', taken.getsockname()[1])
    assert done.returncode == 2 and 'cannot listen at 127.0.0.1' in done.stderr, done.stderr
    assert 'Traceback' not in done.stderr
