/* A coroutine that is to become a Task: has it begun, and closing it. */
#include "base/compat.h"
#include "base/state.h"
#include "aio/coro.h"

#ifdef AL_CORO_IS_FRESH
static int
coro_started(al_state *Py_UNUSED(st), PyObject *coro)
{
    return !AL_CORO_IS_FRESH(coro);
}
#else
/* The truth of an attribute; -1 with an exception. */
static int
coro_is(PyObject *coro, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(coro, name);
    int truth = value == NULL ? -1 : PyObject_IsTrue(value);
    Py_XDECREF(value);
    return truth;
}

/* A frame refers to its function; a coroutine without a frame is over. */
static int
coro_visit_function(PyObject *object, void *found)
{
    if (PyFunction_Check(object)) {
        *(bool *)found = true;
    }
    return 0;
}

/* Without making the frame object that cr_frame would leave behind. */
static int
coro_started(al_state *st, PyObject *coro)
{
    int started = coro_is(coro, st->s_cr_suspended);
    if (started == 0) {
        started = coro_is(coro, st->s_cr_running);
    }
    if (started == 0) {
        bool found = false;
        (void)Py_TYPE(coro)->tp_traverse(coro, coro_visit_function, &found);
        started = !found;
    }
    return started;
}
#endif

int
al_coro_started(al_state *st, PyObject *coro)
{
    return PyCoro_CheckExact(coro) ? coro_started(st, coro) : 1;
}

void
al_coro_close_unstarted(al_state *st, PyObject *coro)
{
    PyObject *error = PyErr_GetRaisedException();
    if (PyCoro_CheckExact(coro) && al_coro_started(st, coro) == 0) {
        Py_XDECREF(PyObject_CallMethodNoArgs(coro, st->s_close));
    }
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(coro);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

int
al_coro_close(al_state *st, PyObject *coro)
{
    PyObject *none = PyObject_CallMethodNoArgs(coro, st->s_close);
    if (none != NULL) {
        Py_DECREF(none);
        return 0;
    }
    PyObject *error = PyErr_GetRaisedException();
    if (PyErr_GivenExceptionMatches(error, PyExc_AttributeError)
        && !PyObject_HasAttr(coro, st->s_close))
    {
        Py_DECREF(error);
        return 0;
    }
    PyErr_SetRaisedException(error);
    return -1;
}
