# Two commands do everything: `make validate` (set-up and the main job) and `make test` (set-up and the tests).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: setup validate test test-fast lint format types lock benchmark notebook clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

# make validate                          the embedded demonstration: a clean corpus and a damaged copy of it
# make validate DATA=my.jsonl ARGS="..." one's own data
validate: setup
	$(RUN) -m validation.cascade $(DATA) $(ARGS)

test: setup
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-fast: setup
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile -m "not slow"

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: setup
	$(VENV)/bin/pyright

# Runs the notebook and keeps it with its outputs beside the script.
notebook: setup
	$(VENV)/bin/jupytext --to ipynb --output notebooks/validate.ipynb notebooks/validate.py
	$(VENV)/bin/jupyter-execute --inplace notebooks/validate.ipynb

# Pins every dependency, for every platform and Python the project supports; needs uv (https://docs.astral.sh/uv).
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
