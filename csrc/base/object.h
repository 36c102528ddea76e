/* The dealloc that our types share, and the results of calls as C values. */
#ifndef AL_OBJECT_H
#define AL_OBJECT_H

#include "base/compat.h"

/* The tp_dealloc of a type with GC and without subclasses: clear, free, and
   drop the instance's reference to its heap type.  Runs Python. */
static inline void
al_object_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)type->tp_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

/* Return the truth of a call's result (stolen; NULL: the call raised): 1 or 0;
   -1 with an exception.  Runs Python. */
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

/* Return a call's result (stolen; NULL: the call raised), which is a count; -1
   with an exception, ValueError for a negative number.  Runs Python. */
static inline long
al_object_count(PyObject *answer)
{
    long number = -1;
    if (answer != NULL) {
        number = PyLong_AsLong(answer);
        Py_DECREF(answer);
    }
    if (number < 0 && !PyErr_Occurred()) {
        PyErr_Format(PyExc_ValueError, "a count must not be negative, got %ld",
                     number);
        number = -1;
    }
    return number;
}

#endif
