# make run     builds the exporter and runs it here: every listener of this network namespace, on :10128
# make test    installs what the tests need (Debian 12) and runs all of them: under half an hour
# make test-kernels  only the slowest: the tests on other kernels, in qemu, and what eBPF costs a connect there
# make test-rules    each case of the alerts at every scrape interval, with both versions of Prometheus: a few minutes
# make lint    formatting, lints, documentation, licences and sources of dependencies
# make generate   the alert rules and the dashboard, from deploy/mixin
# make image   the container image, with docker, podman or buildah, whichever is there
# make packages   deb, rpm and tar.gz in target/packages; BINARY=path for a static exporter that is built already
# make chart   the Helm chart in target/packages
# make test-packages   installs them on clean Debian 12 and 13 systems with systemd, upgrades, removes and purges them
# make demo    the failure on real programs: nginx, gunicorn, the exporter and Prometheus; TRANSPORT=tcp for TCP
# make test-quick   a part of the tests, in under three minutes: without containers, other kernels and a browser
# make fuzz    random inputs for whatever reads bytes from outside, with libFuzzer: SECONDS=60 for each target
# make soak    nginx, gunicorn and the exporter under load, restarts and reloads: DURATION=10m, or hours
# make docs    the documentation as a site, in target/site
# make bench   what it costs, side by side with a bare C loop: a table, also in target/bench.txt
# make bench-peers   the exporter beside ss, raindrops, node_exporter and what servers report themselves: tables, also in docs/performance.md
#
# Tests, demo and bench make network namespaces. Whoever is not root needs sudo: what cargo builds stays the user's, what the tests leave in
# target/ is root's.

CARGO ?= cargo
TRANSPORT ?= unix
SECONDS ?= 60
DURATION ?= 10m
BINARY ?= target/$(HOST)/release/listen-queue-exporter
# A docker without its daemon cannot build.
ENGINE ?= $(shell for engine in docker podman buildah; do $$engine info >/dev/null 2>&1 && echo $$engine && break; done)
HOST = "$$(rustc -vV | sed -n 's/^host: //p')"

# sudo has a PATH of its own. HOME is kept for the tests that build: they need the user's toolchain.
ifneq ($(shell id -u),0)
AS_ROOT := sudo --preserve-env env "HOME=$$HOME" "PATH=$$PATH"
RUN_AS_ROOT := --config "target.'cfg(unix)'.runner = ['sudo', '--preserve-env', 'env', 'HOME=$$HOME', 'PATH=$$PATH']"
endif

# Some tests build as root: what they would download has to be the user's before.
FETCH = $(CARGO) fetch --locked --target $(HOST)

# Every test program but the two that run side by side.
OTHERS = $(filter-out demo kernels,$(patsubst tests/%.rs,%,$(wildcard tests/*.rs)) $(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs)))

.PHONY: run test test-quick test-kernels test-packages test-rules lint image packages chart demo docs generate bench bench-peers fuzz soak

run:
	$(CARGO) run --locked --release

test:
	tests/install.sh packages base browser containers ebpf kernels
	$(FETCH)
	$(CARGO) test --locked --no-run
	@# The one computes and can wait, the other waits for alerts.
	nice -n 19 $(CARGO) test --locked $(RUN_AS_ROOT) --test kernels >target/kernels.txt 2>&1 & kernels=$$!; \
	$(CARGO) test --locked $(RUN_AS_ROOT) --test demo -- --test-threads 4; demo=$$?; \
	wait $$kernels; kernels=$$?; cat target/kernels.txt; exit $$((demo + kernels))
	$(CARGO) test --locked $(RUN_AS_ROOT) --lib --bins $(OTHERS:%=--test %)
	$(CARGO) test --locked $(RUN_AS_ROOT) --doc

test-quick:
	tests/install.sh base
	$(FETCH)
	$(CARGO) test --locked $(RUN_AS_ROOT) --lib --bins --test docs --test rules --test system

generate:
	tests/install.sh base
	target/tools/bin/python deploy/mixin/generate.py

docs:
	tests/install.sh docs
	tests/site.sh

test-kernels:
	tests/install.sh ebpf kernels
	$(FETCH)
	KERNELS=all $(CARGO) test --locked $(RUN_AS_ROOT) --test kernels -- --show-output --test-threads 1

test-rules:
	tests/install.sh base
	$(FETCH)
	LISTEN_QUEUE_TEST_ALL_RULES=1 $(CARGO) test --locked $(RUN_AS_ROOT) --test rules

soak:
	tests/install.sh base
	$(CARGO) build --locked --release
	$(AS_ROOT) python3 tests/soak/soak.py --exporter target/release/listen-queue-exporter --duration $(DURATION)

fuzz:
	tests/install.sh fuzz
	tests/fuzz.sh $(SECONDS)

lint:
	tests/install.sh ebpf lint
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	$(CARGO) clippy --locked --features ebpf -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --locked --no-deps
	tests/deny.sh

image:
	@[ -n "$(ENGINE)" ] || { echo "make image needs docker, podman or buildah: install one of them" >&2; exit 1; }
	$(ENGINE) build --build-arg REVISION="$$(git rev-parse HEAD)" --tag ghcr.io/listen-queue-exporter/listen-queue-exporter:0.1.0 .

packages:
	tests/install.sh packages rpm
	$(CARGO) run --locked --quiet --example manual -- target/manual
ifeq ($(origin BINARY),file)
	RUSTFLAGS='-C target-feature=+crt-static' LISTEN_QUEUE_EXPORTER_REVISION="$$(git rev-parse HEAD)" \
		$(CARGO) build --locked --release --target $(HOST)
endif
	deploy/packages/build.sh $(BINARY) target/manual

chart:
	tests/install.sh chart
	PATH="$$PATH:$$PWD/target/tools/bin" helm package deploy/helm/listen-queue-exporter --destination target/packages

test-packages: packages
	$(AS_ROOT) tests/packages/try.sh

demo:
	tests/install.sh base
	$(CARGO) build --locked --release
	$(AS_ROOT) python3 tests/demo/demo.py --exporter target/release/listen-queue-exporter --transport $(TRANSPORT)

# The build that is shipped is static. Told its target, cargo leaves build scripts and macros as they are.
bench:
	tests/install.sh base
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) bench --locked $(RUN_AS_ROOT) --bench cost --target $(HOST) -- $(ONLY)

# Two builds: the one that is shipped, and one that counts refused connects with eBPF where the kernel allows that.
bench-peers:
	tests/install.sh base ebpf peers
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --locked --release --target $(HOST)
	$(CARGO) build --locked --release --features ebpf --target-dir target/ebpf
	$(AS_ROOT) python3 tests/peers/peers.py --exporter target/$(HOST)/release/listen-queue-exporter \
	  --with-ebpf target/ebpf/release/listen-queue-exporter --page docs/performance.md
