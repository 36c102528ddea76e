#!/bin/bash
# Compile csrc/ with warnings as errors, by gcc and, where installed, by clang,
# without and with fault points: tools/lint_c.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')

for compiler in gcc clang; do
    if ! command -v "$compiler" >/dev/null; then
        continue
    fi
    for define in "-DNDEBUG" "-DAL_FAULTS"; do
        echo "$compiler $define"
        for file in $(find csrc -name "*.c"); do
            "$compiler" -std=c11 -fvisibility=hidden -Wall -Wextra -Wshadow \
                -Wconversion -Wstrict-prototypes -Werror -O2 -fPIC "$define" \
                -isystem "$include" -Icsrc -c "$file" -o /dev/null
        done
    done
done
