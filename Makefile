# make demo and make test build everything that they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name "*.[ch]") setup.py pyproject.toml
PYFILES := setup.py pyasynclife tests tools $(wildcard examples benchmarks)

.PHONY: demo test hosts recipes bench bench-versions bench-builds matrix differential sanitize
.PHONY: leaks nomemory valgrind instructions lint format clean cancel-everywhere
.PHONY: storm bench-shutdown wheels reproducible extras aarch64 picture

demo: $(VENV)/built
	$(BIN)/python -m pyasynclife demo

# Runs the demo in a terminal for ten seconds: writes docs/live-table.svg.
picture: $(VENV)/built
	$(BIN)/python tools/demo_picture.py $(ARGS)

test: $(VENV)/built
	$(BIN)/python -m pytest $(ARGS)

# Every server in every mode, in child processes, and what needs a browser (Chromium) or
# a terminal (tmux); make test runs some of them.
hosts: export PYASYNCLIFE_HOSTS = 1
hosts: $(VENV)/built
	$(BIN)/python -m pip install -qq --editable '.[test,hosts,viewer]'
	$(BIN)/python -m pytest tests/contrib tests/monitor tests/signals/test_hosts.py \
	    $(ARGS)

# The tests that need further packages: a cluster, other libraries, plots, tracers.
recipes: $(VENV)/built
	$(BIN)/python -m pip install -qq --editable '.[test,bench,cluster,tracers]'
	$(BIN)/python -m pytest tests/whole/test_docs.py \
	    tests/whole/test_benchmarks.py tests/group/test_tracers.py $(ARGS)

bench: $(VENV)/built
	$(BIN)/python -m pip install -qq --editable '.[test,bench]'
	$(BIN)/python -m benchmarks $(ARGS)

# An optimised build and a plain one: writes docs/benchmarks/index.md and its plots.
bench-builds: $(VENV)/built
	$(BIN)/python -m pip install -qq --editable '.[test,bench]'
	$(BIN)/python tools/bench_builds.py $(ARGS)

# Three kinds of rows on every version: writes docs/benchmarks/versions.md.
bench-versions:
	$(PYTHON) tools/bench_versions.py $(ARGS)

# 309 times SIGTERM behind a storm of SIGHUPs, on both loops; the suite has a few.
storm: $(VENV)/built
	$(BIN)/python -m benchmarks.storm $(ARGS)

# Ours against asyncio.run, aiorun and uvicorn: writes docs/explanation/shutdown-compared.md.
bench-shutdown: $(VENV)/built
	$(BIN)/python -m pip install -qq --editable '.[test,bench]'
	$(BIN)/python -m benchmarks.shutdown_peers --write docs/explanation $(ARGS)

matrix:
	$(PYTHON) tools/matrix.py $(ARGS)

# 10,000 random programs per version, new ones each time: the log has the seed.
differential: export PYASYNCLIFE_PROGRAMS ?= 10000
differential: export PYASYNCLIFE_SEED ?= $(shell date +%s)
differential:
	@echo seed $(PYASYNCLIFE_SEED)
	$(PYTHON) tools/matrix.py tests/group/test_differential.py $(ARGS)

sanitize: $(VENV)/built
	bash tools/sanitize.sh $(BIN)/python $(ARGS)

leaks: export PYASYNCLIFE_LEAKS ?= 1000000
leaks: $(VENV)/built
	$(BIN)/python -m pytest -q -rP tests/whole/test_leaks.py \
	    -o faulthandler_timeout=1800 $(ARGS)

nomemory: $(VENV)/built
	$(BIN)/python tools/nomemory.py $(ARGS)

valgrind: $(VENV)/built
	$(BIN)/python tools/valgrind.py $(ARGS)

# CI adds --check: ours alone, against benchmarks/instructions.json.
instructions: $(VENV)/built
	$(BIN)/python tools/instructions.py $(ARGS)

cancel-everywhere: $(VENV)/built
	$(BIN)/python tools/cancel_everywhere.py $(ARGS)

# The files of a release, from the last commit, in dist/; reproducible builds them twice,
# in different places, and compares.
wheels:
	$(PYTHON) tools/wheels.py $(ARGS)

reproducible:
	$(PYTHON) tools/wheels.py --twice $(ARGS)

# Whether pip can resolve each extra; installs nothing.
extras: $(BIN)/python
	$(BIN)/python tools/extras.py $(ARGS)

# Tests on an emulated aarch64, with Debian's Python 3.14.
aarch64:
	$(PYTHON) tools/aarch64.py $(ARGS)

lint: $(VENV)/linters
	$(BIN)/ruff check $(PYFILES)
	$(BIN)/ruff format --check $(PYFILES)
	$(BIN)/mypy --strict pyasynclife
	$(BIN)/mypy --strict examples
	$(BIN)/python -m mypy.stubtest pyasynclife._core
	$(BIN)/python -m pytest -q tests/whole/test_typing.py
	$(BIN)/python tools/format_c.py --check
	bash tools/lint_c.sh $(BIN)/python
	$(BIN)/codespell *.md docs csrc $(PYFILES)

# The site, in build/site: open build/site/index.html. A warning is an error.
.PHONY: docs
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/linters
	$(BIN)/mkdocs build --quiet --strict

format: $(VENV)/linters
	$(BIN)/ruff check --fix $(PYFILES)
	$(BIN)/ruff format $(PYFILES)
	$(BIN)/python tools/format_c.py

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
