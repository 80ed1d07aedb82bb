"""Do notebooks and package agree? Runs nbdev's clean and export; exits 1 if that changed, made or removed any file.

python tools/check.py            in place (what it changes is what you forgot: commit it)
python tools/check.py --aside    on a copy, touching nothing here
"""

import hashlib, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ['nbs', 'multiagent_ft', 'settings.ini', 'pyproject.toml', 'README.md', 'LICENSE', 'setup.py']


def snapshot(root):
    "{path: sha256} of everything that clean and export may touch."
    files = [
        f
        for part in PARTS
        for f in ([root / part] if (root / part).is_file() else sorted((root / part).rglob('*')))
        if f.is_file()
    ]
    return {
        f.relative_to(root).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
        if not {'__pycache__', '.ipynb_checkpoints', 'wandb'} & set(f.parts)
    }


def changed_by_tools(root):
    "Names of the files that `nbdev_clean` and `nbdev_export` change under `root`, after letting them."
    before = snapshot(root)
    for step in ('clean', 'export'):
        subprocess.run(
            [
                sys.executable,
                '-c',
                f'from nbdev.{dict(clean="clean", export="doclinks")[step]} import nbdev_{step}; nbdev_{step}()',
            ],
            cwd=root,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    after = snapshot(root)
    return sorted(f for f in before | after if before.get(f) != after.get(f))


def main():
    if '--aside' in sys.argv:
        with tempfile.TemporaryDirectory() as tmp:
            for part in PARTS:
                src = ROOT / part
                if src.is_dir():
                    shutil.copytree(
                        src,
                        Path(tmp) / part,
                        ignore=shutil.ignore_patterns('__pycache__', 'wandb', '.ipynb_checkpoints', '.git'),
                    )
                elif src.exists():
                    shutil.copy2(src, Path(tmp) / part)
            changed = changed_by_tools(Path(tmp))
    else:
        changed = changed_by_tools(ROOT)
    if changed:
        return (
            'clean + export changed:\n  '
            + '\n  '.join(changed)
            + '\nEdit the notebook (never the module), run `make export`, commit both.'
        )
    print('clean + export change nothing')


if __name__ == '__main__':
    sys.exit(main())
