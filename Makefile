# make run     builds the exporter and runs it here: every listener of this network namespace, on :10128
# make test    installs what the tests need (Debian, as root or with sudo) and runs all but the slow ones
# make test-kernels  only the tests on other kernels, in qemu, and what eBPF costs a connect there
# make lint    formatting, lints, documentation
# make image   the container image, with docker
# make demo    the failure on real programs: nginx, gunicorn, the exporter and Prometheus; TRANSPORT=tcp for TCP
# make bench   what it costs, side by side with a bare C loop: a table, also in target/bench.txt

CARGO ?= cargo
TRANSPORT ?= unix

.PHONY: run test test-kernels lint image demo bench

run:
	$(CARGO) run --locked --release

test:
	tests/install.sh base browser containers ebpf kernels
	$(CARGO) test --locked

test-kernels:
	tests/install.sh ebpf kernels
	$(CARGO) test --locked --test kernels -- --show-output --test-threads 1

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
	python3 tests/demo/demo.py --exporter target/release/listen-queue-exporter --transport $(TRANSPORT)

# The build that is shipped is static. Told its target, cargo leaves build scripts and macros as they are.
bench:
	tests/install.sh base
	RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) bench --locked --bench cost --target "$$(rustc -vV | sed -n 's/^host: //p')"
