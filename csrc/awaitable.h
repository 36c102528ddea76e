/* Ready awaitables, and one awaitable that drives a room's step function. */
#ifndef AL_AWAITABLE_H
#define AL_AWAITABLE_H

#include "compat.h"
#include "state.h"

/* One step of an awaitable: go on, or take `thrown` (borrowed; NULL: go on).
   PYGEN_NEXT: *result (new) is what to yield; PYGEN_RETURN: it is the value;
   PYGEN_ERROR: an exception is set.  Runs Python. */
typedef PySendResult (*al_step)(PyObject *owner, PyObject *thrown,
                                PyObject **result);

/* A Ready of a value, which is stolen, NULL passing an error through (new).
   Pure C. */
PyObject *al_ready_new(al_state *st, PyObject *value);

/* An awaitable, and iterator, that calls `step(owner, ...)`; it owns `owner`
   (new).  Pure C. */
PyObject *al_awaitable_new(al_state *st, PyObject *owner, al_step step);

/* Make the two types and the shared ready values.  Runs Python. */
int al_awaitable_setup(PyObject *module, al_state *st);

#endif
