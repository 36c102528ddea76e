/* A worker: a real Task that drives items, one after the other. */
#ifndef AL_WORKER_H
#define AL_WORKER_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "batch/item.h"
#include "batch/pump.h"

struct WorkerObject {
    PyObject_HEAD
    al_link link;    /* in the pump's workers, which own it */
    PyObject *owner; /* owned: embeds the pump; NULL: detached */
    al_pump *pump;   /* inside the owner */
    al_state *st;
    PyObject *task;           /* owned; NULL while it is being made */
    PyObject *cancelling;     /* owned: bound method of the Task */
    PyObject *register_error; /* owned: raised instead of calling fn */
    al_item item;             /* value NULL: between two items */
    struct al_waiting *again; /* borrowed: the item, while its failed Task
                                 has not ended; or NULL */
    double now;               /* loop time, if it is known; or 0 */
    bool begun;
    bool resting;  /* it waits for the next slice, without an item */
    bool stepping; /* it is on the C stack */
};

/* What came of pulling an item. */
typedef enum {
    AL_PULL_ERROR = -1,  /* an exception is set */
    AL_PULL_NOTHING = 0, /* there is none, or it is not to be started */
    AL_PULL_ITEM = 1,
    AL_PULL_YIELD = 2, /* only after the loop has had an iteration */
} al_pull;

/* A worker without a Task, in the pump's list (borrowed).  NULL with an
   exception.  Runs Python. */
WorkerObject *al_worker_new(al_pump *pump);

/* Give a worker its Task (borrowed), whose end will be its callback.  Returns
   0; -1 with an exception: the caller then detaches the worker.
   Runs Python. */
int al_worker_attach(WorkerObject *worker, PyObject *task);

/* Remove a worker from its pump.  Runs Python. */
void al_worker_detach(WorkerObject *worker);

/* One more worker with its Task.  Returns 0; -1 with an exception.
   Runs Python. */
int al_worker_spawn(al_pump *pump);

/* Pull the next item of the source for a worker that has none.  An item that
   is pulled while the pump is being stopped ends unstarted.  Never
   AL_PULL_YIELD.  Runs Python. */
al_pull al_worker_pull(WorkerObject *worker);

/* The item has ended with `end` (stolen): its value, if `answer` is
   PYGEN_RETURN, or its exception.  Makes the result and hands it over.
   *verdict, unless NULL, is the value or exception that counts (new).  Returns
   whether the worker may take another item.  Sets no exception.
   Runs Python. */
bool al_worker_end_item(WorkerObject *worker, PySendResult answer,
                        PyObject *end, PyObject **verdict);

/* End the item as cancelled: its Task was closed.  Sets no exception.
   Runs Python. */
void al_worker_end_cancelled(WorkerObject *worker);

/* End the item as one that never starts, because the pump was stopped.  Sets
   no exception.  Runs Python. */
void al_worker_end_unstarted(WorkerObject *worker);

/* Cancel the worker's item, if it has one, unless we have cancelled it already
   and not `again`.  The first `why` counts; `msg` may be NULL.  Errors go to
   the loop's exception handler.  Runs Python. */
void al_worker_cancel(WorkerObject *worker, al_stop why, PyObject *msg,
                      bool again);

/* Make the worker's type.  Returns 0; -1 with an exception.  Runs Python. */
int al_worker_setup(PyObject *module, al_state *st);

#endif
