"""A live view of a running process: `TaskRegistry.serve`, `top` and `tasks`.

The server half runs inside the process that is looked at, and needs nothing but the
standard library; the client half runs in `python -m pyasynclife top` and `tasks`.
"""
