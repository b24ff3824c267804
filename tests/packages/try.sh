#!/usr/bin/env bash
# Installs the packages of target/packages in clean Debian 12 and 13 systems that run systemd, upgrades, removes and purges them. Run as root;
# `make test-packages` makes what is needed.
#
#   tests/packages/try.sh [SUITE...]     default: bookworm trixie
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || {
  echo "tests/packages/try.sh has to run as root: make test-packages" >&2
  exit 1
}

name=listen-queue-exporter
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
older=0.0.1
machine=$(uname -m)
deb=$(dpkg --print-architecture)
settings=/etc/default/$name

work=$(mktemp -d "$PWD/target/try.XXXXXX")
cgroups=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET) || {
  cgroups=$work/cgroups
  mkdir "$cgroups"
  mount -t cgroup2 cgroup2 "$cgroups"
}
cgroup=$cgroups/$name-$$
booted=
halt() {
  [ -n "$booted" ] || return 0
  kill -KILL "$booted"
  wait "$booted" 2>/dev/null || true
  booted=
  # Its processes need a moment to end.
  within 60 find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
}
cleanup() {
  halt
  [ "$cgroups" != "$work/cgroups" ] || umount "$cgroups"
  rm -rf "$work"
}
trap cleanup EXIT

fail() {
  echo "FAILED: $suite: $*" >&2
  [ -n "$booted" ] || exit 1
  in_system systemctl status --no-pager --full "$name" >&2 || true
  in_system journalctl --no-pager --lines 40 >&2 || true
  exit 1
}
in_system() { nsenter --target "$init" --all env --chdir=/ --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }
is() { # WHAT EXPECTED ACTUAL
  [ "$2" = "$3" ] || fail "$1: expected '$2', is '$3'"
  echo "  $1: $2"
}
within() { # SECONDS COMMAND...: waits for it to succeed
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}
state() { in_system systemctl "$1" "$name" 2>/dev/null || true; }
main_pid() { in_system systemctl show --property MainPID --value "$name"; }
serves() { in_system curl --silent --fail "http://127.0.0.1:$1/metrics" >"$work/page" && grep -q '^listen_queue_exporter_build_info' "$work/page"; }
is_serving() { within 60 serves "$1" || fail "nothing on port $1"; echo "  serves on port $1"; }
is_gone() { ! in_system test -e "$1" || fail "$1 is still there"; }

has_booted() {
  init=$(pgrep --parent "$booted" 2>/dev/null) || return 1
  case $(in_system systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) return 1 ;; esac
}
boot() {
  tests/packages/boot.sh "$root" "$cgroup" >"$work/console" 2>&1 &
  booted=$!
  init=
  within 180 has_booted || {
    cat "$work/console" >&2
    echo "FAILED: $suite: systemd did not come up" >&2
    exit 1
  }
}

# What a package does on every system once it is installed.
works() {
  is "the service" active "$(state is-active)"
  is "at boot" enabled "$(state is-enabled)"
  is_serving "$1"
  local pid uid
  pid=$(main_pid)
  uid=$(in_system stat --format %u "/proc/$pid")
  [ "$uid" -ge 61184 ] && [ "$uid" -le 65519 ] || fail "it runs with uid $uid, which is none of systemd's dynamic users"
  is "its capabilities" 0000000000000000 "$(in_system sed -n 's/^CapEff:\t//p' "/proc/$pid/status")"
}

