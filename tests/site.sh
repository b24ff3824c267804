#!/usr/bin/env bash
# Builds the documentation as a site in target/site and checks that its links lead somewhere.
#
# On the site, links to files of the repository lead to its page on GitHub; pictures are copied.
set -euo pipefail
cd "$(dirname "$0")/.."

repository=$(sed -n 's/^git-repository-url = "\(.*\)"$/\1/p' docs/book.toml)
source=target/site-source
rm -rf "$source" target/site
mkdir -p "$source"
cp docs/*.md docs/book.toml "$source"
cp -r .github/images "$source/images"
sed -i -e 's#\](\.\./\.github/images/#](images/#g' -e "s#\](\.\./\([^)]*\))#]($repository/blob/main/\1)#g" "$source"/*.md
target/tools/bin/mdbook build --dest-dir "$PWD/target/site" "$source"

python3 - target/site <<'END'
import pathlib, re, sys, urllib.parse
site = pathlib.Path(sys.argv[1])
checked, broken = 0, []
for page in sorted(site.glob("*.html")):
    text = page.read_text()
    for link in re.findall(r'(?:href|src)="([^"]+)"', text):
        url = urllib.parse.urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = page if not url.path else page.parent / urllib.parse.unquote(url.path)
        is_there = target.is_file()
        if is_there and url.fragment and target.suffix == ".html":
            is_there = f'id="{urllib.parse.unquote(url.fragment)}"' in target.read_text()
        checked += 1
        if not is_there and page.name not in ("404.html", "print.html"):
            broken.append(f"{page.name}: {link}")
for line in broken:
    print(line, file=sys.stderr)
print(f"target/site/index.html: {checked} links checked, {len(broken)} broken")
sys.exit(1 if broken or checked < 100 else 0)
END
