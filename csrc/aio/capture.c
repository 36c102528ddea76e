/* Starting and cancelling many Tasks from one handle of the loop.
 *
 * A Task hands its first step to its loop's call_soon() while it is being
 * made, and a Future hands it the wake-up of the Task that waits for it while
 * it is being cancelled.  For the length of such a call the loop in the Task
 * or Future is a proxy of ours, whose call_soon() keeps its arguments.  The
 * loop itself is never touched:
 *
 *     al_capture_start          Task(coro, loop=proxy)
 *                                 -> proxy.call_soon(step, context=...)
 *                               Task's loop = the real loop
 *                               al_call_queue_add(step, task, on_done)
 *
 *     al_capture_cancel         Future's loop = proxy
 *                               task.cancel()
 *                                 -> future.cancel()
 *                                   -> proxy.call_soon(wakeup, future, ...)
 *                               Future's loop = the real loop
 *                               al_call_queue_deliver(wakeup, task, on_done)
 *
 * The rest is in call_queue.c, with the order of events.
 *
 * The loop is the first field of both structs, and the one pointer of a
 * private struct that we write.  It has stood right behind the object's head
 * from 3.11 to 3.15.  A self-test at first use checks that it does, each use
 * checks the field before it is written, and anything unexpected turns the
 * capture off for good.  The self-test runs at first use, not at import: an
 * import makes no Task.
 *
 * Danger spots.
 *
 * Re-entrancy: to make a Task may run finalizers, which may make Tasks; so a
 * proxy is taken out of the Capture while it is in use (R6).  While a proxy is
 * in a Future nothing runs but asyncio's C code, so nobody sees it there: only
 * a Future whose one callback is the Task's wake-up is taken (R7).
 *
 * Exits: a signal handler may raise at any call into Python.  A Task whose
 * step is not scheduled is abandoned without a warning; a wake-up is scheduled
 * before the exception is raised again.
 *
 * Memory: a cancellation is never lost for want of memory; what the capture
 * cannot do, asyncio does by itself.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/fast_path.h"
#include "aio/call_queue.h"
#include "aio/capture.h"

/* Stands for the loop during one call. */
typedef struct {
    PyObject_HEAD
    al_state *st;
    PyObject *kwargs;  /* owned: {"loop": self, "name": name}; NULL: used up */
    PyObject *name;    /* borrowed from there: the last Task's, or None */
    PyObject *args;    /* owned: a tuple with room for a coroutine, or NULL */
    PyObject *soon;    /* owned: the bound method call_soon, or NULL */
    PyObject *debug;   /* owned: the bound method get_debug, or NULL */
    PyObject *call;    /* owned: what call_soon() was given, or NULL */
    PyObject *arg;     /* owned, or NULL */
    PyObject *context; /* owned, or NULL */
} LoopProxyObject;

typedef enum {
    CAPTURE_UNTESTED = 0,
    CAPTURE_OFF, /* for good */
    CAPTURE_ON,
} capture_mode;

/* The state of the capture.  There is one for each module, st->capture. */
typedef struct {
    PyObject_HEAD
    PyObject *idle; /* owned: a LoopProxy that is not in use, or NULL */
    capture_mode mode;
    bool allowed; /* by al_capture_allow() */
} CaptureObject;

/* ------------------------------------------------------------ LoopProxy */

/* Make what a proxy keeps for its next use.  The Task looks up two methods of
   its loop; a bound method for each lookup is half the cost of the call. */
static int
loop_proxy_fill(LoopProxyObject *self)
{
    al_state *st = self->st;
    PyObject *op = (PyObject *)self;
    self->name = Py_None;
    self->kwargs = AL_ALLOC(PyDict_New());
    if (self->kwargs == NULL
        || AL_ALLOC_INT(PyDict_SetItem(self->kwargs, st->s_loop, op)) < 0
        || AL_ALLOC_INT(PyDict_SetItem(self->kwargs, st->s_name, Py_None)) < 0)
    {
        return -1;
    }
    self->soon = AL_ALLOC(PyObject_GenericGetAttr(op, st->s_call_soon));
    self->debug = self->soon == NULL
                      ? NULL
                      : AL_ALLOC(PyObject_GenericGetAttr(op, st->s_get_debug));
    return self->debug == NULL ? -1 : 0;
}

