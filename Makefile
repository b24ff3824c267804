# make run     builds the exporter and runs it here: every listener of this network namespace, on :10128
# make test    installs what the tests need (Debian, as root or with sudo) and runs all but the slow ones
# make lint    formatting, lints, documentation
# make image   the container image, with docker
# make bench   what it costs, side by side with a bare C loop: a table, also in target/bench.txt

CARGO ?= cargo

.PHONY: run test lint image bench

run:
	$(CARGO) run --locked --release

test:
	tests/install.sh base containers
	$(CARGO) test --locked

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --locked --no-deps

image:
	docker build --build-arg REVISION="$$(git rev-parse HEAD)" --tag ghcr.io/listen-queue-exporter/listen-queue-exporter:0.1.0 .

bench:
	tests/install.sh base
	$(CARGO) bench --locked
