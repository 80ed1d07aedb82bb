"""The command line as a user meets it: each test starts a process of its own. Bad input ends with exit code 2 and one
or two lines."""

import errno, json, os, pty, re, signal, subprocess, sys, time
from unittest.mock import ANY
from pathlib import Path
import pytest
from conftest import ROOT, maft
from making import HEAVY, drawn

FAST = (
    'train=6 eval=4 iterations=1 workers=0 wandb=off max_new_tokens=8 summary_max_new_tokens=8 batch_size=8 samples=3'
    ' device=cpu'.split()
)
SETS = [x for s in FAST for x in ('--set', s)]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A random model of ordinary architecture: quick, and wrong about everything."
    from tiny_models import make

    return make('llama', tmp_path_factory.mktemp('models') / 'llama')


@pytest.fixture(scope='module')
def finished(tmp_path_factory, tiny):
    "(folder above, the process that made runs/one in it)."
    root = tmp_path_factory.mktemp('finished')
    return root, maft('run', '--model', tiny, *SETS, '--out', 'runs/one', cwd=root)


def debate_on(model, question):
    "Arguments of a short debate of two agents."
    return ['debate', question, '--model', model, '--agents', '2', '--set', 'max_new_tokens=6', '--set', 'device=cpu']


def refused(p, *parts):
    "Exit code 2, and after `error:` at most two lines which hold `parts`."
    assert p.returncode == 2, p.stdout + p.stderr
    assert 'Traceback' not in p.stderr and p.stdout == ''
    message = p.stderr[p.stderr.index('error: ') :].rstrip('\n')
    assert len(message.splitlines()) <= 2 and len(message) < 700, message
    for part in parts:
        assert part in message, message
    return message


def here(monkeypatch, capfd, *args, cwd=None):
    "The command line without a process of its own: for what is refused before anything is loaded."
    from multiagent_ft.cli import main

    monkeypatch.setattr(sys, 'argv', ['maft', *map(str, args)])
    if cwd:
        monkeypatch.chdir(cwd)
    with pytest.raises(SystemExit) as e:
        main()
    out, err = capfd.readouterr()
    return subprocess.CompletedProcess(args, e.value.code, out, err)


# Immediate answers


def test_help_and_version(run_maft, monkeypatch, capfd):
    import multiagent_ft

    p = run_maft('--help', fresh=True)
    assert (
        p.returncode == 0
        and p.stderr == ''
        and all(c in p.stdout for c in ('run', 'plan', 'eval', 'debate', 'explain', 'config', 'store', 'nano'))
    )
    v = run_maft('--version', fresh=True)
    assert (
        v.returncode == 0
        and v.stdout.splitlines()[0] == f'maft {multiagent_ft.__version__}'
        and 'torch' in v.stdout.splitlines()[1]
    )
    assert run_maft().returncode == 2  # nothing asked: the help page, and not a success
    for command in (
        'run',
        'plan',
        'eval',
        'debate',
        'explain',
        'config',
        'store',
        'store ls',
        'nano train',
        'nano measure',
    ):
        assert here(monkeypatch, capfd, *command.split(), '--help').returncode == 0


def test_help_imports_no_torch():
    code = f"""import sys
from multiagent_ft.cli import main
for line in '--help', '--version', 'run --help', 'config', 'config --agents 4', 'run --agents 1':
    args = line.split()
    sys.argv = ['maft', *args]
    try: main()
    except SystemExit: pass
print('HEAVY', [m for m in {sorted(HEAVY | {'numpy', 'sympy'})!r} if m in sys.modules])"""
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert p.stdout.splitlines()[-1] == 'HEAVY []', p.stdout[-300:] + p.stderr


def test_readme_commands_exist(monkeypatch, capfd):
    readme = (ROOT / 'README.md').read_text()
    commands = set(re.findall(r'\bmaft ([a-z]+)\b', readme))
    assert {'run', 'debate', 'plan'} <= commands
    for command in commands:
        assert here(monkeypatch, capfd, command, '--help').returncode == 0, command


def parsed(line):
    "The command that an example of the help page would call, and what it would be given; typer raises what is wrong."
    import shlex

    import typer
    from multiagent_ft.cli import app

    command, args = typer.main.get_command(app), shlex.split(line.partition(' > ')[0])[1:]
    with command.make_context('maft', args) as context:
        while hasattr(command, 'resolve_command'):
            name, command, args = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, args, parent=context)
    return command.name, context.params


