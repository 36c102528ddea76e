/* Methods that our types share, texts, and the results of calls as values. */
#ifndef AL_OBJECT_H
#define AL_OBJECT_H

#include "base/compat.h"
#include "base/fault.h"

/* At most so many characters of an id are in a message or a Task's name. */
#define AL_SHORT 120

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

/* The __reduce__ of a type whose objects are neither pickled nor copied:
   raises TypeError.  Pure C. */
static inline PyObject *
al_object_refuse_pickling(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *name = AL_ALLOC(PyType_GetName(Py_TYPE(op)));
    if (name != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "a %U can be neither pickled nor copied: it belongs to a "
                     "running event loop",
                     name);
        Py_DECREF(name);
    }
    return NULL;
}

/* Return an exact str, or if that is long its beginning and "..." (new).  NULL
   with MemoryError.  Pure C. */
static inline PyObject *
al_object_cut(PyObject *text)
{
    return PyUnicode_GET_LENGTH(text) <= AL_SHORT
               ? Py_NewRef(text)
               : AL_ALLOC(PyUnicode_FromFormat("%.117U...", text));
}

/* Return the repr of an exact str, cut if it is long (new).  NULL with
   MemoryError.  Pure C. */
static inline PyObject *
al_object_short(PyObject *text)
{
    PyObject *cut = al_object_cut(text);
    PyObject *repr = cut == NULL ? NULL : AL_ALLOC(PyObject_Repr(cut));
    Py_XDECREF(cut);
    return repr;
}

/* Raise an exception whose message names a task id, cut if it is long: the
   format has one %U, for the quoted id.  Pure C. */
static inline void
al_object_raise_about(PyObject *type, const char *format, PyObject *id)
{
    PyObject *name = al_object_short(id);
    if (name != NULL) {
        PyErr_Format(type, format, name);
        Py_DECREF(name);
    }
}

/* Return what an object has in one of its class's __slots__, by the descriptor
   of that slot (new); NULL without an exception if it is empty.  The caller
   has made sure that the slot is of that object's class.  Pure C. */
static inline PyObject *
al_object_slot(PyObject *object, PyObject *descriptor)
{
    Py_ssize_t at = ((PyMemberDescrObject *)descriptor)->d_member->offset;
    return Py_XNewRef(*(PyObject **)((char *)object + at));
}

/* Replace the first item of a tuple to which nobody else refers.
   Runs Python. */
static inline void
al_object_set_first(PyObject *tuple, PyObject *item)
{
    PyObject *old = PyTuple_GET_ITEM(tuple, 0);
    PyTuple_SET_ITEM(tuple, 0, Py_NewRef(item));
    AL_FORGET_HASH(tuple);
    Py_DECREF(old);
}

/* Call an object without arguments (new); a C function without the checks that
   the interpreter makes around one, which are half of the cost.  NULL with an
   exception.  Runs Python. */
static inline PyObject *
al_object_call(PyObject *object)
{
    return PyCFunction_CheckExact(object)
                   && PyCFunction_GET_FLAGS(object) == METH_NOARGS
               ? PyCFunction_GET_FUNCTION(object)(PyCFunction_GET_SELF(object),
                                                  NULL)
               : PyObject_CallNoArgs(object);
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
