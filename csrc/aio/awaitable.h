/* Awaitables in C: one with a value, and one that runs a step function. */
#ifndef AL_AWAITABLE_H
#define AL_AWAITABLE_H

#include "base/compat.h"
#include "base/state.h"

/* Run one step of an awaitable, with the exception `thrown` into it (borrowed)
   unless that is NULL.  PYGEN_NEXT: *result (new) is what it yields;
   PYGEN_RETURN: *result (new) is its value; PYGEN_ERROR: an exception is set.
   Runs Python. */
typedef PySendResult (*al_step)(PyObject *owner, PyObject *thrown,
                                PyObject **result);

/* Begin a lazy awaitable.  PYGEN_NEXT: *result (new) is the owner for its
   steps, the first of which follows at once; otherwise as for al_step.
   Runs Python. */
typedef PySendResult (*al_begin)(PyObject *owner, PyObject **result);

/* Make a Ready of a value, which is stolen (new).  NULL with an exception:
   that of the value if it is NULL, else MemoryError.  Pure C. */
PyObject *al_ready_new(al_state *st, PyObject *value);

/* Make an awaitable that calls `step(owner, ...)` and owns `owner` (new). NULL
   with MemoryError.  Pure C. */
PyObject *al_awaitable_new(al_state *st, PyObject *owner, al_step step);

/* al_awaitable_new for a method that is a coroutine function in asyncio.
   Dropped before its first step it warns, as a coroutine of that qualified
   name does (static).  Pure C. */
PyObject *al_awaitable_coroutine(al_state *st, PyObject *owner, al_step step,
                                 const char *name);

/* Make an awaitable whose first step calls `begin(owner, ...)`, which returns
   the owner for `step` (new).  One that is thrown into or closed before that
   never begins.  NULL with MemoryError.  Pure C. */
PyObject *al_awaitable_lazy(al_state *st, PyObject *owner, al_begin begin,
                            al_step step);

/* Make the two types and the shared Readies of None, True and False.  Returns
   0; -1 with an exception.  Runs Python. */
int al_awaitable_setup(PyObject *module, al_state *st);

#endif
