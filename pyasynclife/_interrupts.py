"""Let Ctrl-C end `python -m pyasynclife` without a traceback while it still imports.

Python imports the package before its `__main__`, so `__init__` imports this module
first. In any other program that has no effect.
"""

import signal
import sys


def _is_command() -> bool:
    """Return whether the interpreter is about to run `-m pyasynclife`."""
    # While -m looks for its module, argv is "-m" and the arguments of that module.
    argv = getattr(sys, "argv", [])  # an embedding program may have none
    if argv[:1] != ["-m"]:
        return False
    module = sys.orig_argv[-len(argv) :][:1]
    return module in (["pyasynclife"], ["-mpyasynclife"])


def _hush() -> bool:
    """Let SIGINT end the process; return False if it has a handler of its own."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return True


_hushed = _is_command() and _hush()


def raise_interrupts() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: from now on there is work to undo."""
    global _hushed
    if _hushed:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _hushed = False
