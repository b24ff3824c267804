#!/usr/bin/env bash
# Draws the dashboard as it looks during the demo's failure, or with many pods, to look at: not a test.
#
#   tests/dashboard/draw.sh PICTURE.png [PODS]
#
# Installs Grafana's components (400 MB) below target/.
set -euo pipefail
picture=$(realpath "$1")
pods=${2:-}
cd "$(dirname "$0")/../.."
work=target/tools/draw
mkdir -p "$work"
tests/install.sh base browser
if [ -n "$pods" ]; then
  python3 tests/dashboard/pods.py --pods "$pods" "$work/answers.json"
else
  cargo build --locked
  python3 tests/demo/demo.py --exporter target/debug/listen-queue-exporter --answers "$work/answers.json"
fi
npm install --silent --no-audit --no-fund --legacy-peer-deps --ignore-scripts --prefix "$work" \
  @grafana/ui@12 @grafana/data@12 react@18 react-dom@18 esbuild
NODE_PATH=$work/node_modules "$work/node_modules/.bin/esbuild" tests/dashboard/draw.jsx --bundle --jsx=automatic --log-level=error \
  --define:process.env.NODE_ENV='"production"' --loader:.svg=dataurl --loader:.css=empty --outfile="$work/draw.js"
{
  echo '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="node_modules/uplot/dist/uPlot.min.css"><link rel="stylesheet" href="node_modules/@grafana/react-data-grid/lib/styles.css"><style>*{box-sizing:border-box}</style><body style="margin:8px;position:relative;background:#f4f5f5"><div id="root"></div><script>window.ANSWERS ='
  cat "$work/answers.json"
  echo '</script><script src="draw.js"></script>'
} >"$work/page.html"
chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update \
  --disable-sync --allow-file-access-from-files --hide-scrollbars --window-size=1260,1810 --virtual-time-budget=10000 \
  --screenshot="$picture" "file://$PWD/$work/page.html" 2>/dev/null
