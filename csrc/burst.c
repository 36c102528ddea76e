/* Calls that the loop would make one after the other, in one handle.
 *
 * Most of what a Task costs are call_soon() and the Handle for its first step,
 * for its wake-up when cancelled, and for its done callback.  A burst is one
 * callback of the loop that makes many such calls.  A call joins it only while
 * its handle is the last that the loop has scheduled, and while the loop has
 * gone on to no other handle, so everything happens in the order and in the
 * turn in which it would happen without.
 *
 * A burst owns its calls, and its place in them is moved on before each is
 * made.  While there are more, its handle stands at the front of the loop's
 * queue, where their handles would be: there the rest is found by who runs the
 * loop from inside a call, and by the loop's next run should a call end this
 * one.  uvloop cannot be run from inside a call, so there it is put there only
 * when one ends the run.  A burst that is called without calls does nothing, so
 * a handle too many does no harm.
 */
#include "compat.h"
#include "fault.h"
#include "state.h"
#include "loop.h"
#include "stock.h"
#include "watcher.h"
#include "burst.h"

#define BURST_ROOM 4

/* As many calls as a burst takes; then comes another, right behind it.  Their
   place is used again by those that follow: the pages of a bigger one would be
   had anew from the system each time. */
#define BURST_MOST 512

typedef struct {
    PyObject_HEAD
    al_state *st;
    PyObject *loop;   /* owned */
    PyObject *handle; /* owned: the loop's for us; NULL: not scheduled, over */
    al_call *calls;   /* owned, from `next` to `count` */
    Py_ssize_t next, count, room;
    Py_ssize_t behind; /* the queue's length with our handle; -1: unknown */
    unsigned long run; /* how many bursts had been run when it was scheduled */
} BurstObject;

/* ------------------------------------------------------------- the queue */

/* What a handle in the queue holds of that very type: the burst that it calls,
   or the tuple of what it calls with (new).  NULL without an exception if there
   is none, or if the handle is not of the loop's own type: its owner wants to
   see each call. */
static PyObject *
burst_peek(al_state *st, PyObject *loop, PyObject *ready, Py_ssize_t at,
           PyObject *wanted)
{
    PyObject *handle = at >= 0 ? PySequence_GetItem(ready, at) : NULL;
    PyObject *found = NULL;
    if (handle == NULL) {
        PyErr_Clear(); /* another thread was quicker: nothing is there */
    }
    else if ((PyObject *)Py_TYPE(handle) == st->Handle
             || al_stock_is_native(st, loop))
    {
        found = al_stock_held(handle, Py_TYPE(handle), wanted);
    }
    Py_XDECREF(handle);
    return found;
}

/* The burst that may be joined (new); else NULL, without an exception.  It is
   not full, is scheduled last, and the queue as long as then: what was
   scheduled before it by an earlier turn would otherwise have it run a turn too
   early.  A burst that runs may make the queue as long again, so none must have
   begun. */
static BurstObject *
burst_open(al_state *st, PyObject *loop, PyObject *ready)
{
    Py_ssize_t n = PySequence_Size(ready);
    BurstObject *open =
        (BurstObject *)burst_peek(st, loop, ready, n - 1, st->Burst);
    if (open != NULL
        && (open->behind != n || open->run != st->bursts_run
            || open->count == BURST_MOST))
    {
        Py_CLEAR(open);
    }
    return open;
}

/* Where in the queue the handles of a Task's own callbacks begin, which its end
   has just scheduled; -1: there are none. */
static Py_ssize_t
burst_own(al_state *st, PyObject *loop, PyObject *ready, PyObject *task)
{
    Py_ssize_t n = PySequence_Size(ready), at = n;
    bool its = true;
    while (its) {
        PyObject *args = burst_peek(st, loop, ready, at - 1,
                                    (PyObject *)&PyTuple_Type);
        its = args != NULL && PyTuple_GET_SIZE(args) == 1
              && PyTuple_GET_ITEM(args, 0) == task;
        at -= its;
        Py_XDECREF(args);
    }
    return at < n ? at : -1;
}

