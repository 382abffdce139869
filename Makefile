# Each target makes .venv and installs what is missing; the second time that takes no time.
PYTHON ?= python3
# A torch that .venv already holds is kept: to use another build (CUDA, CPU), install it there first.
TORCH ?= torch==2.13.0
BIN := .venv/bin
# Where it is set, as in many containers, each process that Ray starts would compile Ray and torch anew,
# which doubles what their imports take.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow lint docs bench setup mmpose triton trackers clean

demo: setup
	$(BIN)/python -m jobs.demo --out runs/demo

# A file's tests stay in one process: they share a Ray or a trained model. The longest files begin (tests/conftest.py).
SIDE_BY_SIDE := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test: setup
	$(SIDE_BY_SIDE)

# Nothing beside tests that end nodes or count seconds. Others train on Ray for minutes, and twice as long on busy cores.
# UNTIL, in Unix time, leaves out what has not begun by then.
SLOW = -m slow --timeout 900 $(if $(UNTIL),--until $(UNTIL))
ALONE := tests/pipelines/test_faults.py tests/jobs/test_manners.py
test-slow: mmpose triton trackers .venv/.docs
	$(SIDE_BY_SIDE) $(SLOW) $(addprefix --ignore ,$(ALONE))
	$(BIN)/python -m pytest $(SLOW) $(ALONE)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

docs: .venv/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/docs
	@echo open build/docs/index.html

.venv/.docs: .venv/.installed
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[ray,dev,docs]'
	@touch $@

bench: setup
	@for file in benchmarks/[a-z]*.py; do \
	  name=$$(basename $$file .py); echo "== $$name"; $(BIN)/python -m benchmarks.$$name --quick || exit 1; done

# --no-compile: of 29,000 Python files few are ever imported. Those that jobs import are compiled at the end.
setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "posec3d needs Python 3.11 or 3.12; this is $$($(PYTHON) --version). Try: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install -q --no-compile $(TORCH)
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[ray,dev]'
	$(BIN)/python -c 'import jobs.demo, jobs.tune'
	@touch $@

# `pip check` then misses chumpy, json-tricks, opencv-python, torchvision, xtcocotools for ever; nothing here needs them.
mmpose: .venv/.mmpose

.venv/.mmpose: mmpose.txt .venv/.installed
	$(BIN)/pip install -q --no-compile --no-deps -r mmpose.txt
	@touch $@

# The CPU build of torch comes without it; its interpreter runs the GPU's kernels in the tests. A CUDA build has its own.
triton: .venv/.triton

.venv/.triton: .venv/.installed
	$(BIN)/python -c 'import triton' 2>/dev/null || $(BIN)/pip install -q --no-compile triton
	@touch $@

trackers: .venv/.trackers

.venv/.trackers: .venv/.installed
	$(BIN)/pip install -q --no-compile -c constraints.txt 'mlflow-skinny>=3' wandb
	@touch $@

clean:
	rm -rf .venv build *.egg-info
