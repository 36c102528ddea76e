/* Calls that the loop would make one after the other, in one handle.
 *
 * Most of what a Task costs are call_soon() and the Handle for its first step,
 * for its wake-up when cancelled, and for its done callback.  A burst is one
 * callback of the loop that makes many such calls.  A call joins it only while
 * its handle is the last that the loop has scheduled, and while the loop has
 * gone on to no other handle, so everything happens in the order and in the
 * turn in which it would happen without.
 *
 * The one callback that is known beforehand to come is the watcher's, so it
 * is not put on the Task before its step: a Task that ends in that step is
 * told of from a burst as well.
 *
 * A burst owns its calls, and its place in them is moved on before each is
 * made: should the loop be run, or the burst be called, from inside one, the
 * rest is made there.
 */
#include "compat.h"
#include "fault.h"
#include "state.h"
#include "loop.h"
#include "burst.h"

#define BURST_ROOM 4

/* Tell whether the raised exception ends the loop's run.  Pure C. */
static bool
burst_is_exit(void)
{
    return PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)
           || PyErr_ExceptionMatches(PyExc_SystemExit);
}

typedef struct {
    PyObject_HEAD
    al_state *st;
    PyObject *loop;  /* owned */
    al_call *calls;  /* owned, from `next` to `count` */
    Py_ssize_t next, count, room;
    Py_ssize_t behind; /* the queue's length with our handle; -1: unknown */
} BurstObject;

static void
call_clear(al_call *call)
{
    Py_CLEAR(call->call);
    Py_CLEAR(call->arg);
    Py_CLEAR(call->context);
    Py_CLEAR(call->task);
    Py_CLEAR(call->watcher);
    Py_CLEAR(call->told_in);
}

/* ------------------------------------------------------------- the queue */

