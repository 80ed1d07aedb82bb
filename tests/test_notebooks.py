"Every notebook runs from top to bottom: one test each, cells flagged notest, slow or gpu left out."
import os
import pytest
from conftest import ROOT
from lint_nbs import notebooks
from nbdev.config import get_config
from nbdev.test import test_nb as run_notebook   # under another name, or pytest would collect it


@pytest.mark.parametrize('path', notebooks(), ids=lambda p: p.relative_to(ROOT/'nbs').as_posix())
def test_notebook(path, monkeypatch):
    before = dict(os.environ)
    monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.chdir(ROOT)
    try: ok, _ = run_notebook(path, skip_flags=get_config(path=ROOT).tst_flags.split(), basepath=ROOT)
    finally:
        for k in os.environ.keys() - before.keys(): del os.environ[k]
        os.environ.update(before)
    assert ok, f'{path.name} stopped at the cell shown above'
