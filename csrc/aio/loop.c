/* The only room that speaks to an event loop or a Task.
 *
 * Everything here goes through what asyncio makes public, so uvloop, other
 * loops, task factories and virtual clocks keep working.  The clock is read in
 * C where the loop's own is time.monotonic(); and who has asked stock.c makes
 * a Task by calling the Task type.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/loop.h"

#include <pythread.h>

/* The truth of a result that is stolen; -1 with its error. */
static int
loop_truth(PyObject *result)
{
    int truth = -1;
    if (result != NULL) {
        truth = PyObject_IsTrue(result);
        Py_DECREF(result);
    }
    return truth;
}

PyObject *
al_loop_running(al_state *st, const char *what)
{
    PyObject *loop = PyObject_CallNoArgs(st->get_running_loop);
    if (loop == NULL && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s needs a running event loop: call it from a coroutine "
                     "or a callback of the loop",
                     what);
    }
    return loop;
}

int
al_loop_bind_tasks(al_loop *bound, PyObject *loop)
{
    PyObject *context = AL_ALLOC(PyContext_CopyCurrent());
    if (context == NULL) {
        return -1;
    }
    bound->clock = AL_CLOCK_ITS_OWN;
    bound->thread = PyThread_get_thread_ident();
    Py_XSETREF(bound->context, context);
    Py_XSETREF(bound->loop, Py_NewRef(loop));
    return 0;
}

int
al_loop_bind(al_state *st, al_loop *bound, PyObject *loop)
{
    PyObject *clock = PyObject_CallOneArg(st->loop_clock, loop);
    if (clock == NULL || al_loop_bind_tasks(bound, loop) < 0) {
        Py_XDECREF(clock);
        return -1;
    }
    bound->clock = (al_clock_kind)PyLong_AsLong(clock);
    Py_DECREF(clock);
    return 0;
}

int
al_loop_is_closed(al_state *st, PyObject *loop)
{
    return loop_truth(PyObject_CallMethodNoArgs(loop, st->s_is_closed));
}

PyObject *
al_loop_current_task(al_state *st, const al_loop *bound)
{
    return PyObject_CallOneArg(st->current_task, bound->loop);
}

int
al_loop_check_thread(al_state *st, al_loop *bound, const char *what)
{
    unsigned long here = PyThread_get_thread_ident();
    if (bound->loop == NULL || bound->thread == here) {
        return 0;
    }
    /* A loop may be run in one thread and, later, in another. */
    PyObject *running = PyObject_CallNoArgs(st->get_running_loop);
    if (running != NULL && running == bound->loop) {
        Py_DECREF(running);
        bound->thread = here;
        return 0;
    }
    Py_XDECREF(running);
    PyErr_Format(PyExc_RuntimeError,
                 "%s was called from another thread than its event loop's: "
                 "use loop.call_soon_threadsafe()",
                 what);
    return -1;
}

double
al_loop_time(al_state *st, const al_loop *bound)
{
    if (bound->clock != AL_CLOCK_ITS_OWN || bound->loop == NULL) {
        return al_clock();
    }
    PyObject *now = PyObject_CallMethodNoArgs(bound->loop, st->s_time);
    if (now == NULL) {
        return -1.0;
    }
    double seconds = PyFloat_AsDouble(now);
    Py_DECREF(now);
    return seconds;
}