/* Move a call in, which is then emptied.  -1 with MemoryError. */
static int
burst_push(BurstObject *self, al_call *call)
{
    if (self->count == self->room) {
        Py_ssize_t room = self->room == 0 ? BURST_ROOM : 2 * self->room;
        al_call *calls = AL_ALLOC(
            PyMem_Realloc(self->calls, (size_t)room * sizeof(al_call)));
        if (calls == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->calls = calls;
        self->room = room;
    }
    self->calls[self->count++] = *call;
    *call = (al_call){NULL, NULL, NULL, NULL, NULL, NULL};
    return 0;
}

/* loop.call_soon(burst), in a context of its own: that of a call may be one
   that is not to be entered twice. */
static int
burst_schedule(BurstObject *self)
{
    PyObject *context = AL_ALLOC(PyContext_CopyCurrent());
    if (context == NULL) {
        return -1;
    }
    PyObject *stack[4] = {NULL, self->loop, (PyObject *)self, context};
    PyObject *handle = AL_ALLOC(PyObject_VectorcallMethod(
        self->st->s_call_soon, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        self->st->kw_context));
    Py_XDECREF(handle);
    Py_DECREF(context);
    return handle == NULL ? -1 : 0;
}

/* The loop's queue if it is what asyncio's own loops have (new); else NULL,
   without an exception.  Fetched each time: somebody may replace it. */
static PyObject *
burst_ready(al_state *st, PyObject *loop)
{
    PyObject *ready = PyObject_GetAttr(loop, st->s__ready);
    if (ready == NULL) {
        PyErr_Clear(); /* no queue to be seen */
    }
    else if ((PyObject *)Py_TYPE(ready) != st->deque) {
        Py_CLEAR(ready);
    }
    return ready;
}

/* An attribute of the handle that was scheduled last (new); else NULL, without
   an exception. */
static PyObject *
burst_last(al_state *st, PyObject *ready, PyObject *name)
{
    Py_ssize_t n = PySequence_Size(ready);
    PyObject *handle = n > 0 ? PySequence_GetItem(ready, n - 1) : NULL;
    PyObject *found = NULL;
    if (handle != NULL && (PyObject *)Py_TYPE(handle) == st->Handle) {
        found = PyObject_GetAttr(handle, name);
    }
    Py_XDECREF(handle);
    if (found == NULL && PyErr_Occurred()) {
        PyErr_Clear(); /* not known to happen: then there is nothing to join */
    }
    return found;
}

/* The burst that may be joined (new); else NULL, without an exception.  It is
   scheduled last, and the queue as long as then: what was scheduled before it
   by an earlier turn would otherwise have it run a turn too early. */
static BurstObject *
burst_open(al_state *st, PyObject *ready)
{
    PyObject *callback = burst_last(st, ready, st->s__callback);
    if (callback != NULL
        && ((PyObject *)Py_TYPE(callback) != st->Burst
            || ((BurstObject *)callback)->behind != PySequence_Size(ready)))
    {
        Py_CLEAR(callback);
    }
    return (BurstObject *)callback;
}

/* Schedule a new burst of one call. */
static int
burst_begin(al_state *st, PyObject *loop, al_call *call)
{
    BurstObject *self =
        AL_ALLOC(PyObject_GC_New(BurstObject, (PyTypeObject *)st->Burst));
    if (self == NULL) {
        return -1;
    }
    self->st = st;
    self->loop = Py_NewRef(loop);
    self->calls = NULL;
    self->next = self->count = self->room = 0;
    self->behind = -1;
    PyObject_GC_Track((PyObject *)self);
    int begun = burst_push(self, call);
    if (begun == 0) {
        begun = burst_schedule(self);
    }
    PyObject *ready = begun < 0 ? NULL : burst_ready(st, loop);
    if (ready != NULL) {
        self->behind = PySequence_Size(ready);
        Py_DECREF(ready);
    }
    Py_DECREF((PyObject *)self);
    return begun;
}

int
al_burst_queue(al_state *st, PyObject *loop, al_call *call)
{
    PyObject *ready = burst_ready(st, loop);
    BurstObject *open = ready == NULL ? NULL : burst_open(st, ready);
    int queued = open != NULL ? burst_push(open, call)
                              : burst_begin(st, loop, call);
    Py_XDECREF((PyObject *)open);
    Py_XDECREF(ready);
    call_clear(call);
    return queued;
}

/* --------------------------------------------------------- the watcher */

/* Put a callback on a Task, in a context; should memory fail, once more, for
   what is not put on is lost. */
static int
call_put_on(al_state *st, PyObject *task, PyObject *callback,
            PyObject *context)
{
    al_loop in = {.context = context};
    int put = al_task_watch(st, &in, task, callback);
    if (put < 0 && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        put = al_task_watch(st, &in, task, callback);
    }
    return put;
}

/* Have the Task call its watcher at its end, before the callbacks that it has
   already: a list, or None.  What fails is told to the loop. */
static void
burst_watch(BurstObject *self, al_call *call, PyObject *callbacks)
{
    al_state *st = self->st;
    Py_ssize_t n = PyList_Check(callbacks) ? PyList_GET_SIZE(callbacks) : 0;
    Py_ssize_t off = 0;
    int failed = 0;
    while (off < n && failed == 0) {
        PyObject *pair = PyList_GET_ITEM(callbacks, off);
        /* This compares callbacks, and so may run anything. */
        failed = al_task_unwatch(st, call->task, PyTuple_GET_ITEM(pair, 0)) < 0;
        off += !failed;
    }
    if (failed) {
        al_loop_report(st, self->loop, "comparing done callbacks failed",
                       call->task);
    }
    failed = call_put_on(st, call->task, call->watcher, call->told_in) < 0;
    for (Py_ssize_t i = 0; i < off; i++) {
        PyObject *pair = PyList_GET_ITEM(callbacks, i);
        if (failed) {
            al_loop_report(st, self->loop, "adding a done callback failed",
                           call->task);
        }
        failed = call_put_on(st, call->task, PyTuple_GET_ITEM(pair, 0),
                             PyTuple_GET_ITEM(pair, 1)) < 0;
    }
    if (failed) {
        al_loop_report(st, self->loop, "adding a done callback failed",
                       call->task);
    }
}

/* Before a step: tell whether the watcher is ours to call if the Task ends in
   it.  Before the first one it is, for nobody has put it on the Task; before a
   later one if it is the Task's only callback, which is then taken off. */
static bool
burst_take_watcher(BurstObject *self, al_call *call)
{
    al_state *st = self->st;
    if (call->arg == NULL) {
        return true;
    }
    PyObject *callbacks = PyObject_GetAttr(call->task, st->s__callbacks);
    bool ours = callbacks != NULL && PyList_Check(callbacks)
                && PyList_GET_SIZE(callbacks) == 1
                && PyTuple_GET_ITEM(PyList_GET_ITEM(callbacks, 0), 0)
                       == call->watcher
                && al_task_unwatch(st, call->task, call->watcher) > 0;
    if (PyErr_Occurred()) {
        al_loop_report(st, self->loop, "looking at a task failed", call->task);
    }
    Py_XDECREF(callbacks);
    return ours;
}

/* Take the handles of the Task's own callbacks, which its end has just
   scheduled, off the queue's tail (a list, or NULL): the watcher comes before
   them. */
static PyObject *
burst_lift(BurstObject *self, PyObject *ready, PyObject *task)
{
    al_state *st = self->st;
    PyObject *lifted = NULL;
    for (;;) {
        PyObject *args = burst_last(st, ready, st->s__args);
        bool its = args != NULL && PyTuple_Check(args)
                   && PyTuple_GET_SIZE(args) == 1
                   && PyTuple_GET_ITEM(args, 0) == task;
        Py_XDECREF(args);
        if (its && lifted == NULL) {
            lifted = AL_ALLOC(PyList_New(0));
            its = lifted != NULL;
        }
        PyObject *handle =
            its ? PyObject_CallMethodNoArgs(ready, st->s_pop) : NULL;
        if (handle == NULL) {
            PyErr_Clear(); /* out of memory: then the watcher comes last */
            return lifted;
        }
        if (AL_ALLOC_INT(PyList_Append(lifted, handle)) < 0) {
            PyErr_Clear();
            Py_XDECREF(PyObject_CallMethodOneArg(ready, st->s_append, handle));
            Py_DECREF(handle);
            return lifted;
        }
        Py_DECREF(handle);
    }
}

/* Put what was lifted back, behind the burst. */
static void
burst_lower(BurstObject *self, PyObject *ready, PyObject *lifted)
{
    Py_ssize_t n = lifted == NULL ? 0 : PyList_GET_SIZE(lifted);
    while (n-- > 0) {
        PyObject *none = PyObject_CallMethodOneArg(
            ready, self->st->s_append, PyList_GET_ITEM(lifted, n));
        if (none == NULL) {
            al_loop_report(self->st, self->loop,
                           "scheduling a callback failed", NULL);
        }
        Py_XDECREF(none);
    }
    Py_XDECREF(lifted);
}

/* Have the watcher of a Task that has ended called next.  -1: an exit. */
static int
burst_notify(BurstObject *self, al_call *call)
{
    al_state *st = self->st;
    al_call notice = {
        .call = Py_NewRef(call->watcher),
        .arg = Py_NewRef(call->task),
        .context = Py_NewRef(call->told_in),
    };
    PyObject *ready = burst_ready(st, self->loop);
    BurstObject *open = ready == NULL ? NULL : burst_open(st, ready);
    PyObject *lifted = NULL, *error = NULL;
    int queued;
    if (open != NULL) {
        queued = burst_push(open, &notice);
    }
    else {
        lifted = ready == NULL ? NULL : burst_lift(self, ready, call->task);
        queued = burst_begin(st, self->loop, &notice);
    }
    if (queued < 0) {
        /* Who waits must hear of it: then at once, maybe twice. */
        error = PyErr_GetRaisedException();
        Py_XDECREF(PyObject_CallOneArg(call->watcher, call->task));
        if (PyErr_Occurred()) {
            al_loop_report(st, self->loop, "telling of a task's end failed",
                           call->task);
        }
    }
    if (ready != NULL) {
        burst_lower(self, ready, lifted);
    }
    call_clear(&notice);
    Py_XDECREF((PyObject *)open);
    Py_XDECREF(ready);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        if (burst_is_exit()) {
            return -1;
        }
        PyErr_Clear(); /* out of memory */
    }
    return 0;
}