def test_every_command_has_examples_that_parse(monkeypatch, capfd):
    import typer
    from multiagent_ft.cli import EXAMPLES, app

    top = typer.main.get_command(app).commands
    commands = {f'{name} {sub}' for name in ('store', 'nano') for sub in top[name].commands}
    assert set(EXAMPLES) == commands | set(top) - {'store', 'nano'}
    for name, lines in EXAMPLES.items():
        assert all(parsed(line)[0] == name.split()[-1] for line in lines)
        shown = here(monkeypatch, capfd, *name.split(), '--help').stdout
        assert 'Examples:' in shown and f'maft {name}' in shown
    assert parsed('maft plan --agents 5 --json')[1]['agents'] == '5'


@pytest.mark.parametrize(
    'words, found',
    [
        ('maft re', ['recipes', 'report', 'reproduce']),
        ('maft run --recipe multiagent-d', ['multiagent-dpo']),
        ('maft run --task sv', ['svamp']),
        ('maft run --executor s', ['shared']),
        ('maft compare union-f', ['union-ft', 'union-ft-equal', 'union-ft-greedy']),
        ('maft run --qui', ['--quick', '--quiet']),
        ('maft run --task my.', []),  # then the shell offers files
    ],
)
def test_shell_completion(monkeypatch, capfd, words, found):
    last = len(words.split(' ')) - 1
    for name, value in dict(_MAFT_COMPLETE='complete_bash', COMP_WORDS=words, COMP_CWORD=str(last)).items():
        monkeypatch.setenv(name, value)
    assert sorted(here(monkeypatch, capfd).stdout.split()) == found


@pytest.mark.parametrize('shell, line', [('bash', 'complete -o default'), ('zsh', '#compdef'), ('fish', 'complete -')])
def test_completion_scripts(monkeypatch, capfd, shell, line):
    monkeypatch.setattr('typer.completion._get_shell_name', lambda: shell)  # or it finds the one we were started from
    shown = here(monkeypatch, capfd, '--show-completion').stdout
    assert line in shown and '_MAFT_COMPLETE' in shown


# Bad input that is seen before anything is loaded


@pytest.mark.parametrize(
    'args, parts',
    [
        (['--agents', '1'], ['critic', '2 or more agents']),
        (['--rounds', '0'], ['rounds is 0 (--rounds)', '1 or more']),
        (['--agents', '0'], ['agents is 0']),
        (['--agents', 'three'], ['agents is three']),
        (['--train', '-5'], ['train is -5']),
        (['--eval', '-1'], ['eval is -1']),
        (['--iterations', '-1'], ['iterations is -1']),
        (['--eval', '0'], ['eval is 0']),
        (['--set', 'agnets=5'], ['unknown key agnets', 'did you mean agents?']),
        (['--set', 'w=2'], ['w is 2', 'from 0 to 1']),
        (['--set', 'seed'], ['KEY=VALUE']),
        (['--config', 'absent.yaml'], ['absent.yaml', 'No such file']),
        (['--config', 'broken.yaml'], ['broken.yaml, line 2', 'not valid YAML']),
        (['--config', 'unknown.yaml'], ['unknown.yaml, line 1', 'did you mean learning_rate?']),
        (['--device', 'tpu'], ['device is tpu', 'auto, cpu, mps, cuda']),
    ],
)
def test_bad_settings(tmp_path, monkeypatch, capfd, args, parts):
    (tmp_path / 'broken.yaml').write_text('seed: 1\nagents: [3\n')
    (tmp_path / 'unknown.yaml').write_text('learnin_rate: 1\n')
    refused(here(monkeypatch, capfd, 'run', *args, cwd=tmp_path), *parts)
    assert {f.name for f in tmp_path.iterdir()} == {'broken.yaml', 'unknown.yaml'}  # nothing was begun


def test_secret_token_is_not_echoed(run_maft):
    token = 'hf_' + 'Zx9' * 10
    assert token not in refused(run_maft('run', '--set', f'project={token}'), 'HF_TOKEN')


@pytest.mark.parametrize(
    'args', [['run', '--bogus'], ['run', '--agents'], ['nonsense'], ['eval'], ['debate'], ['store', 'prune']]
)
def test_bad_flags(monkeypatch, capfd, args):
    p = here(monkeypatch, capfd, *args)
    assert p.returncode == 2 and 'Traceback' not in p.stderr


