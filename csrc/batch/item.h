/* One item of a batch, while it is driven, and what its end means. */
#ifndef AL_ITEM_H
#define AL_ITEM_H

#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/deadline.h"
#include "batch/drive.h"
#include "batch/job.h"
#include "batch/result.h"

/* Why a batch was stopped, or an item cancelled.  The first reason counts. */
typedef enum {
    AL_STOP_NONE = 0, /* of an item: its own timeout */
    AL_STOP_DRAIN,    /* Batch.stop(): what runs goes on */
    AL_STOP_BUDGET,   /* the budget ran out */
    AL_STOP_ERRORS,   /* more items failed than max_errors allows */
    AL_STOP_CANCEL,   /* the batch was cancelled or dropped */
    AL_STOP_FATAL,    /* by an exception that the batch raises */
    AL_STOP_REGISTRY, /* as by CANCEL, but the registry of the items' Tasks,
                         which shuts down, has cancelled these already */
} al_stop;

struct al_limit_key;

typedef struct {
    PyObject *value;   /* owned: the item itself; NULL: there is none */
    PyObject *task_id; /* owned: the answer of key(), or NULL */
    JobObject *job;    /* owned: of an item that was added, or NULL */
    al_drive drive;
    al_deadline deadline;     /* of its timeout, then of its grace */
    struct al_limit_key *key; /* borrowed: its place there; or NULL */
    Py_ssize_t index;
    double started;    /* loop time, of the first attempt */
    double since;      /* that of this attempt; only with limits */
    double left;       /* of its timeout then; only with limits */
    long cancels_sent; /* cancellations of ours, not taken back */
    al_stop why;       /* of the first of these */
    bool of_queue;     /* its end is to be the queue's task_done() */
    int attempts;      /* how often the function was called */
    bool refused;      /* by the registry, without a call of the function, or
                          by its job: it is not tried again */
    bool short_lived;  /* the attempt's timeout comes before the item's */
    bool suspended;    /* it has been, at least once */
    bool timeout_sent; /* its timeout, or its job, has cancelled it: a grace
                          may run */
} al_item;

/* The task id of the item's result (new).  Runs Python. */
PyObject *al_item_id(const al_item *item);

/* Judge how an item that was driven by `task` ended, and take our
   cancellations of the Task back.  `cancelling` is the answer of
   al_task_cancelling_method; `seconds` the timeout or budget for the message
   of a TimeoutError.  *end (owned, may be replaced) is the item's value
   (PYGEN_RETURN) or exception.  Fills in `fields`, which borrow from `item`
   and `*end`.  Returns 1 if the Task is as clean as before the item, 0 if not;
   -1 with an exception.  Runs Python. */
int al_item_judge(al_state *st, al_item *item, PyObject *task,
                  PyObject *cancelling, PySendResult answer, double seconds,
                  PyObject **end, al_result_fields *fields);

/* Tell whether the exception of an item is raised elsewhere, too.  A bare
   BaseException is a result like any other, and also stops a batch, which
   raises it: SystemExit, KeyboardInterrupt and the like.  In a pool, as in a
   Task, an exit ends the loop's run, and any other is the job's alone.
   Pure C. */
bool al_item_raises(al_state *st, PyObject *error, bool of_pool);

/* The result of an item that was pulled and never started (new).
   Runs Python. */
PyObject *al_item_unstarted(al_state *st, const al_item *item, al_stop why,
                            double budget);

/* The result of an item that was ended by `why`, AL_STOP_NONE being its own
   timeout, while it waited for its next attempt (new).  `last` is the error of
   the last one, or NULL; `seconds` the timeout, or the budget.
   Runs Python. */
PyObject *al_item_waited(al_state *st, al_item *item, al_stop why,
                         PyObject *last, double seconds, double duration);

/* The result of an item that was cancelled and did not stop in `grace` seconds
   (new).  `seconds` is its timeout, or the budget.  Runs Python. */
PyObject *al_item_stuck(al_state *st, const al_item *item, double seconds,
                        double grace, double duration);

/* The visit of an embedded item.  Pure C. */
static inline int
al_item_visit(al_item *item, visitproc visit, void *arg)
{
    Py_VISIT(item->value);
    Py_VISIT(item->task_id);
    Py_VISIT((PyObject *)item->job);
    return al_drive_visit(&item->drive, visit, arg);
}

/* Tell whether the item is a call of a pool, its value being the arguments.
   Pure C. */
static inline bool
al_item_is_call(const al_item *item)
{
    return item->job != NULL && item->job->is_call;
}

/* What an item has held. */
typedef struct {
    PyObject *value;   /* owned */
    PyObject *task_id; /* owned, or NULL */
    JobObject *job;    /* owned, or NULL */
    PyObject *key;     /* owned: of limit_by, or NULL */
} al_item_parts;

/* Reset the item, whose drive has ended, and whose place was given back.  What
   it has held, with a `key` (stolen, or NULL), is handed to the caller, to be
   dropped after the state change.  Pure C. */
static inline al_item_parts
al_item_detach(al_item *item, PyObject *key)
{
    assert(item->drive.iterator == NULL && item->key == NULL);
    al_deadline_drop(&item->deadline);
    al_item_parts parts = {item->value, item->task_id, item->job, key};
    item->value = item->task_id = NULL;
    item->job = NULL;
    item->cancels_sent = 0;
    item->why = AL_STOP_NONE;
    item->attempts = 0;
    item->refused = item->short_lived = false;
    item->suspended = item->timeout_sent = false;
    return parts;
}

/* Call fn(item) in a copy of the context, and take the first step.  Answers as
   al_drive_begin().  Runs Python. */
static inline PySendResult
al_item_begin(al_state *st, al_item *item, PyObject *context, PyObject *fn,
              PyObject **result)
{
    PyObject *stack[2] = {NULL, item->value};
    return al_drive_begin(st, &item->drive, AL_ALLOC(PyContext_Copy(context)),
                          fn, stack + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                          result);
}

/* Drop what an item has held.  Runs Python. */
static inline void
al_item_parts_drop(al_item_parts parts)
{
    Py_XDECREF(parts.value);
    Py_XDECREF(parts.task_id);
    Py_XDECREF((PyObject *)parts.job);
    Py_XDECREF(parts.key);
}

/* The clear of an embedded item.  Runs Python. */
static inline void
al_item_clear(al_item *item)
{
    al_deadline_drop(&item->deadline);
    al_drive_clear(&item->drive);
    Py_CLEAR(item->job);
    Py_CLEAR(item->task_id);
    Py_CLEAR(item->value);
}

#endif
