/* TaskResult: what became of one item. */
#ifndef AL_RESULT_H
#define AL_RESULT_H

#include "base/compat.h"
#include "base/state.h"

typedef enum {
    AL_RESULT_PENDING = 0, /* never started */
    AL_RESULT_DONE,
    AL_RESULT_FAILED,
    AL_RESULT_CANCELLED,
    AL_RESULT_RUNNING, /* did not stop in time */
} al_result_state;

typedef struct {
    PyObject_HEAD
    PyObject *item;    /* owned */
    PyObject *task_id; /* owned; NULL: not asked for yet */
    PyObject *data;    /* owned */
    PyObject *error;   /* owned; NULL: None */
    Py_ssize_t index;
    float duration;
    uint8_t state; /* an al_result_state */
    bool success;
    bool timed_out;
} ResultObject;

/* What a result is made of; the objects are borrowed. */
typedef struct {
    PyObject *item;
    PyObject *task_id; /* NULL: made of the item when asked for */
    PyObject *data;    /* NULL: None */
    PyObject *error;   /* NULL: None */
    Py_ssize_t index;
    double duration;
    al_result_state state;
    bool timed_out;
} al_result_fields;

/* A TaskResult (new).  Where it is DONE and its data is a TaskResult itself,
   id, success, data and error are taken from that.  Pure C. */
PyObject *al_result_new(al_state *st, const al_result_fields *fields);

/* The id that an item without a key has: the item as a str if it is a
   non-empty str or an int but no bool, else its index (new).  Pure C. */
PyObject *al_result_default_id(PyObject *item, Py_ssize_t index);

/* Make the type.  Runs Python. */
int al_result_setup(PyObject *module, al_state *st);

#endif
