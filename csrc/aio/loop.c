/* Wrappers around the public API of event loops.
 *
 * Everything here goes through methods that asyncio makes public, so uvloop,
 * other loops and virtual clocks keep working.  The one exception is the
 * clock: where loop.time() is time.monotonic(), C reads the system's clock
 * itself, because a call of loop.time() costs 70 to 100 ns.  Tests patch
 * time.monotonic, as freezegun does, also while a loop runs: then loop.time()
 * is called.  The running loop and the current task are asked for by the
 * functions that are in asyncio's modules at that moment.
 *
 * Sections: the loop, its errors (loop.h has the table), its waiters.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"

#include <pythread.h>

/* Return an attribute of a module where asyncio itself looks it up (borrowed):
   trio-asyncio replaces some.  NULL with an exception. */
static PyObject *
loop_find_accessor(PyObject *dict, PyObject *name)
{
    PyObject *found = PyDict_GetItemWithError(dict, name);
    if (found == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_AttributeError, "asyncio has no %U", name);
    }
    return found;
}

/* Return the loop that runs in this thread (new); NULL with RuntimeError. */
static PyObject *
loop_get_running(al_state *st)
{
    uint64_t version = al_dict_version(st->events_dict);
    if (version == 0 || version != st->events_version) {
        PyObject *found =
            loop_find_accessor(st->events_dict, st->s_get_running_loop);
        if (found == NULL) {
            return NULL;
        }
        st->events_version = version;
        Py_XSETREF(st->get_running_loop, Py_NewRef(found));
    }
    PyObject *get = Py_NewRef(st->get_running_loop);
    PyObject *loop = al_object_call(get);
    Py_DECREF(get);
    return loop;
}

PyObject *
al_loop_running(al_state *st, const char *what)
{
    PyObject *loop = loop_get_running(st);
    if (loop == NULL && PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        PyErr_Format(PyExc_RuntimeError,
                     "%s needs a running event loop: call it from a coroutine "
                     "or a callback of the loop; in another thread, use "
                     "loop.call_soon_threadsafe() or "
                     "asyncio.run_coroutine_threadsafe()",
                     what);
    }
    return loop;
}

void
al_loop_bind_tasks(al_loop *bound, PyObject *loop)
{
    bound->clock = AL_CLOCK_ITS_OWN;
    bound->thread = PyThread_get_thread_ident();
    Py_XSETREF(bound->loop, Py_NewRef(loop));
}

int
al_loop_bind(al_state *st, al_loop *bound, PyObject *loop)
{
    /* First what may fail and runs Python, then the binding. */
    PyObject *clock = PyObject_CallOneArg(st->loop_clock, loop);
    if (clock == NULL) {
        return -1;
    }
    al_loop_bind_tasks(bound, loop);
    bound->clock = (al_clock_kind)PyLong_AsLong(clock);
    Py_DECREF(clock);
    return 0;
}

int
al_loop_is_closed(al_state *st, PyObject *loop)
{
    return al_object_truth(PyObject_CallMethodNoArgs(loop, st->s_is_closed));
}

PyObject *
al_loop_current_task(al_state *st, const al_loop *bound)
{
    PyObject *get =
        Py_XNewRef(loop_find_accessor(st->tasks_dict, st->s_current_task));
    PyObject *task =
        get == NULL ? NULL : PyObject_CallOneArg(get, bound->loop);
    Py_XDECREF(get);
    return task;
}

int
al_loop_check_thread(al_state *st, al_loop *bound, const char *what)
{
    unsigned long here = PyThread_get_thread_ident();
    if (bound->loop == NULL || bound->thread == here) {
        return 0;
    }
    /* A loop may run in one thread, stop, and run in another. */
    PyObject *running = loop_get_running(st);
    if (running != NULL && running == bound->loop) {
        Py_DECREF(running);
        bound->thread = here;
        return 0;
    }
    Py_XDECREF(running);
    PyErr_Format(PyExc_RuntimeError,
                 "%s was called from another thread than its event loop's: "
                 "use loop.call_soon_threadsafe() or, to get its result, "
                 "asyncio.run_coroutine_threadsafe()",
                 what);
    return -1;
}

/* Find out whether what BaseEventLoop.time() calls, the name "monotonic" of
   the module that asyncio.base_events calls "time", is the builtin. */
static void
loop_examine_clock(al_state *st)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *module =
        PyDict_GetItemWithError(st->base_events_dict, st->s_time);
    st->clock_is_patched =
        module != st->time_module
        || PyDict_GetItemWithError(st->time_dict, st->s_monotonic)
               != st->monotonic;
    PyErr_Clear(); /* of a key's __eq__: not found */
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    st->clock_version = st->clock_is_patched ? 0 : al_loop_clock_version(st);
}

