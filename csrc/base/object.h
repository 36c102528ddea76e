/* What every type of ours shares, and the answers of calls. */
#ifndef AL_OBJECT_H
#define AL_OBJECT_H

#include "base/compat.h"

/* The tp_dealloc of a collected type without subclasses: clear, free, and drop
   the reference to the type.  Runs Python. */
static inline void
al_object_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)type->tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

/* The truth of what a call answered (stolen; NULL: it raised): 1 or 0; -1 with
   an exception.  Runs Python. */
static inline int
al_object_truth(PyObject *answer)
{
    int truth = -1;
    if (answer != NULL) {
        truth = PyObject_IsTrue(answer);
        Py_DECREF(answer);
    }
    return truth;
}

/* The integer that a call answered (stolen; NULL: it raised); -1 with an
   exception.  Runs Python. */
static inline long
al_object_long(PyObject *answer)
{
    long number = -1;
    if (answer != NULL) {
        number = PyLong_AsLong(answer);
        Py_DECREF(answer);
    }
    return number;
}

#endif
