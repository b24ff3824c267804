# make run     builds the exporter and runs it here: every listener of this network namespace, on :10128
# make test    installs what the tests need (Debian 12) and runs all of them: about a quarter of an hour
# make test-kernels  only the slowest: the tests on other kernels, in qemu, and what eBPF costs a connect there
# make lint    formatting, lints, documentation
# make image   the container image, with docker
# make demo    the failure on real programs: nginx, gunicorn, the exporter and Prometheus; TRANSPORT=tcp for TCP
# make test-quick   a part of the tests, in under three minutes: without containers, other kernels and a browser
# make docs    the documentation as a site, in target/site
# make bench   what it costs, side by side with a bare C loop: a table, also in target/bench.txt
#
# Tests, demo and bench make network namespaces. Whoever is not root needs sudo: what cargo builds stays the user's, what the tests leave in
# target/ is root's.

CARGO ?= cargo
TRANSPORT ?= unix
HOST = "$$(rustc -vV | sed -n 's/^host: //p')"

# sudo has a PATH of its own. HOME is kept for the tests that build: they need the user's toolchain.
ifneq ($(shell id -u),0)
AS_ROOT := sudo --preserve-env env "HOME=$$HOME" "PATH=$$PATH"
RUN_AS_ROOT := --config "target.'cfg(unix)'.runner = ['sudo', '--preserve-env', 'env', 'HOME=$$HOME', 'PATH=$$PATH']"
endif

# Some tests build as root: what they would download has to be the user's before.
FETCH = $(CARGO) fetch --locked --target $(HOST)

.PHONY: run test test-quick test-kernels lint image demo docs bench

run:
	$(CARGO) run --locked --release

test:
	tests/install.sh base browser containers ebpf kernels
	$(FETCH)
	$(CARGO) test --locked $(RUN_AS_ROOT)

test-quick:
	tests/install.sh base
	$(FETCH)
	$(CARGO) test --locked $(RUN_AS_ROOT) --lib --bins --test docs --test rules --test system

docs:
	tests/install.sh docs
	tests/site.sh

test-kernels:
	tests/install.sh ebpf kernels
	$(FETCH)
	$(CARGO) test --locked $(RUN_AS_ROOT) --test kernels -- --show-output --test-threads 1

lint:
	tests/install.sh ebpf
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	$(CARGO) clippy --locked --features ebpf -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --locked --no-deps

image:
	docker build --build-arg REVISION="$$(git rev-parse HEAD)" --tag ghcr.io/listen-queue-exporter/listen-queue-exporter:0.1.0 .

demo:
	tests/install.sh base
	$(CARGO) build --locked --release
	$(AS_ROOT) python3 tests/demo/demo.py --exporter target/release/listen-queue-exporter --transport $(TRANSPORT)

# The build that is shipped is static. Told its target, cargo leaves build scripts and macros as they are.
bench:
	tests/install.sh base
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) bench --locked $(RUN_AS_ROOT) --bench cost --target $(HOST)
