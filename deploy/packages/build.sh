#!/usr/bin/env bash
# Makes the deb, the rpm and the tar.gz of this machine's architecture in target/packages, or only those that are named.
#
#   deploy/packages/build.sh BINARY MANUAL [deb] [rpm] [tar]
#
# BINARY is the static exporter. MANUAL is the directory that `cargo run --example manual` wrote.
set -euo pipefail
binary=$(realpath "$1")
manual=$(realpath "$2")
shift 2
[ $# -gt 0 ] || set -- deb rpm tar
cd "$(dirname "$0")/../.."

name=listen-queue-exporter
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
case $(uname -m) in
  x86_64) debian=amd64 uname=x86_64 ;;
  aarch64) debian=arm64 uname=aarch64 ;;
  *)
    echo "there are no packages for $(uname -m): x86_64 and aarch64 only" >&2
    exit 1
    ;;
esac
# The same sources make the same files: the time in them is that of the commit.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
PATH=$PWD/target/tools/bin:$PATH

out=target/packages
files=$out/files
rm -rf "$out"
mkdir -p "$files"

install -m 755 "$binary" "$files/$name"
install -m 644 "$manual"/* "$files"
# Packages do not write to /usr/local.
sed 's#/usr/local/bin/#/usr/bin/#' deploy/systemd/$name.service >"$files/$name.service"
grep -q "^ExecStart=/usr/bin/$name$" "$files/$name.service"
cp deploy/packages/copyright "$files"
gzip -9n --keep "$files"/*.1
gzip -9n --stdout CHANGELOG.md >"$files/changelog.gz"
cat >"$files/changelog.debian" <<END
$name ($version-1) stable; urgency=medium

  * Release $version: see changelog.gz in this directory.

 -- The listen-queue-exporter authors <$name@users.noreply.github.com>  $(date --utc --rfc-email --date "@$SOURCE_DATE_EPOCH")
END

deb() {
  cargo-deb --no-build --no-strip --locked --quiet --output "$out/${name}_$version-1_$debian.deb"
}

rpm() {
  cargo-generate-rpm --target "$uname-unknown-linux-gnu" --output "$out/$name-$version-1.$uname.rpm"
}

tar() {
  local tree=$name-$version.linux-$debian
  mkdir -p "$out/$tree/completions"
  install -m 755 "$binary" "$out/$tree/$name"
  install -m 644 LICENSE README.md CHANGELOG.md grafana/dashboard.json "$out/$tree"
  install -m 644 deploy/prometheus/rules.yaml deploy/prometheus/alertmanager.yaml deploy/nginx/error-log.conf "$out/$tree"
  install -m 644 deploy/systemd/$name.service deploy/systemd/$name.env deploy/systemd/node.conf "$out/$tree"
  install -m 644 "$manual"/*.1 "$out/$tree"
  install -m 644 "$manual/$name.bash" "$manual/$name.fish" "$manual/_$name" "$out/$tree/completions"
  command tar --create --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --directory "$out" "$tree" |
    gzip -9n >"$out/$tree.tar.gz"
  rm -r "${out:?}/$tree"
}

for format in "$@"; do
  case $format in
    deb | rpm | tar) "$format" ;;
    *)
      echo "deploy/packages/build.sh: no format '$format'; there are deb, rpm, tar" >&2
      exit 2
      ;;
  esac
done
find "$out" -maxdepth 1 -type f -printf '%s bytes\t%p\n'
