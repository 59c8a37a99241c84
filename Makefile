# telemetryd: `make help` lists the targets. Everything is set up in .venv by the target that needs it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
# Tests at a time: many wait. The files that take longest begin first (tests/conftest.py).
JOBS ?= 8
# Options of pytest for tests that fail; .ci/run tries them once more.
RERUNS ?=
VENV := .venv
BIN := $(VENV)/bin
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(RERUNS)
FAULTS := tests/faults tests/system/test_replicas.py $(wildcard tests/system/test_upstream_*.py)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt

$(VENV)/bin/python:
	@echo "== setting up $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "telemetryd needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "== this Python has no ensurepip: installing python3-venv"; \
	  [ "$$(id -u)" = 0 ] && SUDO= || SUDO=sudo; \
	  $$SUDO apt-get update -q && $$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv \
	  || { echo "install your system's python3-venv package, then run make again" >&2; exit 1; }; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "== installing telemetryd and what it needs to run"
	@$(PIP_INSTALL) -e '.[postgresql]'
	@touch $@

# Dependency groups need pip 25.1; Python brings an older one.
$(VENV)/.dev: $(VENV)/.runtime
	@echo "== installing the tools that check and test it"
	@$(PIP_INSTALL) pip
	@$(PIP_INSTALL) --group dev
	@touch $@

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.PHONY: demo
demo: $(VENV)/.runtime ## run the whole daemon for 20 s against an embedded API server
	@$(BIN)/telemetryd demo --duration 20s

.PHONY: test
test: $(VENV)/.dev ## test each behaviour, of wide tables a part, on the newest kube-apiserver
	@$(PYTEST) -m 'not (long or image or index)' --durations=15

.PHONY: test-long
test-long: $(VENV)/.dev ## test what takes long and is proven at a lower level by `make test`; properties with all examples
	@$(PYTEST) -m 'long or hypothesis' --hypothesis-profile=all --durations=15

.PHONY: test-oldest
test-oldest: $(VENV)/.dev ## contract, system (but for hanging disks), deploy, of the chart a part, and the quick faults on the oldest kube-apiserver
	@APISERVER=oldest $(PYTEST) --ignore tests/system/test_hangs.py tests/apiserver tests/contract tests/system tests/deploy tests/faults \
	  -k 'not test_installed or test_default_values or every_right or both_ways' tests/charts/test_installed.py

.PHONY: test-pages
test-pages: $(VENV)/.dev ## the quick faults on the newest kube-apiserver with streamed lists off
	@APISERVER_FLAGS=--feature-gates=WatchList=false $(PYTEST) tests/faults

.PHONY: coverage
coverage: $(VENV)/.dev ## run the same with branch coverage (twice as long), and report what it leaves out
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report

.PHONY: mixed
mixed: $(VENV)/.dev ## run a replica of this version beside one of COMMIT: they share Lease, Secret, receiver and state
	@$(BIN)/python -m tests.upgrade.mixed $(or $(COMMIT),$(error COMMIT=... is the other version))

.PHONY: soak
soak: $(VENV)/.dev ## random faults, churn and reloads against a real API server (30 minutes, or SOAK_S=seconds; SEED=)
	@$(BIN)/python -m tests.faults.soak $(or $(SOAK_S),1800) $(SEED)

.PHONY: slow
slow: $(VENV)/.dev ## `make test-long` and the rest of the tables that `make test` samples (30 minutes), then `make fuzz`
	@$(PYTEST) -m 'slow or faults or long or hypothesis' --hypothesis-profile=all $(addprefix --ignore=,$(FAULTS)) --durations=15
	@$(MAKE) fuzz

.PHONY: fuzz
fuzz: $(VENV)/.dev ## fuzz each kind of input for minutes, differently each time (an hour; FUZZ=tests/fuzz/test_spool.py)
	@$(BIN)/pytest -q -s --hypothesis-profile=slow $(or $(FUZZ),tests/fuzz)

.PHONY: soak-exports
soak-exports: $(VENV)/.dev ## export 100,000 times to a local receiver; fails where memory or files grow
	@$(BIN)/python -m tests.export.soak $(or $(EXPORTS),100000)

.PHONY: siege
siege: $(VENV)/.dev ## attack the daemon from all sides at once; fails where a promise is broken (3 minutes)
	@$(BIN)/python -m tests.siege $(SIEGE)

.PHONY: siege-peers
siege-peers: $(VENV)/.dev ## attack the daemon and its peers, one kind at a time; prints a table (12 minutes)
	@$(BIN)/python -m tests.siege --peers --quiet 8 --siege 20

.PHONY: faults
faults: $(VENV)/.dev ## bring about every fault of docs/faults.md; ends with what each took (25 minutes)
	@$(BIN)/pytest -q $(FAULTS) -m 'faults or slow or not slow'

.PHONY: alerts
alerts: $(VENV)/.dev ## bring about the cause of every alert, before a real Prometheus and API server (8 minutes)
	@$(BIN)/pytest -q tests/monitoring -m 'alerts or not alerts'

.PHONY: manifests
manifests: $(VENV)/.dev helm ## make deploy/base and deploy/components of the chart, after a change of that
	@$(BIN)/python -m tests.deploy.generate

.PHONY: apiserver
apiserver: ## build the newest and the oldest kube-apiserver for the tests (needs Go; 8 minutes on 2 cores, once)
	@$(PYTHON) -m tests.apiserver.versions