@pytest.mark.parametrize(
    'args, parts',
    [
        (['eval', 'absent'], ['absent holds no finished iteration', 'maft run --out absent']),
        (['debate', 'What is 1+1?', '--run', 'absent'], ['absent']),
        (['debate', ' '], ['empty']),
        (['debate', 'What is 1+1?', '--iteration', '2'], ['--run']),
        (['debate', 'What is 1+1?', '--run', 'absent', '--agents', '5'], ['--run', 'leave out']),
        (['store', 'ls'], ['no store at runs/store']),
        (['store', 'verify', '--store', 'x'], ['no store at x']),
    ],
)
def test_bad_names(tmp_path, monkeypatch, capfd, args, parts):
    refused(here(monkeypatch, capfd, *args, cwd=tmp_path), *parts)


# Bad input that is seen before anything is generated


@pytest.mark.parametrize(
    'args, parts',
    [
        (['--task', 'arithmetik'], ['arithmetik', 'did you mean arithmetic']),
        (['--recipe', 'magic'], ['magic', 'multiagent-ft']),
        (['--model', 'empty'], ['empty', 'not a model folder']),
        (['--model', './absent'], ['absent', 'no such folder']),
        (['--out', 'full'], ['full', 'not a run folder']),
        (['--task', 'quiz/few.jsonl'], ['task few has 1 question ', 'beside the 4 to evaluate on', '6 are asked for']),
        (['--task', 'quiz/broken.yaml'], ['broken.jsonl, line 2, column 32', 'not valid JSON']),
        (['--task', 'quiz/broken.csv'], ['broken.csv, line 3', '3 cells', 'header has 2']),
        (['--task', 'quiz/latin.csv'], ['latin.csv, line 2, byte 2', 'not UTF-8']),
        (['--task', 'quiz/unread.yaml'], ['few.jsonl, line 1', 'column word', "'one'", 'unreadable: skip']),
        (['--task', 'quiz/column.yaml'], ['few.jsonl, line 1', "no column 'solution'", 'question, answer, word']),
        (['--task', 'quiz/empty.csv'], ['empty.csv', 'no questions']),
    ],
)
def test_bad_run(tmp_path, monkeypatch, capfd, args, parts):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'quiz').mkdir()
    for name, raw in {
        'few.jsonl': ''.join(json.dumps(dict(question=f'{i}+1?', answer=i + 1, word='one')) + '\n' for i in range(5)),
        'few.yaml': 'data: few.jsonl\n',
        'broken.yaml': 'data: broken.jsonl\n',
        'unread.yaml': 'data: few.jsonl\nanswer: word\n',
        'column.yaml': 'data: few.jsonl\nanswer: solution\n',
        'broken.jsonl': '{"question": "1+1?", "answer": 2}\n{"question": "2+2?", "answer": }\n',
        'broken.csv': 'question,answer\nx,1\ny,2,3\n',
        'latin.csv': 'question,answer\no\xf9?,1\n',
        'empty.csv': 'question,answer\n',
    }.items():
        (tmp_path / 'quiz' / name).write_text(raw, encoding='latin-1')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').write_text('precious')
    refused(here(monkeypatch, capfd, 'run', *args, *SETS, cwd=tmp_path), *parts)
    assert (tmp_path / 'full' / 'mine.txt').read_text() == 'precious' and len(list((tmp_path / 'full').iterdir())) == 1


def test_model_without_chat_template(tmp_path, tiny, monkeypatch, capfd):
    import shutil

    shutil.copytree(tiny, tmp_path / 'mute')
    (tmp_path / 'mute' / 'chat_template.jinja').unlink(missing_ok=True)
    f = tmp_path / 'mute' / 'tokenizer_config.json'
    f.write_text(json.dumps({k: v for k, v in json.loads(f.read_text()).items() if k != 'chat_template'}))
    refused(
        here(monkeypatch, capfd, 'run', '--model', 'mute', *SETS, cwd=tmp_path), 'chat template', 'chat_template=FILE'
    )
    refused(
        here(monkeypatch, capfd, 'run', '--model', 'mute', *SETS, '--set', 'chat_template=absent.jinja', cwd=tmp_path),
        'absent.jinja',
    )


# A run and what comes after


