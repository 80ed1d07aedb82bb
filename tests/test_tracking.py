"The tracker against killed processes, a full disk, no network, no key and a real (offline) W&B."

import errno, json, os, pty, random, select, signal, struct, subprocess, sys, time
import pytest
from hypothesis import given, settings, strategies as st
from multiagent_ft.core import HIDDEN, MaftError, holds_secret, read_jsonl, redact, scrub, secret_name
from multiagent_ft.runs import tracking
from multiagent_ft.runs.tracking import Tracker, rebuild, repair_last_line, wandb_mode

KEY = 'fedcba98' * 5


def python(code, *args, **env):
    "A process of its own; variables given as None are removed."
    full = {k: v for k, v in {**os.environ, **env}.items() if v is not None}
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, args)],
        env=full,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WRITER = """
import sys
from multiagent_ft.runs.tracking import Tracker
with Tracker(sys.argv[1], wandb='off', config=dict(a=1)) as t:
    while True: print(t.log(dict(event='tick', text='x'*500))['seq'], flush=True)
"""


def test_logged_lines_survive_sigkill(tmp_path):
    rng, acknowledged = random.Random(0), -1
    for _ in range(4):
        p = python(WRITER, tmp_path)
        p.stdout.readline()
        time.sleep(rng.random() / 5)
        p.send_signal(signal.SIGKILL)
        lines = p.stdout.read().split('\n')[:-1]  # the last, perhaps torn, line is no promise
        p.wait()
        p.stderr.close()
        p.stdout.close()
        if lines:
            acknowledged = max(acknowledged, int(lines[-1]))
        with Tracker(tmp_path, wandb='off', config=dict(a=1)) as t:
            t.log(dict(event='alive'))
        rows = read_jsonl(tmp_path / 'metrics.jsonl')
        assert [r['seq'] for r in rows] == list(range(len(rows))) and len(rows) > acknowledged + 1
        assert sum(r['event'] == 'config' for r in rows) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=5),
            st.one_of(st.integers(), st.text(max_size=8), st.floats(allow_nan=False, allow_infinity=False)),
            max_size=3,
        ),
        min_size=1,
        max_size=5,
    ),
    st.data(),
)
def test_truncated_file_keeps_complete_lines(tmp_path_factory, rows, data):
    whole = ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in rows).encode()
    size = data.draw(st.integers(0, len(whole)))
    path = tmp_path_factory.mktemp('truncated') / 'm.jsonl'
    path.write_bytes(whole[:size])
    repair_last_line(path)
    kept = read_jsonl(path)
    assert kept == rows[: len(kept)] and len(kept) >= whole[:size].count(b'\n')
    after = path.read_bytes()
    repair_last_line(path)
    assert path.read_bytes() == after


def test_full_disk_leaves_no_partial_line(tmp_path):
    with Tracker(tmp_path, wandb='off') as t:
        t.log(dict(event='one'))

        class Full:
            name = str(t.path)

            def fileno(self):
                return real.fileno()

            def write(self, data):
                real.write(data[:7])
                raise OSError(errno.ENOSPC, 'No space left on device')

            def close(self):
                real.close()

        real, t._file = t._file, Full()
        with pytest.raises(MaftError, match='Free some room'):
            t.log(dict(event='two'))
        t._file = real
        t.log(dict(event='three'))
    assert [r['event'] for r in read_jsonl(t.path)] == ['one', 'three'] and [r['seq'] for r in read_jsonl(t.path)] == [
        0,
        1,
    ]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(MaftError, match='another folder'), Tracker(tmp_path / 'file' / 'run', wandb='off'):
        pass


def test_corrupt_line_in_the_middle_is_named(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"seq": 0}\nbroken\n{"seq": 2}\n')
    with pytest.raises(MaftError, match='line 2'), Tracker(tmp_path, wandb='off'):
        pass


def test_exception_propagates_and_the_file_is_closed(tmp_path):
    with pytest.raises(KeyError), Tracker(tmp_path, wandb='off') as t:
        t.log(dict(event='one'))
        raise KeyError('mine')
    assert t._file.closed and len(read_jsonl(t.path)) == 1


