/* Wrappers around the public API of Tasks, and the coroutines in them.
 *
 * Some fields of asyncio's own C Task and Future are read through the
 * descriptors of their types, where a call of the public method costs three
 * times as much.  Any other Task is asked by its public methods.
 *
 * Sections as in task.h: making, asking and ending; cancelling; the await
 * graph; coroutines.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"

/* ------------------------------------------------- making, asking, ending */

/* al_task_make with any keywords. */
static PyObject *
task_make_any(al_state *st, PyObject *type, PyObject *loop, PyObject *coro,
              PyObject *kwnames, PyObject *const *values)
{
    PyObject *stack[AL_TASK_KEYWORDS + 3] = {NULL, coro};
    Py_ssize_t n = PyTuple_GET_SIZE(kwnames);
    bool ready = kwnames == st->kw_name;
    PyObject *names =
        ready ? Py_NewRef(st->kw_name_loop) : AL_ALLOC(PyTuple_New(n + 1));
    if (names == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        stack[2 + i] = values[i];
    }
    stack[2 + n] = loop;
    for (Py_ssize_t i = 0; i < n + 1 && !ready; i++) {
        PyTuple_SET_ITEM(
            names, i,
            Py_NewRef(i < n ? PyTuple_GET_ITEM(kwnames, i) : st->s_loop));
    }
    PyObject *task = AL_ALLOC(PyObject_Vectorcall(
        type, stack + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, names));
    Py_DECREF(names);
    return task;
}

/* al_task_make with one keyword, whose value is a constant.  A type is called
   with a dict of keywords, and to make one is a quarter of the call; so the
   dict is kept in *kept, with None for the loop.  It is taken out of there
   while it is in use: an eager Task runs in this call, and may come here. */
static PyObject *
task_make_constant(al_state *st, PyObject *type, PyObject *loop,
                   PyObject *coro, PyObject *key, PyObject *value,
                   PyObject **kept)
{
    PyObject *keywords = *kept, *task = NULL;
    *kept = NULL;
    PyObject *args = AL_ALLOC(PyTuple_Pack(1, coro));
    if (args != NULL && keywords == NULL) {
        keywords = AL_ALLOC(Py_BuildValue("{OO}", key, value));
    }
    if (args != NULL && keywords != NULL
        && AL_ALLOC_INT(PyDict_SetItem(keywords, st->s_loop, loop)) == 0)
    {
        task = AL_ALLOC(PyObject_Call(type, args, keywords));
    }
    Py_XDECREF(args);
    if (task != NULL && *kept == NULL) {
        if (AL_ALLOC_INT(PyDict_SetItem(keywords, st->s_loop, Py_None)) == 0) {
            *kept = Py_NewRef(keywords);
        }
        else {
            PyErr_Clear(); /* MemoryError: the next call makes another */
        }
    }
    Py_XDECREF(keywords);
    return task;
}

PyObject *
al_task_make(al_state *st, PyObject *type, PyObject *loop, PyObject *coro,
             PyObject *kwnames, PyObject *const *values)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (n == 0) {
        return task_make_constant(st, type, loop, coro, st->s_name, Py_None,
                                  &st->kwargs_lazy);
    }
    if (n == 1 && PyTuple_GET_ITEM(kwnames, 0) == st->s_eager_start
        && values[0] == Py_True)
    {
        return task_make_constant(st, type, loop, coro, st->s_eager_start,
                                  Py_True, &st->kwargs_eager);
    }
    return task_make_any(st, type, loop, coro, kwnames, values);
}

int
al_task_check(al_state *st, const al_loop *bound, PyObject *task)
{
    /* Not by its type: a task factory may make Tasks of another one.  A Future
       has no get_coro(). */
    if (!PyObject_HasAttr(task, st->s_get_coro)
        || !PyObject_HasAttr(task, st->s_add_done_callback))
    {
        PyErr_Format(
            PyExc_TypeError, "expected an asyncio.Task, got %.200R%s", task,
            al_coro_is(st, task) ? ": use register() for a coroutine" : "");
        return -1;
    }
    PyObject *loop = PyObject_CallMethodNoArgs(task, st->s_get_loop);
    if (loop == NULL) {
        return -1;
    }
    int same = loop == bound->loop;
    if (!same) {
        PyErr_Format(PyExc_RuntimeError,
                     "%.200R belongs to %R, not to the running loop %R", task,
                     loop, bound->loop);
    }
    Py_DECREF(loop);
    return same ? 0 : -1;
}

PyObject *
al_task_name(al_state *st, PyObject *task)
{
    return PyObject_CallMethodNoArgs(task, st->s_get_name);
}

PyObject *
al_task_set_name(al_state *st, PyObject *task, PyObject *name)
{
    /* The C function of asyncio's own Task, at a third of a call's cost. */
    PyObject *method = st->task_set_name;
    if ((PyObject *)Py_TYPE(task) == st->Task
        && Py_IS_TYPE(method, &PyMethodDescr_Type))
    {
        PyMethodDef *def = ((PyMethodDescrObject *)method)->d_method;
        if (def->ml_flags == METH_O) {
            return def->ml_meth(task, name);
        }
    }
    return PyObject_CallMethodOneArg(task, st->s_set_name, name);
}