/* Return a proxy for one use (new): the idle one, or one that is made. */
static LoopProxyObject *
loop_proxy_acquire(al_state *st)
{
    CaptureObject *capture = (CaptureObject *)st->capture;
    LoopProxyObject *self = (LoopProxyObject *)capture->idle;
    if (self != NULL) {
        capture->idle = NULL;
        return self;
    }
    self = AL_ALLOC(
        PyObject_GC_New(LoopProxyObject, (PyTypeObject *)st->LoopProxy));
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    self->kwargs = self->args = self->soon = self->debug = NULL;
    self->call = self->arg = self->context = NULL;
    PyObject_GC_Track((PyObject *)self);
    if (loop_proxy_fill(self) < 0) {
        (void)Py_TYPE(self)->tp_clear((PyObject *)self);
        Py_CLEAR(self);
    }
    return self;
}

/* Empty a proxy after its use (stolen), and keep it if none is idle.  Keeps
   the raised exception. */
static void
loop_proxy_release(al_state *st, LoopProxyObject *self)
{
    CaptureObject *capture = (CaptureObject *)st->capture;
    Py_CLEAR(self->call);
    Py_CLEAR(self->arg);
    Py_CLEAR(self->context);
    if (capture->idle == NULL && self->kwargs != NULL) {
        capture->idle = (PyObject *)self;
        return;
    }
    /* What it keeps holds the proxy. */
    (void)Py_TYPE(self)->tp_clear((PyObject *)self);
    Py_DECREF((PyObject *)self);
}

/* Move what call_soon() was given out of the proxy, as a call of a queue. */
static al_call
loop_proxy_take_call(LoopProxyObject *self, PyObject *task, PyObject *on_done)
{
    al_call call = {
        .call = self->call,
        .arg = self->arg,
        .context = self->context,
        .task = Py_NewRef(task),
        .on_done = Py_XNewRef(on_done),
    };
    self->call = self->arg = self->context = NULL;
    return call;
}

/* Put a name into the proxy's keywords.  -1 with MemoryError. */
static int
loop_proxy_set_name(al_state *st, LoopProxyObject *self, PyObject *name)
{
    if (self->name == name) {
        return 0;
    }
    if (AL_ALLOC_INT(PyDict_SetItem(self->kwargs, st->s_name, name)) < 0) {
        return -1;
    }
    self->name = name;
    return 0;
}

/* Put a coroutine into the tuple of arguments, which nobody else may hold.
   Returns the tuple (borrowed); NULL with MemoryError. */
static PyObject *
loop_proxy_set_args(LoopProxyObject *self, PyObject *coro)
{
    if (self->args == NULL || Py_REFCNT(self->args) != 1) {
        Py_XSETREF(self->args, AL_ALLOC(PyTuple_Pack(1, coro)));
    }
    else {
        al_object_set_first(self->args, coro);
    }
    return self->args;
}

/* Take the coroutine out again. */
static void
loop_proxy_clear_args(LoopProxyObject *self)
{
    if (self->args != NULL && Py_REFCNT(self->args) == 1) {
        al_object_set_first(self->args, Py_None);
    }
    else {
        Py_CLEAR(self->args); /* somebody has found it, and may keep it */
    }
}

/* The lookups of a Task, which are by interned names. */
static PyObject *
loop_proxy_getattro(PyObject *op, PyObject *name)
{
    LoopProxyObject *self = (LoopProxyObject *)op;
    PyObject *known = name == self->st->s_call_soon   ? self->soon
                      : name == self->st->s_get_debug ? self->debug
                                                      : NULL;
    return known != NULL ? Py_NewRef(known)
                         : PyObject_GenericGetAttr(op, name);
}

/* call_soon(callback, *args, context), as Tasks and Futures call it. */
static PyObject *
loop_proxy_call_soon(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    LoopProxyObject *self = (LoopProxyObject *)op;
    if (self->call != NULL || self->kwargs == NULL || nargs < 1 || nargs > 2
        || kwnames == NULL || PyTuple_GET_SIZE(kwnames) != 1
        || !PyContext_CheckExact(args[nargs]))
    {
        PyErr_SetString(PyExc_RuntimeError,
                        "a LoopProxy takes one step of one task");
        return NULL;
    }
    self->call = Py_NewRef(args[0]);
    self->arg = nargs == 2 ? Py_NewRef(args[1]) : NULL;
    self->context = Py_NewRef(args[nargs]);
    Py_RETURN_NONE;
}

