#!/bin/sh
# Importing web3 8.0.0 sets Python's recursion limit to 100,000 for the whole process.
#
# Not web3's own doing: it depends on py_ecc 8.0.0, which calls sys.setrecursionlimit as it is imported. From then on
# code in the same process that counts on a RecursionError to refuse data that is nested too deep gets none, whether
# that code uses web3 or not. Whoever imports web3 should put the limit back afterwards.
#
# Seen (CPython 3.11, web3 8.0.0, py_ecc 8.0.0):
#   before 1000
#   after 100000
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check web3==8.0.0 py_ecc==8.0.0
seen=$("$folder/venv/bin/python" - <<'PYTHON'
import sys

print("before", sys.getrecursionlimit())
import web3  # noqa: E402, F401

print("after", sys.getrecursionlimit())
PYTHON
)
echo "$seen"
test "$seen" = "before 1000
after 100000" || { echo "the behaviour has changed" >&2; exit 1; }
