/* The deadline of the process, from a signal on. */
#ifndef AL_WATCHDOG_H
#define AL_WATCHDOG_H

#include "base/compat.h"
#include "base/state.h"

#ifndef _WIN32
#include <signal.h>

/* Replace our C handler in an action that was read from the kernel by the one
   of CPython, over which it lies.  Everybody else sees that one.  Pure C. */
void al_watchdog_reveal(struct sigaction *action);
#endif

/* Note that a signal has come, for the watchdogs that wait for it; only the
   first one counts.  Async-signal-safe.  Pure C. */
void al_watchdog_note(int signum);

/* Make the type Watchdog, and the module's functions that go with it.  Returns
   0; -1 with an exception.  Runs Python. */
int al_watchdog_setup(PyObject *module, al_state *st);

#endif