/* A Task asks for it while it is being made. */
static PyObject *
loop_proxy_get_debug(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_FALSE;
}

/* ---------------------------------------------------- a Task with a proxy */

/* The field of a Task or Future that holds its loop. */
static inline PyObject **
capture_loop_field(PyObject *future)
{
    return (PyObject **)((char *)future + sizeof(PyObject));
}

/* Make the Task of a coroutine with a proxy for its loop (new).  Without a
   keyword, or with a name alone, the proxy's ready-made dict is enough. */
static PyObject *
capture_make_task(al_state *st, LoopProxyObject *proxy, PyObject *coro,
                  PyObject *kwnames, PyObject *const *values)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    bool named = n == 1 && PyTuple_GET_ITEM(kwnames, 0) == st->s_name
                 && PyUnicode_CheckExact(values[0]);
    if (n > 0 && !named) {
        return al_task_make(st, st->Task, (PyObject *)proxy, coro, kwnames,
                            values);
    }
    PyObject *args = loop_proxy_set_args(proxy, coro);
    PyObject *task = NULL;
    if (args != NULL
        && loop_proxy_set_name(st, proxy, named ? values[0] : Py_None) == 0)
    {
        task = AL_ALLOC(PyObject_Call(st->Task, args, proxy->kwargs));
    }
    loop_proxy_clear_args(proxy);
    return task;
}

/* Drop a Task that will never run (stolen), without asyncio's warning that it
   was destroyed while pending, and its step if that is passed.  Keeps the
   raised exception. */
