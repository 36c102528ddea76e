/* Calls that the loop would make one after the other, in one handle.
 *
 * Most of what a Task costs are call_soon() and the Handle for its first step,
 * for its wake-up when cancelled, and for its done callback.  A queue is one
 * callback of the loop that makes many such calls.  A call joins it only while
 * its handle is the last that the loop has scheduled, and while the loop has
 * gone on to no other handle, so everything happens in the order and in the
 * turn in which it would happen without.
 *
 * A queue owns its calls, and its place in them is moved on before each is
 * made.  While there are more, its handle stands at the front of the loop's
 * queue, where their handles would be: there the rest is found by who runs the
 * loop from inside a call, and by the loop's next run should a call end this
 * one.  uvloop cannot be run from inside a call, so there it is put there only
 * when one ends the run.  A queue that is called without calls does nothing,
 * so a handle too many does no harm.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/fast_path.h"
#include "aio/first_callback.h"
#include "aio/call_queue.h"

#define BURST_ROOM 4

/* As many calls as a queue takes; then comes another, right behind it.  Their
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
} CallQueueObject;

/* ------------------------------------------------------------- the queue */

/* What a handle in the queue holds of that very type: the queue that it calls,
   or the tuple of what it calls with (new).  NULL without an exception if
   there is none, or if the handle is not of the loop's own type: its owner
   wants to see each call. */
static PyObject *
call_queue_peek(al_state *st, PyObject *loop, PyObject *ready, Py_ssize_t at,
                PyObject *wanted)
{
    PyObject *handle = at >= 0 ? PySequence_GetItem(ready, at) : NULL;
    PyObject *found = NULL;
    if (handle == NULL) {
        PyErr_Clear(); /* another thread was quicker: nothing is there */
    }
    else if ((PyObject *)Py_TYPE(handle) == st->Handle
             || al_fast_path_is_native(st, loop))
    {
        found = al_fast_path_held(handle, Py_TYPE(handle), wanted);
    }
    Py_XDECREF(handle);
    return found;
}

/* The queue that may be joined (new); else NULL, without an exception.  It is
   not full, is scheduled last, and the queue as long as then: what was
   scheduled before it by an earlier turn would otherwise have it run a turn
   too early.  A queue that runs may make the queue as long again, so none must
   have begun. */
static CallQueueObject *
call_queue_open(al_state *st, PyObject *loop, PyObject *ready)
{
    Py_ssize_t n = PySequence_Size(ready);
    CallQueueObject *open = (CallQueueObject *)call_queue_peek(
        st, loop, ready, n - 1, st->CallQueue);
    if (open != NULL
        && (open->behind != n || open->run != st->call_queues_run
            || open->count == BURST_MOST))
    {
        Py_CLEAR(open);
    }
    return open;
}

/* Where in the queue the handles of a Task's own callbacks begin, which its
   end has just scheduled; -1: there are none. */