def test_run(finished):
    root, p = finished
    assert p.returncode == 0, p.stderr
    assert 'iteration' in p.stdout and 'runs/one/summary.json' in p.stdout
    assert '\x1b' not in p.stderr + p.stdout and 'iteration 1/1 · ' in p.stderr and 'Warning' not in p.stderr
    s = json.loads((root / 'runs' / 'one' / 'summary.json').read_text())
    assert [i['iteration'] for i in s['iterations']] == [0, 1]
    assert (root / 'runs' / 'store').is_dir()


def test_second_run_is_a_no_op_and_changed_settings_are_refused(finished, tiny, monkeypatch, capfd):
    root, _ = finished
    again = here(monkeypatch, capfd, 'run', '--model', tiny, *SETS, '--out', 'runs/one', cwd=root)
    assert again.returncode == 0 and '0 generations, 0 training steps' in again.stdout
    how = ['--json', '--quiet']
    page = here(monkeypatch, capfd, 'run', '--model', tiny, *SETS, '--out', 'runs/one', *how, cwd=root)
    found = json.loads(page.stdout)
    assert page.stderr == '' and found['made'] == {} and found['folder'] == 'runs/one' and len(found['iterations']) == 2
    refused(
        here(monkeypatch, capfd, 'run', '--model', tiny, *SETS, '--out', 'runs/one', '--seed', '1', cwd=root),
        'runs/one',
        'seed 0 -> 1',
        '--out',
    )


def test_eval(finished, monkeypatch, capfd):
    root, _ = finished
    p = maft('eval', 'runs/one', '--json', '--workers', '0', cwd=root)
    assert p.returncode == 0, p.stderr
    s = json.loads(p.stdout)  # JSON and nothing else
    assert p.returncode == 0 and [i['iteration'] for i in s['iterations']] == [0, 1] and s['eval'] == 4
    refused(here(monkeypatch, capfd, 'eval', 'runs/one', '--iteration', '7', cwd=root), 'no 7')
    refused(here(monkeypatch, capfd, 'eval', 'runs/one', '--task', 'wordz', cwd=root), 'wordz')


def test_debate(finished, monkeypatch, capfd):
    root, _ = finished
    p = here(monkeypatch, capfd, 'debate', 'What is the result of 1+2*3+4-5*6?', '--run', 'runs/one', cwd=root)
    assert p.returncode == 0 and p.stdout.startswith('What is the result of 1+2*3+4-5*6?'), p.stderr
    assert (
        all(
            s in p.stdout
            for s in ('round 1', 'generator 0', 'generator 2', 'round 2', 'critic 0 reads', 'critic 2', 'vote: ')
        )
        and '\x1b' not in p.stdout
    )
    # the same seed, the same words
    assert (
        p.stdout
        == here(
            monkeypatch, capfd, 'debate', 'What is the result of 1+2*3+4-5*6?', '--run', 'runs/one', cwd=root
        ).stdout
    )
    refused(here(monkeypatch, capfd, 'debate', 'x', '--run', 'runs/one', '--iteration', '5', cwd=root), 'no 5')
    q = here(monkeypatch, capfd, 'debate', 'What is 1+2?', '--run', 'runs/one', '--json', '--quiet', cwd=root)
    page = json.loads(q.stdout)
    assert q.stderr == '' and len(page['transcript']['turns']) == 9 and page['vote']['cast'] <= 3


def test_debate_untrained_colours_and_escapes(tiny, tmp_path):
    "Each agent has its colour; bytes that are no text and codes that move the cursor do no harm."
    leader, follower = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != 'NO_COLOR'} | dict(TERM='xterm-256color', COLUMNS='100')
    p = subprocess.Popen(
        [
            Path(sys.executable).with_name('maft'),
            *debate_on(tiny, b'caf\xe9 \xf0\x9f\xa6\x86 \x1b[2J?'),
        ],
        stdout=follower,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        env=env,
    )
    os.close(follower)
    colours = drawn(leader)
    assert p.wait() == 0, p.stderr.read()
    assert b'\x1b[1;36m  generator 0' in colours and b'\x1b[1;35m  generator 1' in colours
    assert b'round 1, answers: ' in colours and b'to the end of the debate' in colours  # how long, before the words
    assert 'caf? 🦆 ·[2J?'.encode() in colours and b'\x1b[2J' not in colours
    assert not list(tmp_path.iterdir())  # nothing is written


