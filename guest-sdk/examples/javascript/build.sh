#!/bin/sh
# Builds the component: build.sh OUT.wasm [TOOLS]
# Node and npm have to be there; the pinned componentize-js goes to the folder TOOLS, or to one that is removed afterwards.
set -eu
mkdir -p "$(dirname "$1")"
out=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -gt 1 ]; then
    mkdir -p "$2"
    tools=$(cd "$2" && pwd)
else
    tools=$(mktemp -d)
    trap 'rm -rf "$tools"' EXIT
fi
cp "$here/package.json" "$tools/"
(cd "$tools" && { npm ls >/dev/null 2>&1 || npm install --no-audit --no-fund --no-package-lock --loglevel=error; })
# With all of these left out, the component imports nothing but the contract.
"$tools/node_modules/.bin/componentize-js" "$here/plugin.js" --wit "$here/../../../wit" \
    --world-name plugin-with-golden --disable stdio random clocks http fetch-event --out "$out"
