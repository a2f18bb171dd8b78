# The two commands are `make demo` and `make test`; each makes its own environment first.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# two workers of one thread: the tests are many and small; files in their order, for the last ones are quick
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

# vLLM, verl and TRL live in an environment of their own, which ptw shares with them
VENV_RL ?= .venv-rl
INSTALLED_RL := $(VENV_RL)/.installed

.PHONY: help demo test test-all test-rl test-gpu lint bench bench-gpu clean

help:
	@echo 'make demo      from an empty folder to a trained, exported model that answers'
	@echo 'make test      lint, types and the tests'
	@echo 'make test-all  the slow tests too'
	@echo 'make test-rl   reinforcement learning with vLLM, and losses beside verl and TRL'
	@echo 'make test-gpu  what only a CUDA device can show'
	@echo 'make bench     every figure of benchmarks/FIGURES.md (long)'
	@echo 'make bench-gpu those of a CUDA device'
	@echo 'make clean     remove what these made, the environment too'

$(INSTALLED): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/demo.sh

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m 'not gpu and not rl' --timeout 900

$(INSTALLED_RL): constraints-rl.txt pyproject.toml
	test -x $(VENV_RL)/bin/python || $(PYTHON) -m venv $(VENV_RL)
	$(VENV_RL)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r constraints-rl.txt
	$(VENV_RL)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	touch $@

test-rl: $(INSTALLED_RL)
	HF_HUB_OFFLINE=1 $(VENV_RL)/bin/pytest tests/rl -m rl --timeout 900

test-gpu: $(INSTALLED)
	$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("test-gpu: torch sees no CUDA device")'
	$(BIN)/pytest -m gpu

bench-gpu: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) $(VENV_RL) demo dist build .ptw .pytest_cache .mypy_cache .ruff_cache .hypothesis
