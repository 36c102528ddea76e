/* Items in Tasks of their own. */
#ifndef AL_ITEM_TASK_H
#define AL_ITEM_TASK_H

#include "base/compat.h"
#include "base/state.h"
#include "batch/worker.h"

/* Pull an item and make its Task, where there is one.  Returns 0; -1 with an
   exception.  Runs Python. */
int al_item_task_spawn(al_pump *pump);

/* The Task of a worker has ended; an item it still had is cancelled, and the
   next one has its place.  Sets no exception.  Runs Python. */
void al_item_task_ended(PyObject *op);

/* Make the type of what such a Task is given.  Runs Python. */
int al_item_task_setup(PyObject *module, al_state *st);

#endif
