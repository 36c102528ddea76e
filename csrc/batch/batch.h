/* A batch: a pump with its results, its counts and its waiters. */
#ifndef AL_BATCH_H
#define AL_BATCH_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "batch/pump.h"

/* Who takes the results.  The first use decides: see batch.c. */
typedef enum {
    AL_MODE_UNUSED,
    AL_MODE_OPEN,    /* an `async with` block, which may still choose */
    AL_MODE_COLLECT, /* it is awaited */
    AL_MODE_STREAM,  /* it is iterated */
    AL_MODE_BLOCK,   /* nobody: the block was left without a choice, or the
                        Batch is gone */
} al_mode;

/* What a waiter waits for. */
typedef enum {
    AL_WAIT_NEXT,
    AL_WAIT_END,
    AL_WAIT_TAKEN,
    AL_WAIT_IDLE, /* of a pool: nothing runs and nothing waits */
    AL_WAIT_ROOM, /* of a pool: it takes one more job, or no more at all */
} al_waiter_kind;

/* A waiter, in its batch's list while it is suspended. */
typedef struct {
    al_link link;
    al_waiter_kind kind;
    PyObject *future; /* owned, while suspended */
} al_waiter;

/* The results that nobody has taken yet: a list with a place for each item, or
   with the results in the order in which the items ended. */
typedef struct {
    PyObject *list;   /* owned; None: nothing there (yet, or any more) */
    Py_ssize_t base;  /* index of the item of the first place */
    Py_ssize_t front; /* the place that is taken next */
    bool by_index;
} al_result_buffer;

typedef struct {
    PyObject_HEAD
    al_pump pump;
    al_result_buffer results;
    al_link waiters;     /* of al_waiter, borrowed */
    PyObject *on_result; /* owned, or NULL */
    PyObject *errors;    /* owned: list, of failed items, for max_errors */
    al_mode mode;
    bool consumer_waits; /* for a result that is not there yet */
    bool dropped;        /* the Batch, which Python code held, is gone */
    bool handled;        /* results went to on_result, and were not kept */
    bool delivered;      /* the error that ended it was raised or reported */
    Py_ssize_t unread;   /* failures that nobody will receive */
    PyObject *first_unread; /* owned: the exception of the first, or NULL */
    Py_ssize_t buffer;      /* of a stream; -1: twice the limit */
    Py_ssize_t max_errors;  /* -1: none */
    Py_ssize_t done;
    Py_ssize_t failed; /* includes timed_out */
    Py_ssize_t cancelled;
    Py_ssize_t timed_out;
    Py_ssize_t refused; /* pulled and never started */
    Py_ssize_t abandoned;
    Py_ssize_t max_pending; /* of a pool; -1: any number */
    PyObject *numbers;      /* owned: of jobs in a registry, or NULL */
    double over_at;         /* loop time */
} BatchObject;

/* How the pump of a batch notifies it. */
extern const al_pump_calls al_batch_calls;

/* Change to a mode that the one before allows.  Returns 0; -1 with an
   exception, nothing changed.  Runs Python. */
int al_batch_set_mode(BatchObject *batch, al_mode mode);

/* Change the limit, and with it how many results a stream may be ahead of its
   consumer.  Runs Python. */
void al_batch_set_limit(BatchObject *batch, Py_ssize_t limit);

/* Add an item, also before the batch has begun.  Returns its Job (new); NULL
   with an exception, nothing changed.  Runs Python. */
PyObject *al_batch_add(BatchObject *batch, PyObject *item);

/* A pool may have room again, or nothing left to do: wake those who wait for
   that.  Runs Python. */
void al_batch_wake_pool(BatchObject *batch);

/* How many items run: they were started, have not ended, and do not wait for
   another attempt.  Abandoned ones are among them.  Pure C. */
static inline Py_ssize_t
al_batch_running(const BatchObject *batch)
{
    return batch->pump.source.pulled - batch->refused - batch->done
           - batch->failed - batch->cancelled
           - al_limits_waiting(batch->pump.limits);
}

/* Tell whether nothing runs, but for what was abandoned, and nothing waits.
   Pure C. */
static inline bool
al_batch_is_idle(const BatchObject *batch)
{
    return batch->pump.source.waiting == 0
           && al_limits_waiting(batch->pump.limits) == 0
           && al_batch_running(batch) == batch->abandoned;
}

/* How many more jobs a pool takes now.  A free slot has room, and beyond these
   max_pending jobs may wait, also for their key, the rate or another attempt:
   so these do not keep a free slot from a job that it could run.  Pure C. */
static inline Py_ssize_t
al_batch_room(const BatchObject *self)
{
    const al_pump *p = &self->pump;
    if (self->max_pending < 0) {
        return PY_SSIZE_T_MAX;
    }
    Py_ssize_t busy = al_batch_running(self) - self->abandoned;
    Py_ssize_t free = p->paused || busy >= p->limit ? 0 : p->limit - busy;
    Py_ssize_t waiting =
        p->source.waiting + al_limits_waiting(p->limits) - free;
    /* No sum here overflows: of two numbers one is never above the other. */
    return waiting <= 0 && self->max_pending > PY_SSIZE_T_MAX + waiting
               ? PY_SSIZE_T_MAX
               : self->max_pending - waiting;
}

/* The next result of a stream, which is taken (new); NULL if it is not there
   yet.  Sets no exception.  Runs Python. */
PyObject *al_batch_hand_over(BatchObject *batch);

/* The list of the results (new), which the batch has no more; NULL with an
   exception, nothing changed.  Runs Python. */
PyObject *al_batch_take_results(BatchObject *batch);

/* Drop the results, and report what nobody can receive any more, each failure
   once: the error that ended the batch, if it was not delivered, and the
   failures among the results.  Sets no exception.  Runs Python. */
void al_batch_report_unread(BatchObject *batch);

/* The Batch is gone: stop, and report what nobody has received now, or when
   the pump is over.  Sets no exception.  Runs Python. */
void al_batch_detach(BatchObject *batch);

/* The tp_traverse of the type, which batch_type.c makes.  Pure C. */
int al_batch_traverse(PyObject *op, visitproc visit, void *arg);

/* The tp_clear of the type.  The list of results stays until the dealloc, so
   that a batch in a cycle can still be asked.  Runs Python. */
int al_batch_clear(PyObject *op);

#endif
