"""The hostile cases, small programs with a name. hostile.py runs each in a child.

A case asserts a promise to users, ends, and prints nothing. Most end with `works()`:
whatever the case did to the package, the package still works.
"""

from support.hostile_cases import (  # noqa: F401
    arguments,
    callbacks,
    coroutines,
    jobs,
    limits,
    loops,
    objects,
    processes,
    sources,
    supervising,
    watching,
)
