/* A pump: items from a source, driven by its workers, with one budget. */
#ifndef AL_PUMP_H
#define AL_PUMP_H

#include "base/compat.h"
#include "base/state.h"
#include "batch/worker.h"

/* Make an idle pump; what it works on is put into its fields, limit, room,
   timeout and budget included.  Pure C. */
void al_pump_init(al_pump *pump, al_state *st, PyObject *owner,
                  const al_pump_calls *calls);

/* Make a Task for each item, registered where there is a `registry`, a
   TaskRegistry or NULL.  Pure C. */
void al_pump_set_task_per_item(al_pump *pump, PyObject *registry);

/* Begin in the running loop.  Returns 0, also where the source or the first
   worker failed, which ends it as AL_STOP_FATAL; -1 with an exception where
   there is no loop, nothing begun.  Runs Python. */
int al_pump_begin(al_pump *pump);

/* The reader has its next item; the one before was taken.  Runs Python. */
void al_pump_offer(al_pump *pump, PyObject *item);

/* The reader (a Task, borrowed) has ended.  Runs Python. */
void al_pump_read(al_pump *pump, PyObject *task);

/* Add an item; before the pump has begun, too.  Returns 0; -1 with an
   exception, nothing changed.  Runs Python. */
int al_pump_add(al_pump *pump, PyObject *item);

/* Its limit, or whether it is paused or closed, has been changed: see that as
   many workers come as may.  Runs Python. */
void al_pump_limit_changed(al_pump *pump);

/* The visit of an embedded pump.  Pure C. */
int al_pump_visit(al_pump *pump, visitproc visit, void *arg);

/* The clear of an embedded pump.  Runs Python. */
void al_pump_clear(al_pump *pump);

#endif