double
al_loop_ask_time(al_state *st, const al_loop *bound)
{
    if (bound->clock == AL_CLOCK_SYSTEM) {
        loop_examine_clock(st);
    }
    if (bound->loop == NULL || al_loop_has_system_clock(st, bound)) {
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

/* Call a method of the loop that makes a timer, in a copy of a context (NULL:
   of the current one). */
static PyObject *
loop_make_timer(al_state *st, const al_loop *bound, PyObject *method,
                double seconds, PyObject *callback, PyObject *context)
{
    PyObject *own = AL_ALLOC(context == NULL ? PyContext_CopyCurrent()
                                             : PyContext_Copy(context));
    PyObject *time =
        own == NULL ? NULL : AL_ALLOC(PyFloat_FromDouble(seconds));
    PyObject *handle = NULL;
    if (time != NULL) {
        PyObject *stack[5] = {NULL, bound->loop, time, callback, own};
        handle = PyObject_VectorcallMethod(method, stack + 1,
                                           3 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                           st->kw_context);
    }
    Py_XDECREF(time);
    Py_XDECREF(own);
    return handle;
}

PyObject *
al_loop_call_at(al_state *st, const al_loop *bound, double when,
                PyObject *callback, PyObject *context)
{
    return loop_make_timer(st, bound, st->s_call_at, when, callback, context);
}

PyObject *
al_loop_call_later(al_state *st, const al_loop *bound, double delay,
                   PyObject *callback, PyObject *context)
{
    return loop_make_timer(st, bound, st->s_call_later, delay, callback,
                           context);
}

/* ------------------------------------------------------------- errors */

bool
al_loop_is_exit(PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt)
           || PyErr_GivenExceptionMatches(error, PyExc_SystemExit);
}

/* Report the raised exception to the loop's exception handler.  Returns 0, no
   exception being set; -1 with an exit that the handler raised.  If there is
   no memory for the report, the exception goes to sys.unraisablehook. */
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
        /* No memory for the report: both errors are written, one after the
           other. */
        PyObject *why = PyErr_GetRaisedException();
        PyErr_SetRaisedException(Py_NewRef(error));
        PyErr_WriteUnraisable(source);
        PyErr_SetRaisedException(why);
    }
    int called = answer == NULL && al_loop_is_exit(PyErr_Occurred()) ? -1 : 0;
    if (answer == NULL && called == 0) {
        PyErr_WriteUnraisable(loop); /* the handler failed */
    }
    Py_XDECREF(answer);
    Py_XDECREF(about);
    Py_XDECREF(error);
    return called;
}

int
al_loop_handle_error(al_state *st, PyObject *loop, const char *message,
                     PyObject *source)
{
    return al_loop_is_exit(PyErr_Occurred())
               ? -1
               : loop_call_handler(st, loop, message, source);
}

/* Have a callback raise the raised exception in the next loop iteration.  From
   there it ends the loop's run; here no caller can receive it. */
static void
loop_exit_later(al_state *st, PyObject *loop)
{
    PyObject *exit = PyErr_GetRaisedException();
    PyObject *handle = PyObject_CallMethodObjArgs(
        loop, st->s_call_soon_threadsafe, st->raise_exit, exit, NULL);
    if (handle == NULL) { /* the loop is closed, or MemoryError */
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
    /* `dropped` goes before an exception is set: its __del__ may run code. */
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

/* ------------------------------------------------------------ waiters */

PyObject *
al_loop_create_waiter(al_state *st, const al_loop *bound)
{
    /* Future.__await__ sets this attribute before it yields the Future, and a
       Task refuses one without it. */
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
al_loop_wake_waiter(al_state *st, const al_loop *bound, PyObject *future)
{
    int done = al_object_truth(PyObject_CallMethodNoArgs(future, st->s_done));
    if (done == 0) {
        done = al_object_truth(
            PyObject_CallMethodOneArg(future, st->s_set_result, Py_None));
    }
    if (done < 0) {
        al_loop_report_or_exit_later(st, bound->loop, "waking a waiter failed",
                                     NULL);
    }
}

void
al_loop_wake_waiters(al_state *st, const al_loop *bound, PyObject *futures)
{
    /* One at a time, from the end: to wake may run code that appends. */
    for (;;) {
        Py_ssize_t n = PyList_GET_SIZE(futures);
        if (n == 0) {
            return;
        }
        PyObject *future = Py_NewRef(PyList_GET_ITEM(futures, n - 1));
        int failed = PyList_SetSlice(futures, n - 1, n, NULL);
        al_loop_wake_waiter(st, bound, future);
        Py_DECREF(future);
        if (failed) {
            al_loop_report_or_exit_later(st, bound->loop,
                                         "waking a waiter failed", NULL);
            return;
        }
    }
}
