/* Items that were cancelled and do not stop in time. */
#ifndef AL_ABANDON_H
#define AL_ABANDON_H

#include "base/compat.h"
#include "aio/deadline.h"
#include "batch/worker.h"

/* The deadline of an item is due: its timeout, or the grace after that.
   Runs Python. */
void al_pump_item_due(al_deadline *deadline);

/* Give up every item that still runs.  Runs Python. */
void al_pump_abandon_all(al_pump *pump);

/* Tell whether a Task (borrowed) has ended: its callback brings what became of
   it, in this turn or the next.  Sets no exception.  Runs Python. */
bool al_pump_task_has_ended(al_pump *pump, PyObject *task);

/* Hold a Task (borrowed) that nobody waits for any more until it ends.
   Errors go to the loop's exception handler.  Runs Python. */
void al_pump_keep_task(al_pump *pump, PyObject *task);

#endif
