/* What a worker does in a step of its Task. */
#ifndef AL_STEP_H
#define AL_STEP_H

#include "compat.h"
#include "worker.h"

/* The al_step of a worker's awaitable.  Runs Python. */
PySendResult al_step_worker(PyObject *op, PyObject *thrown,
                            PyObject **result);

/* The Task of a worker has ended; an item it still had is cancelled.  Sets no
   exception.  Runs Python. */
void al_step_left(PyObject *op);

/* There may be more to do than workers: some more of them, as many again at
   most.  Runs Python. */
void al_step_grow(al_pump *pump);

#endif