.PHONY: clientgo
clientgo: ## build client-go's program and kubectl, with which logins are compared (needs Go; 5 minutes on 2 cores, once)
	@$(PYTHON) -m tests.clientgo.binaries

.PHONY: helm
helm: ## build Helm 3 and Helm 4 for the tests of the chart (needs Go; 3 minutes on 2 cores, once)
	@$(PYTHON) -m tests.charts.versions

.PHONY: clean-servers
clean-servers: ## remove what `make apiserver` built
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/telemetryd/servers"
	@echo "The caches of the go command, up to 8 GB, are shared by all Go programs: go clean -cache -modcache empties them."

.PHONY: collector
collector: ## build an OpenTelemetry Collector for the tests (needs Go; 1 to 2 minutes, once)
	@$(PYTHON) -m tests.support.gobuild tests/collector . "$${XDG_CACHE_HOME:-$$HOME/.cache}/telemetryd/servers/collector/collector"

# Peers of the benchmark, apart from what telemetryd is checked with.
.venv-bench/.done: $(VENV)/bin/python benchmarks/requirements.txt
	@echo "== installing the benchmark's peers in .venv-bench"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --disable-pip-version-check -q --progress-bar off -r benchmarks/requirements.txt
	@touch $@

.PHONY: bench
bench: $(VENV)/.dev .venv-bench/.done ## measure telemetryd beside its peers (20 minutes; BENCH_ONLY, BENCH_NODES, BENCH_RUNS, BENCH_BUSY, BENCH_OLD, BENCH_KUBECONFIG)
	@[ -n "$$BENCH_KUBECONFIG" ] || $(BIN)/python -m tests.apiserver.versions "$${APISERVER:-newest}"
	@$(BIN)/python -m benchmarks build
	@$(BIN)/python -m benchmarks run --only "$$BENCH_ONLY"

.PHONY: bench-profile
bench-profile: $(VENV)/.dev ## print where the time of a cold sync goes
	@[ -n "$$BENCH_KUBECONFIG" ] || $(BIN)/python -m tests.apiserver.versions newest
	@$(BIN)/python -m benchmarks profile

.PHONY: screenshots
screenshots: $(VENV)/.dev ## leave pictures of the pages and of the HTML report in every state in ./screenshots (needs chromium)
	@SCREENSHOTS=screenshots $(BIN)/pytest -q tests/browser

.PHONY: docs
docs: $(VENV)/.dev ## make what is made of the code: references, config.schema.json, completion, man page, the chart's copies
	@$(BIN)/python -m tests.docs.generate

.PHONY: check
check: $(VENV)/.dev ## lint, types, layers, dependencies, spelling, plain words
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry telemetryd
	$(BIN)/codespell
	$(BIN)/python -m tests.docs.words
	$(BIN)/shellcheck .ci/run supply/install systemd/install \
	  debian/telemetryd.prerm debian/telemetryd.postrm tests/systemd/boot tests/systemd/drill
	$(BIN)/hadolint Dockerfile

.PHONY: install
install: ## install on this machine as a systemd service, or upgrade it (root, or DESTDIR; /usr/bin/python3 unless PYTHON=...)
	@$(if $(filter-out file default,$(origin PYTHON)),PYTHON=$(PYTHON)) systemd/install

.PHONY: uninstall
uninstall: ## take out what `make install` put there; configuration and state stay
	$(if $(DESTDIR),,-systemctl disable --now telemetryd)
	rm -rf $(DESTDIR)/opt/telemetryd
	rm -f $(addprefix $(DESTDIR),/usr/bin/telemetryd /etc/systemd/system/telemetryd.service \
	  $(addprefix /usr/local/share/,bash-completion/completions/telemetryd zsh/site-functions/_telemetryd \
	  fish/vendor_completions.d/telemetryd.fish man/man1/telemetryd.1))
	$(if $(DESTDIR),,systemctl daemon-reload)

.PHONY: install-test
install-test: $(VENV)/.dev ## install by the locks on each Python, build the release twice, install the Debian package (asks the index)
	@$(BIN)/pytest -q -m index -n 2 --dist loadfile tests/supply

.PHONY: drill
drill: ## install and run it as a service under a systemd of its own (root; needs systemd-nspawn; 2 minutes)
	@tests/systemd/boot

.PHONY: image-test
image-test: $(VENV)/.dev ## build the image twice, look into it, run it on a real API server (CONTAINER_ENGINE, PYTHON_IMAGE)
	@$(BIN)/pytest -q -s -m image tests/image

.PHONY: release
release: $(VENV)/.dev ## build all files of a release into ./dist (PYTHON_IMAGE=NAME@sha256:..., or IMAGE=no; CONTRIBUTING.md has the rest)
	@$(BIN)/python -m supply.release

.PHONY: lock
lock: $(VENV)/.dev ## write requirements*.lock from constraints.txt (asks the index; 2 minutes)
	@$(BIN)/python -m supply.lock

.PHONY: licences
licences: $(VENV)/.dev ## write docs/licences.md
	@$(BIN)/python -m supply.licences

.PHONY: sbom
sbom: $(VENV)/.dev ## leave the bill of materials in ./dist (CycloneDX JSON)
	@mkdir -p dist
	@$(BIN)/python -m supply.sbom >dist/telemetryd.cdx.json
	@echo dist/telemetryd.cdx.json

.PHONY: format
format: $(VENV)/.dev ## format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: clean
clean: ## remove what the targets made
	rm -rf $(VENV) .venv-bench .coverage .coverage.* .hypothesis .mypy_cache .ruff_cache .import_linter_cache
