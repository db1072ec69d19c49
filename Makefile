PYTHON ?= python3
BIN := .venv/bin
RUN := runs/hopper-rat
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: setup setup-procgen train test test-slow lint format bench evidence clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ratpg needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

PROCGEN = $(BIN)/python -c 'import envpool; envpool.make_gymnasium("CoinrunEasy-v0", num_envs=1)'

# The system library that EnvPool's Procgen draws with.
setup-procgen: setup
	@$(PROCGEN) 2>/dev/null || \
	($(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends libqt5gui5 && $(PROCGEN))

# Trains into a new folder each time: runs/hopper-rat, then runs/hopper-rat-2, ...
train: setup
	@run=$(RUN); n=1; while [ -e $$run ]; do n=$$((n + 1)); run=$(RUN)-$$n; done; \
	$(BIN)/ratpg train --algo rat --env Hopper-v4 --total-timesteps 1000000 --run-dir $$run && \
	$(BIN)/ratpg plot $$run && \
	$(BIN)/ratpg eval $$run --episodes 10 --summary

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	for name in update_cost rollout throughput; do $(BIN)/ratpg bench $$name || exit; done

# Figures and tables from the committed CSVs; nothing is trained.
evidence: setup
	$(BIN)/ratpg reproduce evidence

clean:
	rm -rf .venv
