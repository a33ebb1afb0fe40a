# make demo and make test do everything on a bare Debian 12 (root, or sudo).

VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# Much of a live test is waiting for the kernel and for processes. Each worker loads all tests, which takes it 5 s
# where none may be kept compiled, and 2 s else.
WORKERS ?= $(shell expr $$(nproc) + 1)

.DEFAULT_GOAL := help
.PHONY: help system system-tests demo test lint coverage golden samples manual site pictures bench hosts lake packages image soak kernels clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

system: ## install the Debian packages that are missing (iptables, libpcap, iproute2, ...)
	@tools/system-packages

system-tests: ## and those that the tests compare iptrec with (tshark, tcpdump)
	@tools/system-packages tests

$(VENV)/installed: pyproject.toml | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed | system ## record and show packets on a small Docker-like network
	$(BIN)/iptrec demo

test: system-tests lint ## ruff, mypy --strict and the whole test suite, live kernel tests included
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

lint: $(VENV)/installed | system ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: $(VENV)/installed | system ## how much of each room its own tests run, live ones left out
	$(BIN)/python tools/coverage

golden: $(VENV)/installed ## rewrite the golden files from what the views print now
	$(BIN)/python -m pytest tests/views tests/pasted tests/cli/test_export_tables.py --update-golden

samples: $(VENV)/installed | system ## record the samples again (then: make golden)
	$(BIN)/python samples/record_all.py

manual: $(VENV)/installed ## man/, of the command line
	$(BIN)/python tools/manual

site: $(VENV)/installed ## the documentation of docs/ as HTML, in site/
	rm -rf site
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs site

pictures: $(VENV)/installed | system-tests ## those in docs/ that are drawn of what iptrec prints
	@tools/system-packages pictures
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/picture
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/screenshot
	$(BIN)/python tools/animation

bench: $(VENV)/installed | system-tests ## figures: recording and analysis
	$(BIN)/python bench/run.py

kernels: $(VENV)/installed | system-tests ## a choice of the live tests on Debian's kernels, in QEMU
	@tools/system-packages kernels
	$(BIN)/python bench/kernels/run.py

hosts: $(VENV)/installed | system-tests ## real firewalls' rules under 100,000 packets each; installs docker, podman, ...
	@tools/system-packages hosts
	$(BIN)/python bench/hosts.py

lake: $(VENV)/installed | system ## the questions of a lake asked of ClickHouse, Spark and a cluster of it; installs them
	@tools/system-packages lake
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[clickhouse,spark]' 'moto[server]'
	$(BIN)/python tools/spark-cluster $(BIN)/python -m pytest tests/lake_engines

packages: $(VENV)/installed | system ## dist/: wheel, .deb, .rpm, a single file; installed in clean roots (root, a Debian mirror)
	@tools/system-packages packages
	$(BIN)/python tools/packages dist
	IPTREC_PACKAGES=dist $(BIN)/python -m pytest tests/packages

image: $(VENV)/installed | system ## the image, beside real daemons with published ports; installs docker, podman, ...
	@tools/system-packages image
	$(BIN)/python -m pip install --quiet --disable-pip-version-check kubernetes-validate
	IPTREC_IMAGE=1 $(BIN)/python -m pytest tests/image

soak: $(VENV)/installed | system ## an hour of recording, minute by minute: memory, descriptors, disk
	$(BIN)/python bench/soak.py

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
