/* Calls that the loop would make one after the other, in one handle. */
#ifndef AL_BURST_H
#define AL_BURST_H

#include "compat.h"
#include "state.h"
#include "loop.h"

/* One call of a burst, as call_soon() would schedule it. */
typedef struct {
    PyObject *call;    /* owned */
    PyObject *arg;     /* owned; NULL: called without one */
    PyObject *context; /* owned: entered for the call */
    PyObject *task;    /* owned: whose step it is; NULL: nobody's */
    PyObject *watcher; /* owned: called at the task's end, or NULL */
    PyObject *told_in; /* owned: the context for that, or NULL */
} al_call;

/* Have the loop make a call next: in the handle that it has scheduled last if
   that is a burst, else in a new one.  Steals what the call owns, on error
   too.  Returns 0; -1 with an exception, nothing scheduled.
   Runs Python, but Pure C. where it joins. */
int al_burst_queue(al_state *st, PyObject *loop, al_call *call);

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_burst_setup(PyObject *module, al_state *st);

#endif
