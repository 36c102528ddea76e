/* The batch of a batch: who takes the results, counts, status. */
#ifndef AL_BATCH_H
#define AL_BATCH_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "batch/result_buffer.h"
#include "batch/pump.h"

/* Who takes the results: the first use decides.  OPEN is a block (async with)
   that may still await or iterate, BLOCK one that did neither. */
typedef enum {
    AL_MODE_UNUSED,
    AL_MODE_OPEN,
    AL_MODE_COLLECT,
    AL_MODE_STREAM,
    AL_MODE_BLOCK,
} al_mode;

typedef struct {
    PyObject_HEAD
    al_pump pump;
    al_result_buffer results;
    al_link waiters;     /* borrowed */
    PyObject *on_result; /* owned, or NULL */
    PyObject *errors;    /* owned: list, where there is a max_errors */
    al_mode mode;
    bool ordered;
    bool consumer_waits;   /* for a result that is not there yet */
    bool dropped;          /* nobody holds the Batch any more */
    Py_ssize_t buffer;     /* of a stream; -1: twice the limit */
    Py_ssize_t max_errors; /* -1: none */
    Py_ssize_t done;
    Py_ssize_t failed; /* with those whose time ran out */
    Py_ssize_t cancelled;
    Py_ssize_t timed_out;
    Py_ssize_t refused; /* pulled and never started */
    double over_at;     /* loop time */
} BatchObject;

/* What somebody waits for. */
typedef enum { AL_WAIT_NEXT, AL_WAIT_END, AL_WAIT_TAKEN } al_waiter_kind;

/* Somebody who waits, in the batch' list while suspended. */
typedef struct {
    al_link link;
    al_waiter_kind kind;
    PyObject *future; /* owned, while suspended */
} al_waiter;

/* What the pump tells its owner. */
extern const al_pump_calls al_batch_calls;

/* Change to a use that the one before allows.  Returns 0; -1 with an
   exception, nothing changed.  Runs Python. */
int al_batch_set_mode(BatchObject *batch, al_mode mode);

/* Add an item, also before the batch has begun.  Returns 0; -1 with an
   exception, nothing changed.  Runs Python. */
int al_batch_add(BatchObject *batch, PyObject *item);

/* Change the limit, and with it how far a stream may be ahead.
   Runs Python. */
void al_batch_set_limit(BatchObject *batch, Py_ssize_t limit);

/* Report what ended a batch that nobody holds any more, if something did.
   Sets no exception.  Runs Python. */
void al_batch_tell_fatal(BatchObject *batch);

/* What is to be handed over next (new); NULL if there is none.  Sets no
   exception.  Runs Python. */
PyObject *al_batch_hand_over(BatchObject *batch);

/* The slots of the type, which batch.c makes.  Traverse: Pure C.; the others:
   Runs Python. */
int al_batch_traverse(PyObject *op, visitproc visit, void *arg);

/* See al_batch_traverse.  Runs Python. */
int al_batch_clear(PyObject *op);

/* See al_batch_traverse.  Runs Python. */
void al_batch_dealloc(PyObject *op);

#endif