REAL = (
    """
import sys
from multiagent_ft.runs.tracking import Tracker, rebuild
config = dict(task='arithmetic', settings=dict(hf_token='hf_secretsecretsecret'))
with Tracker(sys.argv[1], wandb='auto', config=config) as t:
    for i in range(3): t.log(dict(event='evaluated', iteration=i, note='key %s', debate=.5 + i/10))
print(t.mirror.mode)
print(rebuild(sys.argv[1], wandb='offline'))
"""
    % KEY
)


def test_wandb_offline_run_is_quiet_complete_and_without_secrets(tmp_path):
    p = python(REAL, tmp_path / 'run', WANDB_MODE='offline', MY_API_KEY=KEY, HOME=str(tmp_path))
    out, err = p.communicate(timeout=120)
    assert p.returncode == 0 and err == '', err
    mode, rebuilt = out.split()
    assert mode == 'offline' and rebuilt.startswith(str(tmp_path / 'run' / 'wandb'))
    made = sorted((tmp_path / 'run' / 'wandb').glob('offline-run-*/*.wandb'))
    assert len(made) == 2
    for f in made:
        data = f.read_bytes()
        assert data.count(b'"evaluated"') >= 3 and b'"arithmetic"' in data and b'0.7' in data
    for f in (tmp_path / 'run').rglob('*'):
        if f.is_file():
            assert KEY.encode() not in f.read_bytes() and b'hf_secret' not in f.read_bytes(), f
    assert not list(tmp_path.glob('wandb')), "W&B's files belong in the run's folder"


