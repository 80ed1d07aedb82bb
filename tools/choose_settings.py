"""Choose nano's finetuning settings: a fixed list of tries, on development questions and a seed that no result uses.

    python tools/choose_settings.py OUT [RECIPE …]    run what is missing (resumable), print the table, write OUT/tries.json

(With two rounds a critic speaks once, so critic_loss `last` and `critic_turns` are the same: `all` is the other one.)
Both kinds of recipe get the same number of tries, three iterations each, 500 fresh unlabelled questions per iteration, 500 development
questions to judge by. The figure that decides is the mean accuracy after iterations 2 and 3 of what the recipe answers with (the debate's
last vote, or the plain vote). nbs/data/nano_search.json keeps the outcome; multiagent_ft/settings/nano.yaml is what it chose.
"""
import json, sys
from pathlib import Path
from multiagent_ft.config import load_config
from multiagent_ft.run import run

DEV_SEED = 1001   # results use seeds below 1000
SAME = dict(train=500, eval=500, fresh=True, iterations=3, seed=DEV_SEED, wandb='off', samples=3)
TRIES = {
    'multiagent-ft': [dict(), dict(learning_rate=1e-3), dict(learning_rate=4e-3), dict(epochs=1), dict(w='null'), dict(critic_loss='all')],
    'majority-ft':   [dict(), dict(learning_rate=1e-3), dict(learning_rate=4e-3), dict(epochs=1), dict(rank=8), dict(min_support=3)]}
JUDGED_BY = {'multiagent-ft': 'debate', 'majority-ft': 'majority'}


def name(recipe, change): return recipe + ''.join(f'-{k}={v}' for k, v in change.items())


def one(out, recipe, change):
    "Accuracies by iteration of one try."
    summary = run(load_config(None, SAME | dict(recipe=recipe, out=str(out/name(recipe, change)), store=str(out/'store')), [f'{k}={v}' for k, v in change.items()]))
    its = summary['iterations']
    curve = [it['methods'][JUDGED_BY[recipe]] for it in its]
    return dict(recipe=recipe, change=change, judged_by=JUDGED_BY[recipe], accuracy=[c['accuracy'] for c in curve], stderr=[c['stderr'] for c in curve], n=SAME['eval'], seed=DEV_SEED,
                labels_right=[it['consensus']['precision'] for it in its], kept=[it['consensus']['kept'] for it in its], rows=[it['rows'] for it in its],
                other={m: [it['methods'][m]['accuracy'] for it in its] for m in its[0]['methods'] if m in its[-1]['methods']}, score=(curve[-1]['accuracy'] + curve[-2]['accuracy'])/2)


def main(out, recipes):
    found = []
    for recipe in recipes or TRIES:
        for change in TRIES[recipe]:
            found.append(one(out, recipe, change))
            print(f"{name(recipe, change):45}", ' '.join(f'{100*a:.1f}' for a in found[-1]['accuracy']), f"score {100*found[-1]['score']:.1f}", flush=True)
            (out/'tries.json').write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'): sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
