/* Items that have Tasks of their own (task_per_item). */
#ifndef AL_ITEM_TASK_H
#define AL_ITEM_TASK_H

#include "base/compat.h"
#include "base/state.h"
#include "batch/pump.h"
#include "batch/worker.h"

/* Pull an item, if there is one, and make its Task and worker.  Returns 0; -1
   with an exception.  Runs Python. */
int al_item_task_spawn(al_pump *pump);

/* Decide whether the items get Tasks of their own: where the loop has a task
   factory that is not asyncio's eager one.  Returns 0; -1 with an exception.
   Runs Python. */
int al_item_task_choose(al_pump *pump);

/* Ask the registry of the items' Tasks, if there is one, whether it shuts
   down.  If it does, the pump stops, and leaves the Tasks to the registry.  A
   failure stops the pump too.  Returns whether the registry shuts down.  Sets
   no exception.  Runs Python. */
bool al_item_task_check_registry(al_pump *pump);

/* The Task of a worker has ended: an item that it still has is cancelled, the
   worker is detached, and the next item takes its place.  Sets no exception.
   Runs Python. */
void al_item_task_ended(WorkerObject *worker);

/* Make the type of the handle that such a Task is given.  Returns 0; -1 with
   an exception.  Runs Python. */
int al_item_task_setup(PyObject *module, al_state *st);

#endif
