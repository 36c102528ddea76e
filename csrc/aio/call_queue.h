/* Calls that the loop would make one after the other, in one handle. */
#ifndef AL_CALL_QUEUE_H
#define AL_CALL_QUEUE_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* One call of a queue, as call_soon() would schedule it. */
typedef struct {
    PyObject *call;             /* owned */
    PyObject *arg;              /* owned; NULL: called without one */
    PyObject *context;          /* owned: entered for the call */
    PyObject *task;             /* owned: whose step it is; NULL: nobody's */
    PyObject *watcher;          /* owned: called at the task's end, or NULL */
    PyObject *callback_context; /* owned: the context for that, or NULL */
} al_call;

/* Let go of what a call owns; it is then empty.  Runs Python. */
static inline void
al_call_clear(al_call *call)
{
    Py_CLEAR(call->call);
    Py_CLEAR(call->arg);
    Py_CLEAR(call->context);
    Py_CLEAR(call->task);
    Py_CLEAR(call->watcher);
    Py_CLEAR(call->callback_context);
}

/* Have the loop make a call next: in the handle that it has scheduled last if
   that is a queue, else in a new one.  Returns 0, the call being emptied; -1
   with an exception, nothing scheduled and the call as it was.
   Runs Python, but Pure C. where it joins. */
int al_call_queue_add(al_state *st, PyObject *loop, al_call *call);

/* al_call_queue_add, for a call that must not be lost: what fails is tried
   once more.  It goes before the handles of the callbacks of `task` (may be
   NULL) that are scheduled last.  Returns 0; -1 with an exception, which may
   have come from a signal: the call is empty if it was scheduled all the same.
   Runs Python. */
int al_call_queue_deliver(al_state *st, PyObject *loop, al_call *call,
                          PyObject *task);

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_call_queue_setup(PyObject *module, al_state *st);

#endif