/* type(coro, **keywords, loop=loop), any keywords. */
static PyObject *
loop_make_any(al_state *st, PyObject *type, PyObject *loop, PyObject *coro,
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

/* type(coro, loop=loop, key=value).  A type is called with a dict of keywords,
   and to make one is a quarter of the call, so *spare is used again, with None
   for the loop and what it was made with for the key.  Not while it is in use:
   an eager Task runs here. */
static PyObject *
loop_make_again(al_state *st, PyObject *type, PyObject *loop, PyObject *coro,
                PyObject *key, PyObject *value, PyObject **spare)
{
    PyObject *keywords = *spare, *task = NULL;
    *spare = NULL;
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
    if (task != NULL && *spare == NULL) {
        if (AL_ALLOC_INT(PyDict_SetItem(keywords, st->s_loop, Py_None)) == 0) {
            *spare = Py_NewRef(keywords);
        }
        else {
            PyErr_Clear(); /* MemoryError: then another is made */
        }
    }
    Py_XDECREF(keywords);
    return task;
}

PyObject *
al_loop_make_task(al_state *st, PyObject *type, PyObject *loop, PyObject *coro,
                  PyObject *kwnames, PyObject *const *values)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    if (n == 0) {
        return loop_make_again(st, type, loop, coro, st->s_name, Py_None,
                               &st->spare_plain);
    }
    if (n == 1 && PyTuple_GET_ITEM(kwnames, 0) == st->s_eager_start
        && values[0] == Py_True)
    {
        return loop_make_again(st, type, loop, coro, st->s_eager_start,
                               Py_True, &st->spare_eager);
    }
    return loop_make_any(st, type, loop, coro, kwnames, values);
}

PyObject *
al_loop_call_at(al_state *st, const al_loop *bound, double when,
                PyObject *callback)
{
    PyObject *at = AL_ALLOC(PyFloat_FromDouble(when));
    if (at == NULL) {
        return NULL;
    }
    PyObject *stack[5] = {NULL, bound->loop, at, callback, bound->context};
    PyObject *handle = PyObject_VectorcallMethod(
        st->s_call_at, stack + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        st->kw_context);
    Py_DECREF(at);
    return handle;
}

bool
al_loop_is_exit(PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt)
           || PyErr_GivenExceptionMatches(error, PyExc_SystemExit);
}

/* Tell the loop's exception handler of the raised exception, which is cleared:
   0; -1 with what the handler has raised to end the loop's run. */
static int
loop_call_handler(al_state *st, PyObject *loop, const char *message,
                  PyObject *source)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *about =
        AL_ALLOC(Py_BuildValue("{s:s,s:O}", "message", message, "exception",
                               error ? error : Py_None));
    bool ready =
        about != NULL
        && (source == NULL
            || AL_ALLOC_INT(PyDict_SetItem(about, st->s_task, source)) == 0);
    PyObject *answer = !ready ? NULL
                              : PyObject_CallMethodOneArg(
                                    loop, st->s_call_exception_handler, about);
    if (!ready && error != NULL) {
        PyObject *why = PyErr_GetRaisedException();
        PyErr_SetRaisedException(Py_NewRef(error));
        PyErr_WriteUnraisable(source);
        PyErr_SetRaisedException(why);
    }
    int told = answer == NULL && al_loop_is_exit(PyErr_Occurred()) ? -1 : 0;
    if (answer == NULL && told == 0) {
        /* Even the handler failed: that is the interpreter's to tell. */
        PyErr_WriteUnraisable(loop);
    }
    Py_XDECREF(answer);
    Py_XDECREF(about);
    Py_XDECREF(error);
    return told;
}

int
al_loop_handle_error(al_state *st, PyObject *loop, const char *message,
                     PyObject *source)
{
    return al_loop_is_exit(PyErr_Occurred())
               ? -1
               : loop_call_handler(st, loop, message, source);
}

/* Have the raised exception end the loop's run a turn later. */
static void
loop_exit_later(al_state *st, PyObject *loop)
{
    PyObject *exit = PyErr_GetRaisedException();
    PyObject *handle = PyObject_CallMethodObjArgs(
        loop, st->s_call_soon_threadsafe, st->raise_exit, exit, NULL);
    if (handle == NULL) { /* it is closed, or there is no memory */
        PyErr_WriteUnraisable(loop);
        PyErr_SetRaisedException(Py_NewRef(exit));
        PyErr_WriteUnraisable(loop);
    }
    Py_XDECREF(handle);
    Py_DECREF(exit);
}

void
al_loop_report_or_exit_later(al_state *st, PyObject *loop, const char *message,
                             PyObject *source)
{
    if (al_loop_handle_error(st, loop, message, source) < 0) {
        loop_exit_later(st, loop);
    }
}

