#!/usr/bin/env bash
# Types of the package as a user imports it: `tubelet.*` exists only once installed, so a copy is installed to look at.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
for folder in backbones video datasets pipeline launch; do
    mkdir -p "$copy/tubelet" && cp -r "$folder" "$copy/tubelet/"
done
MYPYPATH="$copy" mypy --config-file pyproject.toml --cache-dir .mypy_cache -p tubelet
