# Set-up and checks. On a fresh machine: `make quickstart`, then `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SWEEP ?= quickstart

.PHONY: help install quickstart test lint tables clean

help:
	@echo "make quickstart   install into $(VENV), sweep vanilla, svd_llm and wasi over digits, print the table"
	@echo "make test         install into $(VENV), run the tests"
	@echo "make lint         install into $(VENV), run the linter"
	@echo "make tables       write the tables of README.md and docs/*.md anew from results/; CHECK=--check only looks"
	@echo "make clean        remove $(VENV)"

install: $(STAMP)

$(STAMP): requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	touch $@

quickstart: $(STAMP)
	$(BIN)/python train.py experiment=quickstart sweep=$(SWEEP)

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .

tables: $(STAMP)
	$(BIN)/python -m wasi.results tables $(CHECK)

clean:
	rm -rf $(VENV)
