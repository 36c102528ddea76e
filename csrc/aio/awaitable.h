/* Ready awaitables, and one awaitable that drives a room's step function. */
#ifndef AL_AWAITABLE_H
#define AL_AWAITABLE_H

#include "base/compat.h"
#include "base/state.h"

/* One step of an awaitable: go on, or take `thrown` (borrowed; NULL: go on).
   PYGEN_NEXT: *result (new) is what to yield; PYGEN_RETURN: it is the value;
   PYGEN_ERROR: an exception is set.  Runs Python. */
typedef PySendResult (*al_step)(PyObject *owner, PyObject *thrown,
                                PyObject **result);

/* The first step of an awaitable that was made lazily: PYGEN_NEXT: *result
   (new) is the owner for the steps, the first of which follows at once; the
   other answers are a step's.  Runs Python. */
typedef PySendResult (*al_begin)(PyObject *owner, PyObject **result);

/* A Ready of a value, which is stolen, NULL passing an error through (new).
   Pure C. */
PyObject *al_ready_new(al_state *st, PyObject *value);

/* An awaitable, and iterator, that calls `step(owner, ...)`; it owns `owner`
   (new).  Pure C. */
PyObject *al_awaitable_new(al_state *st, PyObject *owner, al_step step);

/* The same, but for a first step, `begin(owner, ...)`, which finds the owner
   of `step`.  One that is thrown into or closed before has not begun (new).
   Pure C. */
PyObject *al_awaitable_lazy(al_state *st, PyObject *owner, al_begin begin,
                            al_step step);

/* Make the two types and the shared ready values.  Runs Python. */
int al_awaitable_setup(PyObject *module, al_state *st);

#endif