/* Move the last handle to a place further in front. */
static void
burst_move(al_state *st, PyObject *ready, Py_ssize_t at)
{
    PyObject *where = AL_ALLOC(PyLong_FromSsize_t(at));
    PyObject *handle =
        where == NULL ? NULL : PyObject_CallMethodNoArgs(ready, st->s_pop);
    PyObject *none = handle == NULL
                         ? NULL
                         : PyObject_CallMethodObjArgs(ready, st->s_insert,
                                                      where, handle, NULL);
    if (none == NULL) {
        PyErr_Clear(); /* MemoryError: then it stays the last */
        none = handle == NULL ? NULL
                              : PyObject_CallMethodOneArg(
                                    ready, st->s_append, handle);
    }
    if (none == NULL) {
        PyErr_Clear(); /* nothing was popped: the room for it is there */
    }
    Py_XDECREF(none);
    Py_XDECREF(handle);
    Py_XDECREF(where);
}

/* ------------------------------------------------------------ scheduling */

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

/* Find our handle, which is the queue's last if nobody has put something
   between the loop and us: what call_soon() answers need not be it. */
static void
burst_find(BurstObject *self)
{
    al_state *st = self->st;
    PyObject *ready = al_stock_queue(st, self->loop);
    Py_ssize_t n = ready == NULL ? 0 : PySequence_Size(ready);
    PyObject *last = n == 0 ? NULL
                            : burst_peek(st, self->loop, ready, n - 1,
                                         st->Burst);
    Py_XSETREF(self->handle, last == (PyObject *)self
                                 ? PySequence_GetItem(ready, n - 1)
                                 : NULL);
    if (self->handle == NULL) {
        PyErr_Clear(); /* another thread was quicker: then it has one call */
    }
    else {
        self->behind = n;
        self->run = st->bursts_run;
    }
    Py_XDECREF(last);
    Py_XDECREF(ready);
}

/* loop.call_soon(burst), in a context of its own: that of a call may be one
   that is not to be entered twice.  -1 with an exception: if it came from a
   signal the burst may be scheduled all the same. */
static int
burst_schedule(BurstObject *self)
{
    PyObject *context = AL_ALLOC(PyContext_CopyCurrent());
    if (context == NULL) {
        return -1;
    }
    PyObject *stack[4] = {NULL, self->loop, (PyObject *)self, context};
    PyObject *answer = AL_ALLOC(PyObject_VectorcallMethod(
        self->st->s_call_soon, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        self->st->kw_context));
    Py_DECREF(context);
    Py_CLEAR(self->handle);
    if (answer == NULL) {
        return -1;
    }
    Py_DECREF(answer);
    burst_find(self);
    return 0;
}

/* Schedule a new burst of one call, its handle `at` a place in the queue; -1:
   at the end.  -1 with an exception: the call is the caller's again, and a
   handle that the loop may have does nothing. */
static int
burst_begin(al_state *st, PyObject *loop, al_call *call, PyObject *ready,
            Py_ssize_t at)
{
    BurstObject *self =
        AL_ALLOC(PyObject_GC_New(BurstObject, (PyTypeObject *)st->Burst));
    if (self == NULL) {
        return -1;
    }
    self->st = st;
    self->loop = Py_NewRef(loop);
    self->handle = NULL;
    self->calls = NULL;
    self->next = self->count = self->room = 0;
    self->behind = -1;
    self->run = 0;
    PyObject_GC_Track((PyObject *)self);
    int begun = burst_push(self, call);
    if (begun == 0) {
        begun = burst_schedule(self);
    }
    if (begun < 0 && self->next < self->count) {
        *call = self->calls[--self->count];
    }
    if (at >= 0 && self->handle != NULL) {
        burst_move(st, ready, at);
    }
    Py_DECREF((PyObject *)self);
    return begun;
}

/* al_burst_queue; a new burst goes before the handles of the callbacks of
   `task`, which may be NULL. */
