"""Whatever was there comes back exactly: dispositions, features and nestings."""

import sys
import textwrap

import pytest

from support.signals import Run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads sigaction()")

# How a program sets up each signal, and what a signal then does: it prints, is
# ignored, or would end the process (SIG_DFL).
DISPOSITIONS = {
    "SIG_DFL": "signal.signal(S, signal.SIG_DFL)",
    "SIG_IGN": "signal.signal(S, signal.SIG_IGN)",
    "Python": "signal.signal(S, lambda *_: None); signal.siginterrupt(S, True)",
    "C": "set_c_handler(S)",
    "Runner": "pass",
    "loop": "loop.add_signal_handler(S, print, 'host')",
}

# Each leaves the signals as they were.
FEATURES = """
async def plain(c):
    pass
async def late_reload(c):
    c.reload_event
async def reloads_left(c):
    c.reloads()
async def pending(c):           # a lame duck, when there is a host
    c.request_shutdown()
    await c.wait_for_shutdown()
async def set_up_again(c):
    c.setup_handlers()
    c.setup_handlers()
options = [
    {}, {"take_ignored": True}, {"reload_signals": [signal.SIGHUP]},
    {"callbacks": {signal.SIGUSR1: print, signal.SIGUSR2: print}},
    {"lame_duck": 5}, {"drain": 1, "cancel_on_signal": True}, {"required": False},
    {"callbacks": {signal.SIGHUP: print}, "lame_duck": 1, "take_ignored": True},
]
uses = [plain, late_reload, reloads_left, pending, set_up_again]
"""

PROGRAM = """
import ctypes
SIGNALS = [1, 2, 15, signal.SIGUSR1, signal.SIGUSR2]
libc = ctypes.CDLL(None)
class Action(ctypes.Structure):
    _fields_ = [("handler", ctypes.c_void_p), ("rest", ctypes.c_ubyte * 256)]
def kernel(signum):
    action = Action()
    assert libc.sigaction(signum, None, ctypes.byref(action)) == 0
    rest = bytes(action.rest)
    mask, flags = rest[:8], int.from_bytes(rest[128:132], "little")
    return action.handler, mask, flags & ~0x04000000    # that one is the C library's
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def c_handler(signum):
    pass
libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.signal.restype = ctypes.c_void_p
def set_c_handler(signum):
    libc.signal(signum, ctypes.cast(c_handler, ctypes.c_void_p))
def all_actions():
    return [(signal.getsignal(s), kernel(s)) for s in SIGNALS]
def wakeup():
    now = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(now, warn_on_full_buffer=False)
    return now
{features}
async def main():
    loop = asyncio.get_running_loop()
    for S in SIGNALS:
        if {name!r} != "Runner" or S != signal.SIGINT:
            {disposition}
    loop.add_signal_handler(signal.SIGWINCH, print)     # opens the wake-up file
    before, file, count = all_actions(), wakeup(), 0
    for option in options:
        for use in uses:
            c = SignalCoordinator(5, **option)
            for _ in range(2):                          # repeated
                async with c:
                    await use(c)
                assert all_actions() == before, (option, use)
                assert wakeup() == file, (option, use)
                count += 1
            for first in (0, 1):                        # nested, left in any order
                both = [SignalCoordinator(5, **option) for _ in range(2)]
                for one in both:
                    one.setup_handlers()
                    await use(one)
                for one in (both[first], both[1 - first]):
                    one.remove_handlers()
                assert all_actions() == before, (option, use, first)
                assert wakeup() == file, (option, use, first)
                count += 1
    print(count, len(os.listdir("/proc/self/fd")) < 30)
run(main())
"""


@pytest.mark.parametrize("name", DISPOSITIONS)
def test_each_feature_and_nesting_puts_back_what_was_found(run: Run, name: str) -> None:
    source = textwrap.dedent(PROGRAM).format(
        features=textwrap.dedent(FEATURES), name=name, disposition=DISPOSITIONS[name]
    )
    done = run(source)
    assert done.stdout == "160 True\n"
