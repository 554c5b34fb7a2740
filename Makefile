# Needs make and Python 3.11 or newer. Everything else is installed into .venv.
#
#   make run                 the gateway with examples/handlers and examples.db, on http://127.0.0.1:8000
#   make run DATABASE_URL=postgresql://me@localhost/busway    the same on PostgreSQL
#   make run POOL=thread PORT=8001 HANDLERS=my/handlers ARGS="--drain-timeout 5"
#   make cluster             three nodes on PostgreSQL and NATS, which it starts; on ports 8000 to 8002, or from PORT on
#   make test                the tests, in about six minutes on two cores; ARGS="tests/workers -x" for some of them
#   make test PYTHON=python3.15      use this Python; .venv is created again if it has another one
#   make test-fast           the tests that need no gateway, in less than a minute
#   make test-all            all tests, also the long ones; CI runs this
#   make move                a million events from SQLite to PostgreSQL and back, every row compared; 10 GB of disk
#   make lint                ruff, mypy, import rules, bandit, lock files, advisories; needs no network
#   make advisories          ask the registry for known faults of the locked packages; needs a network
#   make advisories CHECKOUT=…   the snapshot of advisories that make lint reads, from a database in the OSV format
#   make release             wheel, sources, SBOM and checksums in dist; KEY=~/.ssh/id_ed25519 signs the checksums
#   make fuzz SECONDS=3600   bytes at random for each reader of what comes from outside, so long for each
#   make bench               every row of the benchmark beside its peers, under 20 minutes
#   make bench ROW=publish   one row, or several: ROW="publish latency"; ROW=account: CPU time of an event
#   make bench ROW=publish BESIDE=fastapi                     one row beside one peer, in about a minute
#   make docs                the documentation as a site, in build/docs/site
#   make counted             record the counted work of an event, with which a test compares
#   make lock                update the locked dependencies
#   make format              format the code, and let ruff fix what it can

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start hundreds of processes: without bytecode each of them would compile Busway.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter that is new enough and can create environments. Shims without an interpreter fail here.
PYTHON ?= $(shell for p in python3.15 python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)

# If PYTHON is set, it replaces the Python of the environment.
ifneq "$(origin PYTHON)" "file"
version = $(shell "$(1)" -c 'import sys; print(sys.version, sys.abiflags)' 2>/dev/null || echo none)
ifneq "$(call version,$(PYTHON))" "$(call version,$(BIN)/python)"
$(VENV)/.python: another
endif
endif
.PHONY: another

# Only for the command line: environment variables of these names may have other meanings.
HANDLERS := examples/handlers
HOST :=
PORT :=
POOL :=
WORKERS :=
THREADS :=
DATABASE_URL :=
ARGS :=
ROW :=
BESIDE :=
option = $(if $($(1)),--$(2) "$($(1))")
OPTIONS = $(call option,HOST,host) $(call option,PORT,port) $(call option,POOL,pool) \
	$(call option,WORKERS,workers) $(call option,THREADS,threads)

.PHONY: run cluster test test-fast test-all fuzz soak soak-console move lint docs advisories release bench counted format lock clean
.DEFAULT_GOAL := run

