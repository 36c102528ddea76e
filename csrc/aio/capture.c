/* Starting and cancelling many Tasks from one handle of the loop.
 *
 * A Task hands its first step to its loop's call_soon() while it is being
 * made, and a Future the wake-up of a Task that waits for it while it is being
 * cancelled.  For the length of such a call its first field, the loop, holds a
 * stand-in of ours, whose call_soon() keeps what it is given; then the real
 * loop is put in, and what was kept goes to the loop in a burst.  The loop
 * itself is never touched.
 *
 * That field is the one pointer of a private struct that we write.  It has
 * stood right behind the object's head from 3.11 to 3.15; a self-test at first
 * use looks whether it does, each time the field is looked at before it is
 * written, and anything unexpected turns the capture off for good.  At first
 * use, not at import: an import makes no Task.
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

/* Where a Task, and a Future, keeps its loop. */
static inline PyObject **
capture_field(PyObject *future)
{
    return (PyObject **)((char *)future + sizeof(PyObject));
}

/* Stands for the loop during one call. */
typedef struct {
    PyObject_HEAD
    PyObject *kwargs;  /* owned: {"loop": this, "name": name}; NULL: used up */
    PyObject *name;    /* borrowed, from there: the last Task's, or None */
    PyObject *call;    /* owned: what call_soon() was given, or NULL */
    PyObject *arg;     /* owned, or NULL */
    PyObject *context; /* owned, or NULL */
} LoopProxyObject;

typedef enum {
    CAPTURE_UNTRIED = 0,
    CAPTURE_OFF, /* for good */
    CAPTURE_ON,
} capture_mode;

/* The one object that remembers, for a module. */
typedef struct {
    PyObject_HEAD
    PyObject *spare; /* owned: a stand-in that nobody uses, or NULL */
    capture_mode mode;
    bool allowed;
} CaptureObject;

/* ---------------------------------------------------------- stand-ins */

/* A stand-in for one use (new). */
static LoopProxyObject *
loop_proxy_take(al_state *st)
{
    CaptureObject *all = (CaptureObject *)st->capture;
    LoopProxyObject *self = (LoopProxyObject *)all->spare;
    if (self != NULL) {
        all->spare = NULL;
        return self;
    }
    self = AL_ALLOC(
        PyObject_GC_New(LoopProxyObject, (PyTypeObject *)st->LoopProxy));
    if (self == NULL) {
        return NULL;
    }
    self->kwargs = self->call = self->arg = self->context = NULL;
    PyObject_GC_Track((PyObject *)self);
    self->kwargs = AL_ALLOC(PyDict_New());
    if (self->kwargs == NULL
        || AL_ALLOC_INT(
               PyDict_SetItem(self->kwargs, st->s_loop, (PyObject *)self))
               < 0
        || AL_ALLOC_INT(PyDict_SetItem(self->kwargs, st->s_name, Py_None)) < 0)
    {
        Py_CLEAR(self->kwargs);
        Py_CLEAR(self);
        return NULL;
    }
    self->name = Py_None;
    return self;
}

/* Give a stand-in back, emptied.  Keeps the raised exception. */
static void
loop_proxy_give(al_state *st, LoopProxyObject *self)
{
    CaptureObject *all = (CaptureObject *)st->capture;
    Py_CLEAR(self->call);
    Py_CLEAR(self->arg);
    Py_CLEAR(self->context);
    if (all->spare == NULL && self->kwargs != NULL) {
        all->spare = (PyObject *)self;
        return;
    }
    Py_CLEAR(self->kwargs); /* it holds itself */
    Py_DECREF((PyObject *)self);
}

/* call_soon(callback, *args, context): as Tasks and Futures call it. */
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
                        "a stand-in for a loop takes one step of one task");
        return NULL;
    }
    self->call = Py_NewRef(args[0]);
    self->arg = nargs == 2 ? Py_NewRef(args[1]) : NULL;
    self->context = Py_NewRef(args[nargs]);
    Py_RETURN_NONE;
}

static PyObject *
loop_proxy_get_debug(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    Py_RETURN_FALSE;
}

/* What a stand-in has kept, as a call of a burst; it is then empty. */
static al_call
loop_proxy_yield(LoopProxyObject *self, const al_loop *bound, PyObject *task,
                 PyObject *watcher)
{
    al_call call = {
        .call = self->call,
        .arg = self->arg,
        .context = self->context,
        .task = Py_NewRef(task),
        .watcher = Py_XNewRef(watcher),
        .callback_context = Py_XNewRef(bound->context),
    };
    self->call = self->arg = self->context = NULL;
    return call;
}

/* --------------------------------------------------------- may it be? */

/* Have the stand-in's ready-made keywords name the next Task.  -1 with
   MemoryError. */
static int
capture_name(al_state *st, LoopProxyObject *loop, PyObject *name)
{
    if (loop->name == name) {
        return 0;
    }
    if (AL_ALLOC_INT(PyDict_SetItem(loop->kwargs, st->s_name, name)) < 0) {
        return -1;
    }
    loop->name = name;
    return 0;
}