/* After a step before which the watcher was taken.  -1: an exit. */
static int
burst_settle(BurstObject *self, al_call *call)
{
    al_state *st = self->st;
    PyObject *callbacks = NULL;
    int done = al_task_done(st, call->task);
    if (done > 0) {
        return burst_notify(self, call);
    }
    if (done == 0) {
        callbacks = PyObject_GetAttr(call->task, st->s__callbacks);
    }
    if (callbacks != NULL && PyList_Check(callbacks)) {
        /* Up to 3.13.0 it may be the Task's own, which taking off changes. */
        Py_SETREF(callbacks,
                  AL_ALLOC(PyList_GetSlice(callbacks, 0,
                                           PyList_GET_SIZE(callbacks))));
    }
    if (callbacks == NULL) {
        al_loop_report(st, self->loop, "looking at a task failed", call->task);
    }
    burst_watch(self, call, callbacks == NULL ? Py_None : callbacks);
    Py_XDECREF(callbacks);
    return 0;
}

/* -------------------------------------------------------------- running */

/* Enter the context and make the call; the answer is dropped. */
static int
call_make(al_call *call)
{
    if (PyContext_Enter(call->context) < 0) {
        return -1;
    }
    PyObject *answer = call->arg == NULL
                           ? PyObject_CallNoArgs(call->call)
                           : PyObject_CallOneArg(call->call, call->arg);
    PyObject *error = answer == NULL ? PyErr_GetRaisedException() : NULL;
    int left = PyContext_Exit(call->context);
    Py_XDECREF(answer);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    return left;
}

/* What a Handle does with an error: KeyboardInterrupt and SystemExit end the
   loop's run, -1; of any other the loop is told. */
static int
burst_take_error(BurstObject *self)
{
    if (burst_is_exit()) {
        return -1;
    }
    if (al_loop_tell(self->st, self->loop, "Exception in a callback", NULL)
        == 0)
    {
        return 0;
    }
    if (burst_is_exit()) { /* the handler's own */
        return -1;
    }
    PyErr_WriteUnraisable(self->loop);
    return 0;
}