PyObject *
al_task_coro(al_state *st, PyObject *task)
{
    return PyObject_CallMethodNoArgs(task, st->s_get_coro);
}

PyObject *
al_future_get(PyObject *descriptor, PyObject *future)
{
    descrgetfunc get = Py_TYPE(descriptor)->tp_descr_get;
    return get == NULL ? NULL
                       : get(descriptor, future, (PyObject *)Py_TYPE(future));
}

/* al_future_get() for an object that is known to be one of asyncio's own
   Tasks, so that the descriptor need not check it. */
static PyObject *
task_get(PyObject *descriptor, PyObject *task)
{
    if (!Py_IS_TYPE(descriptor, &PyGetSetDescr_Type)) {
        return al_future_get(descriptor, task);
    }
    PyGetSetDef *field = ((PyGetSetDescrObject *)descriptor)->d_getset;
    return field->get(task, field->closure);
}

/* Tell whether a field of one of asyncio's own Tasks is that very object:
   None, a bool or an interned str.  False for any other Task, which is asked
   by a call. */
static bool
task_is(al_state *st, PyObject *task, PyObject *descriptor, PyObject *what)
{
    if ((PyObject *)Py_TYPE(task) != st->Task) {
        return false;
    }
    PyObject *found = task_get(descriptor, task);
    Py_XDECREF(found);
    if (found == NULL) {
        PyErr_Clear(); /* no descriptor: it is asked by a call */
    }
    return found == what;
}

int
al_task_done(al_state *st, PyObject *task)
{
    /* asyncio's third state, CANCELLED, is rare and left to the call. */
    return task_is(st, task, st->future_state, st->s_FINISHED) ? 1
           : task_is(st, task, st->future_state, st->s_PENDING)
               ? 0
               : al_object_truth(PyObject_CallMethodNoArgs(task, st->s_done));
}

al_outcome
al_task_outcome(al_state *st, PyObject *task, PyObject **value)
{
    *value = NULL;
    /* A result is the common case, and takes no call instead of three. */
    if (task_is(st, task, st->future_state, st->s_FINISHED)
        && task_is(st, task, st->future_exception, Py_None))
    {
        *value = task_get(st->future_result, task);
        if (*value != NULL) {
            return AL_DONE;
        }
        PyErr_Clear(); /* no descriptor: it is asked by calls */
    }
    int cancelled =
        al_object_truth(PyObject_CallMethodNoArgs(task, st->s_cancelled));
    if (cancelled != 0) {
        return cancelled < 0 ? AL_ERROR : AL_CANCELLED;
    }
    *value = PyObject_CallMethodNoArgs(task, st->s_exception);
    if (*value != Py_None) {
        return *value == NULL ? AL_ERROR : AL_FAILED;
    }
    Py_SETREF(*value, PyObject_CallMethodNoArgs(task, st->s_result));
    return *value == NULL ? AL_ERROR : AL_DONE;
}

int
al_task_error(al_state *st, PyObject *task, PyObject **error)
{
    *error = NULL;
    if (task_is(st, task, st->future_exception, Py_None)) {
        return 0; /* done or cancelled: nothing was retrieved */
    }
    int cancelled =
        al_object_truth(PyObject_CallMethodNoArgs(task, st->s_cancelled));
    if (cancelled != 0) {
        return cancelled < 0 ? -1 : 0;
    }
    *error = PyObject_CallMethodNoArgs(task, st->s_exception);
    if (*error == Py_None) {
        Py_CLEAR(*error);
        return 0;
    }
    return *error == NULL ? -1 : 1;
}

int
al_task_add_done_callback(al_state *st, PyObject *task, PyObject *callback,
                          PyObject *context)
{
    PyObject *stack[4] = {NULL, task, callback, context};
    PyObject *none = AL_ALLOC(PyObject_VectorcallMethod(
        st->s_add_done_callback, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        context == NULL ? NULL : st->kw_context));
    if (none == NULL) {
        return -1;
    }
    Py_DECREF(none);
    return 0;
}

long
al_task_remove_done_callback(al_state *st, PyObject *task, PyObject *callback)
{
    return al_object_count(
        PyObject_CallMethodOneArg(task, st->s_remove_done_callback, callback));
}

/* ------------------------------------------------------------ cancelling */

int
al_task_cancel(al_state *st, PyObject *task, PyObject *msg)
{
    PyObject *stack[3] = {NULL, task, msg};
    return al_object_truth(PyObject_VectorcallMethod(
        st->s_cancel, stack + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        msg == NULL || msg == Py_None ? NULL : st->kw_msg));
}

