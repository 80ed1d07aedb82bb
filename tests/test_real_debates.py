"Reading, voting, examples and report on recorded debates of a real model (nbs/data/svamp_debates.py made them)."

import gzip, html, json
from itertools import permutations
from pathlib import Path

import pytest

from multiagent_ft.core import Completion, transcript_to_dict, write_jsonl
from multiagent_ft.method.consensus import vote, vote_to_dict
from multiagent_ft.method.debate import Protocol, Seeds, debate, untrained
from multiagent_ft.method.examples import agrees, critic_examples, generator_examples, pseudo_labels
from multiagent_ft.method.prompts import ScriptedEngine, encode
from multiagent_ft.runs.experiment import Experiment
from multiagent_ft.runs.tasks import Task
from multiagent_ft.studies.report import report

FILE = Path(__file__).parent.parent / 'nbs' / 'data' / 'svamp_debates.jsonl.gz'
PAGES = [json.loads(line) for line in gzip.decompress(FILE.read_bytes()).splitlines()]
SUMMARY = any(u['role'] == 'summarizer' for p in PAGES for u in p['turns'])


@pytest.fixture(scope='module')
def task():
    return Task.from_rows([(p['text'], p['gold']) for p in PAGES], kind='number', name='svamp')


@pytest.fixture(scope='module')
def engine(task):
    by_question = {q.id: p for q, p in zip(task.load()[0], PAGES, strict=True)}
    said = {(i, u['round'], u['role'], u['agent']): u for i, p in by_question.items() for u in p['turns']}

    def recorded(request):
        u = said[tuple(request.where[1:])]
        ids = encode(u['text'])  # bytes, and 256 to stop
        return Completion(u['text'], u['finish'], token_ids=ids if u['finish'] == 'stop' else ids[:-1])

    return ScriptedEngine(recorded, name='svamp-debates')


@pytest.fixture(scope='module')
def transcripts(task, engine):
    protocol = Protocol(summary=SUMMARY, how=task.how)
    problems = list(task.load()[0])
    return debate(problems, untrained(3), protocol, generate=engine.generate, seeds=Seeds(0, 'dev'), read=task.read)


def test_all_turns_of_forty_debates_in_a_small_file(transcripts):
    assert FILE.stat().st_size <= 300_000 and len(PAGES) == len(transcripts) == 40
    assert all(len(t.turns) == 6 + 3 * SUMMARY for t in transcripts)


def test_answers_are_read_as_when_they_were_recorded(transcripts):
    for t, p in zip(transcripts, PAGES, strict=True):
        now = {(u.round, u.role, u.agent): u.answer and u.answer.text for u in t.turns}
        assert now == {(u['round'], u['role'], u['agent']): u['answer'] for u in p['turns']}


def test_an_answer_that_was_read_stands_in_the_text(transcripts):
    for u in (u for t in transcripts for u in t.turns if u.answer):
        digits = ''.join(c for c in u.answer.text if c.isdigit())
        assert digits and digits in u.text.replace(',', '').replace('.', ''), u.text


def test_votes_do_not_depend_on_the_order_of_agents(transcripts):
    for t in transcripts:
        answers = [u.answer for u in t.final()]
        assert len({str(vote(list(order))) for order in permutations(answers)}) == 1


def test_examples_are_whole_turns_that_agree_with_the_label(transcripts):
    labels = [v.answer for v in pseudo_labels(transcripts)]
    label_of = {t.problem.id: label for t, label in zip(transcripts, labels)}
    turns = {(t.problem.id, u.round, u.completion.token_ids): u for t in transcripts for u in t.turns}
    examples = [e for i in range(3) for e in generator_examples(transcripts, labels, i)]
    examples += [e for i in range(3) for e in critic_examples(transcripts, labels, i, w=None)]
    assert 20 < len(examples) <= 240
    for e in examples:
        turn = turns[e.problem, e.round, e.token_ids]
        assert turn.completion.finish == 'stop' and agrees(turn, label_of[e.problem])
    cut = [u for t in transcripts for u in t.turns if u.completion.finish == 'length']
    assert cut and not {u.completion.token_ids for u in cut} & {e.token_ids for e in examples}


def test_a_run_on_recorded_turns_and_its_report(task, engine, transcripts, tmp_path):
    "Engines without a context length once ended a run of an `Experiment` before its first answer."
    run = tmp_path / 'run'
    settings = dict(train=1, eval=39, iterations=0, summary=SUMMARY, wandb='off', quiet=True)
    found = Experiment(task=task, recipe='debate', engine=engine, **settings).run(run)
    debated = found.table.query('method == "debate"').iloc[0]
    assert debated.n == 39 and 0.1 < debated.accuracy < 0.7
    write_jsonl(run / 'iteration-0' / 'transcripts.jsonl', map(transcript_to_dict, transcripts))
    votes = zip(transcripts, pseudo_labels(transcripts))
    lines = (dict(problem=t.problem.id, **vote_to_dict(v)) for t, v in votes)
    write_jsonl(run / 'iteration-0' / 'votes.jsonl', lines)
    page = report(run).read_text(encoding='utf-8')
    asked = [p['text'] for p in PAGES if html.escape(p['text'], quote=False)[:40] in page]
    assert len(asked) >= 10 and '\\boxed' in page
