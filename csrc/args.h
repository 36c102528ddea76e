/* Keyword arguments of the hot doors, without a dict or a tuple. */
#ifndef AL_ARGS_H
#define AL_ARGS_H

#include "compat.h"

/* What a door takes: names in order, the first `positional` of them also by
   place, the first `required` of them always. */
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
        PyErr_Format(PyExc_TypeError,
                     "%s() takes at most %zd positional arguments (%zd given)",
                     sig->function, sig->positional, nargs);
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
               && PyUnicode_CompareWithASCIIString(name, sig->names[i]) != 0) {
            i++;
        }
        if (i == sig->count || out[i] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         i == sig->count
                             ? "%s() got an unexpected keyword argument '%U'"
                             : "%s() got multiple values for argument '%U'",
                         sig->function, name);
            return -1;
        }
        out[i] = args[nargs + k];
    }
    for (Py_ssize_t i = 0; i < sig->required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() missing required argument: '%s'",
                         sig->function, sig->names[i]);
            return -1;
        }
    }
    return 0;
}

#endif
