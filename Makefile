# Everything runs in .venv, which the first target sets up. Targets are cheap to repeat:
# what is finished says so, what was interrupted resumes.

CONF   ?= quickstart
ARGS   ?=
PYTHON ?= python3
# The requirement of torch that pip gets; see docs/install.md for CPU-only and CUDA builds.
TORCH  ?= torch

VENV := .venv
BIN  := $(VENV)/bin
M3DT := $(BIN)/m3dt
PIP  := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# One thread per process: the workers of pytest share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
# Stages depend on each other's results, so `make -j` must not run them at once.
.NOTPARALLEL:
.PHONY: help setup data stage1 group stage2 stage3 eval baselines registry tensorboard bench gpu notebooks behaviour docs lint types test \
        test-quick test-slow faults clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  CONF=NAME picks an experiment of conf/, ARGS=\"key=value ...\" overrides its settings."

setup: $(VENV)/.installed ## Create .venv and install the package and its tools

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 13) and f"m3dt needs Python 3.11 or 3.12 (labmaze, which dm_control needs, has no wheel for 3.13); $(PYTHON) is {v[0]}.{v[1]}. Try: make setup PYTHON=python3.12")'
	@echo "setup 1/3: $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'  # 23.0, of Debian 12, finds conflicts where there are none
	@echo "setup 2/3: $(TORCH) (PyPI's build brings CUDA: 5 GB installed; a CPU build 1 GB: see docs/install.md)"
	@$(PIP) $(TORCH)
	@echo "setup 3/3: m3dt, simulators and tools (about 100 packages, 1 GB installed)"
	@$(PIP) -e '.[dev,train-behaviour,export-minari]'
	@touch $@
	@echo "setup: done, $$(du -sh $(VENV) | cut -f1) in $(VENV). Next: make stage1 stage2 stage3"

data: setup ## Collect the dataset from the simulators
	@$(M3DT) collect --conf $(CONF) $(ARGS)

stage1: data ## Train the backbone until its gradient conflict has peaked
	@$(M3DT) stage1 --conf $(CONF) $(ARGS)

group: setup ## Divide the tasks among the experts (stage2 does it too)
	@$(M3DT) group --conf $(CONF) $(ARGS)

stage2: setup ## Train the experts on their task groups
	@$(M3DT) stage2 --conf $(CONF) $(ARGS)

stage3: setup ## Train the router, then compare random, backbone and M3DT
	@$(M3DT) stage3 --conf $(CONF) $(ARGS)
	@$(M3DT) evaluate --conf $(CONF) $(ARGS) --models random,backbone,router

eval: setup ## Evaluate the furthest trained model
	@$(M3DT) evaluate --conf $(CONF) $(ARGS)

baselines: stage1 ## Train and evaluate the methods of table 1 and BC on the same data, into results/baselines.csv
	@$(M3DT) study conf/study/baselines.yaml $(ARGS)

registry: setup ## List the models of the run
	@$(M3DT) registry runs/$(CONF)

tensorboard: setup ## Show losses, conflict curves, router usage and scores of all runs, or of RUN=FOLDER
	$(BIN)/tensorboard --logdir "$(or $(RUN),runs)"

bench: setup ## Time steps, data and acting, and the plain model for comparison, into results/bench.json
	@$(M3DT) bench $(if $(ARGS),$(ARGS),--json results/bench.json)

gpu: setup ## Check and time on a GPU what fits in 9 minutes, into results/gpu.json
	@$(M3DT) bench --gpu $(ARGS)

notebooks: setup ## Execute the notebooks in place
	$(PIP) --quiet -e '.[notebooks]'
	$(BIN)/python -m nbconvert --execute --inplace --to notebook \
		--ExecutePreprocessor.record_timing=False notebooks/*.ipynb

behaviour: setup ## Measure the behaviour policies of all tasks, into results/behaviour.csv
	@$(M3DT) behaviour measure --csv results/behaviour.csv

docs: setup ## Build the documentation site into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

lint: setup ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## Check types
	$(BIN)/mypy

test: lint types ## Lint, types and all tests but the slow ones
	$(PYTEST) -n 2 --dist worksteal

test-quick: lint ## Lint and the tests that need no trained run, in a minute
	$(PYTEST) -n 2 -m "not long and not slow and not faults"

test-slow: setup ## The tests that take minutes
	$(PYTEST) -m slow

faults: setup ## Random kills, a soak and 5,000 drawn inputs: over an hour
	$(PYTEST) -n 2 --dist worksteal -m faults
	M3DT_FUZZ=all $(PYTEST) -n 2 --dist worksteal tests/test_fuzz_*.py

clean: ## Remove .venv and caches; data/ and runs/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build build dist src/*.egg-info
