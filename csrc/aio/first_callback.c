/* A Task's watcher: the callback of ours that is told first of its end.
 *
 * The one callback of a Task that is known beforehand to come is the
 * watcher's, so it is not put on the Task before its first step, and taken off
 * for the one that a cancellation wakes it for: if the Task ends there, a
 * burst tells the watcher.  If not, the watcher is put where it would have
 * been, first.
 *
 * For that the others are taken off and added again, and taking off compares:
 * a callback's == may run anything, and raise.  So what was lost is found out
 * by identity.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/first_callback.h"

/* The Task's callbacks, pairs with their contexts, as a list of our own (new);
   NULL: it has none, or there is no memory, without an exception. */
static PyObject *
first_callback_list(al_state *st, PyObject *task)
{
    PyObject *pairs = al_future_get(st->future_callbacks, task);
    if (pairs != NULL && PyList_Check(pairs)) {
        /* Up to 3.13.0 it may be the Task's own, which taking off changes. */
        Py_SETREF(pairs,
                  AL_ALLOC(PyList_GetSlice(pairs, 0, PyList_GET_SIZE(pairs))));
    }
    else {
        Py_CLEAR(pairs);
    }
    if (pairs == NULL) {
        PyErr_Clear(); /* MemoryError: no Python runs here */
    }
    return pairs;
}

bool
al_first_callback_take(al_state *st, PyObject *task, PyObject *watcher)
{
    PyObject *pairs = al_future_get(st->future_callbacks, task);
    bool taken = pairs != NULL && PyList_Check(pairs)
                 && PyList_GET_SIZE(pairs) == 1
                 && PyTuple_GET_ITEM(PyList_GET_ITEM(pairs, 0), 0) == watcher
                 && al_task_remove_done_callback(st, task, watcher) > 0;
    Py_XDECREF(pairs);
    if (!taken) {
        PyErr_Clear(); /* MemoryError: then it stays where it is */
    }
    return taken;
}

/* Take callbacks off a Task, the last one first, so that those that stay keep
   their order.  -1 with what a == has raised: some of them may be on it. */
static int
first_callback_take_off(al_state *st, PyObject *task, PyObject *pairs)
{
    for (Py_ssize_t i = PyList_GET_SIZE(pairs) - 1; i >= 0; i--) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        if (al_task_remove_done_callback(st, task, PyTuple_GET_ITEM(pair, 0))
            < 0)
        {
            return -1;
        }
    }
    return 0;
}

/* Tell whether a callback is among those that stayed on, and strike it from
   them: it may be there twice. */
static bool
first_callback_stayed(PyObject *stayed, PyObject *pair)
{
    Py_ssize_t n = stayed == NULL ? 0 : PyList_GET_SIZE(stayed);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *other = PyList_GET_ITEM(stayed, i);
        if (other != Py_None
            && PyTuple_GET_ITEM(other, 0) == PyTuple_GET_ITEM(pair, 0)
            && PyTuple_GET_ITEM(other, 1) == PyTuple_GET_ITEM(pair, 1))
        {
            (void)PyList_SetItem(stayed, i, Py_NewRef(Py_None));
            return true;
        }
    }
    return false;
}

/* Put a callback on a Task, in a context; should memory fail, once more, for
   what is not put on is lost.  -1 with an exception. */
static int
first_callback_put_on(al_state *st, PyObject *task, PyObject *callback,
                      PyObject *context)
{
    al_loop in = {.context = context};
    int put = al_task_add_done_callback(st, &in, task, callback);
    if (put < 0 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        put = al_task_add_done_callback(st, &in, task, callback);
    }
    return put;
}

int
al_first_callback_put(al_state *st, PyObject *loop, PyObject *task,
                      PyObject *watcher, PyObject *context)
{
    const char *adding = "adding a done callback failed";
    PyObject *exit = NULL, *stayed = NULL;
    PyObject *pairs = first_callback_list(st, task);
    if (pairs != NULL && first_callback_take_off(st, task, pairs) < 0) {
        al_loop_handle_error_keep_exit(
            st, loop, "comparing done callbacks failed", task, &exit);
        stayed = first_callback_list(st, task);
    }
    if (first_callback_put_on(st, task, watcher, context) < 0) {
        al_loop_handle_error_keep_exit(st, loop, adding, task, &exit);
    }
    Py_ssize_t n = pairs == NULL ? 0 : PyList_GET_SIZE(pairs);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        if (!first_callback_stayed(stayed, pair)
            && first_callback_put_on(st, task, PyTuple_GET_ITEM(pair, 0),
                                     PyTuple_GET_ITEM(pair, 1))
                   < 0)
        {
            al_loop_handle_error_keep_exit(st, loop, adding, task, &exit);
        }
    }
    Py_XDECREF(pairs);
    Py_XDECREF(stayed);
    return al_loop_raise_exit(exit);
}
