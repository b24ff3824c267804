# Sourced: has apt look at another Debian suite, on the mirror that this machine uses, without installing anything.
#
#   . tests/suite.sh SUITE      sets $work, a directory that is removed at the end, and has apt use it

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sort -u | head -n 1)
mkdir -p "$work"/{lists,archives}/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$work/sources.list"
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

# Downloads packages and unpacks them into $work/root.
unpack() {
  (
    cd "$work"
    apt-get download -qq "$@"
    for package in *.deb; do dpkg -x "$package" root; done
  )
}
