# Each target makes .venv and installs what is missing; the second time that takes no time.
PYTHON ?= python3
# A torch that .venv already holds is kept: to use another build (CUDA, CPU), install it there first.
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test test-slow lint bench setup mmpose triton clean

demo: setup
	$(BIN)/python -m jobs.demo --out runs/demo

test: setup
	$(BIN)/python -m pytest

test-slow: mmpose triton
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: setup
	@for file in benchmarks/[a-z]*.py; do \
	  name=$$(basename $$file .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "posec3d needs Python 3.11 or 3.12; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e '.[ray,dev]'
	@touch $@

# `pip check` then misses chumpy, json-tricks, opencv-python, torchvision, xtcocotools for ever; nothing here needs them.
mmpose: .venv/.mmpose

.venv/.mmpose: mmpose.txt .venv/.installed
	$(BIN)/pip install -q --no-deps -r mmpose.txt
	@touch $@

# The CPU build of torch comes without it; its interpreter runs the GPU's kernels in the tests. A CUDA build has its own.
triton: .venv/.triton

.venv/.triton: .venv/.installed
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/pip install -q triton
	@touch $@

clean:
	rm -rf .venv build *.egg-info