static int
burst_queue(al_state *st, PyObject *loop, al_call *call, PyObject *task)
{
    PyObject *ready = al_stock_queue(st, loop);
    BurstObject *open = ready == NULL ? NULL : burst_open(st, loop, ready);
    int queued = -1;
    if (open != NULL) {
        queued = burst_push(open, call);
        Py_DECREF((PyObject *)open);
    }
    if (queued < 0) {
        PyErr_Clear(); /* MemoryError: a new burst may do with less */
        Py_ssize_t own = ready == NULL || task == NULL
                             ? -1
                             : burst_own(st, loop, ready, task);
        queued = burst_begin(st, loop, call, ready, own);
    }
    Py_XDECREF(ready);
    return queued;
}

int
al_burst_queue(al_state *st, PyObject *loop, al_call *call)
{
    return burst_queue(st, loop, call, NULL);
}

int
al_burst_deliver(al_state *st, PyObject *loop, al_call *call, PyObject *task)
{
    if (burst_queue(st, loop, call, task) == 0) {
        return 0;
    }
    PyObject *error = PyErr_GetRaisedException();
    int queued = burst_queue(st, loop, call, task);
    if (queued == 0 && PyErr_GivenExceptionMatches(error, PyExc_MemoryError)) {
        Py_DECREF(error);
        return 0;
    }
    return al_loop_raise_graver(error);
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

/* What a Handle of this call would do with its error: KeyboardInterrupt and
   SystemExit end the loop's run, -1; of any other the loop is told. */
static int
burst_take_error(BurstObject *self, al_call *call)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *none = NULL;
    if (!al_loop_is_exit(error)) {
        PyObject *stack[] = {self->loop, error, call->context, call->call,
                             call->arg};
        none = PyObject_Vectorcall(self->st->report_callback_error, stack,
                                   call->arg == NULL ? 4 : 5, NULL);
    }
    if (none == NULL) {
        /* An exit, its own or the handler's; else it could not be told. */
        (void)al_loop_raise_graver(error);
        return al_loop_take_error(self->st, self->loop,
                                  "Exception in a callback", NULL);
    }
    Py_DECREF(none);
    Py_DECREF(error);
    return 0;
}

/* Have the watcher of a Task that has ended called next; if that cannot be, at
   once, for who waits must hear of it.  -1 with an exception, the watcher
   being told. */
static int
burst_notify(BurstObject *self, al_call *call)
{
    al_call notice = {
        .call = Py_NewRef(call->watcher),
        .arg = Py_NewRef(call->task),
        .context = Py_NewRef(call->told_in),
    };
    int told = al_burst_deliver(self->st, self->loop, &notice, call->task);
    if (notice.call != NULL) {
        PyObject *error = PyErr_GetRaisedException();
        told = call_make(&notice) < 0 ? burst_take_error(self, &notice) : 0;
        if (told < 0 || !PyErr_GivenExceptionMatches(error, PyExc_MemoryError))
        {
            told = al_loop_raise_graver(error);
        }
        else {
            Py_DECREF(error);
        }
    }
    al_call_clear(&notice);
    return told;
}

/* After a step for which the watcher was ours.  -1 with an exception. */
static int
burst_settle(BurstObject *self, al_call *call)
{
    int done = al_task_done(self->st, call->task);
    if (done > 0) {
        return burst_notify(self, call);
    }
    if (done < 0) {
        PyErr_Clear(); /* MemoryError: a Task that is done takes one too */
    }
    return al_watcher_put(self->st, self->loop, call->task, call->watcher,
                          call->told_in);
}

/* One call, and what belongs to it.  Before a Task's first step nobody has put
   the watcher on it.  -1 with an exception that ends the loop's run. */
