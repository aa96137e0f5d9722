# Every target brings what it needs; repeating one is cheap.
.DEFAULT_GOAL := help
.PHONY: help setup setup-test setup-bench demo demo-check demo-reset test test-fast lint format types contracts unit \
        flows bench-decoding bench-gateway bench-utility bench-released bench-log tamper-drill audit-dp screenshots

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BOOTSTRAP = $(if $(PYTHON),,$(error Python 3.11 is needed: apt-get install python3.11 python3.11-venv))$(PYTHON) -I fdrouter/demo/bootstrap.py
BIN := .venv/bin
HALF := tests/federation tests/fdrouter tests/accounts tests/node
FAST := -m "not engine and not flow and not browser and not stack"

help:  ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

setup:  ## Make .venv, install the pinned packages, the system libraries and the front-end files
	@$(BOOTSTRAP) demo

setup-test:
	@$(BOOTSTRAP) test

setup-bench:
	@$(BOOTSTRAP) bench

demo: setup  ## Start the whole network on this machine and stay in front; Ctrl-C stops it
	@exec $(BIN)/python -m fdrouter.demo up

demo-check: setup  ## Check a running demo: every part, one request of every kind
	@exec $(BIN)/python -m fdrouter.demo check

demo-reset:  ## Delete everything the demo wrote (.demo)
	@exec $(BIN)/python -m fdrouter.demo reset

test: setup-test lint types contracts unit flows  ## Run every check and every test

test-fast: setup-test lint contracts  ## Run what needs no engine and no running coordinator, on two cores
	@$(BIN)/pytest -q $(FAST) $(HALF) & half=$$!; trap "kill $$half 2>/dev/null" INT TERM; \
	$(BIN)/pytest -q $(FAST) $(HALF:%=--ignore=%); other=$$?; wait $$half && exit $$other

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup  ## Check the types
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

unit: setup-test
	$(BIN)/pytest $(FAST)

flows: setup-test
	$(BIN)/pytest -m "engine or flow or browser or stack"

bench-gateway: setup-bench  ## Measure the coordinator against a backend called directly
	$(BIN)/python benchmarks/gateway/run.py

bench-decoding: setup-test  ## Measure groups in the engine beside plain batches of the same rows
	$(BIN)/python -m benchmarks.decoding

bench-utility: setup-test  ## Measure how right answers over records are, by each way and epsilon
	$(BIN)/python -m benchmarks.utility.run

bench-released: setup-test  ## Publish at several epsilons and measure what the publications hold
	$(BIN)/python -m benchmarks.released

bench-log: setup-test  ## Measure appends to the evidence log, and proofs as it grows
	$(BIN)/python -m benchmarks.log

tamper-drill: setup-test  ## Edit copies of a log as a superuser; the verifier must name the entry each time
	$(BIN)/python -m benchmarks.log.drill

audit-dp: setup-test  ## Draw from every mechanism and bound from below what an attacker really learns
	$(BIN)/python -m benchmarks.dp.audit

screenshots: setup-test  ## Take a picture of every page of a running demo, light and dark
	$(BIN)/python -m fdrouter.demo screenshots
