"""Record debates of a real model, all turns, as `svamp_debates.jsonl.gz` beside this file holds them.

    python nbs/data/svamp_debates.py QUESTIONS.jsonl --model DIR --python /work/vllm-env/bin/python --questions 40

QUESTIONS.jsonl is SVAMP's (Patel et al. 2021, MIT licence); here its last 200 rows, which no study uses. Every
completion is written to DEBATES.part as it comes, so the same command continues where it was stopped. The wording
of critics and summaries is chosen with --prompts and --no-summary, as for `maft run`.
"""

import argparse, gzip, json
from dataclasses import asdict
from pathlib import Path

from multiagent_ft.core import Completion, digest
from multiagent_ft.engines.by_name import engine_for
from multiagent_ft.method.debate import Protocol, Seeds, debate, untrained
from multiagent_ft.method.prompts import EngineSpec, Sampling, load_prompts
from multiagent_ft.runs.tasks import Task

AT_ONCE = 72  # requests


def key(request) -> str:
    "What names a completion in the file."
    return digest([[vars(m) for m in request.chat], request.seed, asdict(request.sampling)])


def remembering(engine, file: Path):
    "`engine.generate`, with every completion in `file`."
    known = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        name, completion = json.loads(line)
        known[name] = Completion(**completion)

    def generate(requests):
        todo = [r for r in requests if key(r) not in known]
        for i in range(0, len(todo), AT_ONCE):
            made = engine.generate(todo[i : i + AT_ONCE])
            with open(file, 'a') as f:
                for r, c in zip(todo[i:], made):
                    known[key(r)] = c
                    f.write(json.dumps([key(r), vars(c)]) + '\n')
            print(f'{i + len(made)} of {len(todo)} {todo[i].where.role} turns', flush=True)
        return [known[key(r)] for r in requests]

    return generate


def small(transcript) -> dict:
    "A debate without token ids: question, right answer, and for each turn what was said and how it ended."

    def turn(u):
        said = dict(text=u.text, finish=u.completion.finish, tokens=len(u.completion.token_ids))
        return dict(round=u.round, role=u.role, agent=u.agent, answer=u.answer and u.answer.text, **said)

    return vars(transcript.problem) | dict(turns=[turn(u) for u in transcript.turns])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('questions_file', type=Path)
    p.add_argument('--model', required=True)
    p.add_argument('--python', help='the interpreter that has vLLM; without it engine hf is used')
    p.add_argument('--questions', type=int, default=40)
    p.add_argument('--prompts', default='debate')
    p.add_argument('--no-summary', dest='summary', action='store_false')
    p.add_argument('--out', type=Path, default=Path(__file__).with_name('svamp_debates.jsonl.gz'))
    a = p.parse_args()
    task = Task.from_file(a.questions_file, kind='number', question=['Body', 'Question'], answer='Answer')
    args = dict(model=a.model, dtype='bfloat16', max_length=3072)
    if a.python:
        env = dict(VLLM_CPU_KVCACHE_SPACE='1', VLLM_CPU_OMP_THREADS_BIND='nobind', OMP_NUM_THREADS='1')
        args |= dict(python=a.python, env=env)
    sampling = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=320)
    protocol = Protocol(
        summary=a.summary,
        how=task.how,
        sampling=sampling,
        summary_sampling=Sampling(temperature=1.0, top_p=0.9, max_new_tokens=256),
        prompts=load_prompts(a.prompts),
    )
    engine = engine_for(EngineSpec('vllm' if a.python else 'hf', args))
    generate = remembering(engine, a.out.with_suffix('.part'))
    problems = list(task.load()[0])[: a.questions]
    found = debate(problems, untrained(3), protocol, generate=generate, seeds=Seeds(0, 'dev'), read=task.read)
    lines = ''.join(json.dumps(small(t), ensure_ascii=False) + '\n' for t in found)
    a.out.write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    print(f'{a.out}: {len(found)} debates, {a.out.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    main()