def test_config(run_maft, tmp_path):
    from multiagent_ft.runs.settings import Config, load_config

    p = run_maft('config')
    assert p.returncode == 0 and all(k in p.stdout for k in Config.model_fields)
    y = run_maft('config', '--agents', '4', '--no-summary', '--set', 'w=0.3')
    (tmp_path / 'c.yaml').write_text(y.stdout)
    assert load_config(tmp_path / 'c.yaml') == load_config(flags=dict(agents=4, summary=False), sets=['w=0.3'])
    q = run_maft('config', '--quick')
    assert 'train: 48' in q.stdout and 'iterations: 1' in q.stdout
    assert json.loads(run_maft('config', '--agents', '4', '--json').stdout)['debate']['agents'] == 4
    assert {'key', 'default', 'meaning'} <= set(json.loads(run_maft('config', '--json').stdout)[0])
    recipes = json.loads(run_maft('recipes', '--json').stdout)
    assert {'multiagent-ft', 'union-ft'} <= {r['recipe'] for r in recipes} and recipes[0]['source']


def test_json_of_compare_its_plan_and_diversity_is_one_document_on_stdout(finished, tiny, monkeypatch, capfd):
    root, _ = finished

    def page(*args):
        p = here(monkeypatch, capfd, *args, '--json', cwd=root)
        assert p.returncode == 0, p.stderr
        return json.loads(p.stdout)

    study = ['compare', 'base', '--model', tiny, *SETS, '--seeds', '1', '--out', 'study']
    assert page(*study, '--plan') == dict(folder='study', plan=ANY) and not (root / 'study' / 'table.md').exists()
    found = page(*study)
    assert found['folder'] == 'study' and [row['recipe'] for row in found['rows']] == ['base']
    assert [row['iteration'] for row in page('diversity', 'runs/one', '--questions', '2')] == [0, 1]


def test_store(finished, monkeypatch, capfd):
    def maft(*args, **kw):
        return here(monkeypatch, capfd, *args, **kw)

    root, _ = finished
    listed = maft('store', 'ls', cwd=root)
    assert listed.returncode == 0 and 'generate' in listed.stdout and 'finished jobs' in listed.stdout.splitlines()[-1]
    entries = json.loads(maft('store', 'ls', '--json', cwd=root).stdout)
    assert len(entries) == len(listed.stdout.splitlines()) - 1 and {'kind', 'digest', 'bytes', 'time'} == set(
        entries[0]
    )
    assert maft('store', 'verify', cwd=root).stdout.strip().endswith('0 corrupted.')
    kept = maft('store', 'prune', 'runs/one', cwd=root)
    assert kept.returncode == 0 and 'Nothing was removed' in kept.stdout
    assert maft('store', 'ls', cwd=root).stdout == listed.stdout
    refused(maft('store', 'prune', 'nowhere', cwd=root), 'nowhere')


def test_store_verify_names_corrupt_entry(finished, tmp_path, monkeypatch, capfd):
    import shutil

    shutil.copytree(finished[0] / 'runs' / 'store', tmp_path / 'store')
    victim = next((tmp_path / 'store').rglob('completions.jsonl'))
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes() + b' ')
    p = here(monkeypatch, capfd, 'store', 'verify', '--store', tmp_path / 'store')
    assert p.returncode == 1 and f'corrupted: {victim.parent}' in p.stdout and '1 corrupted' in p.stdout


def test_plan(tiny, tmp_path, monkeypatch, capfd):
    p = here(monkeypatch, capfd, 'plan', '--model', tiny, *SETS, '--questions', '2', cwd=tmp_path)
    # 6 x 9 + 2 x 4 x 9; two questions of three agents do not fill a batch of 8
    assert (
        p.returncode == 0
        and p.stdout.startswith('126 answers')
        and 'training steps' in p.stdout
        and 'memory' in p.stdout
        and '(estimated from 3 questions)' in p.stdout
    ), p.stdout
    assert not list(tmp_path.iterdir())
    page = here(monkeypatch, capfd, 'plan', '--model', tiny, *SETS, '--questions', '2', '--json', cwd=tmp_path)
    assert sum(json.loads(page.stdout)['answers'].values()) == 126
    refused(here(monkeypatch, capfd, 'plan', '--task', 'poems', cwd=tmp_path), 'poems')


