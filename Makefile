# Overspill's commands. `make help` lists them. Every target does its own set-up on a bare Debian 12 with root.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
APT_PACKAGES := python3 python3-venv gcc libc6-dev make lua5.1 lua-socket slurmctld slurmd slurm-client libslurm-dev libpython3-dev \
	munge slurmdbd mariadb-server-core mariadb-client-core bubblewrap iproute2 iptables util-linux procps debootstrap \
	rpm lowdown man-db lintian faketime openssl docker.io
POLICY ?= overspill_mode=on,overspill_wait=00:01:00
# Not `?=`: make itself predefines AS, as the assembler.
AS := alice

.PHONY: help setup proto proto-check lint unit test test-slurm compare bench judge demo up down status exec packages pyslurm images lock
help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready .venv/.pyslurm build/spank_overspill.so ## Install what is missing: Debian packages, virtual environment, C plugin

build/.apt: Makefile
	@mkdir -p build
	@missing=$$(for p in $(APT_PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "[setup] Debian packages:" $$missing; \
	  apt-get update -q -o Acquire::Retries=3 >build/apt.log 2>&1 && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing >>build/apt.log 2>&1 \
	  || { tail -n 20 build/apt.log; echo "[setup] apt failed; the whole log is in build/apt.log"; exit 1; }; fi
	@touch $@

.venv/.ready: requirements.lock pyproject.toml | build/.apt
	@echo "[setup] Python environment in $(VENV)"
	@# umask: in the rig the sidecar runs from this environment as user slurm.
	@umask 022; [ -x $(PY) ] || /usr/bin/python3 -m venv $(VENV)
	@umask 022; $(VENV)/bin/uv --version >/dev/null 2>&1 || $(VENV)/bin/pip install --quiet uv
	@umask 022; $(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(PY) --require-hashes requirements.lock
	@$(VENV)/bin/uv pip install --quiet --python $(PY) --no-deps --no-build-isolation -e .
	@touch $@

.venv/.pyslurm: $(wildcard images/overspill_pyslurm/*) | .venv/.ready
	@echo "[setup] pyslurm for this machine's Slurm"
	@umask 022; $(PY) -m overspill_pyslurm >build/pyslurm.log 2>&1 || { tail -n 20 build/pyslurm.log; exit 1; }
	@touch $@

build/spank_overspill.so: $(wildcard slurm_plugin/spank/*.c slurm_plugin/spank/*.h slurm_plugin/spank/Makefile) | build/.apt
	@echo "[setup] SPANK plugin"
	@$(MAKE) --no-print-directory -C slurm_plugin/spank OUT=$(CURDIR)/build

proto: .venv/.ready ## Generate the gRPC code from proto/overspill/v1/*.proto
	@cd proto && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" ../$(PY) -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. \
	  --mypy_out=quiet:. --mypy_grpc_out=quiet:. overspill/v1/*.proto

proto-check: proto ## Fail if the committed generated code is not what the .proto files say
	@git diff --exit-code --stat -- proto/overspill/v1 || { echo "generated code was stale: commit what 'make proto' wrote"; exit 1; }

lint: .venv/.ready ## ruff, mypy --strict, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

unit: .venv/.ready ## The fast tests: no daemons
	$(VENV)/bin/pytest tests/unit

test: setup proto-check lint ## Everything: lint, generated code, unit, conformance, integration, end to end on a real Slurm, packages; under 30 minutes
	$(VENV)/bin/pytest tests -n 4 --dist loadfile --no-loadscope-reorder --durations=25

test-slurm: setup ## Every end-to-end test on another Slurm than this machine's: make test-slurm SLURM=24.11
	RIG_SLURM=$(or $(SLURM),$(error which? make test-slurm SLURM=24.11)) $(VENV)/bin/pytest tests/e2e \
	  tests/integration/test_sidecar_on_slurm.py tests/integration/test_sidecar_accounting.py \
	  tests/integration/test_sidecar_diversion.py tests/integration/test_sidecar_slurm_facts.py --ignore-glob='*/test_comparison_*' \
	  -n 4 --dist loadfile --no-loadscope-reorder --durations=15

compare: setup ## All sessions of the comparison, at home and diverted: make compare [BACKEND=docker] [SLURM=24.11]
	RIG_BACKEND=$(BACKEND) RIG_SLURM=$(or $(SLURM),22.05) $(VENV)/bin/pytest tests/e2e/test_comparison.py -q

bench: setup ## Measure Overspill against plain Slurm, under 15 minutes: make bench [NAME="first-line cancellation"] [JSON=FILE]
	@$(PY) -m tests.bench $(if $(JSON),--json $(JSON)) $(NAME)

judge: .venv/.ready ## Score the wait model on recorded queues: make judge JUDGE=eval_wait.py TRACES=DIR [SEED=7] [OPTIONS="--closed --no-trees"]
	@$(PY) -m tests.bench.judge $(or $(JUDGE),$(error where is the judge? make judge JUDGE=eval_wait.py TRACES=DIR)) \
	  $(or $(TRACES),$(error where are the recorded queues? make judge JUDGE=eval_wait.py TRACES=DIR)) --seed $(or $(SEED),7) $(OPTIONS)

demo: setup ## A full cluster spills over; every promise is checked: make demo [BACKEND=docker] [SLURM=26.05]
	@$(PY) -m tests.rig demo $(BACKEND:%=--backend %) $(SLURM:%=--slurm %)

up: setup ## Start the rig and leave it running: make up [POLICY="overspill_mode=always"] [SHARED=1] [WITHOUT="agent"] [BACKEND=docker] [SLURM=24.11]
	@$(PY) -m tests.rig up --policy "$(POLICY)" $(if $(SHARED),--shared) $(WITHOUT:%=--without %) $(BACKEND:%=--backend %) $(SLURM:%=--slurm %)

down: .venv/.ready ## End every process of the rig, remove every file
	@$(PY) -m tests.rig down

status: .venv/.ready ## Show the rig's daemons, nodes and queue
	@$(PY) -m tests.rig status

# CMD reaches the program through the environment: no quoting of make's or the shell's comes between.
exec: export RIG_COMMAND = $(value CMD)
exec: .venv/.ready ## Execute a command in the cluster: make exec CMD='squeue' [AS=alice]; without CMD a login shell
	@$(PY) -m tests.rig exec --as $(AS) -- $${RIG_COMMAND:+"$$RIG_COMMAND"}

# The time that every file in a package has: the last commit's, so that the same source makes the same package.
packages: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)
packages: setup ## Build dist/*.deb and dist/*.rpm for this machine's Slurm: make packages [SLURM_INCLUDE=DIR] [SLURM_LIBRARY=DIR] [OPTIONS=--help]
	@PYTHONPATH=packaging $(PY) -m overspill_packages $(if $(SLURM_INCLUDE),--slurm-include $(SLURM_INCLUDE)) \
	  $(if $(SLURM_LIBRARY),--slurm-library $(SLURM_LIBRARY)) $(OPTIONS)

pyslurm: .venv/.ready ## What reads the queue, for this machine's Slurm: make pyslurm [SLURM_INCLUDE=DIR] [SLURM_LIBRARY=DIR] [DIRECTORY=DIR]
	@$(PY) -m overspill_pyslurm $(if $(SLURM_INCLUDE),--slurm-include $(SLURM_INCLUDE)) \
	  $(if $(SLURM_LIBRARY),--slurm-library $(SLURM_LIBRARY)) $(if $(DIRECTORY),--directory $(DIRECTORY))

images: setup ## What jobs run in: make images [IMAGE="runtime-mini htcondor"] [BASE=debian:trixie] [CA=FILE] [FRESH=1] [LOCK=1]
	@$(PY) -m overspill_images $(if $(BASE),--base $(BASE)) $(if $(CA),--ca $(CA)) $(if $(FRESH),--fresh) $(if $(LOCK),--lock) $(IMAGE)

# packaging/requirements.lock is what the packages bring along: the same versions without the tools for development, and
# without the extras `trees` and `plot`, which are bigger than all the rest.
lock: PACKAGED := sidecar agent docker htcondor
lock: .venv/.ready ## Resolve the dependencies anew into requirements.lock (hashes, no host names)
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock
	$(VENV)/bin/uv pip compile pyproject.toml $(PACKAGED:%=--extra %) --constraint requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --output-file packaging/requirements.lock
