# The exporter as a static binary in an image that contains nothing else.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --tag ghcr.io/listen-queue-exporter/listen-queue-exporter .
#   docker build --build-arg FEATURES=ebpf ...        # cargo features, separated by commas
#
# Each platform is built on its own machine or emulator: nothing is cross-compiled.

FROM docker.io/library/rust:1.95-slim-bookworm AS builder
WORKDIR /src
ARG FEATURES=""
# hadolint ignore=DL3008
RUN case ",$FEATURES," in \
      *,ebpf,*) \
        apt-get update && \
        apt-get install --yes --no-install-recommends \
          autoconf automake autopoint bison clang flex gawk gettext make pkg-config && \
        rm -rf /var/lib/apt/lists/* ;; \
    esac
ARG TARGETARCH
RUN case "$TARGETARCH" in \
      amd64) echo x86_64-unknown-linux-gnu ;; \
      arm64) echo aarch64-unknown-linux-gnu ;; \
      *) echo "no image for TARGETARCH '$TARGETARCH': amd64 and arm64 only" >&2; exit 1 ;; \
    esac >target-triple
# Requires the explicit target: without it, the flag would also apply to build scripts and procedural macros.
ENV RUSTFLAGS="-C target-feature=+crt-static"
# The dependencies: a layer that is reused until Cargo.toml or Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src && \
    echo 'fn main() {}' >src/main.rs && \
    cp src/main.rs src/build.rs && \
    touch src/lib.rs && \
    cargo build --release --locked --target "$(cat target-triple)" --features "$FEATURES" && \
    rm -r src
COPY . .
ARG REVISION="unknown"
# The sources may be older than what was built from the empty ones.
RUN find src -type f -exec touch {} + && \
    LISTEN_QUEUE_EXPORTER_REVISION="$REVISION" \
      cargo build --release --locked --target "$(cat target-triple)" --features "$FEATURES" && \
    mkdir -p image && \
    cp "target/$(cat target-triple)/release/listen-queue-exporter" image/

FROM scratch
ARG REVISION="unknown"
LABEL org.opencontainers.image.title="listen-queue-exporter" \
      org.opencontainers.image.description="Prometheus exporter for the accept queues of listening sockets" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/listen-queue-exporter/listen-queue-exporter" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=builder /src/image/listen-queue-exporter /listen-queue-exporter
USER 65532:65532
EXPOSE 10128
ENTRYPOINT ["/listen-queue-exporter"]