static int
burst_make(BurstObject *self, al_call *call)
{
    bool ours = call->watcher != NULL
                && (call->arg == NULL
                    || al_watcher_take(self->st, call->task, call->watcher));
    PyObject *error = call_make(call) < 0 ? PyErr_GetRaisedException() : NULL;
    int made = ours && burst_settle(self, call) < 0
                   ? burst_take_error(self, call)
                   : 0;
    if (error == NULL) {
        return made;
    }
    PyObject *exit = made < 0 ? PyErr_GetRaisedException() : NULL;
    PyErr_SetRaisedException(error);
    made = burst_take_error(self, call);
    return exit == NULL ? made : al_loop_raise_graver(exit);
}

/* Tell whether the loop may be run from inside a call: uvloop cannot be. */
static bool
burst_nests(const BurstObject *self)
{
    return self->handle != NULL && !al_stock_is_native(self->st, self->loop);
}

/* Have the rest found at the queue's front, in a context that nobody has
   entered.  Tells whether it stands there; if not it is tried again. */
static bool
burst_stand(BurstObject *self)
{
    al_state *st = self->st;
    PyObject *ready =
        self->handle == NULL ? NULL : al_stock_queue(st, self->loop);
    PyObject *context = NULL, *none = NULL;
    bool fresh = ready != NULL && !burst_nests(self); /* it is left by then */
    if (ready != NULL && !fresh) {
        context = AL_ALLOC(PyContext_CopyCurrent());
        fresh = context != NULL
                && PyObject_SetAttr(self->handle, st->s__context, context) == 0;
    }
    if (fresh) {
        none = PyObject_CallMethodOneArg(ready, st->s_appendleft,
                                         self->handle);
    }
    if (none == NULL) {
        PyErr_Clear(); /* MemoryError */
    }
    Py_XDECREF(none);
    Py_XDECREF(context);
    Py_XDECREF(ready);
    return none != NULL;
}

/* There is no rest: take our handle from the queue's front if it is there.
   What may be joined may be joined all the same. */
static void
burst_step_down(BurstObject *self)
{
    al_state *st = self->st;
    PyObject *ready = al_stock_queue(st, self->loop);
    PyObject *first = ready == NULL ? NULL : PySequence_GetItem(ready, 0);
    PyObject *taken = NULL;
    if (first != NULL && first == self->handle) {
        BurstObject *open = burst_open(st, self->loop, ready);
        taken = PyObject_CallMethodNoArgs(ready, st->s_popleft);
        if (open != NULL && taken != NULL) {
            open->behind--;
        }
        Py_XDECREF((PyObject *)open);
    }
    if (taken == NULL) {
        PyErr_Clear(); /* somebody took it, or will call an empty burst */
    }
    Py_XDECREF(taken);
    Py_XDECREF(first);
    Py_XDECREF(ready);
}

/* The loop's run ends, and the rest is not in its queue: it must not be lost.
   Keeps the raised exception. */
static void
burst_put_back(BurstObject *self)
{
    PyObject *error = PyErr_GetRaisedException();
    if (!burst_stand(self) && burst_schedule(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    self->behind = -1; /* it is not to be joined */
    PyErr_SetRaisedException(error);
}

/* Drop the calls that are left. */
static void
burst_empty(BurstObject *self)
{
    while (self->next < self->count) {
        al_call call = self->calls[self->next++];
        al_call_clear(&call);
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
    bool stands = false;
    int made = 0;
    self->behind = -1;
    self->st->bursts_run++;
    while (made == 0 && self->next < self->count) {
        al_call call = self->calls[self->next++];
        bool rest = self->next < self->count;
        if (stands && !rest) {
            burst_step_down(self);
        }
        stands = rest && (stands || (burst_nests(self) && burst_stand(self)));
        made = burst_make(self, &call);
        al_call_clear(&call);
    }
    if (self->next == self->count) {
        burst_empty(self);
        Py_CLEAR(self->handle);
    }
    else if (!stands) {
        burst_put_back(self);
    }
    return made < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---------------------------------------------------------- GC and spec */

static int
burst_traverse(PyObject *op, visitproc visit, void *arg)
{
    BurstObject *self = (BurstObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->loop);
    Py_VISIT(self->handle);
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
    Py_CLEAR(self->handle);
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
