"""Run notebooks again, in place, and keep what they show.

    python tools/nbrun.py                    every notebook
    python tools/nbrun.py nbs/01_core.ipynb  only these
    python tools/nbrun.py --check            change nothing; exit 1 and name the notebooks whose outputs would change
    python tools/nbrun.py --force slow,gpu   also run cells with these flags (left alone otherwise, their outputs kept)

Cells run as in nbdev's own tests: in the notebook's folder, in order, stopping at the first error (the notebook is then
left as it was).
"""

import argparse, os, sys, time

for k, v in dict(
    OMP_NUM_THREADS='1', WANDB_MODE='offline', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', IN_TEST='1'
).items():
    os.environ.setdefault(k, v)
from pathlib import Path
from execnb.nbio import nb2str, write_nb
from execnb.shell import CaptureShell
from fastcore.xtras import working_directory
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import NBProcessor


def keeps_still(cell, flags):
    "Is this a cell that must not be run: prose, `#| eval: false`, or one that carries any of `flags`?"
    if cell.cell_type != 'code' or 'nbdev_export(' in cell.source:
        return True
    directives = getattr(cell, 'directives_', None) or {}
    return directives.get('eval:', [''])[0].lower() == 'false' or bool(flags & directives.keys())


def rerun(path, force=()):
    "The notebook at `path` with fresh outputs, cleaned. Raises whatever its first failing cell raised."
    cfg = get_config()
    nb = NBProcessor(path, rm_directives=False).nb
    flags = set(cfg.tst_flags.split()) - set(force)
    for c in nb.cells:
        if not keeps_still(c, flags):
            c['outputs'] = []
    if str(cfg.config_path) not in sys.path:
        sys.path.insert(0, str(cfg.config_path))
    shell = CaptureShell(path, mpl_format='png')
    with working_directory(path.parent):
        try:
            shell.run_all(nb, exc_stop=True, preproc=lambda c: keeps_still(c, flags))
        except Exception:
            print(shell.prettytb(fname=path), file=sys.stderr)
            raise
    for c in nb.cells:
        for k in ('directives_', 'idx_'):
            c.pop(k, None)  # nbdev's bookkeeping, not part of the file
    clean_nb(nb, clean_ids=cfg.clean_ids)
    return nb


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='*', type=Path)
    p.add_argument('--check', action='store_true')
    p.add_argument('--force', default='')
    a = p.parse_args()
    paths = [x.absolute() for x in a.notebooks or sorted(nbglob(get_config().nbs_path, as_path=True))]
    stale, broken = [], []
    for path in paths:
        start = time.time()
        try:
            nb = rerun(path, a.force.replace(',', ' ').split())
        except Exception as e:
            broken.append(path.name)
            print(f'{path.name}: {type(e).__name__}: {e}', file=sys.stderr)
            continue
        new = nb2str(nb)
        changed = new != path.read_text(encoding='utf-8')
        if changed:
            stale.append(path.name)
        if changed and not a.check:
            write_nb(nb, path)
        print(
            f'{path.name}: {"stale" if changed and a.check else "rewritten" if changed else "unchanged"},'
            f' {time.time() - start:.1f} s',
            flush=True,
        )
    if broken:
        print('stopped by an error:', ', '.join(broken), file=sys.stderr)
    return 1 if broken or (a.check and stale) else 0


if __name__ == '__main__':
    sys.exit(main())
