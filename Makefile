# `make train` and `make test` set up all that they need on a fresh machine.
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

setup: $(READY)  ## a virtual environment in .venv with all that the project needs

train: $(READY)  ## train and test one model: make train ARGS='model=gru trainer.max_epochs=10'
	$(BIN)/python -m imdb_lightning $(ARGS)

test: $(READY)  ## the test suite: make test ARGS='-m slow'
	$(BIN)/python -m pytest $(ARGS)

lint: $(READY)  ## style, formatting and types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## lint, types and tests

format: $(READY)  ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

report: $(READY)  ## the published grid with five seeds, then the page of its results
	$(BIN)/python -m imdb_lightning -m 'experiment=glob(report/*)' seed=0,1,2,3,4 hydra.sweep.dir=outputs/sweeps/report
	$(BIN)/python -m imdb_lightning.report outputs/sweeps/report $(wildcard outputs/sweeps/memory outputs/sweeps/loss)

gpu:  ## all that is measured on a GPU, in eight minutes: make gpu ARGS='--device cpu'
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m imdb_lightning.bench gpu $(ARGS)

board: $(READY)  ## TensorBoard at http://127.0.0.1:6006, of one grid: make board ARGS=outputs/sweeps/report
	$(BIN)/tensorboard --logdir $(or $(ARGS),outputs) --host 127.0.0.1 --port $(or $(PORT),6006)

audit: $(READY)  ## known holes in what is installed; fails where a package cannot be looked up
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,audit]'
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > .venv/installed.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement .venv/installed.txt

clean:  ## remove the environment and caches; outputs/ stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup train report gpu audit test lint check format board clean
