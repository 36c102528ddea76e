/* TaskResult: how one item ended. */
#ifndef AL_RESULT_H
#define AL_RESULT_H

#include "base/compat.h"
#include "base/state.h"

typedef enum {
    AL_RESULT_PENDING = 0, /* never started */
    AL_RESULT_DONE,
    AL_RESULT_FAILED,
    AL_RESULT_CANCELLED,
    AL_RESULT_RUNNING, /* abandoned: it did not stop in time */
} al_result_state;

typedef struct {
    PyObject_HEAD
    PyObject *item;    /* owned */
    PyObject *task_id; /* owned; NULL: not asked for yet */
    PyObject *data;    /* owned: see `slot` */
    PyObject *error;   /* owned; NULL: None */
    Py_ssize_t index;
    float duration;
    uint8_t state;    /* an al_result_state; a success is DONE */
    uint8_t slot : 3; /* a result_slot: what `data` is */
    uint8_t timed_out : 1;
    uint8_t received : 1; /* a failure: somebody has received it */
    uint8_t has_job : 1;  /* a job has it, too, and may be asked for it */
    uint8_t left : 1;     /* the batch has let go of it: see job.c */
    uint8_t is_call : 1;  /* of a pool: the id is made of the index */
    uint16_t attempts;    /* UINT16_MAX: or more */
} ResultObject;

/* What a result is made of; the objects are borrowed. */
typedef struct {
    PyObject *item;
    PyObject *task_id; /* an exact str; NULL: made of the item on demand */
    PyObject *data;    /* NULL: None */
    PyObject *error;   /* NULL: None */
    Py_ssize_t index;
    double duration;
    int attempts; /* how often the function was called */
    al_result_state state;
    bool timed_out;
    bool is_call;
} al_result_fields;

/* A TaskResult (new).  If the item returned a TaskResult itself, then id,
   success, data and error are taken from that one.  Pure C. */
PyObject *al_result_new(al_state *st, const al_result_fields *fields);

/* Tell whether the item has a value.  Pure C. */
static inline bool
al_result_succeeded(const ResultObject *result)
{
    return result->state == AL_RESULT_DONE;
}

/* Let go of a result that nobody will receive through the batch.  Tells
   whether nobody else has received it or may do so.  Pure C. */
static inline bool
al_result_leave(ResultObject *result)
{
    result->left = true;
    return !result->received && !result->has_job;
}

/* Tell whether an item has failed.  An abandoned item counts as failed if its
   time had run out.  Pure C. */
static inline bool
al_result_is_failure(const ResultObject *result)
{
    return result->state == AL_RESULT_FAILED
           || (result->state == AL_RESULT_RUNNING && result->timed_out);
}

/* The state as a TaskState (new).  Pure C. */
PyObject *al_result_task_state(al_state *st, const ResultObject *result);

/* The data of a success (new); NULL with the error of any other, which has the
   traceback that it had at first.  Pure C. */
PyObject *al_result_unwrap(PyObject *result);

/* The task id of an item without a key (new): the item itself, if it is a
   non-empty str, or an int other than a bool; otherwise its index.  Pure C. */
PyObject *al_result_default_id(PyObject *item, Py_ssize_t index);

/* The task id of a pool's job without one (new): "job_0".  Pure C. */
PyObject *al_result_call_id(Py_ssize_t index);

/* Give the error of a new result a message, unless that is NULL or None.
   Without memory it has none.  Sets no exception.  Runs Python. */
void al_result_set_message(PyObject *result, PyObject *msg);

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_result_setup(PyObject *module, al_state *st);

#endif
