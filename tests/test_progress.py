"Progress on a real (pseudo-)terminal, in a pipe and in a notebook; the counting itself is tested in the notebook."

import os, pty, subprocess, sys
from itertools import count
from making import drawn

CODE = """
import sys, time
from multiagent_ft.runs.tracking import Progress
progress = Progress(quiet='quiet' in sys.argv)
with progress.stage('iteration 1/3'), progress.bar(4, 'collect') as bar:
    for i in range(4): time.sleep(.15); bar.advance(kept='50%')
    print('a result')
print('torch' in sys.modules, 'rich' in sys.modules)
"""


def on_terminal(stdout=None):
    "Run CODE with standard error on a terminal; what was drawn, and what went to standard output when that is a pipe."
    leader, follower = pty.openpty()
    p = subprocess.Popen(
        [sys.executable, '-c', CODE],
        stderr=follower,
        stdout=stdout or follower,
        env=os.environ | dict(TERM='xterm', COLUMNS='100', PYTHONUNBUFFERED='1'),
    )
    os.close(follower)
    text = drawn(leader).decode()
    out = p.stdout.read().decode() if stdout else ''
    assert p.wait() == 0
    return text, out


def test_terminal_has_one_live_line_and_keeps_the_last_line():
    text, _ = on_terminal()
    assert 'iteration 1/3 · collect' in text and 'eta' in text
    assert '\x1b[2K' in text  # redrawn in place, not scrolled
    assert 'iteration 1/3 · collect  4 answers in' in text
    assert '0/4 answers\r\n' not in text  # no plain lines beside the bar
    assert 'a result' in text


def test_redirected_output_receives_what_is_printed():
    text, out = on_terminal(stdout=subprocess.PIPE)
    assert out == 'a result\nFalse True\n' and 'a result' not in text


def test_pipe_has_plain_lines_only():
    r = subprocess.run([sys.executable, '-c', CODE], capture_output=True, text=True)
    assert r.returncode == 0 and '\x1b' not in r.stderr and '\r' not in r.stderr
    first, last = r.stderr.splitlines()
    assert first == 'iteration 1/3 · collect  0/4 answers' and last.startswith(
        'iteration 1/3 · collect  4 answers in 0:0'
    )
    assert r.stdout == 'a result\nFalse False\n'  # rich is not even imported


IN_JUPYTER = """
from multiagent_ft.runs.tracking import Progress
progress = Progress()
progress.known = dict(debate='52.0 %')
with progress.stage('iteration 1/3'), progress.bar(4, 'collect') as bar:
    for i in range(4):
        progress.now = lambda i=i: bar.start + i
        bar.advance()
        if i == 2: print(bar.status())
"""


def test_notebook_has_one_output_that_is_written_over():
    "In a real kernel: no red boxes, no line per step, and at the end one line that says how it went."
    import nbformat
    from nbclient import NotebookClient

    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_JUPYTER)])
    NotebookClient(nb, kernel_name='python3', timeout=120).execute()
    shown = {o['output_type']: o for o in nb.cells[0].outputs}
    assert sorted(shown) == ['display_data', 'stream'] and len(nb.cells[0].outputs) == 2
    assert shown['stream']['text'] == 'iteration 1/3 · collect  3/4 answers  75%  eta 0:01  debate 52.0 %\n'
    line = shown['display_data']['data']
    assert line['text/plain'] == 'iteration 1/3 · collect  4 answers in 0:03' and 'role="status"' in line['text/html']


def test_quiet_shows_nothing():
    r = subprocess.run([sys.executable, '-c', CODE, 'quiet'], capture_output=True, text=True)
    assert r.stderr == '' and r.stdout.startswith('a result')


def test_tokens_of_a_batch_move_the_line():
    "A batch of one answer in two minutes once showed nothing but 0/3 until it was over."
    from io import StringIO

    from multiagent_ft.method.prompts import GenerationProgress, Request, Sampling
    from multiagent_ft.runs.tracking import Progress

    out, now = StringIO(), 0.0
    requests = [Request((), seed=i, sampling=Sampling(max_new_tokens=100)) for i in range(3)]
    with Progress(file=out, every=5, now=lambda: now).bar(3, 'round 1') as bar:
        batch = GenerationProgress(requests, bar.tokens)
        batch.read(2, of=3)
        assert bar.status() == 'round 1  0/3 answers  0%  eta ?  2 of 3 prompts read'
        for step in range(60):
            now += 1.0
            batch.add({0: [1], 1: [1], 2: [1]}, [0] if step == 30 else [])
        assert bar.status().startswith('round 1  1/3 answers  33%  eta 2:00  180 tokens')
        bar.advance(3)
    lines = out.getvalue().splitlines()
    assert lines[1].startswith('round 1  0/3 answers  0%  eta at most') and '15 tokens' in lines[1]
    assert len(lines) == 13 and lines[-1] == 'round 1  3 answers in 1:00'


def test_words_of_a_debate_come_agent_by_agent():
    from multiagent_ft.method.prompts import GenerationProgress, Request
    from multiagent_ft.runs.tracking import LiveDebate

    shown, said = [], []
    live = LiveDebate(said.append, lambda text, agent, heading=False: shown.append((agent, text)), stages=3)
    requests = [Request((), seed=i, where=('ask', 'q', 1, 'generator', i)) for i in range(2)]
    batch = GenerationProgress(requests, live.watch(requests), decode=lambda ids: 'abcdefghij'[: len(ids)])
    for _ in range(6):
        batch.add({0: [1], 1: [1]})
    assert {agent for agent, _ in shown} == {0} and 'to the end of the debate' in said[0] and len(said) == 1
    batch.add({1: [1]}, [0])
    batch.add({1: [1]}, [1])
    words = {a: ''.join(text for agent, text in shown if agent == a) for a in (0, 1)}
    assert words == {0: '  generator 0\n    abcdef\n', 1: '  generator 1\n    abcdefgh\n'}
    assert [agent for agent, _ in shown] == sorted(agent for agent, _ in shown)


def test_no_outlook_where_no_prompt_fits():
    from multiagent_ft.core import Completion
    from multiagent_ft.method.prompts import GenerationProgress, Request
    from multiagent_ft.runs.tracking import LiveDebate

    said = []
    live = LiveDebate(said.append, stages=1)
    requests = [Request((), seed=0, where=('ask', 'q', 1, 'generator', 0))]
    GenerationProgress(requests, live.watch(requests)).complete(0, Completion('', 'context_overflow', (1, 2)))
    assert said == [] and live.open == [] and len(live.taken) == 1


def test_training_progress_says_how_far_it_is_before_the_first_example_is_complete(capsys):
    from multiagent_ft.runs.tracking import Progress

    clock = count()  # a second passes whenever it is looked at
    with Progress(file=sys.stderr, every=0, now=lambda: next(clock)).bar(3, '1 agent', unit='examples') as bar:
        bar.partly(0.5, '500 of 3,000 tokens')
        bar.advance(3)
    assert '0/3 examples  0%  eta' in capsys.readouterr().err