def offline_records(file):
    "The records of an offline W&B run: protocol buffers in the framing of a LevelDB log, after seven bytes."
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b''
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # too little for a header: the next block
            at += left
            continue
        _, length, kind = struct.unpack('<IHB', data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b''


def items(updates):
    return {x.key or '/'.join(x.nested_key): json.loads(x.value_json) for x in updates}


RESUMED = """
import sys
from multiagent_ft.runs.tracking import Tracker
with Tracker(sys.argv[1], wandb='offline', config=dict(agents=2), adapters=True) as t:
    for k in range(int(sys.argv[2])):
        agents = {'critic-1': dict(examples=10 * k)}
        t.log(dict(event='iteration', iteration=k, methods=dict(debate=dict(accuracy=.5 + k / 10)), agents=agents))
    t.log(dict(event='done', made=dict(generate=3)))
"""


def test_resumed_wandb_run_is_one_run_and_holds_curves_debates_and_adapters(tmp_path):
    "Two offline runs, the second resumes the first; read back from W&B's own files."
    turn = dict(agent=0, role='generator', round=1, completion=dict(text='It is 7.', finish='stop'), answer=None)
    line = json.dumps(dict(problem=dict(id='p', text='3+4?', gold='7'), turns=[turn])) + '\n'
    for k in range(3):
        (tmp_path / f'iteration-{k}' / 'adapters' / 'critic-1').mkdir(parents=True)
        (tmp_path / f'iteration-{k}' / 'eval.jsonl').write_text(line)
        (tmp_path / f'iteration-{k}' / 'adapters' / 'critic-1' / 'adapter_model.safetensors').write_bytes(b'w')
    for iterations in (2, 3):
        p = python(RESUMED, tmp_path, iterations)
        assert p.wait(120) == 0, p.stderr.read()
    made = sorted((tmp_path / 'wandb').glob('offline-run-*/*.wandb'))
    assert {f.parent.name.rpartition('-')[2] for f in made} == {(tmp_path / 'wandb' / 'id.txt').read_text()}
    records = [r for f in made for r in offline_records(f)]
    points = [items(r.history.item) for r in records if r.HasField('history')]
    assert [p['iteration'] for p in points] == [0, 1, 2], 'the resumed run sends no iteration again'
    assert [p['methods/debate/accuracy'] for p in points] == [0.5, 0.6, 0.7]
    assert [p['agents/critic-1/examples'] for p in points] == [0, 10, 20]
    axes = {(r.metric.name or r.metric.glob_name, r.metric.step_metric) for r in records if r.HasField('metric')}
    assert ('*', 'iteration') in axes
    configured = [items(r.config.update) for r in records if r.HasField('config')]
    assert any(c.get('agents') == 2 for c in configured)
    assert any(items(r.summary.update).get('made/generate') == 3 for r in records if r.HasField('summary'))
    tables = [json.loads(f.read_text()) for f in (tmp_path / 'wandb').rglob('*.table.json')]
    rows = sorted(row for t in tables for row in t['data'])
    assert [row[:3] for row in rows] == [[k, '3+4?', '7'] for k in range(3)] and 'It is 7.' in rows[0][-1]
    kept = [r.artifact for r in records if r.HasField('artifact')] + [
        r.request.log_artifact.artifact for r in records if r.HasField('request')
    ]
    assert any(a.type == 'adapters' and 'iteration-2' in a.aliases for a in kept)


def test_tensorboard_files_hold_the_numbers_by_iteration(tmp_path):
    "Read back from the event file: records of a length, a checksum, an event and a checksum."
    from tensorboardX.proto.event_pb2 import Event

    with Tracker(tmp_path, wandb='off', config=dict(a=1), tensorboard=True) as t:
        for k in (0, 1, 1):
            t.log(dict(event='iteration', iteration=k, methods=dict(debate=dict(accuracy=k / 2))))
        t.log(dict(event='done', made=dict(generate=3)))
    [file] = (tmp_path / 'tensorboard').iterdir()
    data, at, seen = file.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack('<Q', data[at : at + 8])
        event = Event.FromString(data[at + 12 : at + 12 + length])
        seen += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        at += length + 16
    assert seen == [('methods/debate/accuracy', 0, 0.0), ('methods/debate/accuracy', 1, 0.5)]


def test_wandb_key_without_network(tmp_path):
    "Tries, says so in a line, continues offline."
    code = (
        'import sys\nfrom multiagent_ft.runs.tracking import Tracker\nwith Tracker(sys.argv[1], patience=3) as t:'
        " t.log(dict(event='tick'))\nprint(t.mirror.mode)"
    )
    p = python(code, tmp_path, WANDB_MODE=None, WANDB_API_KEY=KEY, WANDB_BASE_URL='http://127.0.0.1:9')
    out, err = p.communicate(timeout=180)
    assert p.returncode == 0 and out.split() == ['offline'], out + err
    assert len(err.strip().splitlines()) == 1 and 'Continuing offline' in err and KEY not in err
    assert (
        len(read_jsonl(tmp_path / 'metrics.jsonl')) == 1
        and len(list((tmp_path / 'wandb').glob('offline-run-*/*.wandb'))) == 1
    )


def test_wandb_without_key_does_not_prompt(tmp_path):
    "`online` without a key, in front of a terminal that W&B might like to ask its question on."
    code = (
        "import sys\nfrom multiagent_ft.runs.tracking import Tracker\nwith Tracker(sys.argv[1], wandb='online') as t:"
        " t.log(dict(event='tick'))\nprint('continued', t.mirror.mode)"
    )
    env = {k: v for k, v in os.environ.items() if k not in ('WANDB_API_KEY', 'WANDB_MODE')} | dict(
        HOME=str(tmp_path), NETRC=str(tmp_path / 'none'), TERM='xterm'
    )
    master, slave = pty.openpty()
    p = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path / 'run')], env=env, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    output, end = b'', time.time() + 120
    while time.time() < end:
        ready, _, _ = select.select([master], [], [], 1)
        try:
            output += os.read(master, 4096) if ready else b''
        except OSError:
            break  # the other side has gone
        if not ready and p.poll() is not None:
            break
    os.close(master)
    assert p.wait(10) == 0, output.decode()
    lines = output.decode().split('\r\n')
    assert lines[-2] == 'continued offline' and len(lines) == 3 and 'wandb login' in lines[0], output.decode()


def test_wandb_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'wandb', None)  # `import wandb` now raises ImportError
    with Tracker(tmp_path, wandb='offline') as t:
        t.log(dict(event='tick'))
    assert t.mirror.mode == 'off' and capsys.readouterr().err.count('\n') == 1
    with pytest.raises(MaftError, match='Nothing local was changed'):
        rebuild(tmp_path, wandb='offline')


def test_wandb_upload_timeout(tmp_path):
    notices = []

    class Slow:
        id = 'slow'

        def log(self, *a, **k):
            pass

        def finish(self, **k):
            time.sleep(30)

    with Tracker(tmp_path, wandb='off', say=notices.append, patience=0.1) as t:
        t.mirror.run = Slow()
    assert len(notices) == 1 and 'still uploading' in notices[0]


def test_failed_run_has_wandb_exit_code(tmp_path):
    codes = []

    class Run:
        id = 'r'

        def log(self, *a, **k):
            pass

        def finish(self, exit_code):
            codes.append(exit_code)

    for fails in (False, True):
        try:
            with Tracker(tmp_path, wandb='off') as t:
                t.mirror.run = Run()
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    assert codes == [0, 1]