static Py_ssize_t
call_queue_own(al_state *st, PyObject *loop, PyObject *ready, PyObject *task)
{
    Py_ssize_t n = PySequence_Size(ready), at = n;
    bool its = true;
    while (its) {
        PyObject *args = call_queue_peek(st, loop, ready, at - 1,
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
call_queue_move(al_state *st, PyObject *ready, Py_ssize_t at)
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
        none = handle == NULL
                   ? NULL
                   : PyObject_CallMethodOneArg(ready, st->s_append, handle);
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
call_queue_push(CallQueueObject *self, al_call *call)
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
call_queue_find(CallQueueObject *self)
{
    al_state *st = self->st;
    PyObject *ready = al_fast_path_queue(st, self->loop);
    Py_ssize_t n = ready == NULL ? 0 : PySequence_Size(ready);
    PyObject *last =
        n == 0 ? NULL
               : call_queue_peek(st, self->loop, ready, n - 1, st->CallQueue);
    Py_XSETREF(self->handle, last == (PyObject *)self
                                 ? PySequence_GetItem(ready, n - 1)
                                 : NULL);
    if (self->handle == NULL) {
        PyErr_Clear(); /* another thread was quicker: then it has one call */
    }
    else {
        self->behind = n;
        self->run = st->call_queues_run;
    }
    Py_XDECREF(last);
    Py_XDECREF(ready);
}

/* loop.call_soon(queue), in a context of its own: that of a call may be one
   that is not to be entered twice.  -1 with an exception: if it came from a
   signal the queue may be scheduled all the same. */
static int
call_queue_schedule(CallQueueObject *self)
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
    call_queue_find(self);
    return 0;
}

/* Schedule a new queue of one call, its handle `at` a place in the queue; -1:
   at the end.  -1 with an exception: the call is the caller's again, and a
   handle that the loop may have does nothing. */
static int
call_queue_begin(al_state *st, PyObject *loop, al_call *call, PyObject *ready,
                 Py_ssize_t at)
{
    CallQueueObject *self = AL_ALLOC(
        PyObject_GC_New(CallQueueObject, (PyTypeObject *)st->CallQueue));
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
    int begun = call_queue_push(self, call);
    if (begun == 0) {
        begun = call_queue_schedule(self);
    }
    if (begun < 0 && self->next < self->count) {
        *call = self->calls[--self->count];
    }
    if (at >= 0 && self->handle != NULL) {
        call_queue_move(st, ready, at);
    }
    Py_DECREF((PyObject *)self);
    return begun;
}

/* al_call_queue_add; a new queue goes before the handles of the callbacks of
   `task`, which may be NULL. */
static int
call_queue_add(al_state *st, PyObject *loop, al_call *call, PyObject *task)
{
    PyObject *ready = al_fast_path_queue(st, loop);
    CallQueueObject *open =
        ready == NULL ? NULL : call_queue_open(st, loop, ready);
    int queued = -1;
    if (open != NULL) {
        queued = call_queue_push(open, call);
        Py_DECREF((PyObject *)open);
    }
    if (queued < 0) {
        PyErr_Clear(); /* MemoryError: a new queue may do with less */
        Py_ssize_t own = ready == NULL || task == NULL
                             ? -1
                             : call_queue_own(st, loop, ready, task);
        queued = call_queue_begin(st, loop, call, ready, own);
    }
    Py_XDECREF(ready);
    return queued;
}

int
al_call_queue_add(al_state *st, PyObject *loop, al_call *call)
{
    return call_queue_add(st, loop, call, NULL);
}

int
al_call_queue_deliver(al_state *st, PyObject *loop, al_call *call,
                      PyObject *task)
{
    if (call_queue_add(st, loop, call, task) == 0) {
        return 0;
    }
    PyObject *error = PyErr_GetRaisedException();
    int queued = call_queue_add(st, loop, call, task);
    if (queued == 0 && PyErr_GivenExceptionMatches(error, PyExc_MemoryError)) {
        Py_DECREF(error);
        return 0;
    }
    return al_loop_raise_more_severe(error);
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
call_queue_take_error(CallQueueObject *self, al_call *call)
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
        (void)al_loop_raise_more_severe(error);
        return al_loop_handle_error(self->st, self->loop,
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
call_queue_notify(CallQueueObject *self, al_call *call)
{
    al_call notice = {
        .call = Py_NewRef(call->watcher),
        .arg = Py_NewRef(call->task),
        .context = Py_NewRef(call->callback_context),
    };
    int told =
        al_call_queue_deliver(self->st, self->loop, &notice, call->task);
    if (notice.call != NULL) {
        PyObject *error = PyErr_GetRaisedException();
        told =
            call_make(&notice) < 0 ? call_queue_take_error(self, &notice) : 0;
        if (told < 0 || !PyErr_GivenExceptionMatches(error, PyExc_MemoryError))
        {
            told = al_loop_raise_more_severe(error);
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
call_queue_settle(CallQueueObject *self, al_call *call)
{
    int done = al_task_done(self->st, call->task);
    if (done > 0) {
        return call_queue_notify(self, call);
    }
    if (done < 0) {
        PyErr_Clear(); /* MemoryError: a Task that is done takes one too */
    }
    return al_first_callback_put(self->st, self->loop, call->task,
                                 call->watcher, call->callback_context);
}

/* One call, and what belongs to it.  Before a Task's first step nobody has put
   the watcher on it.  -1 with an exception that ends the loop's run. */
static int
call_queue_make(CallQueueObject *self, al_call *call)
{
    bool ours =
        call->watcher != NULL
        && (call->arg == NULL
            || al_first_callback_take(self->st, call->task, call->watcher));
    PyObject *error = call_make(call) < 0 ? PyErr_GetRaisedException() : NULL;
    int made = ours && call_queue_settle(self, call) < 0
                   ? call_queue_take_error(self, call)
                   : 0;
    if (error == NULL) {
        return made;
    }
    PyObject *exit = made < 0 ? PyErr_GetRaisedException() : NULL;
    PyErr_SetRaisedException(error);
    made = call_queue_take_error(self, call);
    return exit == NULL ? made : al_loop_raise_more_severe(exit);
}

/* Tell whether the loop may be run from inside a call: uvloop cannot be. */
static bool
call_queue_nests(const CallQueueObject *self)
{
    return self->handle != NULL
           && !al_fast_path_is_native(self->st, self->loop);
}

/* Have the rest found at the queue's front, in a context that nobody has
   entered.  Tells whether it stands there; if not it is tried again. */
static bool
call_queue_stand(CallQueueObject *self)
{
    al_state *st = self->st;
    PyObject *ready =
        self->handle == NULL ? NULL : al_fast_path_queue(st, self->loop);
    PyObject *context = NULL, *none = NULL;
    bool fresh =
        ready != NULL && !call_queue_nests(self); /* it is left by then */
    if (ready != NULL && !fresh) {
        context = AL_ALLOC(PyContext_CopyCurrent());
        fresh =
            context != NULL
            && PyObject_SetAttr(self->handle, st->s__context, context) == 0;
    }
    if (fresh) {
        none =
            PyObject_CallMethodOneArg(ready, st->s_appendleft, self->handle);
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
call_queue_step_down(CallQueueObject *self)
{
    al_state *st = self->st;
    PyObject *ready = al_fast_path_queue(st, self->loop);
    PyObject *first = ready == NULL ? NULL : PySequence_GetItem(ready, 0);
    PyObject *taken = NULL;
    if (first != NULL && first == self->handle) {
        CallQueueObject *open = call_queue_open(st, self->loop, ready);
        taken = PyObject_CallMethodNoArgs(ready, st->s_popleft);
        if (open != NULL && taken != NULL) {
            open->behind--;
        }
        Py_XDECREF((PyObject *)open);
    }
    if (taken == NULL) {
        PyErr_Clear(); /* somebody took it, or will call an empty queue */
    }
    Py_XDECREF(taken);
    Py_XDECREF(first);
    Py_XDECREF(ready);
}

/* The loop's run ends, and the rest is not in its queue: it must not be lost.
   Keeps the raised exception. */
static void
call_queue_put_back(CallQueueObject *self)
{
    PyObject *error = PyErr_GetRaisedException();
    if (!call_queue_stand(self) && call_queue_schedule(self) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    self->behind = -1; /* it is not to be joined */
    PyErr_SetRaisedException(error);
}

/* Drop the calls that are left. */
static void
call_queue_empty(CallQueueObject *self)
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
call_queue_call(PyObject *op, PyObject *Py_UNUSED(args),
                PyObject *Py_UNUSED(kwargs))
{
    CallQueueObject *self = (CallQueueObject *)op;
    bool stands = false;
    int made = 0;
    self->behind = -1;
    self->st->call_queues_run++;
    while (made == 0 && self->next < self->count) {
        al_call call = self->calls[self->next++];
        bool rest = self->next < self->count;
        if (stands && !rest) {
            call_queue_step_down(self);
        }
        stands =
            rest
            && (stands || (call_queue_nests(self) && call_queue_stand(self)));
        made = call_queue_make(self, &call);
        al_call_clear(&call);
    }
    if (self->next == self->count) {
        call_queue_empty(self);
        Py_CLEAR(self->handle);
    }
    else if (!stands) {
        call_queue_put_back(self);
    }
    return made < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---------------------------------------------------------- GC and spec */

static int
call_queue_traverse(PyObject *op, visitproc visit, void *arg)
{
    CallQueueObject *self = (CallQueueObject *)op;
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
        Py_VISIT(call->callback_context);
    }
    return 0;
}

static int
call_queue_clear(PyObject *op)
{
    CallQueueObject *self = (CallQueueObject *)op;
    call_queue_empty(self);
    Py_CLEAR(self->handle);
    Py_CLEAR(self->loop);
    return 0;
}

PyDoc_STRVAR(call_queue_doc,
"Calls that the loop would make one after the other, in one handle.");

static PyType_Slot call_queue_slots[] = {
    {Py_tp_doc, (void *)call_queue_doc},
    {Py_tp_call, call_queue_call},
    {Py_tp_traverse, call_queue_traverse},
    {Py_tp_clear, call_queue_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec call_queue_spec = {
    .name = "pyasynclife._core.Burst",
    .basicsize = sizeof(CallQueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = call_queue_slots,
};

int
al_call_queue_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->CallQueue, &call_queue_spec, false);
}
