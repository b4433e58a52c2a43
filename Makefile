# Every target sets up what it needs by itself. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
LOCKS := tracker storage operator local
E2E_ARGS ?=
HARNESS := PYTHONPATH=tests/e2e $(PY) -m harness

.PHONY: help setup lock fmt generate check test demo e2e images cluster-up cluster-shell cluster-down \
        bench-tracker bench-storage bench-gateway bench-operator clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## make .venv from the hash-pinned lock (root: installs what Debian lacks)
	@scripts/setup-python

demo: ## the whole data plane on this machine, no root, no Kubernetes; CHECK=1 verifies, tears down and exits
	@scripts/setup-python local
	@$(PY) -m mogile_cli.main local demo $(if $(CHECK),--check,)

test: setup ## unit and integration tests (real PostgreSQL, nginx and processes)
	@scripts/setup-tests
	@$(HARNESS) tools etcd kubernetes >/dev/null
	@$(PY) scripts/run-tests

e2e: setup ## the end-to-end suite on real Kubernetes (kind where Docker runs, else the local cluster)
	@$(HARNESS) e2e $(E2E_ARGS)

check: setup ## format, lint, import contracts, types, generated files, chart
	@scripts/check

fmt: setup ## format and fix what can be fixed
	@.venv/bin/ruff format -q . && .venv/bin/ruff check -q --fix .

generate: setup ## CRDs, chart copies and reference documentation from their sources
	@$(PY) scripts/generate

images: setup ## build the images from their Dockerfiles (Docker if it runs, else buildah)
	@$(HARNESS) images

cluster-up: setup ## three real Kubernetes nodes on this machine (root), or kind where Docker runs
	@$(HARNESS) up

cluster-shell: setup ## a shell in which kubectl, helm and curl reach that cluster
	@$(HARNESS) exec $${SHELL:-bash}

cluster-down: setup ## remove that cluster and everything it made
	@$(HARNESS) down

lock: setup ## renew the lock files from pyproject.toml
	@for extra in $(LOCKS); do .venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --extra $$extra pyproject.toml -o requirements/$$extra.lock || exit 1; done
	@echo 'hatchling>=1.27' | .venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  - -o requirements/build.lock
	@.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --all-extras \
	  pyproject.toml -o requirements/dev.lock

bench-tracker bench-storage bench-gateway: bench-%: setup ## benchmarks/<part>.py: bars, table and plots in benchmarks/out
	@scripts/setup-tests bench
	@$(PY) benchmarks/$*.py

bench-operator: setup ## the same for the operator, on a real API server without machines
	@scripts/setup-tests
	@$(HARNESS) tools etcd kubernetes >/dev/null
	@PYTHONPATH=tests/support:tests/e2e $(PY) benchmarks/reconcile.py

clean: ## remove what the tools left in the checkout
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build artifacts benchmarks/out