/* Make the Task of a coroutine, with a stand-in for its loop.  Without a
   keyword, or with a name alone, its ready-made dict is enough. */
static PyObject *
capture_make(al_state *st, LoopProxyObject *loop, PyObject *coro,
             PyObject *kwnames, PyObject *const *values)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    bool named = n == 1 && PyTuple_GET_ITEM(kwnames, 0) == st->s_name
                 && PyUnicode_CheckExact(values[0]);
    if (n > 0 && !named) {
        return al_task_make(st, st->Task, (PyObject *)loop, coro, kwnames,
                            values);
    }
    PyObject *args = AL_ALLOC(PyTuple_Pack(1, coro));
    PyObject *task = NULL;
    if (args != NULL
        && capture_name(st, loop, named ? values[0] : Py_None) == 0)
    {
        task = AL_ALLOC(PyObject_Call(st->Task, args, loop->kwargs));
    }
    Py_XDECREF(args);
    return task;
}

/* A Task that will never run: let it go without a word, and its step if that
   is here.  Keeps the raised exception. */
static void
capture_forget(al_state *st, PyObject *task, al_call *step)
{
    PyObject *error = PyErr_GetRaisedException();
    if (PyObject_SetAttr(task, st->s__log_destroy_pending, Py_False) < 0) {
        PyErr_Clear(); /* then it is logged as destroyed */
    }
    if (step != NULL) {
        al_call_clear(step);
    }
    Py_DECREF(task);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* Put the loop where a stand-in stands.  Tells whether it stood there. */
static bool
capture_swap(PyObject *future, PyObject *stands, PyObject *loop)
{
    PyObject **field = capture_field(future);
    if (*field != stands) {
        return false;
    }
    *field = Py_NewRef(loop);
    Py_DECREF(stands);
    return true;
}

/* The self-test: 1 if a Task is laid out as it must be, 0 if not; -1 with an
   exception, nothing known. */
static int
capture_try(al_state *st, const al_loop *bound)
{
    int fit = 0;
    PyObject *task = NULL, *future = NULL, *seen = NULL, *coro = NULL;
    LoopProxyObject *loop = loop_proxy_take(st);
    coro = loop == NULL ? NULL : PyObject_CallNoArgs(st->self_test_coroutine);
    future = coro == NULL ? NULL
                          : AL_ALLOC(PyObject_Vectorcall(
                                st->Future, &bound->loop, 0, st->kw_loop));
    if (future != NULL && (PyObject *)Py_TYPE(future) == st->Future
        && *capture_field(future) == bound->loop)
    {
        /* With a name, for the others are numbered. */
        task = al_task_make(st, st->Task, (PyObject *)loop, coro, st->kw_name,
                            &st->s_loop);
    }
    if (task != NULL) {
        fit = loop->call != NULL && loop->arg == NULL
              && capture_swap(task, (PyObject *)loop, bound->loop);
        seen = fit ? PyObject_CallMethodNoArgs(task, st->s_get_loop) : NULL;
        fit = fit && seen == bound->loop;
        capture_forget(st, task, NULL);
    }
    if (PyErr_Occurred()) {
        /* Memory, or a signal that came just now, says nothing of Tasks. */
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
    if (loop != NULL) {
        loop_proxy_give(st, loop);
    }
    Py_XDECREF(seen);
    Py_XDECREF(future);
    Py_XDECREF(coro);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return fit;
}

/* Ask the environment, and the self-test.  -1 with an exception. */
static int
capture_begin(al_state *st, CaptureObject *all, const al_loop *bound)
{
    PyObject *wanted = PyObject_CallNoArgs(st->is_capture_allowed);
    int fit = wanted == NULL ? -1 : wanted == Py_True;
    Py_XDECREF(wanted);
    if (fit > 0) {
        bool known =
            st->future_callbacks != Py_None && st->task_waiter != Py_None;
        fit = known ? capture_try(st, bound) : 0;
    }
    if (fit >= 0) {
        all->mode = fit ? CAPTURE_ON : CAPTURE_OFF;
    }
    return fit;
}

/* Tell whether we may: 1 or 0; -1 with an exception. */
static int
capture_may(al_state *st, const al_loop *bound)
{
    CaptureObject *all = (CaptureObject *)st->capture;
    return !all->allowed                  ? 0
           : all->mode == CAPTURE_UNTRIED ? capture_begin(st, all, bound)
                                          : all->mode == CAPTURE_ON;
}

bool
al_capture_allow(al_state *st, bool allowed)
{
    CaptureObject *all = (CaptureObject *)st->capture;
    bool was = all->allowed;
    all->allowed = allowed;
    return was;
}

/* -------------------------------------------------------------- starting */

int
al_capture_start(al_state *st, const al_loop *bound, PyObject *coro,
                 PyObject *kwnames, PyObject *const *values, PyObject *watcher,
                 PyObject **task)
{
    int may = capture_may(st, bound);
    if (may <= 0) {
        return may;
    }
    LoopProxyObject *loop = loop_proxy_take(st);
    *task =
        loop == NULL ? NULL : capture_make(st, loop, coro, kwnames, values);
    if (*task == NULL) {
        if (loop != NULL) {
            loop_proxy_give(st, loop);
        }
        return -1;
    }
    if (loop->call == NULL || loop->arg != NULL
        || !capture_swap(*task, (PyObject *)loop, bound->loop))
    {
        ((CaptureObject *)st->capture)->mode = CAPTURE_OFF;
        capture_forget(st, *task, NULL);
        loop_proxy_give(st, loop);
        return 0;
    }
    al_call call = loop_proxy_yield(loop, bound, *task, watcher);
    loop_proxy_give(st, loop);
    if (al_call_queue_add(st, bound->loop, &call) < 0) {
        capture_forget(st, *task, &call);
        return -1;
    }
    return 1;
}

/* ------------------------------------------------------------ cancelling */

/* The future that a Task waits for, if it is one of asyncio's that wakes this
   Task and nobody else (new); else NULL, without an exception. */
static PyObject *
capture_waiter(al_state *st, const al_loop *bound, PyObject *task)
{
    if ((PyObject *)Py_TYPE(task) != st->Task) {
        return NULL;
    }
    PyObject *waiter = al_future_get(st->task_waiter, task);
    PyObject *callbacks = NULL;
    if (waiter != NULL && (PyObject *)Py_TYPE(waiter) == st->Future
        && *capture_field(waiter) == bound->loop)
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
        PyErr_Clear(); /* AttributeError, MemoryError: the plain way */
    }
    return waiter;
}

/* Cancel without the capture, and raise what has failed so far, if that was
   not memory: the cancellation is not to be lost by it. */
static int
capture_cancel_plain(al_state *st, PyObject *task, PyObject *msg)
{
    PyObject *error = PyErr_GetRaisedException();
    int asked = al_task_cancel(st, task, msg);
    if (error == NULL || PyErr_GivenExceptionMatches(error, PyExc_MemoryError))
    {
        Py_XDECREF(error);
        return asked;
    }
    return al_loop_raise_more_severe(error);
}

int
al_capture_cancel(al_state *st, const al_loop *bound, PyObject *task,
                  PyObject *msg, PyObject *watcher)
{
    int may = al_fast_path_shares(st, bound);
    may = may > 0 ? capture_may(st, bound) : may;
    PyObject *waiter = may > 0 ? capture_waiter(st, bound, task) : NULL;
    LoopProxyObject *loop = waiter == NULL ? NULL : loop_proxy_take(st);
    if (loop == NULL) {
        Py_XDECREF(waiter);
        return capture_cancel_plain(st, task, msg);
    }
    /* Nothing of anybody's runs while the stand-in is in the future. */
    PyObject *real = *capture_field(waiter);
    *capture_field(waiter) = (PyObject *)loop;
    int asked = al_task_cancel(st, task, msg);
    *capture_field(waiter) = real;
    if (loop->call != NULL && loop->arg != NULL) {
        PyObject *error = asked < 0 ? PyErr_GetRaisedException() : NULL;
        al_call wake = loop_proxy_yield(loop, bound, task, watcher);
        int woken = al_call_queue_deliver(st, bound->loop, &wake, NULL);
        if (woken < 0 || error != NULL) {
            asked = al_loop_raise_more_severe(error);
        }
        al_call_clear(&wake); /* in vain, twice: as asyncio's own may be */
    }
    loop_proxy_give(st, loop);
    Py_DECREF(waiter);
    return asked;
}

/* --------------------------------------------------------- GC and specs */

static int
loop_proxy_traverse(PyObject *op, visitproc visit, void *arg)
{
    LoopProxyObject *self = (LoopProxyObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->kwargs);
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
    Py_VISIT(self->spare);
    return 0;
}

static int
capture_clear(PyObject *op)
{
    CaptureObject *self = (CaptureObject *)op;
    Py_CLEAR(self->spare);
    return 0;
}

static PyMethodDef loop_proxy_methods[] = {
    {"call_soon", AL_METHOD(loop_proxy_call_soon),
     METH_FASTCALL | METH_KEYWORDS, NULL},
    {"get_debug", loop_proxy_get_debug, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot loop_proxy_slots[] = {
    {Py_tp_methods, loop_proxy_methods},
    {Py_tp_traverse, loop_proxy_traverse},
    {Py_tp_clear, loop_proxy_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec loop_proxy_spec = {
    .name = "pyasynclife._core.StandIn",
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
    CaptureObject *all =
        AL_ALLOC(PyObject_GC_New(CaptureObject, (PyTypeObject *)st->Capture));
    if (all == NULL) {
        return -1;
    }
    all->spare = NULL;
    all->mode = CAPTURE_UNTRIED;
    all->allowed = true;
    PyObject_GC_Track((PyObject *)all);
    st->capture = (PyObject *)all;
    return 0;
}
