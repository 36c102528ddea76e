#!/bin/bash
# Run the tests with the extension under address and undefined-behaviour
# sanitizers: tools/sanitize.sh [PYTHON] [arguments for pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
shift || true

work=.matrix/sanitize
venv=$PWD/$work/venv
rm -rf "$work/src"
mkdir -p "$work/src"
tar --exclude=.git --exclude=.venv --exclude=.matrix --exclude=build \
    --exclude='*.so' --exclude='*.egg-info' --exclude=__pycache__ \
    --exclude='.*_cache' --exclude=.hypothesis -cf - . |
    tar -xf - -C "$work/src"
[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
cd "$work/src"
PYASYNCLIFE_SANITIZE=1 PYASYNCLIFE_FAULTS=1 \
    "$venv/bin/python" -m pip install -qq --editable '.[test]'

# The interpreter is not instrumented, so the runtimes are preloaded. Without
# PYTHONMALLOC=malloc a fault inside an arena goes unseen; without -s pytest
# swallows the report. Leak detection is off: the interpreter's own leaks hide
# ours, and a missing Py_DECREF does not count as a leak.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
    PYTHONMALLOC=malloc \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:exitcode=99 \
    UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
    "$venv/bin/python" -m pytest -q -s -p no:cacheprovider "$@"