void
al_loop_report_exception(al_state *st, PyObject *loop, const char *message,
                         PyObject *source, PyObject *error)
{
    PyErr_SetRaisedException(Py_NewRef(error));
    if (loop_call_handler(st, loop, message, source) < 0) {
        loop_exit_later(st, loop);
    }
}

int
al_loop_raise_more_severe(PyObject *earlier)
{
    PyObject *later = PyErr_GetRaisedException();
    bool keep = earlier == NULL
                || (later != NULL && al_loop_is_exit(later)
                    && !al_loop_is_exit(earlier));
    PyObject *dropped = keep ? earlier : later;
    Py_XDECREF(dropped);
    PyErr_SetRaisedException(keep ? later : earlier);
    return -1;
}

void
al_loop_handle_error_keep_exit(al_state *st, PyObject *loop,
                               const char *message, PyObject *source,
                               PyObject **exit)
{
    if (al_loop_handle_error(st, loop, message, source) < 0) {
        (void)al_loop_raise_more_severe(*exit);
        *exit = PyErr_GetRaisedException();
    }
}

PyObject *
al_future_get(PyObject *descriptor, PyObject *future)
{
    descrgetfunc get = Py_TYPE(descriptor)->tp_descr_get;
    return get == NULL ? NULL
                       : get(descriptor, future, (PyObject *)Py_TYPE(future));
}

/* Tell whether one of asyncio's Tasks holds that very object: a constant, an
   interned word. */
static bool
task_is(al_state *st, PyObject *task, PyObject *descriptor, PyObject *what)
{
    if ((PyObject *)Py_TYPE(task) != st->Task) {
        return false;
    }
    PyObject *found = al_future_get(descriptor, task);
    Py_XDECREF(found);
    if (found == NULL) {
        PyErr_Clear(); /* then it is asked by a call */
    }
    return found == what;
}

int
al_task_done(al_state *st, PyObject *task)
{
    return task_is(st, task, st->future_state, st->s_FINISHED) ? 1
           : task_is(st, task, st->future_state, st->s_PENDING)
               ? 0
               : loop_truth(PyObject_CallMethodNoArgs(task, st->s_done));
}

int
al_task_cancel(al_state *st, PyObject *task, PyObject *msg)
{
    PyObject *stack[3] = {NULL, task, msg};
    return loop_truth(PyObject_VectorcallMethod(
        st->s_cancel, stack + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        msg == NULL || msg == Py_None ? NULL : st->kw_msg));
}

int
al_task_add_done_callback(al_state *st, const al_loop *bound, PyObject *task,
                          PyObject *callback)
{
    PyObject *stack[4] = {NULL, task, callback, bound->context};
    PyObject *none = AL_ALLOC(PyObject_VectorcallMethod(
        st->s_add_done_callback, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        st->kw_context));
    if (none == NULL) {
        return -1;
    }
    Py_DECREF(none);
    return 0;
}

al_outcome
al_task_outcome(al_state *st, PyObject *task, PyObject **value)
{
    *value = NULL;
    if (task_is(st, task, st->future_state, st->s_FINISHED)
        && task_is(st, task, st->future_exception, Py_None))
    {
        *value = PyObject_CallMethodNoArgs(task, st->s_result);
        return *value == NULL ? AL_ERROR : AL_DONE;
    }
    int cancelled =
        loop_truth(PyObject_CallMethodNoArgs(task, st->s_cancelled));
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
        return 0; /* nothing was retrieved */
    }
    int cancelled =
        loop_truth(PyObject_CallMethodNoArgs(task, st->s_cancelled));
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

/* One of asyncio's two functions on the await graph, or None. */
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

long
al_task_cancelling(al_state *st, PyObject *task)
{
    PyObject *count = PyObject_CallMethodNoArgs(task, st->s_cancelling);
    if (count == NULL) {
        return -1;
    }
    long number = PyLong_AsLong(count);
    Py_DECREF(count);
    return number;
}