# The examples have a database of their own, with sample data from the first start on. Remove examples.db* to begin again.
ELSEWHERE := $(findstring --database-url,$(ARGS))$(findstring BUSWAY_DATABASE_URL,$(file <.env))
EXAMPLES := $(if $(ELSEWHERE),,$(filter examples/handlers,$(HANDLERS)))
OWN_DATABASE := $(or $(value DATABASE_URL),$(value BUSWAY_DATABASE_URL),sqlite:///examples.db)
OWN_FILE := $(patsubst sqlite:///%,%,$(filter sqlite:///%,$(OWN_DATABASE)))

# The URL stands in the environment: other users of the machine can read options, and it may have a password.
run: $(VENV)/.runtime
run: export BUSWAY_DATABASE_URL := $(if $(EXAMPLES),$(OWN_DATABASE),$(or $(value DATABASE_URL),$(value BUSWAY_DATABASE_URL)))
run:
ifdef EXAMPLES
	@test -z "$(OWN_FILE)" -o -e "$(OWN_FILE)" || $(BIN)/python examples/sample_data.py "$(OWN_FILE)" \
		|| echo "make: the sample data could not be created" >&2
endif
	@exec $(BIN)/busway serve --handlers "$(HANDLERS)" $(OPTIONS) $(ARGS)

cluster: $(VENV)/.dev
	@exec $(BIN)/python -m tests.servers.cluster --handlers "$(HANDLERS)" $(OPTIONS) $(ARGS)

# Most tests wait most of the time, so more files run at once than there are cores. JOBS=0 runs one process, for --pdb.
JOBS := 4
PYTEST := $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev
	$(PYTEST) -m "not long and not soak" $(ARGS)

test-fast: $(VENV)/.dev
	$(PYTEST) -m "not long and not soak" -k "not postgres" tests/domain tests/dispatch tests/store tests/results tests/test_project.py $(ARGS)

# Debian's PostgreSQL, if it is installed: the oldest version that Busway supports.
DEBIAN_POSTGRES := $(firstword $(wildcard /usr/lib/postgresql/*))

# The behaviour suite runs on SQLite and with two nodes on PostgreSQL, every second pair of nodes over NATS. What a second
# node would disturb runs with one. BUSWAY_TEST_DATABASE=postgres BUSWAY_TEST_NODES=1|2 BUSWAY_TEST_BROKER=none|nats
# runs all of tests/e2e in one of these ways.
# Work is counted alone: how a busy machine groups events is chance. The rest runs also when that fails.
test-all: $(VENV)/.dev
	@status=0; \
	(set -x; $(BIN)/pytest tests/work) || status=1; \
	(set -x; $(PYTEST) --ignore tests/work $(ARGS)) || status=1; \
	(set -x; BUSWAY_TEST_DATABASE=postgres BUSWAY_TEST_NODES=2 BUSWAY_TEST_BROKER=some $(PYTEST) tests/e2e $(ARGS)) \
		|| status=1; \
	(set -x; BUSWAY_TEST_DATABASE=postgres $(PYTEST) -m one_node tests/e2e $(ARGS)) || status=1; \
	test -z "$(DEBIAN_POSTGRES)" || \
	(set -x; BUSWAY_TEST_POSTGRES=$(DEBIAN_POSTGRES) $(PYTEST) tests/store/conformance -k postgres $(ARGS)) || status=1; \
	exit $$status

# Load and faults for so many seconds. SOAK_SEED=… repeats the faults of a run.
SECONDS := 3600
soak: $(VENV)/.dev
	SOAK_SECONDS=$(SECONDS) $(BIN)/pytest -m soak -s tests/soak/test_soak.py $(ARGS)

# The console at 500 results a second for so many seconds: memory and CPU of its pages in a real Chromium.
soak-console: $(VENV)/.dev
	SOAK_SECONDS=$(SECONDS) $(BIN)/pytest -m soak -s tests/soak/test_console.py $(ARGS)

# The files are in the temporary folder of pytest. ARGS="--basetemp=/somewhere" chooses another one.
move: $(VENV)/.dev
	SOAK_SECONDS=7200 $(BIN)/pytest -m soak -s tests/soak/test_million.py $(ARGS)

# The documentation as a site, in build/docs/site. Its tools have an environment of their own.
docs: $(VENV)/.docs
	@$(BIN)/python -m tools.documentation $(VENV)/docs/bin

# Bytes at random for each reader of what comes from outside, for so many seconds each, and as many requests for each
# operation of the OpenAPI document.
fuzz: $(VENV)/.dev
	FUZZ_SECONDS=$(SECONDS) $(PYTEST) --dist load tests/test_fuzz.py tests/documents/test_generated.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml app migrations tools
	$(BIN)/python -m tools.locks
	$(BIN)/python -m tools.advisories check

# pip-audit has an environment of its own, like uv, and is no dependency.
CHECKOUT :=
ifneq "$(CHECKOUT)" ""
advisories: $(VENV)/.dev
	$(BIN)/python -m tools.advisories write "$(CHECKOUT)"
else
advisories: $(VENV)/.python
	test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements.lock
endif

KEY :=
release: $(VENV)/.dev
	$(BIN)/python -m tools.release dist $(if $(KEY),--key "$(KEY)")

# The rows that need peers create environments for them.
bench: $(VENV)/.bench
	$(VENV)/bench/bin/python -m benchmarks $(ROW) $(if $(BESIDE),--beside $(BESIDE)) $(ARGS)

# Five runs, under three minutes. Needs strace and valgrind.
counted: $(VENV)/.dev
	$(BIN)/python -m tests.work.record

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# uv resolves for all Python versions at once. It has an environment of its own and is no dependency.
lock: $(VENV)/.python
	test -x $(VENV)/lock/bin/uv || { $(BIN)/python -m venv $(VENV)/lock && $(VENV)/lock/bin/pip install --quiet uv; }
	$(VENV)/lock/bin/uv pip compile $(LOCK) --group build --extra server -o requirements.lock
	$(VENV)/lock/bin/uv pip compile $(LOCK) --group build --extra server --extra otel --extra dev -c requirements.lock -o requirements-dev.lock
	$(VENV)/lock/bin/uv pip compile $(subst pyproject.toml,tests/documents/node.txt,$(LOCK)) -o tests/documents/node.lock
	$(VENV)/lock/bin/uv pip compile $(subst pyproject.toml,docs/site.txt,$(LOCK)) -o docs/site.lock
	$(VENV)/lock/bin/uv pip compile $(LOCK) --group build --extra server --extra bench -c requirements.lock -o benchmarks/requirements.lock
	$(VENV)/lock/bin/uv pip compile $(subst pyproject.toml,benchmarks/peers.txt,$(LOCK)) -o benchmarks/peers.lock
	$(VENV)/lock/bin/uv pip compile $(subst pyproject.toml,benchmarks/crossbar.txt,$(LOCK)) -o benchmarks/crossbar.lock

LOCK := pyproject.toml --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-config --custom-compile-command "make lock"

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The stamps make a second call instant. pip installs only locked packages, by hash.
$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer that can create environments was found:" \
		"install one (on Debian with python3-venv), or set it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(if $(filter another,$?),--clear) $(VENV)
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml $(VENV)/.python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock requirements.lock pyproject.toml $(VENV)/.python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(VENV)/.runtime $@

$(VENV)/.docs: docs/site.lock $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)/docs
	$(VENV)/docs/bin/python -m pip install --quiet --require-hashes -r docs/site.lock
	@touch $@

$(VENV)/.bench: benchmarks/requirements.lock pyproject.toml $(VENV)/.python
	$(PYTHON) -m venv $(VENV)/bench
	$(VENV)/bench/bin/python -m pip install --quiet --require-hashes -r benchmarks/requirements.lock
	$(VENV)/bench/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
