# Every target installs what it needs first; Python 3.11 or newer, make and a network connection are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo serve test test-e2e soak bench check lock clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1 - \2/p' Makefile

$(READY): requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is required; try: make PYTHON=python3.11"; exit 2; }
	@echo "installing torch with CUDA and all other packages into $(VENV)/ (7 GB on Linux); this takes minutes and prints nothing"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@# The .pth file makes `python -m training` and `python -m service` work in any directory.
	@$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "project.pth").write_text("$(CURDIR)\n")'
	@touch $@

setup: $(READY) ## create the virtual environment in .venv and install all packages

demo: $(READY) ## train a small model on generated scenes, evaluate it, serve it and segment one scene (2 to 5 minutes)
	$(BIN)/python -m tests.e2e.demo

serve: $(READY) ## serve the models in runs/ on http://localhost:8000
	$(BIN)/python -m service

# Two workers with one torch thread each; processes that tests start set their own number of threads.
test: $(READY) ## run the unit and integration tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Tests whose prerequisites are missing are skipped with the reason; with E2E=required they fail.
test-e2e: $(READY) ## run the slow tests: kills, exports, videos, comparisons, web page, documentation, containers, several hosts (root on Debian for all)
	OMP_NUM_THREADS=1 E2E=$(E2E) $(BIN)/python -m pytest -rs -n 2 --dist loadfile tests/e2e/processes tests/e2e/outputs tests/e2e/browser tests/e2e/docs
	E2E=$(E2E) $(BIN)/python -m pytest -rs tests/e2e/containers tests/e2e/multi_host

soak: $(READY) ## kill training runs, interrupt saves at every system call, stress the service (45 minutes, needs strace)
	$(BIN)/python -m tests.soak
	OPENAPI_EXAMPLES=500 $(BIN)/python -m pytest -q -s --timeout 0 tests/integration/service/test_openapi.py
	BOOTSTRAP_TRIALS=2000 $(BIN)/python -m pytest -q --timeout 0 tests/unit/core/test_bootstrap.py

# A second environment for other servers, which also sees the packages of the first one.
$(VENV)/servers/.ready: $(READY) tests/benchmarks/servers/requirements.txt
	$(PYTHON) -m venv $(VENV)/servers
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(VENV)/servers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project-packages.pth"
	$(VENV)/servers/bin/pip install --quiet --disable-pip-version-check -r tests/benchmarks/servers/requirements.txt
	@touch $@

bench: $(VENV)/servers/.ready ## measure the figures of docs/performance.md (30 minutes)
	$(BIN)/python -m tests.benchmarks

check: $(READY) ## check formatting, lint, types, container files and known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint --failure-threshold warning Dockerfile.train Dockerfile.serve
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/bandit --quiet --recursive --severity-level medium core service training
	@if $(BIN)/python -c "import urllib.request as r; r.urlopen('https://pypi.org/pypi/pip/json', timeout=10)" 2>/dev/null; \
	then $(BIN)/pip-audit --progress-spinner off --disable-pip --require-hashes -r requirements-serve-cuda.txt -r requirements-train.txt; \
	else echo "pip-audit: skipped, https://pypi.org can't be reached"; fi

COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --constraint constraints.txt
lock: ## pin the newest package versions that fit pyproject.toml, with hashes (needs uv)
	$(COMPILE) --extra train pyproject.toml -o requirements-train.txt
	$(COMPILE) --extra serve pyproject.toml -o requirements-serve-cpu.txt
	$(COMPILE) --extra serve --extra torch pyproject.toml -o requirements-serve-cuda.txt
	$(COMPILE) --all-extras pyproject.toml -o requirements-dev.txt

clean: ## remove the virtual environment and the results of the demo
	rm -rf $(VENV) demo