int
al_task_check(al_state *st, const al_loop *bound, PyObject *task)
{
    if (!PyObject_HasAttr(task, st->s_get_coro)
        || !PyObject_HasAttr(task, st->s_add_done_callback))
    {
        PyErr_Format(
            PyExc_TypeError, "expected an asyncio.Task, got %R%s", task,
            PyCoro_CheckExact(task) ? ": use register() for a coroutine" : "");
        return -1;
    }
    PyObject *loop = PyObject_CallMethodNoArgs(task, st->s_get_loop);
    if (loop == NULL) {
        return -1;
    }
    int same = loop == bound->loop;
    if (!same) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R belongs to %R, not to the running loop %R", task,
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
al_task_coro(al_state *st, PyObject *task)
{
    return PyObject_CallMethodNoArgs(task, st->s_get_coro);
}

/* The number that a call answers, which is stolen; -1 with its error. */
static long
loop_number(PyObject *answer)
{
    long number = -1;
    if (answer != NULL) {
        number = PyLong_AsLong(answer);
        Py_DECREF(answer);
    }
    return number;
}

long
al_task_uncancel(al_state *st, PyObject *task)
{
    return loop_number(PyObject_CallMethodNoArgs(task, st->s_uncancel));
}

int
al_task_cancel_again(al_state *st, const al_loop *bound, PyObject *task)
{
    if (!AL_UNCANCEL_KEEPS_REQUEST) {
        long left = al_task_uncancel(st, task);
        return left < 0 || al_task_cancel(st, task, NULL) < 0 ? -1 : 0;
    }
    /* Asked for now, a timeout around could not take it back. */
    PyObject *handle = PyObject_CallMethodObjArgs(
        bound->loop, st->s_call_soon, st->cancel_again, task, NULL);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

long
al_task_remove_done_callback(al_state *st, PyObject *task, PyObject *callback)
{
    return loop_number(
        PyObject_CallMethodOneArg(task, st->s_remove_done_callback, callback));
}

PyObject *
al_task_cancelling_method(al_state *st, PyObject *task)
{
    return AL_ALLOC(PyObject_GetAttr(task, st->s_cancelling));
}

int
al_task_cancel_state(al_state *st, PyObject *task, PyObject *counter)
{
    long count = loop_number(PyObject_CallNoArgs(counter));
    if (count < 0 || (count == 0 && !AL_UNCANCEL_KEEPS_REQUEST)) {
        return (int)count;
    }
    int requested = loop_truth(PyObject_GetAttr(task, st->s__must_cancel));
    if (requested < 0 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        /* Not asyncio's Task: take a count for one that is under way. */
        PyErr_Clear();
        requested = count > 0;
    }
    return requested != 0 ? 2 * requested : count > 0;
}

PyObject *
al_loop_create_waiter(al_state *st, const al_loop *bound)
{
    PyObject *future =
        AL_ALLOC(PyObject_CallMethodNoArgs(bound->loop, st->s_create_future));
    if (future != NULL
        && PyObject_SetAttr(future, st->s__asyncio_future_blocking, Py_True)
               < 0)
    {
        Py_CLEAR(future);
    }
    return future;
}

void
al_future_wake(al_state *st, const al_loop *bound, PyObject *future)
{
    int done = loop_truth(PyObject_CallMethodNoArgs(future, st->s_done));
    if (done == 0) {
        done = loop_truth(
            PyObject_CallMethodOneArg(future, st->s_set_result, Py_None));
    }
    if (done < 0) {
        al_loop_report_or_exit_later(st, bound->loop, "waking a waiter failed",
                                     NULL);
    }
}

void
al_futures_wake(al_state *st, const al_loop *bound, PyObject *futures)
{
    for (;;) {
        Py_ssize_t n = PyList_GET_SIZE(futures);
        if (n == 0) {
            return;
        }
        PyObject *future = Py_NewRef(PyList_GET_ITEM(futures, n - 1));
        int failed = PyList_SetSlice(futures, n - 1, n, NULL);
        al_future_wake(st, bound, future);
        Py_DECREF(future);
        if (failed) {
            al_loop_report_or_exit_later(st, bound->loop,
                                         "waking a waiter failed", NULL);
            return;
        }
    }
}
