# Two commands do all the set-up: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo-report
REAL ?= real-report

.PHONY: help demo real test test-slow test-real check bench study clean
.DEFAULT_GOAL := help

help: ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sparsing needs Python 3.11 or newer; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# the constraints fix the version of torch; the registry decides which build is installed, see docs/install.md
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.real: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[gguf,eval]'
	@touch $@ $(VENV)/.runtime

demo: $(VENV)/.runtime ## measure the built-in models and write a report
	$(BIN)/sparsing demo -o $(DEMO)

real: $(VENV)/.real ## measure a real model, SmolLM2-135M, and write a report; half an hour, continues after an interruption
	$(BIN)/python scripts/real_model.py -o $(REAL) $(if $(TEXT),--text $(TEXT))

test: $(VENV)/.dev ## the default test suite
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/.dev ## the slow tests
	$(BIN)/python -m pytest -m 'slow and not gpu and not network'

test-real: $(VENV)/.dev ## the tests on the real model that `make real` has downloaded
	SPARSING_REAL_MODEL=$(REAL)/model $(BIN)/python -m pytest -m real

check: $(VENV)/.dev ## linters and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev ## the benchmarks; results are written to benchmarks/results
	$(BIN)/python benchmarks/search_cost.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/evaluate_overhead.py
	$(BIN)/python benchmarks/decode.py ffn
	@echo 'decoding in batches and whole models: $(BIN)/python benchmarks/decode.py batches|whole, tables (see docs/benchmarks.md)'
	@echo 'the laws: $(BIN)/python benchmarks/laws.py PART --data POINTS (see docs/laws.md)'

study: $(VENV)/.dev ## the miniature study, four hours on two cores; continues after an interruption
	$(BIN)/python studies/nano/run.py
	$(BIN)/python studies/nano/report.py

clean: ## remove the virtual environment and build outputs
	rm -rf $(VENV) dist build $(DEMO) $(REAL) outputs
