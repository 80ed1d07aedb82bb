"""Every recipe on the same questions and seeds, over one store: `maft compare` over all names of `maft recipes`.

    python tools/leaderboard.py                                   3 seeds x 500 questions on nano, into runs/leaderboard
    python tools/leaderboard.py --train 8 --eval 6 --seeds 1      a small one, to see that it works
    python tools/leaderboard.py --only ttrl,multiagent-ft         these rows
    python tools/leaderboard.py --set samples=32                  settings of a run, for all rows

The same command continues where it was stopped; rows share what they sample and train.
"""

import argparse, shlex, subprocess, sys
from pathlib import Path

# Recipes that fix another temperature belong to Figure 10 of the paper, not here.
LEFT_OUT = ('single-agent-ft-t2', 'single-agent-ft-alone-t2')


def command(args) -> list[str]:
    "The command line of the comparison."
    from multiagent_ft.method.recipes import recipe_names

    names = args.only.split(',') if args.only else [n for n in recipe_names() if n not in LEFT_OUT]
    settings = [x for s in args.set for x in ('--set', s)]
    size = ['--train', args.train, '--eval', args.eval, '--seeds', args.seeds, '--iterations', args.iterations]
    baseline = ['--baseline', args.baseline] if args.baseline in names else []
    return [*map(str, ['compare', *names, *size, '--out', args.out, *baseline]), *settings]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/leaderboard'))
    parser.add_argument('--train', type=int, default=500)
    parser.add_argument('--eval', type=int, default=500)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--iterations', type=int, default=1)
    parser.add_argument('--only', default='', help='names, with commas')
    parser.add_argument('--baseline', default='multiagent-ft')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument('--show', action='store_true', help='print the command and leave')
    line = command(parser.parse_args())
    if '--show' in sys.argv:
        return print('maft', shlex.join(line))
    sys.exit(subprocess.run([sys.executable, '-c', 'from multiagent_ft.cli import main; main()', *line]).returncode)


if __name__ == '__main__':
    main()
