/* A coroutine that is to become a Task. */
#ifndef AL_CORO_H
#define AL_CORO_H

#include "base/compat.h"
#include "base/state.h"

/* Tell whether the coroutine has run its first step, or was closed before it:
   1 or 0; where it cannot be told, 1.  -1 with an exception.  Runs Python. */
int al_coro_started(al_state *st, PyObject *coro);

/* Close a coroutine that has never started; leave any other alone.  Keeps
   the raised exception.  Runs Python. */
void al_coro_close_unstarted(al_state *st, PyObject *coro);

/* Close whatever was passed for a coroutine, if it can be closed.  Returns 0;
   -1 with what close() raised.  Runs Python. */
int al_coro_close(al_state *st, PyObject *coro);

#endif