long
al_task_cancelling(al_state *st, PyObject *task)
{
    return al_object_count(PyObject_CallMethodNoArgs(task, st->s_cancelling));
}

PyObject *
al_task_cancelling_method(al_state *st, PyObject *task)
{
    return AL_ALLOC(PyObject_GetAttr(task, st->s_cancelling));
}

al_cancel_state
al_task_cancel_state(al_state *st, PyObject *task, PyObject *cancelling)
{
    /* Where uncancel() clears an undelivered request, a count of zero says
       that there is none; before, _must_cancel has to be read. */
    long count = al_object_count(al_object_call(cancelling));
    if (count < 0 || (count == 0 && !AL_UNCANCEL_KEEPS_REQUEST)) {
        return count < 0 ? AL_CANCEL_ERROR : AL_CANCEL_NONE;
    }
    int requested =
        task_is(st, task, st->task_must_cancel, Py_False)
            ? 0
            : al_object_truth(PyObject_GetAttr(task, st->s__must_cancel));
    if (requested < 0 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        /* Another library's Task: assume that a request is under way. */
        PyErr_Clear();
        requested = count > 0;
    }
    return requested < 0   ? AL_CANCEL_ERROR
           : requested > 0 ? AL_CANCEL_PENDING
           : count > 0     ? AL_CANCEL_COUNTED
                           : AL_CANCEL_NONE;
}

long
al_task_uncancel(al_state *st, PyObject *task)
{
    return al_object_count(PyObject_CallMethodNoArgs(task, st->s_uncancel));
}

int
al_task_cancel_again(al_state *st, const al_loop *bound, PyObject *task)
{
    if (!AL_UNCANCEL_KEEPS_REQUEST) {
        /* The request that was delivered is exchanged for a new one. */
        long left = al_task_uncancel(st, task);
        return left < 0 || al_task_cancel(st, task, NULL) < 0 ? -1 : 0;
    }
    /* On these versions uncancel() leaves a request that was not delivered, so
       an enclosing timeout could not take this one back (CPython gh-117407).
       Hence a callback, which cancels only if the count still stands. */
    PyObject *handle = PyObject_CallMethodObjArgs(
        bound->loop, st->s_call_soon, st->cancel_again, task, NULL);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

/* ------------------------------------------------ the await graph (3.14+) */

/* Call one of asyncio's two functions on the await graph; None before 3.14. */
static int
task_edge(PyObject *function, PyObject *task, PyObject *waiter)
{
    if (function == Py_None || waiter == NULL) {
        return 0;
    }
    PyObject *stack[3] = {NULL, task, waiter};
    PyObject *none = PyObject_Vectorcall(
        function, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

int
al_task_link(al_state *st, PyObject *task, PyObject *waiter)
{
    return task_edge(st->add_awaited_by, task, waiter);
}

int
al_task_unlink(al_state *st, PyObject *task, PyObject *waiter)
{
    return task_edge(st->discard_awaited_by, task, waiter);
}

/* ------------------------------------------------------------ coroutines */

#ifdef AL_CORO_IS_FRESH
static int
coro_started(al_state *Py_UNUSED(st), PyObject *coro)
{
    return !AL_CORO_IS_FRESH(coro);
}
#else
/* Return the truth of an attribute; -1 with an exception. */
static int
coro_is(PyObject *coro, PyObject *name)
{
    return al_object_truth(PyObject_GetAttr(coro, name));
}

/* Look for the function that a coroutine's frame refers to.  A coroutine that
   has ended has no frame. */
static int
coro_visit_function(PyObject *object, void *found)
{
    if (PyFunction_Check(object)) {
        *(bool *)found = true;
    }
    return 0;
}

/* From 3.14 on the struct is private.  cr_frame would tell, but it makes a
   frame object that stays with the coroutine. */
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

bool
al_coro_is_foreign(al_state *st, PyObject *object)
{
    /* The type is asked, and not the object, so no code of that runs. */
    int is = PyObject_IsSubclass((PyObject *)Py_TYPE(object), st->Coroutine);
    if (is < 0) {
        PyErr_WriteUnraisable(object);
    }
    return is > 0;
}

PyObject *
al_coro_check_answer(al_state *st, const char *hook, PyObject *answer)
{
    if (answer == NULL || !al_coro_is(st, answer)) {
        return answer;
    }
    PyObject *none =
        PyObject_CallFunction(st->check_answer, "sO", hook, answer);
    Py_DECREF(answer);
    return none;
}

void
al_coro_close_unstarted(al_state *st, PyObject *coro)
{
    /* To close a coroutine that has started would run its finally blocks. */
    PyObject *error = PyErr_GetRaisedException();
    if (!PyCoro_CheckExact(coro)) {
        if (al_coro_is(st, coro)) {
            Py_XDECREF(PyObject_CallOneArg(st->close_unstarted, coro));
        }
    }
    else if (al_coro_started(st, coro) == 0) {
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
    /* A Future has no close(); but a close() may raise AttributeError, too. */
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
