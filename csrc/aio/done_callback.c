/* Our done callback on a Task, first among others.
 *
 * A Task calls its done callbacks in the order in which they were added, and
 * asyncio's TaskGroup adds its own right after it has made the Task.  The
 * capture does not: a Task that ends in a step of a call queue never needs it.
 * If the Task does not end there, the callback is put on it afterwards, before
 * those that somebody has added meanwhile (R2).
 *
 * To do so the others are taken off, all in one pass, and added again with
 * their contexts.  asyncio takes off by ==, so an object that equals
 * everything takes off all; one whose own == says otherwise is taken off by
 * itself.  An == may run anybody's code and raise.  The callbacks that have
 * come off are then found by identity, so none is lost.
 *
 * All of this is for asyncio's own Task only, whose callbacks can be read.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/done_callback.h"

/* Return a Task's callbacks as a list of our own, pairs of callback and
   context (new).  NULL without an exception: it has none, or there is no
   memory. */
static PyObject *
done_callback_list(al_state *st, PyObject *task)
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

PyObject *
al_done_callback_detach(al_state *st, PyObject *task, PyObject *on_done)
{
    PyObject *pairs = al_future_get(st->future_callbacks, task);
    PyObject *context = NULL;
    if (pairs != NULL && PyList_Check(pairs) && PyList_GET_SIZE(pairs) == 1) {
        PyObject *pair = PyList_GET_ITEM(pairs, 0);
        if (PyTuple_GET_ITEM(pair, 0) == on_done) {
            context = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
        }
    }
    Py_XDECREF(pairs);
    /* A single callback is found by identity: no == runs. */
    if (context != NULL
        && al_task_remove_done_callback(st, task, on_done) <= 0)
    {
        Py_CLEAR(context);
    }
    if (context == NULL) {
        PyErr_Clear(); /* MemoryError: then it stays where it is */
    }
    return context;
}

/* Take callbacks off a Task.  -1 with what an == raised: any of them may still
   be on it. */
static int
done_callback_remove(al_state *st, PyObject *task, PyObject *pairs)
{
    long removed = al_task_remove_done_callback(st, task, st->equal_to_all);
    if (removed < 0) {
        return -1;
    }
    /* Those that are left, the last one first, so that what stays if an ==
       raises keeps its order. */
    Py_ssize_t i =
        removed < PyList_GET_SIZE(pairs) ? PyList_GET_SIZE(pairs) : 0;
    while (i-- > 0) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        if (al_task_remove_done_callback(st, task, PyTuple_GET_ITEM(pair, 0))
            < 0)
        {
            return -1;
        }
    }
    return 0;
}

/* Tell whether a callback is among those that stayed on the Task, and strike
   it from that list, for it may have been added twice. */
static bool
done_callback_strike(PyObject *stayed, PyObject *pair)
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

/* Add a done callback, in a context.  If memory fails, try once more, for a
   callback that is not added is lost.  -1 with an exception. */
static int
done_callback_add(al_state *st, PyObject *task, PyObject *callback,
                  PyObject *context)
{
    int put = al_task_add_done_callback(st, task, callback, context);
    if (put < 0 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        put = al_task_add_done_callback(st, task, callback, context);
    }
    return put;
}

int
al_done_callback_attach(al_state *st, PyObject *loop, PyObject *task,
                        PyObject *on_done, PyObject *context)
{
    const char *adding = "adding a done callback failed";
    PyObject *exit = NULL, *stayed = NULL;
    PyObject *pairs = done_callback_list(st, task);
    if (pairs != NULL && done_callback_remove(st, task, pairs) < 0) {
        al_loop_handle_error_keep_exit(
            st, loop, "comparing done callbacks failed", task, &exit);
        stayed = done_callback_list(st, task);
    }
    if (done_callback_add(st, task, on_done, context) < 0) {
        al_loop_handle_error_keep_exit(st, loop, adding, task, &exit);
    }
    Py_ssize_t n = pairs == NULL ? 0 : PyList_GET_SIZE(pairs);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        if (!done_callback_strike(stayed, pair)
            && done_callback_add(st, task, PyTuple_GET_ITEM(pair, 0),
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

/* ------------------------------------------------ what equals everything */

static PyObject *
done_callback_compare(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(other),
                      int how)
{
    return PyBool_FromLong(how == Py_EQ);
}

static PyType_Slot done_callback_slots[] = {
    {Py_tp_richcompare, done_callback_compare},
    {0, NULL},
};

static PyType_Spec done_callback_spec = {
    .name = "pyasynclife._core.EqualToAll",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = done_callback_slots,
};

int
al_done_callback_setup(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->EqualToAll, &done_callback_spec, false)
        < 0)
    {
        return -1;
    }
    st->equal_to_all =
        AL_ALLOC(PyObject_New(PyObject, (PyTypeObject *)st->EqualToAll));
    return st->equal_to_all == NULL ? -1 : 0;
}
