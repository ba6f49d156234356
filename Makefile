# make demo   a real language model, binarised and generated from, beside the original
# make test   every check: format, lint, types, tests
# make rivals  install what `make kernels` compares with: llama.cpp and others
# make asm-report    instructions per weight of every hot loop of the CPU kernels
# make cuda-report   what the compiled GPU kernels are made of, and the time they are estimated to take
# make cuda-mutations   breaks the GPU kernels one place at a time: do the tests notice?
# make triton-report   what the Triton kernels are compiled to, for every target
# make triton-tables   the tiles that are shipped for them, by estimates from the compiled code; triton-report next
# make triton-sweep    whether any kind of layer, beyond those of the report, gets tiles that spill registers
# All prepare .venv and build the package first; both work in a fresh clone with Python, pip and g++.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
CPP := $(shell find csrc tests examples -name '*.h' -o -name '*.cpp' -o -name '*.c' -o -name '*.cu' -o -name '*.cuh')
PY := setup.py python triton_kernels tests benchmarks

# The GPU kernels are built for the emulated device as well, and a warning or a register spill is an error.
export CMAKE_ARGS := -DLOWBIT_BUILD_CUDA=ON -DLOWBIT_BUILD_EMULATED=ON -DCMAKE_COMPILE_WARNING_AS_ERROR=ON
# The demo runs on the CPU: it does not wait for the GPU kernels' compilers.
demo: CMAKE_ARGS := -DLOWBIT_BUILD_CUDA=OFF -DLOWBIT_BUILD_EMULATED=OFF

# Where bytecode may not be kept, every process compiles torch and transformers anew: six seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test build bench kernels rivals asm-report cuda-report cuda-mutations triton-report triton-tables triton-sweep lint format clean

demo: build
	$(BIN)/python benchmarks/demo.py

test: build lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

bench: build
	$(BIN)/python -m pytest benchmarks/test_kernels.py --benchmark-columns=min,median,iqr,rounds

# Every kernel beside the rivals that `make rivals` installs; long, and of use only on a quiet machine.
kernels: build
	$(BIN)/python benchmarks/kernels.py --shapes llama3-8b,square --tokens 1,4,16,512 --check-targets

# Compiles llama.cpp for this processor, which takes several minutes.
rivals: build
	CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_BUILD_COMMON=OFF -DLLAVA_BUILD=OFF" $(BIN)/python -m pip install --quiet \
	  --no-deps --requirement benchmarks/rivals/requirements.txt

asm-report: build
	PYTHONPATH=benchmarks $(BIN)/python -m asm_report

cuda-report: build
	PYTHONPATH=benchmarks $(BIN)/python -m cuda_report

cuda-mutations: build
	$(BIN)/python tests/cuda/mutations.py

triton-report: build
	PYTHONPATH=benchmarks $(BIN)/python -m triton_report

triton-tables: build
	PYTHONPATH=benchmarks $(BIN)/python -m triton_report.make_tables

triton-sweep: build
	PYTHONPATH=benchmarks $(BIN)/python -m triton_report.sweep

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

# Modules are compiled when they are imported, which most never are.
$(VENV)/.ready: requirements-dev.txt
	test -x $(BIN)/python || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf build dist python/*.egg-info python/lowbit/lib python/lowbit/include python/lowbit/_build.json
	rm -f python/lowbit/_native*.so
