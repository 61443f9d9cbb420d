#!/bin/sh
# Builds the component: build.sh OUT.wasm [TOOLS]
# Python 3.10 or newer with venv has to be there; the pinned componentize-py goes to the folder TOOLS, or to one that is
# removed afterwards.
set -eu
mkdir -p "$(dirname "$1")"
out=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tools=${2:-$scratch/tools}
if ! "$tools/bin/pip" freeze 2>/dev/null | grep -qxFf "$here/requirements.txt"; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
fi
# What lies beside the app goes into the component, so only the two modules do.
mkdir "$scratch/app"
cp "$here/plugin.py" "$here/rows.py" "$scratch/app/"
"$tools/bin/componentize-py" --quiet --wit-path "$here/../../../wit" --world plugin-with-golden \
    componentize --python-path "$scratch/app" --output "$out" plugin
