/* An awaitable that is stepped by hand, in a context of its own.
 *
 * This is what a Task does for its coroutine, without the Task: enter the
 * context, send or throw, leave the context, and look at the answer.  The
 * exception is fetched before the context is left, for leaving it can fail,
 * and would replace the exception:
 *
 *     enter -> fn(item), send or throw -> fetch the exception -> leave
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "batch/drive.h"

/* Enter the context, or a copy of it if it is entered already, which only
   re-entrant code can cause.  Returns the context that was entered (new). */
static PyObject *
drive_enter(PyObject *context)
{
    if (PyContext_Enter(context) == 0) {
        return Py_NewRef(context);
    }
    if (!PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        return NULL;
    }
    PyErr_Clear();
    PyObject *copy = AL_ALLOC(PyContext_Copy(context));
    if (copy != NULL && PyContext_Enter(copy) < 0) {
        Py_CLEAR(copy);
    }
    return copy;
}

/* Leave a context, which is stolen.  Keeps the raised exception. */
static void
drive_leave(PyObject *entered)
{
    PyObject *error = PyErr_GetRaisedException();
    if (PyContext_Exit(entered) < 0) {
        PyErr_WriteUnraisable(entered);
    }
    Py_DECREF(entered);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* Tell whether a generator may be awaited: types.coroutine marks its code. */
static bool
drive_is_coroutine(al_state *st, PyObject *generator)
{
    PyObject *code = PyObject_GetAttr(generator, st->s_gi_code);
    bool marked =
        code != NULL && PyCode_Check(code)
        && (((PyCodeObject *)code)->co_flags & CO_ITERABLE_COROUTINE) != 0;
    Py_XDECREF(code);
    PyErr_Clear();
    return marked;
}

/* Refuse what cannot be awaited.  Returns 0; -1 with TypeError. */
static int
drive_check(al_state *st, PyObject *awaitable)
{
    PyAsyncMethods *methods = Py_TYPE(awaitable)->tp_as_async;
    if ((methods != NULL && methods->am_await != NULL)
        || (PyGen_CheckExact(awaitable) && drive_is_coroutine(st, awaitable)))
    {
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "the function returned %.100s, which cannot be awaited: "
                 "make it an `async def`, or have it return an awaitable",
                 Py_TYPE(awaitable)->tp_name);
    return -1;
}

PyObject *
al_drive_open(al_state *st, PyObject *fn, PyObject *const *args, size_t nargsf)
{
    PyObject *awaitable = PyObject_Vectorcall(fn, args, nargsf, NULL);
    if (awaitable != NULL && !PyCoro_CheckExact(awaitable)
        && drive_check(st, awaitable) < 0)
    {
        Py_CLEAR(awaitable);
    }
    return awaitable;
}

/* The iterator that `await` would take from a checked awaitable (new; it is
   stolen). */
static PyObject *
drive_iterator(PyObject *awaitable)
{
    if (PyCoro_CheckExact(awaitable) || PyGen_CheckExact(awaitable)) {
        return awaitable; /* both are their own iterators */
    }
    PyObject *iterator = Py_TYPE(awaitable)->tp_as_async->am_await(awaitable);
    if (iterator != NULL
        && (!PyIter_Check(iterator) || PyCoro_CheckExact(iterator)))
    {
        PyErr_Format(PyExc_TypeError,
                     "__await__() returned %.100s, not an iterator",
                     Py_TYPE(iterator)->tp_name);
        Py_CLEAR(iterator);
    }
    Py_DECREF(awaitable);
    return iterator;
}

/* The value of the StopIteration that is set (new); NULL with any other. */
static PyObject *
drive_stopped(al_state *st)
{
    if (!PyErr_ExceptionMatches(PyExc_StopIteration)) {
        return NULL;
    }
    PyObject *stop = PyErr_GetRaisedException();
    PyObject *value = PyObject_GetAttr(stop, st->s_value);
    Py_DECREF(stop);
    return value;
}

/* Call iterator.throw(thrown).  For an iterator without a throw(), the
   exception propagates at once, as it does from `yield from`. */
static PySendResult
drive_throw(al_state *st, PyObject *iterator, PyObject *thrown,
            PyObject **result)
{
    *result = NULL;
    PyObject *method = PyObject_GetAttr(iterator, st->s_throw);
    if (method == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_SetRaisedException(Py_NewRef(thrown));
        }
        return PYGEN_ERROR;
    }
    *result = PyObject_CallOneArg(method, thrown);
    Py_DECREF(method);
    if (*result != NULL) {
        return PYGEN_NEXT;
    }
    *result = drive_stopped(st);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

/* Finish a step: fetch the exception, then leave the context, which is
   stolen.  A drive that has ended is emptied. */
static PySendResult
drive_close(al_drive *drive, PyObject *entered, PySendResult answer,
            PyObject **result)
{
    if (answer == PYGEN_ERROR) {
        *result = PyErr_GetRaisedException();
        assert(*result != NULL);
    }
    if (PyContext_Exit(entered) < 0) {
        PyErr_WriteUnraisable(entered);
    }
    Py_DECREF(entered);
    if (answer != PYGEN_NEXT) {
        /* Emptied first: dropping the iterator may run code that looks here.
         */
        PyObject *iterator = drive->iterator;
        PyObject *context = drive->context;
        drive->iterator = drive->context = NULL;
        Py_XDECREF(iterator);
        Py_XDECREF(context);
    }
    return answer;
}

PySendResult
al_drive_begin(al_state *st, al_drive *drive, PyObject *own, PyObject *fn,
               PyObject *const *args, size_t nargsf, PyObject **result)
{
    assert(drive->iterator == NULL && drive->context == NULL);
    *result = NULL;
    if (own == NULL || PyContext_Enter(own) < 0) {
        Py_XDECREF(own);
        *result = PyErr_GetRaisedException();
        return PYGEN_ERROR;
    }
    drive->context = own;
    PySendResult answer = PYGEN_ERROR;
    PyObject *awaitable = al_drive_open(st, fn, args, nargsf);
    PyObject *iterator = awaitable == NULL ? NULL : drive_iterator(awaitable);
    if (iterator != NULL) {
        drive->iterator = iterator;
        answer = PyIter_Send(iterator, Py_None, result);
    }
    return drive_close(drive, Py_NewRef(own), answer, result);
}

PySendResult
al_drive_resume(al_state *st, al_drive *drive, PyObject *thrown,
                PyObject **result)
{
    *result = NULL;
    /* Held: the step runs any code, which may clear the drive. */
    PyObject *iterator = Py_NewRef(drive->iterator);
    PyObject *entered = drive_enter(drive->context);
    PySendResult answer = PYGEN_ERROR;
    if (entered == NULL) {
        *result = PyErr_GetRaisedException();
    }
    else {
        answer = thrown == NULL ? PyIter_Send(iterator, Py_None, result)
                                : drive_throw(st, iterator, thrown, result);
        answer = drive_close(drive, entered, answer, result);
    }
    Py_DECREF(iterator);
    return answer;
}

PyObject *
al_drive_call(PyObject *context, PyObject *callable, PyObject *arg)
{
    PyObject *entered = drive_enter(context);
    if (entered == NULL) {
        return NULL;
    }
    PyObject *answer = PyObject_CallOneArg(callable, arg);
    drive_leave(entered);
    return answer;
}

PyObject *
al_drive_method(PyObject *context, PyObject *object, PyObject *name)
{
    PyObject *entered = drive_enter(context);
    if (entered == NULL) {
        return NULL;
    }
    PyObject *answer = PyObject_CallMethodNoArgs(object, name);
    drive_leave(entered);
    return answer;
}

int
al_drive_close(al_state *st, PyObject *context, PyObject *object)
{
    PyObject *entered = drive_enter(context);
    if (entered == NULL) {
        return -1;
    }
    PyObject *close = PyObject_GetAttr(object, st->s_close);
    PyObject *answer = NULL;
    if (close != NULL) {
        answer = PyObject_CallNoArgs(close);
    }
    else if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
    }
    int failed = PyErr_Occurred() ? -1 : 0;
    Py_XDECREF(close);
    Py_XDECREF(answer);
    drive_leave(entered);
    return failed;
}

PyObject *
al_drive_next(PyObject *context, PyObject *iterator)
{
    PyObject *entered = drive_enter(context);
    if (entered == NULL) {
        return NULL;
    }
    PyObject *item = Py_TYPE(iterator)->tp_iternext(iterator);
    drive_leave(entered);
    return item;
}
