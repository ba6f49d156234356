# make demo   a real language model, binarised and generated from, beside the original
# make test   every check: format, lint, types, tests
# Both prepare .venv and build the package first; both work in a fresh clone with Python, pip and g++.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
CPP := $(shell find csrc tests examples -name '*.h' -o -name '*.cpp' -o -name '*.c')
PY := setup.py python tests benchmarks

.PHONY: demo test build bench lint format clean

demo: build
	$(BIN)/python benchmarks/demo.py

test: build lint
	$(BIN)/python -m pytest

bench: build
	$(BIN)/python -m pytest benchmarks/test_kernels.py --benchmark-columns=min,median,iqr,rounds

lint: $(VENV)/.ready
	$(BIN)/ruff check $(PY)
	$(BIN)/ruff format --check $(PY)
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff check --fix $(PY)
	$(BIN)/ruff format $(PY)
	$(BIN)/clang-format -i $(CPP)

# Editable, so that Python changes need no build; ninja rebuilds only the C++ that changed.
build: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .

$(VENV)/.ready: requirements-dev.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf build dist python/*.egg-info python/lowbit/lib python/lowbit/include python/lowbit/_build.json
	rm -f python/lowbit/_native*.so
