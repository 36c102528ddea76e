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
al_result_buffer_init(al_result_buffer *buffer, bool by_index)
{
    buffer->list = AL_ALLOC(PyList_New(0));
    buffer->by_index = by_index;
    return buffer->list == NULL ? -1 : 0;
}

/* Put a result at its item's place. */
static int
result_buffer_place(PyObject *list, Py_ssize_t place, PyObject *result)
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
al_result_buffer_put(al_result_buffer *buffer, PyObject *result)
{
    if (buffer->by_index) {
        return result_buffer_place(
            buffer->list, al_result_index(result) - buffer->base, result);
    }
    return AL_ALLOC_INT(PyList_Append(buffer->list, result));
}

PyObject *
al_result_buffer_peek(al_result_buffer *buffer, bool last)
{
    while (buffer->front < PyList_GET_SIZE(buffer->list)) {
        PyObject *result = PyList_GET_ITEM(buffer->list, buffer->front);
        if (result != Py_None) {
            return result;
        }
        if (!last) {
            return NULL;
        }
        buffer->front++;
    }
    return NULL;
}

void
al_result_buffer_take(al_result_buffer *buffer)
{
    Py_ssize_t place = buffer->front++;
    (void)PyList_SetItem(buffer->list, place, Py_NewRef(Py_None));
    if (buffer->front >= SHELF_CUT
        && buffer->front * 2 >= PyList_GET_SIZE(buffer->list))
    {
        if (PyList_SetSlice(buffer->list, 0, buffer->front, NULL) == 0) {
            buffer->base += buffer->front;
            buffer->front = 0;
        }
        else if (PyErr_ExceptionMatches(PyExc_MemoryError)) {
            PyErr_Clear(); /* the next one will try again */
        }
    }
}

int
al_result_buffer_sort(al_result_buffer *buffer)
{
    if (buffer->by_index) {
        return 0;
    }
    assert(buffer->base == 0 && buffer->front == 0);
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(buffer->list); i++) {
        PyObject *result = PyList_GET_ITEM(buffer->list, i);
        if (result_buffer_place(list, al_result_index(result), result) < 0) {
            Py_DECREF(list);
            return -1;
        }
    }
    buffer->by_index = true;
    Py_SETREF(buffer->list, list);
    return 0;
}

void
al_result_buffer_drop(al_result_buffer *buffer)
{
    PyObject *list = buffer->list;
    Py_ssize_t size = PyList_GET_SIZE(list);
    buffer->base += size;
    buffer->front = 0;
    if (PyList_SetSlice(list, 0, size, NULL) < 0
        && PyErr_ExceptionMatches(PyExc_MemoryError))
    {
        PyErr_Clear();
    }
}