def test_rebuild_without_a_run(tmp_path):
    with pytest.raises(MaftError, match='no such file'):
        rebuild(tmp_path)
    (tmp_path / 'metrics.jsonl').write_text('')
    with pytest.raises(MaftError, match='switched off'):
        rebuild(tmp_path, wandb='off')


def test_config_is_logged_again_when_it_changes(tmp_path):
    for c in (dict(L=1), dict(L=1), dict(L=2), None, dict(L=2)):
        with Tracker(tmp_path, wandb='off', config=c):
            pass
    assert [r['config'] for r in read_jsonl(tmp_path / 'metrics.jsonl')] == [dict(L=1), dict(L=2)]


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
        lambda x: st.one_of(st.lists(x, max_size=3), st.dictionaries(st.text(max_size=10), x, max_size=3)),
        max_leaves=10,
    )
)
def test_redaction_is_json_and_idempotent(o):
    r = redact(o)
    json.dumps(r, allow_nan=False)
    assert redact(r) == r


@pytest.mark.parametrize(
    'name,secret',
    [
        ('HF_TOKEN', True),
        ('openai_api_key', True),
        ('apiKey', True),
        ('Password', True),
        ('client_secret', True),
        ('authorization', True),
        ('private_key', True),
        ('tokens', False),
        ('token_ids', False),
        ('pad_token', False),
        ('key', False),
        ('keys', False),
        ('max_new_tokens', False),
        ('tokenizer', False),
        ('first_token', False),
    ],
)
def test_secret_names(name, secret):
    assert secret_name(name) is secret


def test_environment_secrets_are_redacted():
    env = dict(WANDB_API_KEY=KEY, SHORT_TOKEN='abc', HARMLESS='nothing here')
    assert scrub(f'fetch https://host/{KEY}/x', env) == f'fetch https://host/{HIDDEN}/x'
    assert scrub('abc nothing here', env) == 'abc nothing here'


def test_wandb_modes():
    with pytest.raises(MaftError):
        wandb_mode('on')
    with pytest.raises(MaftError):
        Tracker('/nowhere', wandb='perhaps')
    assert tracking.WANDB_MODES == ('auto', 'online', 'offline', 'off')


def test_names_ending_in_key_are_not_secrets():
    for text in ('data/task-of-2026-11-28-again', 'disk-quota-exceeded-twice', 'xhf_abcdefghijklmnopqrst'):
        assert not holds_secret(text), text
    for text in ('sk-of-2026-11-28-again-x', 'a=hf_abcdefghijklmnopqrst', '/hf_abcdefghijklmnopqrst/'):
        assert holds_secret(text), text


def test_wandb_environment_variables(tmp_path):
    code = """
import sys
from multiagent_ft.runs.tracking import Tracker
with Tracker(sys.argv[1], wandb='offline') as t:
    run = t.mirror.run
    print(run.project, run.group, run.name)
"""
    names = dict(WANDB_PROJECT='mine', WANDB_RUN_GROUP='our-group', WANDB_NAME='third-try')
    p = python(code, tmp_path / 'run', **names)
    out, err = p.communicate(timeout=120)
    assert out.split() == ['mine', 'our-group', 'third-try'], err
    p = python(code, tmp_path / 'run2', **dict.fromkeys(names))
    out, err = p.communicate(timeout=120)
    assert out.split() == ['multiagent-ft', 'run2', 'run2'], err


def test_what_wandb_disabled_wrote_down_is_respected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('WANDB_CONFIG_DIR', str(tmp_path / 'user'))
    key = dict(WANDB_API_KEY='k' * 40)
    assert wandb_mode('auto', key) == 'online'
    (tmp_path / 'wandb').mkdir()
    for written, mode in [('disabled', 'off'), ('offline', 'offline'), ('online', 'online')]:
        (tmp_path / 'wandb' / 'settings').write_text(f'[default]\nmode = {written}\n')
        assert wandb_mode('auto', key) == mode and wandb_mode('auto', key | dict(WANDB_MODE='offline')) == 'offline'
    (tmp_path / 'wandb' / 'settings').write_bytes(b'\xff no settings')
    assert wandb_mode('auto', key) == 'online'
