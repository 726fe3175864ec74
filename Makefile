PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-full-size lint bench bench-train bench-animate bench-storyboard bench-joining bench-gpu pocket pocket-report wheel clean

demo: $(VENV)/run-ready
	$(BIN)/cdvideo demo

test: $(VENV)/test-ready
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-full-size: $(VENV)/test-ready
	$(BIN)/python -m pytest -m full_size

lint: $(VENV)/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: bench-train bench-animate bench-storyboard

bench-train: $(VENV)/run-ready
	$(BIN)/python -m tests.bench.train

bench-animate: $(VENV)/run-ready
	$(BIN)/python -m tests.bench.animate

bench-storyboard: $(VENV)/run-ready
	$(BIN)/python -m tests.bench.storyboard

bench-joining: $(VENV)/run-ready
	$(BIN)/python -m tests.bench.joining

bench-gpu: $(VENV)/run-ready
	$(BIN)/python -m tests.bench.gpu

pocket: $(VENV)/pocket-ready
	$(BIN)/python -m cdvideo.pocket

pocket-report: $(VENV)/pocket-ready
	$(BIN)/python -m cdvideo.pocket.report

wheel: $(VENV)/run-ready
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist out

$(VENV)/run-ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "cdvideo needs Python 3.10 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch>=2.6,<2.14"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/test-ready: $(VENV)/run-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

$(VENV)/pocket-ready: $(VENV)/run-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[pocket]"
	touch $@