def test_plan_of_a_base_in_bfloat16(tiny, tmp_path):
    "Adapters in float32 on a base in bfloat16 once ended the plan with a traceback: training was measured fused."
    from multiagent_ft.runs.plan import make_plan
    from multiagent_ft.runs.settings import Config

    small = dict(train=6, eval=4, iterations=1, batch_size=8, max_new_tokens=8, summary_max_new_tokens=8)
    cfg = Config(model=str(tiny), dtype='bfloat16', workers=0, out=tmp_path / 'x', min_support=1, **small)
    assert make_plan(cfg, seconds=4)['tokens_generated'] > 0


def test_explain(finished, tmp_path, monkeypatch, capfd):
    import shutil

    shutil.copytree(finished[0] / 'runs', tmp_path / 'runs')  # also from another place
    p = here(monkeypatch, capfd, 'explain', 'runs/one', cwd=tmp_path)
    assert p.returncode == 0 and p.stdout.rstrip().endswith('Every step was checked and fits.'), p.stdout
    s = json.loads((tmp_path / 'runs' / 'one' / 'summary.json').read_text())
    assert (
        all(f'iteration {i["iteration"]}\n' in p.stdout for i in s['iterations'])
        and 'torch' in p.stdout
        and 'model.safetensors' in p.stdout
    )
    page = json.loads(here(monkeypatch, capfd, 'explain', 'runs/one', '--json', cwd=tmp_path).stdout)
    assert page['faults'] == [] and page['lines'] == p.stdout.splitlines()[:-2]
    s['iterations'][0]['methods']['debate']['accuracy'] += 0.25
    (tmp_path / 'runs' / 'one' / 'summary.json').write_text(json.dumps(s))
    victim = next((tmp_path / 'runs' / 'store').rglob('completions.jsonl')).parent
    shutil.rmtree(victim)
    q = here(monkeypatch, capfd, 'explain', 'runs/one', cwd=tmp_path)
    assert (
        q.returncode == 1
        and 'does not fit: iteration 0: debate' in q.stdout
        and f'{victim.name[:12]}: not in the store' in q.stdout
    )
    refused(here(monkeypatch, capfd, 'explain', 'nowhere', cwd=tmp_path), 'nowhere holds no run')


# Endings


