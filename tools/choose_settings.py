"""Choose nano's finetuning settings: a fixed list of tries, on development questions and a seed that no result uses.

    python tools/choose_settings.py OUT [RECIPE …]    run what is missing (resumable), print the table,
                                                      write OUT/tries.jsonl.gz

Both kinds of recipe get the same number of tries, three iterations each, 500 fresh unlabelled questions per iteration
and 500 development questions to judge by. (With two rounds a critic answers once, so critic_loss `last` and
`critic_turns` are the same: `all` is the other one.) nbs/results/01_nano_learning.ipynb reads
nbs/data/nano_search.jsonl.gz, a copy of OUT/tries.jsonl.gz, and says what was chosen and by which rule.
"""

import sys
from pathlib import Path
from multiagent_ft.studies.outcomes import records_of, save_records
from multiagent_ft.runs.settings import load_config
from multiagent_ft.runs.run import run

DEV_SEED = 1001  # results use seeds below 1000
SAME = dict(train=500, eval=500, fresh=True, iterations=3, seed=DEV_SEED, wandb='off', samples=3)
TRIES = {
    'multiagent-ft': ['', 'learning_rate=0.001', 'learning_rate=0.004', 'epochs=1', 'w=null', 'critic_loss=all'],
    'majority-ft': ['', 'learning_rate=0.001', 'learning_rate=0.004', 'epochs=1', 'rank=8', 'min_support=3'],
}
JUDGED_BY = {'multiagent-ft': 'debate', 'majority-ft': 'majority'}


def one(out, recipe, change):
    "The records of one try: who was right on which question, by iteration."
    label = f'{recipe}-{change}' if change else recipe
    run(
        load_config(
            None,
            SAME | dict(recipe=recipe, out=str(out / label), store=str(out / 'store')),
            [change] if change else [],
        )
    )
    return records_of(out / label, f'{recipe}, {change or "as shipped"}')


def main(out, recipes):
    found = []
    for recipe in recipes or TRIES:
        for change in TRIES[recipe]:
            mine = one(out, recipe, change)
            found += mine
            accuracies = (100 * sum(r['right'][JUDGED_BY[recipe]]) / r['questions'] for r in mine)
            print(f'{mine[0]["recipe"]:45}', *(f'{a:.1f}' for a in accuracies), flush=True)
            save_records(out / 'tries.jsonl.gz', found)


if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
