/* The results of a batch that nobody has taken yet.
 *
 * Results come nearly in the order of their items, so a place is mostly just
 * behind the last one.  What was taken is cut off in pieces: a stream's list
 * stays as short as what it may be ahead of its consumer.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "batch/result.h"
#include "batch/result_buffer.h"

/* Places that were taken, before they are cut off. */
#define SHELF_CUT 64

int
al_shelf_init(al_shelf *shelf, bool by_index)
{
    shelf->list = AL_ALLOC(PyList_New(0));
    shelf->by_index = by_index;
    return shelf->list == NULL ? -1 : 0;
}

/* Put a result at its item's place. */
static int
shelf_place(PyObject *list, Py_ssize_t place, PyObject *result)
{
    assert(place >= 0);
    while (PyList_GET_SIZE(list) < place) {
        if (AL_ALLOC_INT(PyList_Append(list, Py_None)) < 0) {
            return -1;
        }
    }
    if (place == PyList_GET_SIZE(list)) {
        return AL_ALLOC_INT(PyList_Append(list, result));
    }
    return PyList_SetItem(list, place, Py_NewRef(result));
}

int
al_shelf_put(al_shelf *shelf, PyObject *result)
{
    if (shelf->by_index) {
        return shelf_place(shelf->list,
                           al_result_index(result) - shelf->base, result);
    }
    return AL_ALLOC_INT(PyList_Append(shelf->list, result));
}

PyObject *
al_shelf_peek(al_shelf *shelf, bool last)
{
    while (shelf->front < PyList_GET_SIZE(shelf->list)) {
        PyObject *result = PyList_GET_ITEM(shelf->list, shelf->front);
        if (result != Py_None) {
            return result;
        }
        if (!last) {
            return NULL;
        }
        shelf->front++;
    }
    return NULL;
}

void
al_shelf_take(al_shelf *shelf)
{
    Py_ssize_t place = shelf->front++;
    (void)PyList_SetItem(shelf->list, place, Py_NewRef(Py_None));
    if (shelf->front >= SHELF_CUT
        && shelf->front * 2 >= PyList_GET_SIZE(shelf->list))
    {
        if (PyList_SetSlice(shelf->list, 0, shelf->front, NULL) == 0) {
            shelf->base += shelf->front;
            shelf->front = 0;
        }
        else if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear(); /* the next one will try again */
        }
    }
}

int
al_shelf_sort(al_shelf *shelf)
{
    if (shelf->by_index) {
        return 0;
    }
    assert(shelf->base == 0 && shelf->front == 0);
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(shelf->list); i++) {
        PyObject *result = PyList_GET_ITEM(shelf->list, i);
        if (shelf_place(list, al_result_index(result), result) < 0) {
            Py_DECREF(list);
            return -1;
        }
    }
    shelf->by_index = true;
    Py_SETREF(shelf->list, list);
    return 0;
}

void
al_shelf_drop(al_shelf *shelf)
{
    PyObject *list = shelf->list;
    Py_ssize_t size = PyList_GET_SIZE(list);
    shelf->base += size;
    shelf->front = 0;
    if (PyList_SetSlice(list, 0, size, NULL) < 0
        && PyErr_ExceptionMatches(PyExc_MemoryError))
    {
        PyErr_Clear();
    }
}
