/* Take items from the front of a list without moving the rest each time. */
#ifndef AL_FIFO_H
#define AL_FIFO_H

#include "base/compat.h"

/* Taken places at the front of a list before they are cut off. */
#define AL_FIFO_CUT 64

/* Empty the place *front of a list and move *front on.  Once many places are
   taken, and they are half of the list, cut them off; without the memory for
   that, a later call tries again.  So the list is never much longer than twice
   what is left in it, and each place is moved about once.  The caller has its
   own reference to the item.  Returns how many places were cut.  Sets no
   exception.  Pure C. */
static inline Py_ssize_t
al_fifo_take(PyObject *list, Py_ssize_t *front)
{
    Py_ssize_t place = (*front)++;
    (void)PyList_SetItem(list, place, Py_NewRef(Py_None));
    Py_ssize_t cut = *front;
    if (cut < AL_FIFO_CUT || cut * 2 < PyList_GET_SIZE(list)) {
        return 0;
    }
    if (PyList_SetSlice(list, 0, cut, NULL) == 0) {
        *front = 0;
        return cut;
    }
    if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
    }
    return 0;
}

#endif
