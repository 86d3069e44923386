# `make` lists the targets. Two stamp files in .venv say what is installed: `.demo` for what the demo needs, `.installed`
# for the development tools as well.

PYTHON ?= python3
BIN := .venv/bin
ENVIRONMENT := .venv/pyvenv.cfg
DEMO_INSTALLED := .venv/.demo
INSTALLED := .venv/.installed
DEMO := build/demo-1.0.0
SOURCES := $(shell find runtime exporter trainer -name '*.py' -o -name '*.toml')

.DEFAULT_GOAL := help
.PHONY: help demo test check style types tests fuzz serve load upgrade clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' Makefile

demo: $(DEMO)/manifest.json ## train, export, verify, serve and query the demo bundle (simulated data)
	$(BIN)/musix verify $(DEMO)
	$(BIN)/python examples/ask_over_http.py $(DEMO)

test: style ## run the checks and all tests
	$(MAKE) --jobs 2 types tests

check: style types ## run the linter, the formatter, the type checker and the import rules

style: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)
	$(BIN)/mypy

# Bytecode is written, whatever the environment says: else each process that a test starts would compile the project.
tests: $(INSTALLED)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

fuzz: $(INSTALLED) ## open mutated bundles for ten minutes; none may crash or hang the runtime
	$(BIN)/python -m tests.fuzz --minutes 10 --jobs 2

serve: $(DEMO)/manifest.json ## serve the demo bundle on http://127.0.0.1:8000
	$(BIN)/musix serve $(DEMO)

load: $(DEMO)/manifest.json $(INSTALLED) ## simulate listeners for a minute; fails when the P95 is above 100 ms
	$(BIN)/python -m perf.load $(DEMO)

upgrade: $(INSTALLED) ## take the newest version of each library, and note it in constraints.txt if all tests pass
	$(BIN)/pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev]'
	$(MAKE) test
	sed -i '/^#/!d' constraints.txt
	$(BIN)/pip freeze --exclude-editable --exclude torch --exclude setuptools | grep -v ^nvidia >> constraints.txt
	touch $(INSTALLED)

clean: ## remove the environment and everything that was built
	rm -rf build .venv

$(DEMO)/manifest.json: bundles/demo.toml $(SOURCES) | $(DEMO_INSTALLED)
	$(BIN)/musix build bundles/demo.toml --replace --json build/demo.json --summary build/demo.md

$(ENVIRONMENT):
	$(PYTHON) -m venv .venv

$(DEMO_INSTALLED): pyproject.toml constraints.txt | $(ENVIRONMENT)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[export]'
	touch $@

$(INSTALLED): pyproject.toml constraints.txt | $(ENVIRONMENT)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(DEMO_INSTALLED)
