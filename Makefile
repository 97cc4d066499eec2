# SPDX-License-Identifier: Apache-2.0
# Everything here works from a fresh clone, as root: each target does its own set-up first.

BIN := .venv/bin
C := $(wildcard bpf/programs/*.c bpf/programs/*.h)

.PHONY: help setup demo test bench-policy bench-http bench-dns bench-datapath smuggling lint format clean
.DEFAULT_GOAL := help

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Packages, .venv and an editable install; quick when nothing has changed
	@scripts/setup

demo: setup ## Enforce policy on live workloads in a lab of network namespaces, and show what happened
	@$(BIN)/l7ctl demo

test: lint ## The whole test suite, after lint
	@echo "test: unit and property tests" >&2
	@$(BIN)/python -m pytest -q -n 2 tests/unit tests/property tests/oracle tests/fuzz $(wildcard tests/test_*.py)
	@echo "test: datapath and integration tests, on this kernel" >&2
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/bpf tests/integration

bench-policy: setup ## What policies cost to compile, resolve, change and judge by; results in bench/results
	@$(BIN)/python bench/bench_policy.py

bench-http: ## How fast HTTP passes beside direct, Envoy, HAProxy and mitmproxy; results in bench/results
	@scripts/setup bench
	@$(BIN)/python bench/bench_http.py

smuggling: setup ## Thousands of ambiguous requests through the proxy to five servers: nothing may pass with another meaning
	@scripts/setup smuggling
	@$(BIN)/python bench/smuggling.py

bench-dns: ## How fast names are answered beside dnsmasq, unbound and dnsdist, and learnt; results in bench/results
	@scripts/setup bench-dns
	@$(BIN)/python bench/bench_dns.py

bench-datapath: setup ## What a packet's verdict costs beside nothing, iptables and nftables; results in bench/results
	@scripts/setup bench
	@$(BIN)/python bench/bench_datapath.py

lint: setup ## Style, types and the layering of the packages
	@echo "lint: ruff, mypy, import-linter, clang-format" >&2
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "lint: not formatted: run make format" >&2; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@clang-format --dry-run -Werror $(C)

format: setup ## Put the source in its one format
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .
	@clang-format -i $(C)

clean: ## Remove what was built, and labs that were left running
	@if [ -x $(BIN)/python ]; then $(BIN)/python -c 'import l7lab; l7lab.sweep(kept=True)'; fi
	@rm -rf .venv .venv-bench .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