def start(*args, cwd):
    return subprocess.Popen(
        [Path(sys.executable).with_name('maft'), *map(str, args)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize('workers', [pytest.param(0, marks=pytest.mark.slow), 2])
def test_ctrl_c_is_one_line_and_resumes(finished, tiny, tmp_path, workers):
    sets = [s for s in SETS if not s.startswith('workers')] + ['workers=%d' % workers]
    sets = [x for s in sets if s != '--set' for x in ('--set', s)]
    p = start('run', '--model', tiny, *sets, '--out', 'runs/one', cwd=tmp_path)
    seen = []
    for line in p.stderr:  # until the work has begun
        seen.append(line)
        if 'answers' in line:
            break
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 130, ''.join(seen) + err
    assert (
        'Traceback' not in err
        and err.splitlines()[-1] == 'stopped. Finished work is kept; the same command continues from there.'
    )
    q = maft('run', '--model', tiny, *SETS, '--out', 'runs/one', cwd=tmp_path)  # by itself, without workers
    assert q.returncode == 0, q.stderr
    one = finished[0] / 'runs' / 'one'
    assert (tmp_path / 'runs' / 'one' / 'summary.json').read_bytes() == (one / 'summary.json').read_bytes()


def test_ctrl_c_in_nano_train(tmp_path):
    p = start('nano', 'train', 'dwarf', cwd=tmp_path)
    while not (tmp_path / 'dwarf').exists():
        assert p.poll() is None, p.stderr.read()
        time.sleep(0.1)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and 'Traceback' not in err, err
    assert err.splitlines()[-1] == 'stopped. Finished work is kept; the same command continues from there.'


def test_full_disk_is_one_line(tmp_path, tiny, monkeypatch, capfd):
    "The disk is full from the first file on: the error is one line."

    def fsync(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', fsync)
    refused(
        here(monkeypatch, capfd, 'run', '--model', tiny, *SETS, '--out', 'runs/one', cwd=tmp_path),
        'no room left in the store',
        'nothing done so far is lost',
    )


def test_unexpected_exception_keeps_its_traceback():
    code = """import sys, multiagent_ft.cli as c
@c.app.command()
def buggy(): 1/0
sys.argv = ['maft', 'buggy']
c.main()"""
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (
        p.returncode == 1
        and 'ZeroDivisionError' in p.stderr
        and 'Traceback' in p.stderr
        and p.stderr.rstrip().endswith('/issues')
    )


def test_broken_pipe_ends_quietly():
    "The reader of the pipe has closed it before the first line."
    r, w = os.pipe()
    os.close(r)
    try:
        p = subprocess.run(
            [Path(sys.executable).with_name('maft'), 'config'],
            stdin=subprocess.DEVNULL,
            stdout=w,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    finally:
        os.close(w)
    assert p.returncode == 1 and p.stderr == ''


def test_store_prune_removes_only_with_yes(finished, tmp_path, monkeypatch, capfd):
    import shutil
    from multiagent_ft.runs.store import Store

    shutil.copytree(finished[0] / 'runs', tmp_path / 'runs')
    extra = Store(tmp_path / 'runs' / 'store').job(
        'generate', dict(used='by no run'), lambda folder: (folder / 'x').write_text('x')
    )
    shown = here(monkeypatch, capfd, 'store', 'prune', 'runs/one', cwd=tmp_path)
    assert shown.returncode == 0 and extra.exists() and '1 of ' in shown.stdout
    gone = here(monkeypatch, capfd, 'store', 'prune', 'runs/one', '--yes', cwd=tmp_path)
    assert gone.returncode == 0 and gone.stdout.strip().endswith('Removed.') and not extra.exists()
    assert here(monkeypatch, capfd, 'store', 'verify', cwd=tmp_path).stdout.strip().endswith(' 0 corrupted.')


def test_debate_kind_and_seed_flags(tiny, tmp_path, monkeypatch, capfd):
    def debated(*more):
        return here(
            monkeypatch,
            capfd,
            *debate_on(tiny, 'Which? (A) one (B) two'),
            *more,
            cwd=tmp_path,
        ).stdout

    assert debated() == debated('--seed', '0') != debated('--seed', '1')
    refused(
        here(monkeypatch, capfd, 'debate', 'Which?', '--model', tiny, '--kind', 'colour', cwd=tmp_path),
        'colour',
        'number, math, choice',
    )


def test_compare_end_to_end(tiny, tmp_path, monkeypatch, capfd):
    args = (
        'compare',
        'base',
        'debate',
        '--model',
        tiny,
        '--train',
        '2',
        '--eval',
        '4',
        '--seeds',
        '2',
        '--agents',
        '2',
        *SETS,
        '--out',
        'c',
    )
    p = here(monkeypatch, capfd, *args, cwd=tmp_path)
    assert (
        p.returncode == 0
        and '/8' in p.stdout
        and 'Tokens generated: ' in p.stdout
        and 'Results: c/table.md' in p.stdout
    ), p.stdout + p.stderr
    assert 'Nothing was left to do: 0 generations' in here(monkeypatch, capfd, *args, cwd=tmp_path).stdout


@pytest.mark.parametrize('width', [40, 60, 80, 200])
def test_tables_cut_no_head_in_a_narrow_terminal(width, capsys):
    "Two methods that begin alike stay apart at any width."
    from multiagent_ft.cli import print_rows

    rows = [
        ['iteration', 'majority', 'majority_9', 'debate', 'examples per agent'],
        ['0', *['65.2 ± 2.1'] * 3, '9 9 9'],
    ]
    print_rows(rows, width=width)
    lines = capsys.readouterr().out.splitlines()
    assert '…' not in ''.join(lines) and max(map(len, lines)) <= width
    if width >= 60:
        assert '65.2' in ''.join(lines) and 'majority_9' in ''.join(lines)


def test_typed_in_a_jupyter_kernel_returns_tables_and_prints_nothing():
    "There rich writes into the page, unless it is told not to."
    import nbformat
    from nbclient import NotebookClient

    code = 'from multiagent_ft.cli import typed\ndone = typed("maft recipes")'
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(x) for x in (code, 'print(done.stdout)')])
    NotebookClient(page, timeout=120, kernel_name='python3', resources=dict(metadata=dict(path=str(ROOT)))).execute()
    silent, shown = (cell.outputs for cell in page.cells)
    assert silent == []
    assert 'multiagent-ft' in shown[0].text
