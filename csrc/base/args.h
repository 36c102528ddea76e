/* The arguments of our methods: sorted without a dict or a tuple, and checked.
 */
#ifndef AL_ARGS_H
#define AL_ARGS_H

#include "base/compat.h"
#include "base/fault.h"

/* The parameters of a method, in order.  The first `positional` of them may be
   passed by position, the first `required` of them must be passed. */
typedef struct {
    const char *function;
    Py_ssize_t required;
    Py_ssize_t positional;
    Py_ssize_t count;
    const char *names[6];
} al_signature;

/* Sort the arguments of a FASTCALL|KEYWORDS call into `out` (borrowed; NULL
   where nothing was passed).  Returns 0; -1 with TypeError.  Pure C. */
static inline int
al_args_sort(const al_signature *sig, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames, PyObject **out)
{
    if (nargs > sig->positional) {
        PyErr_Format(
            PyExc_TypeError,
            "%s() takes at most %zd positional argument%s (%zd given)",
            sig->function, sig->positional, sig->positional == 1 ? "" : "s",
            nargs);
        return -1;
    }
    for (Py_ssize_t i = 0; i < sig->count; i++) {
        out[i] = i < nargs ? args[i] : NULL;
    }
    Py_ssize_t nkw = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t k = 0; k < nkw; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        Py_ssize_t i = 0;
        while (i < sig->count
               && PyUnicode_CompareWithASCIIString(name, sig->names[i]) != 0)
        {
            i++;
        }
        if (i < sig->count && out[i] == NULL) {
            out[i] = args[nargs + k];
        }
        else if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError,
                         i == sig->count
                             ? "%s() got an unexpected keyword argument '%U'"
                             : "%s() got multiple values for argument '%U'",
                         sig->function, name);
        }
    }
    if (nkw > 0 && PyErr_Occurred()) {
        return -1; /* all sorted, for the caller may have to close one */
    }
    for (Py_ssize_t i = 0; i < sig->required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required argument: '%s'", sig->function,
                         sig->names[i]);
            return -1;
        }
    }
    return 0;
}

/* An id as an exact str (new); NULL with TypeError or
   ValueError.  Pure C. */
static inline PyObject *
al_args_id(PyObject *id)
{
    if (!PyUnicode_Check(id)) {
        PyErr_Format(PyExc_TypeError,
                     "a task id must be a str, got %.100s %.60R",
                     Py_TYPE(id)->tp_name, id);
        return NULL;
    }
    if (PyUnicode_GET_LENGTH(id) == 0) {
        PyErr_SetString(PyExc_ValueError,
                        "a task id must be a non-empty str, got ''");
        return NULL;
    }
    return AL_ALLOC(PyUnicode_FromObject(id));
}

/* A non-negative number of seconds.  `check` is check_optional_seconds() of
   _arguments.py: it decides about all but plain floats and ints that are fine
   as they are.  Returns 0; -1 with TypeError or ValueError.  Runs Python. */
static inline int
al_args_seconds(PyObject *check, const char *name, PyObject *value,
                double *seconds)
{
    if (PyFloat_CheckExact(value)) {
        *seconds = PyFloat_AS_DOUBLE(value);
        if (*seconds >= 0.0) {
            return 0;
        }
    }
    else if (PyLong_CheckExact(value)) {
        int overflow;
        long whole = PyLong_AsLongAndOverflow(value, &overflow);
        if (overflow == 0 && whole >= 0) {
            *seconds = (double)whole;
            return 0;
        }
    }
    PyObject *checked =
        PyObject_CallFunction(check, "sOO", name, value, Py_None);
    if (checked == NULL) {
        return -1;
    }
    *seconds = PyFloat_AS_DOUBLE(checked);
    Py_DECREF(checked);
    return 0;
}

#endif
