"""Why does it work, and when could many models matter? The experiments of neighbours/73_questions and 74_dial.

    python tools/experiments.py --list                       all questions, with rows and planned size
    python tools/experiments.py ownership                    as planned, into runs/questions/ownership
    python tools/experiments.py ownership --plan             answers to generate, and the time it takes here
    python tools/experiments.py ownership --set train=8 --set eval=6 --seeds 1     a small one, to see that it works
    python tools/experiments.py passes --row debate-distill:samples=256 --from 801 --seeds 2    one row, fresh seeds
    python tools/experiments.py dial                         makes four small models, then runs their rows
    python tools/experiments.py dial-longer                  two better ones, trained longer on the same text

The same command continues where it was stopped. Each row that is finished is in OUT/NAME/outcomes.jsonl.gz at once, and
the verdicts so far in OUT/NAME/verdicts.md.
"""

import argparse, time
from contextlib import closing
from pathlib import Path


def planned(name: str, folder: Path):
    "(question, its rows): the dial's rows need a folder, and its models are made there."
    from multiagent_ft.neighbours.dial import MODELS, dial_rows
    from multiagent_ft.neighbours.questions import Question, study_question

    if name not in MODELS:
        return study_question(name), study_question(name).study_rows
    asks = {
        'dial': 'With more shared mistakes in a model, does it rise or fall, and do many models do better than one?',
        'dial-longer': 'The same of models that are right more often to begin with.',
    }
    settings = dict(train=200, eval=500, iterations=5, fresh='true')
    question = Question(name, asks[name], rows=(), settings=settings, seeds=3, first_seed=900)
    return question, dial_rows(folder, MODELS[name].dials, recipes=MODELS[name].recipes)


def make_models(name: str, folder: Path, blocks: int | None):
    from multiagent_ft.neighbours.dial import MODELS, train_dial, write_questions

    write_questions(folder / 'questions.jsonl')
    for dial in MODELS[name].dials:
        began = time.process_time()
        made = train_dial(folder / f'dial-{dial}', dial, blocks=blocks or MODELS[name].blocks)
        print(f'{made}: {time.process_time() - began:.0f} CPU s', flush=True)


def show_list():
    from multiagent_ft.neighbours.dial import MODELS
    from multiagent_ft.neighbours.questions import QUESTIONS

    for q in [*QUESTIONS.values(), *(planned(name, Path('runs/questions') / name)[0] for name in MODELS)]:
        size = ', '.join(f'{k}={v}' for k, v in q.settings.items())
        print(f'{q.name}: {q.asks}\n    {size}, {q.seeds} seeds from {q.first_seed}; {", ".join(q.rows) or "see 74"}')


def chosen(rows: list, labels: list[str]) -> list:
    "The rows of these names; ends the program for a name that no row has."
    known = {row.label: row for row in rows}
    if unknown := [x for x in labels if x not in known]:
        raise SystemExit(f'There is no row {", ".join(unknown)}. There are: {", ".join(known)}.')
    return [known[x] for x in labels]


def run(name: str, args):
    from multiagent_ft.core import write_atomic
    from multiagent_ft.neighbours.dial import MODELS
    from multiagent_ft.neighbours.questions import RowRunner
    from multiagent_ft.runs.run import executor_for
    from multiagent_ft.runs.settings import load_config
    from multiagent_ft.studies.claims import claims_table, judge_all
    from multiagent_ft.studies.compare import plan_comparison
    from multiagent_ft.studies.outcomes import Study, load_records, save_records

    out = args.out / name
    q, rows = planned(name, out)
    if args.row:
        rows = chosen(rows, args.row)
    if name in MODELS and args.plan and not (out / 'questions.jsonl').exists():
        raise SystemExit(f'A plan of the dial needs its models in {out}: begin the run, which makes them first.')
    if name in MODELS and not args.plan:
        make_models(name, out, args.blocks)
    same = dict(workers=0, quiet=True, wandb='off', store=args.out / 'store') | q.settings
    base = load_config(None, {k: str(v) for k, v in same.items()}, args.set)
    first = args.first or q.first_seed
    seeds = range(first, first + (args.seeds or q.seeds))
    if args.plan:
        return print('\n'.join(plan_comparison(rows, base, seeds=list(seeds), root=out)))
    executor, began, found, file = executor_for(base), time.process_time(), [], out / 'outcomes.jsonl.gz'
    if (args.row or args.first) and file.is_file():  # a part of the question: what else is there is kept
        asked = {(row.label, seed) for row in rows for seed in seeds}
        found = [r for r in load_records(file) if (r['recipe'], r['seed']) not in asked]
    with closing(executor):
        runner = RowRunner(base, out, executor, tell=lambda x: print(f'{x}  {time.process_time() - began:,.0f} CPU s'))
        for seed in seeds:
            for row in rows:
                found += runner.records(row, seed)
                save_records(file, found)
            if found and q.claims:
                judged = judge_all({name: Study(found).outcomes}, q.claims)
                write_atomic(out / 'verdicts.md', f'# {q.asks}\n\n{claims_table(judged)}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('name', nargs='?')
    parser.add_argument('--out', type=Path, default=Path('runs/questions'))
    parser.add_argument('--seeds', type=int, help='how many; default: as planned')
    parser.add_argument('--from', type=int, dest='first', metavar='SEED', help='the first seed; default: as planned')
    parser.add_argument('--row', action='append', default=[], help='only this row; may be repeated')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument('--blocks', type=int, help='of text, for the models of the dial')
    parser.add_argument('--list', action='store_true')
    parser.add_argument('--plan', action='store_true')
    args = parser.parse_args()
    if args.list or not args.name:
        return show_list()
    run(args.name, args)


if __name__ == '__main__':
    main()
