# Set-up and checks. On a fresh machine: `make quickstart`, then `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SWEEP ?= quickstart
SHELL := /bin/bash
# Where there is an environment already, pip does not list what that has. (Behind a pipe it draws no bar.)
SHORTENED := $(if $(wildcard $(BIN)/python),| sed -u '/^Requirement already satisfied/d')

.PHONY: help install quickstart test test-gpu test-faults lint lock tables docs clean

help:
	@echo "make quickstart   install into $(VENV), train by three methods, measure a ViT-B/32, print what came out"
	@echo "make test         install into $(VENV), run the tests, on the CPU also where there is a GPU"
	@echo "make test-gpu     the tests that want a CUDA device"
	@echo "make test-faults  kill, fill and corrupt real sweeps, and run them under each launcher: 16 to 35 minutes"
	@echo "make lint         install into $(VENV), run the linter, check types and that imports go one way"
	@echo "make lock         write the exact versions in $(VENV) into requirements.lock"
	@echo "make tables       write the tables of README.md and docs/*.md anew from results/; CHECK=--check only looks"
	@echo "make docs         build the documentation as a site in site/, links checked"
	@echo "make clean        remove $(VENV)"

install: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt requirements-dashboard.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m wasi.torch_for > $(VENV)/constraints.txt
	set -o pipefail; $(BIN)/python -m pip install -c $(VENV)/constraints.txt \
	  -r requirements.txt -r requirements-dev.txt $(SHORTENED)
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

quickstart: $(STAMP)
	$(BIN)/python train.py experiment=quickstart sweep=$(SWEEP)
	$(BIN)/python bench_device.py experiment=quickstart_bench sweep=$(SWEEP)_bench
	$(BIN)/python -m wasi.report multirun/$(SWEEP) multirun/$(SWEEP)_bench

test: $(STAMP)
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -v tests/gpu

test-faults: $(STAMP)
	$(BIN)/python -m pip install --quiet -r requirements-launchers.txt
	$(BIN)/python -m pytest -m long

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

lock: $(STAMP)
	( sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip list --format=freeze --exclude-editable --exclude pip ) > $(VENV)/lock
	mv $(VENV)/lock requirements.lock

tables: $(STAMP)
	$(BIN)/python -m wasi.results tables $(CHECK)

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV)
