# The only door to this project: make help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# What an installed environment depends on; setup runs again when one of these is newer.
STAMP := $(VENV)/.set-up

# One process of pytest for each processor; tests of one file stay together, and share what they have built. When one
# of these processes dies the run ends: pytest-xdist may wait forever for the files that it had been given.
PARALLEL := -n auto --dist loadfile --max-worker-restart 0
# A test that hangs says where, and ends the run.
FAST := -m 'not slow and not browser and not servers and not disk' -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

# There is a process for each processor already; libraries that start as many threads again only get in their way.
test coverage slow test-browser test-servers test-disk: export OMP_NUM_THREADS := 1
test coverage slow test-browser test-servers test-disk: export OPENBLAS_NUM_THREADS := 1
test coverage slow test-browser test-servers test-disk: export TF_NUM_INTRAOP_THREADS := 1
test coverage slow test-browser test-servers test-disk: export TF_NUM_INTEROP_THREADS := 1

# Tests start the program hundreds of times, and must not compile it as often.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo lint format type test test-browser test-servers test-disk coverage slow bench docs clean

help: ## Show these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

setup: $(STAMP) ## Install imgsearch and its tools into .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP) ## Index a real catalog, find its products in photo-like images, and ask in words
	$(BIN)/python examples/demo.py demo

lint: $(STAMP) ## Check style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/hadolint Containerfile

format: $(STAMP) ## Apply style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

type: $(STAMP) ## Check types
	$(BIN)/mypy

test: $(STAMP) ## Run the tests, but for the slow ones
	$(BIN)/python -m pytest $(FAST) $(PARALLEL)

test-browser: $(STAMP) /usr/bin/chromium ## Run the tests of the page of imgsearch serve, in Debian's Chromium
	$(BIN)/python -m pytest -m browser

test-servers: $(STAMP) ## Run the tests with real servers of others: PostgreSQL, Milvus, Dask
	$(BIN)/python -m pytest -m 'servers and not slow' $(PARALLEL)

test-disk: $(STAMP) ## Run the test of an index on an encrypted file system, where one can be had
	-command -v gocryptfs || (apt-get update && apt-get install --yes --no-install-recommends gocryptfs fuse3)
	$(BIN)/python -m pytest -m disk tests/test_encrypted_disk.py

/usr/bin/chromium:
	apt-get update
	apt-get install --yes --no-install-recommends chromium

coverage: $(STAMP) ## Run the same tests with branch coverage
	$(BIN)/python -m pytest $(FAST) $(PARALLEL) --cov --cov-report=term:skip-covered

slow: $(STAMP) ## Run the slow tests: faults at every call, hundreds of kills, fuzzing
	$(BIN)/python -m pytest -m slow $(PARALLEL)

bench: $(STAMP) ## Measure quality, speed and memory (docs/benchmarks.md)
	$(BIN)/python benchmarks/run.py bench

docs: $(STAMP) ## Write docs/cli.md and docs/python.md from the program
	$(BIN)/python docs/write_cli.py > docs/cli.md.tmp
	mv docs/cli.md.tmp docs/cli.md
	$(BIN)/python docs/write_python.py > docs/python.md.tmp
	mv docs/python.md.tmp docs/python.md

clean: ## Remove what the other targets made
	rm -rf $(VENV) demo bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
