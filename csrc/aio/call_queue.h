/* Calls that the loop would make one after the other, in one handle. */
#ifndef AL_CALL_QUEUE_H
#define AL_CALL_QUEUE_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* One call of a queue, as call_soon() would schedule it. */
typedef struct {
    PyObject *call;             /* owned */
    PyObject *arg;              /* owned; NULL: called without an argument */
    PyObject *context;          /* owned: entered for the call */
    PyObject *task;             /* owned: the Task whose step it is, or NULL */
    PyObject *on_done;          /* owned: our done callback of it, or NULL */
    PyObject *callback_context; /* owned: its context, or NULL while it is on
                                   the Task */
} al_call;

/* Drop what a call owns; it is then empty.  Runs Python. */
static inline void
al_call_clear(al_call *call)
{
    Py_CLEAR(call->call);
    Py_CLEAR(call->arg);
    Py_CLEAR(call->context);
    Py_CLEAR(call->task);
    Py_CLEAR(call->on_done);
    Py_CLEAR(call->callback_context);
}

/* Schedule a call for the next loop iteration: it joins the handle that the
   loop has scheduled last if that is a call queue, else a new one is made.
   Returns 0, and the call is emptied; -1 with an exception: nothing is
   scheduled and the call is as it was.  Runs Python.  (If the call joins a
   queue it does not.) */
int al_call_queue_add(al_state *st, PyObject *loop, al_call *call);

/* al_call_queue_add for a call that must not be lost: if it fails it is tried
   once more.  Returns 0; -1 with an exception, which may come from a signal
   handler while the call was scheduled all the same: the call is empty then.
   Runs Python. */
int al_call_queue_deliver(al_state *st, PyObject *loop, al_call *call);

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_call_queue_setup(PyObject *module, al_state *st);

#endif
