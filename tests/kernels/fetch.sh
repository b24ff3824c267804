#!/usr/bin/env bash
# Fetches the newest kernel of a Debian suite, without installing it, from the mirror that this machine uses.
#
#   tests/kernels/fetch.sh SUITE DIRECTORY      leaves DIRECTORY/vmlinuz, DIRECTORY/version and DIRECTORY/modules/*.ko
set -euo pipefail
suite=$1 directory=$2
[ -e "$directory/version" ] && exit

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sort -u | head -n 1)
mkdir -p "$work"/{lists,archives}/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
cat >"$work/apt.conf" <<END
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$work/lists";
Dir::Cache "$work";
Acquire::Languages "none";
APT::Sandbox::User "root";
END
export APT_CONFIG=$work/apt.conf
apt-get update -qq

# The package without a version names the newest; newer suites have the kernel and its modules in packages of their own.
needs() { apt-cache depends "$1" | sed -nE 's/^ +Depends: (linux-(image|binary|modules)-[0-9].*)/\1/p'; }
image=$(needs linux-image-cloud-amd64)
cd "$work"
# shellcheck disable=SC2046
apt-get download -qq "$image" $(needs "$image")
for package in *.deb; do dpkg -x "$package" root; done

mkdir -p "$directory/modules"
cp "$(find root -name "vmlinuz*" -type f)" "$directory/vmlinuz"
for module in unix_diag inet_diag tcp_diag; do
  found=$(find root -name "$module.ko*")
  case $found in
    *.xz) xz -dc "$found" ;;
    *) cat "$found" ;;
  esac >"$directory/modules/$module.ko"
done
echo "${image#linux-image-}" >"$directory/version"
