"""Programs in processes of their own that need not import torch each: a server imports the heavy libraries once, then
forks for each program, which does its own work, with its own environment, folder and output, and exits as it would.

    python tests/forking.py REQUESTS REPLIES     (file descriptors; started by `Forks`)

What forks share is the imported libraries and the hash seed. Programs whose environment would change what an import
does, and tests of imports, start times or signals, start a process the ordinary way.
"""

import json, os, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What libraries read when they are imported.
AT_IMPORT = ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'HF_HUB_OFFLINE', 'HF_HOME', 'MPLBACKEND', 'PYTHONPATH')
NOTEBOOK = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
cfg = get_config()
ok, _ = test_nb(Path(sys.argv[1]), skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)
sys.exit(not ok)
"""
MAFT = 'from multiagent_ft.cli import main; main()'


class Forks:
    "A server, and the programs it runs, one at a time."

    def __init__(self):
        self.cpu = 0.0  # seconds its programs took
        self.env = {k: os.environ.get(k) for k in AT_IMPORT}
        mine, theirs = os.pipe(), os.pipe()
        command = [sys.executable, __file__, str(mine[0]), str(theirs[1])]
        self.server = subprocess.Popen(command, cwd=ROOT, pass_fds=(mine[0], theirs[1]), stdin=subprocess.DEVNULL)
        os.close(mine[0])
        os.close(theirs[1])
        self.requests, self.replies = os.fdopen(mine[1], 'w'), os.fdopen(theirs[0])

    def can_run(self, env: dict) -> bool:
        return all(env.get(k) == v for k, v in self.env.items())

    def run(self, code: str, *args, cwd=None, env=None, timeout: int = 600) -> subprocess.CompletedProcess:
        "Run the Python program `code` with `args`: what `subprocess.run([sys.executable, '-c', code, *args])` returns."
        with tempfile.TemporaryDirectory() as d:
            request = dict(code=code, args=[str(a) for a in args], cwd=str(cwd or os.getcwd()), timeout=timeout)
            request |= dict(env=dict(os.environ if env is None else env), out=f'{d}/out', err=f'{d}/err')
            print(json.dumps(request), file=self.requests, flush=True)
            status, cpu = self.replies.readline().split()
            self.cpu += float(cpu)
            out, err = (Path(d, name).read_text(encoding='utf-8') for name in ('out', 'err'))
        return subprocess.CompletedProcess([code, *args], os.waitstatus_to_exitcode(int(status)), out, err)

    def close(self):
        self.requests.close()
        self.server.wait(timeout=60)


def preload():
    import datasets, matplotlib, peft, torch, transformers, trl  # noqa: F401
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401
    from peft import PeftModel  # noqa: F401
    from trl import SFTTrainer  # noqa: F401


def become(request: dict):
    "The forked process: output, folder and environment of the program."
    for path, fd in ((request['out'], 1), (request['err'], 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, fd)
        os.close(file)
    os.environ.clear()
    os.environ.update(request['env'])
    os.chdir(request['cwd'])
    sys.path[0] = ''  # as `python -c` has it
    sys.argv = ['-c', *request['args']]


def serve(requests: int, replies: int) -> dict | None:
    "Fork for each request. Returns the request in the forked process, None in the server when there are no more."
    preload()
    with os.fdopen(requests) as lines:
        for line in lines:
            request = json.loads(line)
            pid = os.fork()
            if not pid:
                os.close(replies)
                return request
            status, used = wait(pid, request['timeout'])
            os.write(replies, f'{status} {used.ru_utime + used.ru_stime}\n'.encode())
    return None


def wait(pid: int, seconds: float) -> tuple:
    "Exit status and resources of a program; it is killed when its time is over."
    import signal, time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            return status, used
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return os.wait4(pid, 0)[1:]


if __name__ == '__main__':
    request = serve(*map(int, sys.argv[1:]))
    if request:
        become(request)
        exec(compile(request['code'], '<string>', 'exec'), {'__name__': '__main__'})
