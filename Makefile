# Targets for a fresh machine: each one first makes .venv from constraints.txt where it is missing or out of date.

PYTHON ?= python3
# Test processes; each uses one thread.
JOBS ?= 2

BIN := .venv/bin
USER_STAMP := .venv/.stamp-test
DEV_STAMP := .venv/.stamp-dev

# The pins hold for what is installed and for the isolated environments in which packages are built.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# One thread a process: tests and toys run in several processes, and small tensors gain nothing from more threads.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.PHONY: help demo test test-slow lint format benchmarks coverage peers clean

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(USER_STAMP)  ## Draw a data set from the simulator, fit it with the shipped flows and set a limit.
	$(BIN)/xeflow draw xenon1t_like --source er --source nr --source cevns_b8 --source ac --source wall \
		--run xenon1t --seed 2026 --output runs/demo/data.h5
	$(BIN)/xeflow limit configs/models/xenon1t_like.yaml --data runs/demo/data.h5 --output runs/demo

test: $(USER_STAMP)  ## Run the tests.
	$(BIN)/python -m pytest -n $(JOBS)

test-slow: $(USER_STAMP)  ## Run the long checks as well.
	$(BIN)/python -m pytest -n $(JOBS) -m "slow or not slow"

lint: $(DEV_STAMP)  ## Check style, formatting and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(DEV_STAMP)  ## Format the code and apply the safe fixes.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

benchmarks: $(USER_STAMP)  ## Run all benchmarks, with peers where there are any, and compare with the stored figures.
	$(BIN)/python -m pip install --quiet --editable ".[benchmarks]"
	-$(BIN)/python benchmarks/release.py $(if $(wildcard .venv-alea),--alea .venv-alea/bin/python)
	-$(BIN)/python benchmarks/unbinned.py
	-$(BIN)/python benchmarks/flamedisx_fit.py $(if $(wildcard .venv-flamedisx),--flamedisx .venv-flamedisx/bin/python)
	-$(BIN)/python benchmarks/flamedisx_accuracy.py
	-$(BIN)/python benchmarks/flow_density.py
	-$(BIN)/python benchmarks/scaling.py --figure docs/figures/scaling.png
	-$(BIN)/python benchmarks/simulator.py
	-$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/compare.py

coverage: $(USER_STAMP)  ## Measure coverage of the shipped search over data sets of the simulator; 25 minutes, resumable.
	$(BIN)/python benchmarks/simulator_coverage.py --figure docs/figures/simulator_coverage.png

peers:  ## Install alea and flamedisx in environments of their own, for the benchmarks.
	for peer in alea flamedisx; do \
		$(PYTHON) -m venv .venv-$$peer && \
		PIP_CONSTRAINT= PIP_BUILD_CONSTRAINT= .venv-$$peer/bin/python -m pip install --quiet -r benchmarks/peers/$$peer.txt; \
	done

clean:  ## Remove the environment and everything the targets made.
	rm -rf .venv .venv-alea .venv-flamedisx .pytest_cache .mypy_cache .ruff_cache .hypothesis build runs *.egg-info

$(USER_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@

$(DEV_STAMP): $(USER_STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[test,dev]"
	@touch $@
