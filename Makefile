# make demo, make test: everything else they need, they make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard csrc/*) setup.py pyproject.toml
PYFILES := setup.py pyasynclife tests tools $(wildcard examples benchmarks)

.PHONY: demo test bench matrix sanitize cancel-everywhere lint format clean

demo: $(VENV)/built
	$(BIN)/python -m pyasynclife demo

test: $(VENV)/built
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/built
	$(BIN)/python -m benchmarks $(ARGS)

matrix:
	$(PYTHON) tools/matrix.py $(ARGS)

sanitize: $(VENV)/built
	bash tools/sanitize.sh $(BIN)/python $(ARGS)

cancel-everywhere: $(VENV)/built
	$(BIN)/python tools/cancel_everywhere.py $(ARGS)

lint: $(VENV)/linters
	$(BIN)/ruff check $(PYFILES)
	$(BIN)/ruff format --check $(PYFILES)
	$(BIN)/mypy --strict pyasynclife
	bash tools/lint_c.sh $(BIN)/python

format: $(VENV)/linters
	$(BIN)/ruff check --fix $(PYFILES)
	$(BIN)/ruff format $(PYFILES)

clean:
	rm -rf $(VENV) .matrix build dist *.egg-info pyasynclife/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/built: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -qq --editable '.[test]'
	touch $@

$(VENV)/linters: $(VENV)/built pyproject.toml
	$(BIN)/python -m pip install -qq --editable '.[dev]'
	touch $@
