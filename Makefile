# `make train` and `make test` set up everything they need on a fresh machine.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 10

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

setup: $(READY)  ## a virtual environment in .venv with everything the project needs

train: $(READY)  ## train and test one model: make train ARGS='model=gru trainer.max_epochs=10'
	$(BIN)/python -m imdb_lightning $(ARGS)

test: $(READY)  ## the test suite: make test ARGS='-m slow'
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)  ## style, formatting and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## lint, types and tests

format: $(READY)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: $(READY)  ## the report's runs with five seeds, then the page of results
	$(BIN)/python -m imdb_lightning -m 'experiment=glob(report/*)' seed=0,1,2,3,4 hydra.sweep.dir=outputs/sweeps/report
	$(BIN)/python -m imdb_lightning.report outputs/sweeps/report $(wildcard outputs/sweeps/memory outputs/sweeps/loss)

docs: $(READY)  ## the generated pages: every key, and the picture of the architecture
	$(BIN)/python -m imdb_lightning.config.reference > docs/configuration.md.new
	mv docs/configuration.md.new docs/configuration.md
	$(BIN)/python docs/architecture.py

gpu:  ## everything that is measured on a GPU, in eight minutes: make gpu ARGS='--device cpu'
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m imdb_lightning.bench gpu $(ARGS)

board: $(READY)  ## TensorBoard at http://127.0.0.1:6006, of one grid: make board ARGS=outputs/sweeps/report
	$(BIN)/tensorboard --logdir $(or $(ARGS),outputs) --host 127.0.0.1 --port $(or $(PORT),6006)

audit: $(READY)  ## known vulnerabilities in what is installed; fails if a package cannot be looked up
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,audit]'
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > .venv/installed.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement .venv/installed.txt

clean:  ## remove the environment and caches, not outputs/
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup train report docs gpu audit test lint check format board clean
