/* How the limits of a pump meet its workers, its timer and its source. */
#ifndef AL_ADMISSION_H
#define AL_ADMISSION_H

#include "base/compat.h"
#include "batch/item.h"
#include "batch/limits.h"
#include "batch/pump.h"
#include "batch/worker.h"

/* What al_admission_next() does with limits.  Runs Python. */
al_pull al_admission_pull(WorkerObject *worker);

/* Detach the item of an attempt that has ended at `now` with *result (NULL:
   without one, and an exception is set), as al_item_detach() does, and give
   its place back.  Returns false if another attempt follows; true if *result
   counts, which a Retry that failed may have replaced: NULL with an exception.
   Runs Python. */
bool al_admission_detach(WorkerObject *worker, double now, PyObject **result,
                         al_item_parts *parts);

/* Cancel an item that waits, for its job; `msg` is that of its CancelledError,
   or NULL.  Runs Python. */
void al_admission_refuse(al_pump *pump, al_waiting *waiting, PyObject *msg);

/* The Task of an attempt has ended: its item may wait for the next one from
   now on.  Runs Python. */
void al_admission_task_ended(WorkerObject *worker);

/* The result of an item that has not begun when the pump was stopped (new).
   Runs Python. */
PyObject *al_admission_unstarted(al_pump *pump, al_item *item);

/* A deadline of the pump's queue is due.  Returns whether it was one of the
   limits.  Runs Python. */
bool al_admission_due(al_pump *pump, al_deadline *deadline);

/* An item that was held begins now, later than the rate has let it: the next
   start is due an interval from now.  A failure stops the pump.
   Runs Python. */
void al_admission_held(al_pump *pump);

/* End all items that wait: a fresh one as never started, the others by `why`
   or, if that is AL_STOP_NONE, by their last failure.  Runs Python. */
void al_admission_stop(al_pump *pump, al_stop why);

/* A list (new) with four entries for each item that is between two
   attempts: the Task of the last one if it has not ended, or None; the index;
   the id, or in a pool the Job; the error.  NULL with MemoryError.
   Runs Python. */
PyObject *al_admission_resting(const al_pump *pump);

/* How many workers may find an item, if the source has `left`; -1: not known.
   Pure C. */
Py_ssize_t al_admission_left(const al_pump *pump, Py_ssize_t left);

/* Pull the next item for a worker that has none: one that waits, or one of
   the source, of which those without a place are set aside.  Returns what
   al_worker_pull() returns.  Runs Python. */
static inline al_pull
al_admission_next(WorkerObject *worker)
{
    return worker->pump->limits == NULL ? al_worker_pull(worker)
                                        : al_admission_pull(worker);
}

/* What al_admission_detach() does with limits.  Runs Python. */
static inline bool
al_admission_leave(WorkerObject *worker, double now, PyObject **result,
                   al_item_parts *parts)
{
    if (worker->pump->limits != NULL) {
        return al_admission_detach(worker, now, result, parts);
    }
    *parts = al_item_detach(&worker->item, NULL);
    return true;
}

/* An attempt begins.  Pure C. */
static inline void
al_admission_begin(const al_pump *p, al_item *item, double now)
{
    item->since = now;
    if (item->attempts == 0) {
        item->started = now;
        item->left = p->timeout;
    }
}

/* The loop time at which an item that has begun is cancelled; inf: never.
   Pure C. */
static inline double
al_admission_deadline(const al_pump *p, al_item *item)
{
    if (p->limits == NULL) {
        return item->started + p->timeout;
    }
    item->short_lived = p->limits->attempt_timeout < item->left;
    return item->since
           + (item->short_lived ? p->limits->attempt_timeout : item->left);
}

/* The seconds that an item had, for the message of its TimeoutError.
   Pure C. */
static inline double
al_admission_seconds(const al_pump *p, const al_item *item)
{
    return item->why == AL_STOP_BUDGET ? p->budget
           : item->short_lived         ? p->limits->attempt_timeout
                                       : p->timeout;
}

#endif
