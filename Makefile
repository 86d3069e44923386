# make demo   train, export, verify, serve and ask: the whole line on the embedded data
# make test   lint, types, import contract, all tests
# make check  lint, types, import contract
# make fuzz   ten minutes of bundles with right hashes and hostile content
# make serve  the demo on http://127.0.0.1:8000
# make load   a minute of simulated listeners against the demo; fails when the P95 is above 100 ms

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO := build/demo-1.0.0
SOURCES := $(shell find runtime exporter trainer -name '*.py' -o -name '*.toml')

.PHONY: demo test check fuzz serve load clean

demo: $(DEMO)/manifest.json
	$(BIN)/musix verify $(DEMO)
	$(BIN)/python examples/ask_over_http.py $(DEMO)

test: check
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(INSTALLED)
	$(BIN)/python -m tests.fuzz --minutes 10 --jobs 2

serve: $(DEMO)/manifest.json
	$(BIN)/musix serve $(DEMO)

load: $(DEMO)/manifest.json
	$(BIN)/python -m perf.load $(DEMO)

clean:
	rm -rf build .venv

$(DEMO)/manifest.json: bundles/demo.toml $(SOURCES) | $(INSTALLED)
	$(BIN)/musix build bundles/demo.toml --replace --json build/demo.json --summary build/demo.md

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
