# Everything stays inside this directory: environment, package cache, compile cache, runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(CURDIR)/.cache

export PIP_CACHE_DIR := $(CACHE)/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export XDG_CACHE_HOME := $(CACHE)
export JAX_COMPILATION_CACHE_DIR := $(CACHE)/jax
export MPLCONFIGDIR := $(CACHE)/matplotlib
export PYTHONPYCACHEPREFIX := $(CACHE)/pycache

.PHONY: quickstart test slow lint types tables docs clean

quickstart: $(VENV)/done  ## train, then test, on scikit-learn's digits: 1-bit weights, 2-bit activations
	$(BIN)/qresnet --config=digits

test: $(VENV)/done  ## all tests but the slow ones
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

slow: $(VENV)/done  ## the slow tests
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/done types  ## style, format and types, and that the tables show what was measured
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python benchmarks/tables.py --check

types: $(VENV)/done  ## mypy: every function is annotated, and the annotations hold
	$(BIN)/mypy

tables: $(VENV)/done  ## render the tables of README.md and docs/ from benchmarks/results/
	$(BIN)/python benchmarks/tables.py

docs: $(VENV)/docs  ## the site of the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/docs: $(VENV)/done
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

$(VENV)/done: pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:  ## the environment, the caches, and what builds leave behind
	rm -rf $(VENV) $(CACHE) build dist site *.egg-info