static void
capture_abandon_task(al_state *st, PyObject *task, al_call *step)
{
    PyObject *error = PyErr_GetRaisedException();
    if (PyObject_SetAttr(task, st->s__log_destroy_pending, Py_False) < 0) {
        PyErr_Clear(); /* then the warning is logged */
    }
    if (step != NULL) {
        al_call_clear(step);
    }
    Py_DECREF(task);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* Replace the proxy in a Task by the loop.  Returns whether the proxy was
   where it must be; if not, nothing is written. */
static bool
capture_set_loop(PyObject *task, PyObject *proxy, PyObject *loop)
{
    PyObject **field = capture_loop_field(task);
    if (*field != proxy) {
        return false;
    }
    *field = Py_NewRef(loop);
    Py_DECREF(proxy);
    return true;
}

/* ------------------------------------------------------------ on or off */

/* The self-test: 1 if Tasks and Futures are laid out as expected; 0 if not; -1
   with an exception that leaves it open. */
static int
capture_test(al_state *st, const al_loop *bound)
{
    int fit = 0;
    PyObject *task = NULL, *future = NULL, *seen = NULL, *coro = NULL;
    LoopProxyObject *proxy = loop_proxy_acquire(st);
    coro = proxy == NULL ? NULL : PyObject_CallNoArgs(st->self_test_coroutine);
    future = coro == NULL ? NULL
                          : AL_ALLOC(PyObject_Vectorcall(
                                st->Future, &bound->loop, 0, st->kw_loop));
    if (future != NULL && (PyObject *)Py_TYPE(future) == st->Future
        && *capture_loop_field(future) == bound->loop)
    {
        /* With a name: one without would use up a number of asyncio's. */
        task = al_task_make(st, st->Task, (PyObject *)proxy, coro, st->kw_name,
                            &st->s_loop);
    }
    if (task != NULL) {
        fit = proxy->call != NULL && proxy->arg == NULL
              && capture_set_loop(task, (PyObject *)proxy, bound->loop);
        seen = fit ? PyObject_CallMethodNoArgs(task, st->s_get_loop) : NULL;
        fit = fit && seen == bound->loop;
        capture_abandon_task(st, task, NULL);
    }
    if (PyErr_Occurred()) {
        /* MemoryError, or the exit of a signal: it says nothing of Tasks. */
        fit = PyErr_ExceptionMatches(PyExc_MemoryError)
                      || !PyErr_ExceptionMatches(PyExc_Exception)
                  ? -1
                  : 0;
    }
    PyObject *error = fit < 0 ? PyErr_GetRaisedException() : NULL;
    PyErr_Clear();
    if (coro != NULL) {
        al_coro_close_unstarted(st, coro);
    }
    if (proxy != NULL) {
        loop_proxy_release(st, proxy);
    }
    Py_XDECREF(seen);
    Py_XDECREF(future);
    Py_XDECREF(coro);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return fit;
}

/* At first use: run the self-test.  -1 with an exception. */
static int
capture_decide(al_state *st, CaptureObject *capture, const al_loop *bound)
{
    bool known = st->future_callbacks != Py_None && st->task_waiter != Py_None;
    int fit = known ? capture_test(st, bound) : 0;
    if (fit >= 0) {
        capture->mode = fit ? CAPTURE_ON : CAPTURE_OFF;
    }
    return fit;
}

/* Tell whether the capture is on: 1 or 0; -1 with an exception. */
static int
capture_is_on(al_state *st, const al_loop *bound)
{
    CaptureObject *capture = (CaptureObject *)st->capture;
    return !capture->allowed ? 0
           : capture->mode == CAPTURE_UNTESTED
               ? capture_decide(st, capture, bound)
               : capture->mode == CAPTURE_ON;
}

bool
al_capture_allow(al_state *st, bool allowed)
{
    CaptureObject *capture = (CaptureObject *)st->capture;
    bool was = capture->allowed;
    capture->allowed = allowed;
    return was;
}

/* -------------------------------------------------------------- starting */

int
al_capture_start(al_state *st, const al_loop *bound, PyObject *coro,
                 PyObject *kwnames, PyObject *const *values,
                 al_on_done on_done, PyObject **task)
{
    int is_on = capture_is_on(st, bound);
    if (is_on <= 0) {
        return is_on;
    }
    LoopProxyObject *proxy = loop_proxy_acquire(st);
    *task = proxy == NULL
                ? NULL
                : capture_make_task(st, proxy, coro, kwnames, values);
    if (*task == NULL) {
        if (proxy != NULL) {
            loop_proxy_release(st, proxy);
        }
        return -1;
    }
    if (proxy->call == NULL || proxy->arg != NULL
        || !capture_set_loop(*task, (PyObject *)proxy, bound->loop))
    {
        /* Not what the self-test found: never write that field again. */
        ((CaptureObject *)st->capture)->mode = CAPTURE_OFF;
        capture_abandon_task(st, *task, NULL);
        loop_proxy_release(st, proxy);
        return 0;
    }
    al_call step = loop_proxy_take_call(proxy, *task, on_done.call);
    loop_proxy_release(st, proxy);
    step.callback_context = on_done.context != NULL
                                ? Py_NewRef(on_done.context)
                                : AL_ALLOC(PyContext_CopyCurrent());
    if (step.callback_context == NULL
        || al_call_queue_add(st, bound->loop, &step) < 0)
    {
        capture_abandon_task(st, *task, &step);
        return -1;
    }
    return 1;
}

/* ------------------------------------------------------------ cancelling */

/* Return the future that a Task waits for, if it is one of asyncio's that
   wakes this Task and does nothing else (R7) (new); else NULL, without an
   exception.  A gather() or shield() has other callbacks, and to cancel a Task
   runs its own code. */
static PyObject *
capture_find_waiter(al_state *st, const al_loop *bound, PyObject *task)
{
    if ((PyObject *)Py_TYPE(task) != st->Task) {
        return NULL;
    }
    PyObject *waiter = al_future_get(st->task_waiter, task);
    PyObject *callbacks = NULL;
    if (waiter != NULL && (PyObject *)Py_TYPE(waiter) == st->Future
        && *capture_loop_field(waiter) == bound->loop)
    {
        callbacks = al_future_get(st->future_callbacks, waiter);
    }
    bool alone = false;
    if (callbacks != NULL && PyList_Check(callbacks)
        && PyList_GET_SIZE(callbacks) == 1)
    {
        PyObject *wake = PyTuple_GET_ITEM(PyList_GET_ITEM(callbacks, 0), 0);
        alone = PyCFunction_Check(wake) && PyCFunction_GET_SELF(wake) == task;
    }
    Py_XDECREF(callbacks);
    if (!alone) {
        Py_CLEAR(waiter);
        PyErr_Clear(); /* AttributeError, MemoryError: cancel by asyncio */
    }
    return waiter;
}

/* al_task_cancel, then raise the exception that is set when this is called,
   unless it is a MemoryError: that must not cost the cancellation. */
static int
capture_cancel_plain(al_state *st, PyObject *task, PyObject *msg)
{
    PyObject *error = PyErr_GetRaisedException();
    int cancelled = al_task_cancel(st, task, msg);
    if (error == NULL || PyErr_GivenExceptionMatches(error, PyExc_MemoryError))
    {
        Py_XDECREF(error);
        return cancelled;
    }
    return al_loop_raise_more_severe(error);
}

int
al_capture_cancel(al_state *st, const al_loop *bound, PyObject *task,
                  PyObject *msg, PyObject *on_done)
{
    int may = al_fast_path_can_share(st, bound);
    may = may > 0 ? capture_is_on(st, bound) : may;
    PyObject *waiter = may > 0 ? capture_find_waiter(st, bound, task) : NULL;
    LoopProxyObject *proxy = waiter == NULL ? NULL : loop_proxy_acquire(st);
    if (proxy == NULL) {
        Py_XDECREF(waiter);
        return capture_cancel_plain(st, task, msg);
    }
    /* No code but asyncio's runs while the proxy is in the future. */
    PyObject *real = *capture_loop_field(waiter);
    *capture_loop_field(waiter) = (PyObject *)proxy;
    int cancelled = al_task_cancel(st, task, msg);
    *capture_loop_field(waiter) = real;
    if (proxy->call != NULL && proxy->arg != NULL) {
        PyObject *error = cancelled < 0 ? PyErr_GetRaisedException() : NULL;
        al_call wakeup = loop_proxy_take_call(proxy, task, on_done);
        int woken = al_call_queue_deliver(st, bound->loop, &wakeup);
        if (woken < 0 || error != NULL) {
            cancelled = al_loop_raise_more_severe(error);
        }
        /* Not scheduled after two attempts: it is lost, as asyncio's is when
           its call_soon() fails. */
        al_call_clear(&wakeup);
    }
    loop_proxy_release(st, proxy);
    Py_DECREF(waiter);
    return cancelled;
}

/* --------------------------------------------------------- GC and specs */

static int
loop_proxy_traverse(PyObject *op, visitproc visit, void *arg)
{
    LoopProxyObject *self = (LoopProxyObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->kwargs);
    Py_VISIT(self->args);
    Py_VISIT(self->soon);
    Py_VISIT(self->debug);
    Py_VISIT(self->call);
    Py_VISIT(self->arg);
    Py_VISIT(self->context);
    return 0;
}

static int
loop_proxy_clear(PyObject *op)
{
    LoopProxyObject *self = (LoopProxyObject *)op;
    Py_CLEAR(self->kwargs);
    Py_CLEAR(self->soon);
    Py_CLEAR(self->debug);
    Py_CLEAR(self->args);
    Py_CLEAR(self->call);
    Py_CLEAR(self->arg);
    Py_CLEAR(self->context);
    return 0;
}

static int
capture_traverse(PyObject *op, visitproc visit, void *arg)
{
    CaptureObject *self = (CaptureObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->idle);
    return 0;
}

static int
capture_clear(PyObject *op)
{
    CaptureObject *self = (CaptureObject *)op;
    Py_CLEAR(self->idle);
    return 0;
}

static PyMethodDef loop_proxy_methods[] = {
    {"call_soon", AL_METHOD(loop_proxy_call_soon),
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"get_debug", loop_proxy_get_debug, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot loop_proxy_slots[] = {
    {Py_tp_getattro, loop_proxy_getattro},
    {Py_tp_methods, loop_proxy_methods},
    {Py_tp_traverse, loop_proxy_traverse},
    {Py_tp_clear, loop_proxy_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec loop_proxy_spec = {
    .name = "pyasynclife._core.LoopProxy",
    .basicsize = sizeof(LoopProxyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = loop_proxy_slots,
};

static PyType_Slot capture_slots[] = {
    {Py_tp_traverse, capture_traverse},
    {Py_tp_clear, capture_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec capture_spec = {
    .name = "pyasynclife._core.Capture",
    .basicsize = sizeof(CaptureObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = capture_slots,
};

int
al_capture_setup(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->LoopProxy, &loop_proxy_spec, false) < 0
        || al_state_add_type(module, &st->Capture, &capture_spec, false) < 0)
    {
        return -1;
    }
    CaptureObject *capture =
        AL_ALLOC(PyObject_GC_New(CaptureObject, (PyTypeObject *)st->Capture));
    if (capture == NULL) {
        return -1;
    }
    capture->idle = NULL;
    capture->mode = CAPTURE_UNTESTED;
    capture->allowed = true;
    PyObject_GC_Track((PyObject *)capture);
    st->capture = (PyObject *)capture;
    return 0;
}
