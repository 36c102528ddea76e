"""Builds the C core. Everything else about the package is in pyproject.toml.

Switches, each set to 1 in the environment of the build:

PYASYNCLIFE_WERROR    warnings of the C compiler are errors
PYASYNCLIFE_FAULTS    fault injection: a test can make the nth allocation fail
PYASYNCLIFE_SANITIZE  address and undefined-behaviour sanitizers, asserts on
PYASYNCLIFE_DEBUG     no optimisation, asserts on
"""

import os
import sys
from glob import glob

from setuptools import Extension, setup

SANITIZERS = "-fsanitize=address,undefined"


def is_on(switch: str) -> bool:
    return os.environ.get(f"PYASYNCLIFE_{switch}", "0") not in ("", "0")


compile_args: list[str] = []
link_args: list[str] = []
if sys.platform != "win32":
    compile_args += ["-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra"]
    if is_on("WERROR"):
        compile_args += ["-Werror"]
    if is_on("SANITIZE"):
        compile_args += ["-O1", "-g", "-UNDEBUG", "-fno-omit-frame-pointer"]
        compile_args += [SANITIZERS, "-fno-sanitize-recover=undefined"]
        link_args += [SANITIZERS]
    if is_on("DEBUG"):
        compile_args += ["-O0", "-g", "-UNDEBUG"]

setup(
    ext_modules=[
        Extension(
            "pyasynclife._core",
            sources=sorted(glob("csrc/**/*.c", recursive=True)),
            depends=sorted(glob("csrc/**/*.h", recursive=True)),
            include_dirs=["csrc"],
            define_macros=[("AL_FAULTS", "1")] if is_on("FAULTS") else [],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
    ]
)
