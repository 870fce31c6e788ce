# `make` prints what there is. demo and test are the two commands that a newcomer needs.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
# for what needs Python alone
PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

# what `make demo` passes on: make demo ROWS=50000 SEED=3, make demo INPUT=conn.log, DATA=folder of the installation
DEMO := $(if $(ROWS),--rows '$(ROWS)') $(if $(SEED),--seed '$(SEED)') $(if $(INPUT),--input '$(INPUT)') $(if $(DATA),--data '$(DATA)')

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: venv
venv: ## .venv with everything in it; nothing happens where it is up to date
	@deploy/native/bootstrap

.PHONY: demo
demo: venv ## the whole chain in one process, on synthetic events (ROWS=, SEED=) or a file (INPUT=); DATA= says where
	@$(BIN)/acequia demo $(DEMO)

.PHONY: test
test: venv ## every test, on real servers that it brings up by itself; ARGS= goes to pytest
	@deploy/native/test $(ARGS)

.PHONY: chaos
chaos: venv ## everything fails for MINUTES=10, and nothing may be lost; on servers of its own; SEED= repeats a storm
	@ACEQUIA_CHAOS_MINUTES='$(or $(MINUTES),10)' ACEQUIA_CHAOS_SEED='$(SEED)' $(BIN)/pytest -q -s tests/chaos $(ARGS)

.PHONY: check
check: venv ## format, lint, types, import rules, unit and property tests: what needs no server
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy shared services cli deploy/native
	@$(BIN)/lint-imports
	@$(BIN)/pytest -q tests/unit tests/property

.PHONY: stack
stack: ## MinIO, RabbitMQ and PostgreSQL on free local ports, for development; .stack/env says where
	@$(PYTHON) deploy/native/stack.py start

.PHONY: stack-stop
stack-stop: ## stop those servers, and only those, and remove their data
	@$(PYTHON) deploy/native/stack.py stop

.PHONY: env
env: ## .env with random passwords for compose, where there is none yet
	@$(PYTHON) deploy/native/make_env.py

.PHONY: k8s-local
k8s-local: ## images and secrets for deploy/k8s/overlays/local, into the cluster of kubectl's context, or by K8S_LOAD='...'
	@$(PYTHON) deploy/native/k8s_local.py

.PHONY: compose-test
compose-test: venv ## compose.yaml as a user would try it: images, the whole stack, chains; needs a Docker engine
	@ACEQUIA_REQUIRE_COMPOSE=1 $(BIN)/pytest tests/e2e/test_compose.py $(ARGS)

.PHONY: k8s-test
k8s-test: venv ## deploy/k8s in the cluster of kubectl's context, from nothing, under faults; SEED= repeats, SHORT=1 is shorter
	@ACEQUIA_REQUIRE_K8S=1 ACEQUIA_K8S_SHORT='$(SHORT)' ACEQUIA_K8S_SEED='$(SEED)' \
		$(BIN)/pytest -q -s --maxfail=1 tests/k8s $(ARGS)

.PHONY: hostile-page
hostile-page: venv ## docs/hostile-input.md from the table of tests/hostile
	@PYTHONPATH=tests $(BIN)/python -m hostile.page

.PHONY: bench
bench: venv ## Acequia against a plain script and against the bare servers; prints ratios, writes JSON; ARGS= are its own
	@$(BIN)/python deploy/native/stack.py run -- $(BIN)/python bench/run.py $(ARGS)
