/* What a worker does in a step of its Task. */
#ifndef AL_STEP_H
#define AL_STEP_H

#include "base/compat.h"
#include "batch/worker.h"

/* The al_step of a worker's awaitable.  Runs Python. */
PySendResult al_worker_step(PyObject *op, PyObject *thrown, PyObject **result);

/* The Task of a worker has ended; an item it still had is cancelled.  Sets no
   exception.  Runs Python. */
void al_worker_task_ended(PyObject *op);

/* The item has ended with `end` (stolen): make its result and hand it over.
   Tells whether its worker may take another one.  *verdict, unless NULL: the
   value or the exception that counts (new).  Sets no exception.
   Runs Python. */
bool al_worker_finish(WorkerObject *worker, PySendResult answer, PyObject *end,
                      PyObject **verdict);

/* The item of a worker whose Task was closed under it: cancelled.  Sets no
   exception.  Runs Python. */
void al_worker_abandon(WorkerObject *worker);

/* The pump was stopped before the item was started.  Sets no exception.
   Runs Python. */
void al_worker_refuse(WorkerObject *worker);

/* There may be more to do than workers: some more of them, as many again at
   most.  Runs Python. */
void al_pump_grow(al_pump *pump);

#endif