/* One call, and what belongs to it.  -1 with an exception that ends the
   loop's run. */
static int
burst_make(BurstObject *self, al_call *call)
{
    bool ours = call->watcher != NULL && burst_take_watcher(self, call);
    int failed = call_make(call);
    if (ours) {
        PyObject *error = failed < 0 ? PyErr_GetRaisedException() : NULL;
        int settled = burst_settle(self, call);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
        else if (settled < 0) {
            return -1;
        }
    }
    return failed < 0 ? burst_take_error(self) : 0;
}

/* Let nobody join the last burst: the queue may get as long as it was. */
static void
burst_shut(al_state *st, PyObject *ready)
{
    PyObject *callback = burst_last(st, ready, st->s__callback);
    if (callback != NULL && (PyObject *)Py_TYPE(callback) == st->Burst) {
        ((BurstObject *)callback)->behind = -1;
    }
    Py_XDECREF(callback);
}

/* A new handle of ours at the queue's front, or -1 with an exception. */
static int
burst_schedule_first(BurstObject *self, PyObject *ready)
{
    al_state *st = self->st;
    PyObject *context = AL_ALLOC(PyContext_CopyCurrent());
    PyObject *handle =
        context == NULL ? NULL
                        : AL_ALLOC(PyObject_CallFunctionObjArgs(
                              st->Handle, (PyObject *)self, st->no_args,
                              self->loop, context, NULL));
    PyObject *none =
        handle == NULL
            ? NULL
            : PyObject_CallMethodOneArg(ready, st->s_appendleft, handle);
    Py_XDECREF(none);
    Py_XDECREF(handle);
    Py_XDECREF(context);
    return none == NULL ? -1 : 0;
}

/* The loop's run ends: the rest goes back to the front of the queue, where
   its handles would be; what fails is tried once more, for it must not be
   lost.  Keeps the raised exception. */
static void
burst_put_back(BurstObject *self)
{
    if (self->next == self->count) {
        return;
    }
    PyObject *error = PyErr_GetRaisedException();
    PyObject *ready = burst_ready(self->st, self->loop);
    int failed = -1;
    self->behind = -1;
    if (ready != NULL) {
        burst_shut(self->st, ready);
    }
    for (int tries = 2; failed < 0 && tries > 0; tries--) {
        PyErr_Clear(); /* another exit too: one is on its way */
        failed = ready == NULL ? burst_schedule(self)
                               : burst_schedule_first(self, ready);
    }
    if (failed < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(ready);
    PyErr_SetRaisedException(error);
}

/* Drop the calls that are left. */
static void
burst_empty(BurstObject *self)
{
    while (self->next < self->count) {
        al_call call = self->calls[self->next++];
        call_clear(&call);
    }
    PyMem_Free(self->calls);
    self->calls = NULL;
    self->next = self->count = self->room = 0;
}

static PyObject *
burst_call(PyObject *op, PyObject *Py_UNUSED(args),
           PyObject *Py_UNUSED(kwargs))
{
    BurstObject *self = (BurstObject *)op;
    while (self->next < self->count) {
        al_call call = self->calls[self->next++];
        int made = burst_make(self, &call);
        call_clear(&call);
        if (made < 0) {
            burst_put_back(self);
            return NULL;
        }
    }
    burst_empty(self);
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------- GC and spec */

static int
burst_traverse(PyObject *op, visitproc visit, void *arg)
{
    BurstObject *self = (BurstObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    for (Py_ssize_t i = self->next; i < self->count; i++) {
        al_call *call = &self->calls[i];
        Py_VISIT(call->call);
        Py_VISIT(call->arg);
        Py_VISIT(call->context);
        Py_VISIT(call->task);
        Py_VISIT(call->watcher);
        Py_VISIT(call->told_in);
    }
    return 0;
}

static int
burst_clear(PyObject *op)
{
    BurstObject *self = (BurstObject *)op;
    burst_empty(self);
    Py_CLEAR(self->loop);
    return 0;
}

static void
burst_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)burst_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(burst_doc,
"Calls that the loop would make one after the other, in one handle.");

static PyType_Slot burst_slots[] = {
    {Py_tp_doc, (void *)burst_doc},
    {Py_tp_call, burst_call},
    {Py_tp_traverse, burst_traverse},
    {Py_tp_clear, burst_clear},
    {Py_tp_dealloc, burst_dealloc},
    {0, NULL},
};

static PyType_Spec burst_spec = {
    .name = "pyasynclife._core.Burst",
    .basicsize = sizeof(BurstObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = burst_slots,
};

int
al_burst_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Burst, &burst_spec, false);
}