a_deb() {
  echo "$suite: install $older"
  in_system dpkg --install "/root/$name-older.deb" >/dev/null
  works 10128
  in_system man --warnings "$name" 2>"$work/warnings" | grep -q -- --web.listen-address || fail "no manual page"
  is "warnings about the manual page" "" "$(cat "$work/warnings")"
  in_system man "$name-check" | grep -q -- --format || fail "no manual page of check"
  is "Tab after --web.listen" --web.listen-address "$(in_system bash -c "
    . /usr/share/bash-completion/bash_completion; _comp_load $name 2>/dev/null || __load_completion $name
    COMP_WORDS=($name --web.listen) COMP_CWORD=1
    \$(complete -p $name | sed 's/.* -F \([^ ]*\).*/\1/') $name --web.listen $name && echo \${COMPREPLY[*]}")"

  echo "$suite: change $settings and upgrade to $version"
  in_system sh -c "echo LISTEN_QUEUE_EXPORTER_WEB_LISTEN_ADDRESS=127.0.0.1:10129 >>$settings && systemctl restart $name"
  is_serving 10129
  local before after
  before=$(main_pid)
  in_system dpkg --force-confdef --force-confold --install "/root/$name.deb" >/dev/null
  is "version" "$version-1" "$(in_system dpkg-query --show --showformat '${Version}' "$name")"
  works 10129
  after=$(main_pid)
  [ "$before" != "$after" ] || fail "the upgrade did not restart it"
  in_system grep -q '^# Of the older version.$' "$settings" || fail "the upgrade replaced $settings"
  in_system cmp "$settings.dpkg-dist" /root/settings || fail "the upgrade did not leave the new settings beside the changed ones"

  echo "$suite: remove"
  in_system dpkg --remove "$name" >/dev/null
  is "the service" inactive "$(state is-active)"
  is_gone "/usr/bin/$name"
  is_gone "/usr/lib/systemd/system/$name.service"
  in_system grep -q 10129 "$settings" || fail "removing it took $settings"

  echo "$suite: install again"
  in_system dpkg --force-confdef --force-confold --install "/root/$name.deb" >/dev/null
  works 10129

  echo "$suite: purge"
  in_system dpkg --purge "$name" >/dev/null 2>&1
  is "the service" inactive "$(state is-active)"
  is "files that are left" "" "$(in_system find /etc /usr /var /lib/systemd /run/systemd -xdev -name "*$name*" -not -path "/var/log/*" -not -path "/var/cache/man/*")"
}

# dnf's work is done by rpm alone.
an_rpm() {
  echo "$suite: rpm, install $older"
  # Debian 12's rpm refuses to install without it, Debian 13's does not have it.
  local force=()
  ! in_system rpm --eval %_dbpath --force-debian >/dev/null 2>&1 || force=(--force-debian)
  in_system rpm "${force[@]}" --nodeps --install "/root/$name-older.rpm"
  is "at boot" enabled "$(state is-enabled)"
  in_system systemctl start "$name"
  works 10128
  is "what rpm --verify finds" "" "$(in_system rpm --verify --nodeps "$name")"

  echo "$suite: rpm, change $settings and upgrade to $version"
  in_system sh -c "echo LISTEN_QUEUE_EXPORTER_WEB_LISTEN_ADDRESS=127.0.0.1:10129 >>$settings && systemctl restart $name"
  is_serving 10129
  local before
  before=$(main_pid)
  in_system rpm "${force[@]}" --nodeps --upgrade "/root/$name.rpm" 2>/dev/null
  is "version" "$version" "$(in_system rpm --query --queryformat '%{VERSION}' "$name")"
  works 10129
  [ "$before" != "$(main_pid)" ] || fail "the upgrade did not restart it"
  in_system cmp "$settings.rpmnew" /root/settings || fail "the upgrade did not leave the new settings beside the changed ones"

  echo "$suite: rpm, erase"
  in_system rpm "${force[@]}" --nodeps --erase "$name" 2>/dev/null
  is "the service" inactive "$(state is-active)"
  is_gone "/usr/bin/$name"
  is_gone "/etc/systemd/system/multi-user.target.wants/$name.service"
  in_system grep -q 10129 "$settings.rpmsave" || fail "erasing it took the changed settings"
  is "files that are left" "$settings.rpmnew $settings.rpmsave" "$(echo $(in_system find /etc /usr -xdev -name "*$name*" | sort))"
}

# The rpm holds the same files as the deb, but for what belongs to one of them.
compare() {
  suite=rpm
  local rpm=target/packages/$name-$version-1.$machine.rpm doc=usr/share/doc/$name
  is "rpm --checksig" "$rpm: digests OK" "$(rpm --checksig --nosignature "$rpm")"
  is "settings that are kept" "$settings" "$(rpm --query --package --configfiles "$rpm")"
  is "what it requires" /bin/sh "$(rpm --query --package --requires "$rpm" | grep -vE '^(rpmlib|config)\(' | sort -u)"
  mkdir "$work/rpm" "$work/deb"
  # It ends with 1 where the package does not state the size of its archive. What it leaves out shows in the differences.
  rpm2cpio "$rpm" >"$work/rpm.cpio" || true
  (cd "$work/rpm" && cpio --extract --make-directories --quiet) <"$work/rpm.cpio"
  dpkg-deb --extract "target/packages/${name}_$version-1_$deb.deb" "$work/deb"
  cmp LICENSE "$work/rpm/usr/share/licenses/$name/LICENSE"
  cmp CHANGELOG.md "$work/rpm/$doc/CHANGELOG.md"
  rm -r "$work/rpm/usr/share/licenses" "$work/rpm/$doc/CHANGELOG.md"
  rm -r "$work/deb/usr/share/lintian" "$work/deb/$doc"/{copyright,changelog.gz,changelog.Debian.gz}
  mv "$work/deb/usr/share/zsh/vendor-completions" "$work/deb/usr/share/zsh/site-functions"
  is "differences from the deb" "" "$(diff --recursive "$work/deb" "$work/rpm")"
  is "differences of modes" "" "$(diff <(modes "$work/deb") <(modes "$work/rpm"))"
}
modes() { find "$1" -type f -printf '%P %m\n' | sort; }

compare

# An older version whose settings differ, to upgrade from.
project=$work/project
mkdir -p "$project/target"
cp -r Cargo.toml Cargo.lock CHANGELOG.md LICENSE README.md deploy docs grafana src tests "$project"
ln -s "$PWD/target/tools" "$project/target/tools"
sed -i "0,/^version = \"$version\"/s//version = \"$older\"/" "$project/Cargo.toml"
sed -i "/^name = \"$name\"/{n;s/\"$version\"/\"$older\"/}" "$project/Cargo.lock"
echo '# Of the older version.' >>"$project/deploy/systemd/$name.env"
mkdir "$work/manual"
cp target/packages/files/*.1 target/packages/files/{"$name.bash","$name.fish","_$name"} "$work/manual"
"$project/deploy/packages/build.sh" "target/packages/files/$name" "$work/manual"

[ $# -gt 0 ] || set -- bookworm trixie
for suite in "$@"; do
  tar=target/tools/system-$suite.tar
  if [ ! -e "$tar" ]; then
    mmdebstrap --quiet --variant=minbase --include=systemd-sysv,bash-completion,man-db,curl,rpm "$suite" "$tar.part.tar"
    mv "$tar.part.tar" "$tar"
  fi
  root=$work/$suite
  mkdir "$root"
  tar --extract --file "$tar" --directory "$root" --exclude './dev/*'
  cp "target/packages/${name}_$version-1_$deb.deb" "$root/root/$name.deb"
  cp "target/packages/$name-$version-1.$machine.rpm" "$root/root/$name.rpm"
  cp "$project/target/packages/${name}_$older-1_$deb.deb" "$root/root/$name-older.deb"
  cp "$project/target/packages/$name-$older-1.$machine.rpm" "$root/root/$name-older.rpm"
  cp "deploy/systemd/$name.env" "$root/root/settings"
  boot
  a_deb
  an_rpm
  halt
  rm -rf "$root"
done
echo "$# systems: the deb and the rpm were installed, upgraded and removed"
