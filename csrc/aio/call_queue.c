/* Calls that the loop would make one after the other, in one handle.
 *
 * Most of what a Task costs is call_soon() and the Handle: for its first step,
 * for its wake-up when it is cancelled, and for its done callback.  A call
 * queue is one callback of the loop that makes many such calls.  The rules R1
 * to R7 below are those of docs/internals/capture.md.
 *
 * Who holds what:
 *
 *     loop._ready                 the deque that this file calls "ready queue"
 *       Handle                    made by call_soon(); its callback is ours
 *         CallQueueObject         .handle refers back to that Handle, until
 *           .calls                the last call was made
 *             [next .. count - 1] each an al_call, which owns
 *               .call             a step of a Task (it holds the Task)
 *               .task             the Task, looked at after the step
 *               .on_done          our done callback, and its context
 *
 * The order of events, one line for each loop iteration:
 *
 *     a child that returns in its first step
 *       1  create_task()    its step joins the open queue, or opens one
 *       2  queue is called  step; done: on_done joins the next open queue
 *       3  queue is called  on_done(task): the group or registry is notified
 *
 *     a child that suspends
 *       2  queue is called  step; not done: on_done becomes the first of the
 *                           Task's done callbacks; from here on the Task is
 *                           one like any other
 *
 *     a child that waits for a future and is cancelled
 *       n    cancel()         its wake-up joins the open queue (capture.c)
 *       n+1  queue is called  on_done is taken off the Task; step; then as
 *                             above: joins a queue, or becomes first again
 *       n+2  queue is called  on_done(task)
 *
 * So every event comes in the order and in the loop iteration in which it
 * would come from asyncio.  A child that is cancelled before its first step is
 * the first case: asyncio throws the CancelledError in that step.
 *
 * Danger spots.
 *
 * Re-entrancy: any call may add calls, run the loop from inside (nest_asyncio)
 * or drop the queue.  So a call is moved out of the queue before it is made
 * (R6), and while there are more the queue's handle stands at the front of the
 * ready queue, where their handles would stand: a nested run of the loop finds
 * the rest there.  A queue that is called when it is empty does nothing, so a
 * handle too many does no harm.
 *
 * Exits: KeyboardInterrupt and SystemExit end the loop's run in the middle of
 * the calls.  The rest stands at the front already, or is put there, and the
 * loop's next run goes on with it (R4).  uvloop cannot be run from inside a
 * call, so there the rest is put in front only when an exit ends the run.
 *
 * Memory: a call that cannot be scheduled is tried a second time, and made at
 * once as the last resort: a group would wait for its child for ever.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/done_callback.h"
#include "aio/fast_path.h"
#include "aio/call_queue.h"

#define CALL_QUEUE_FIRST_ROOM 4

/* A full queue takes no more calls, and another one follows right behind it in
   the same iteration (R5).  Its block of memory is used again by the queue
   that follows: bigger blocks would be fetched anew from the system. */
#define CALL_QUEUE_MAX 512

typedef struct {
    PyObject_HEAD
    al_state *st;
    PyObject *loop;   /* owned */
    PyObject *handle; /* owned: the loop's for us; NULL: unknown, or done */
    al_call *calls;   /* owned, from `next` to `count` */
    Py_ssize_t next, count, room;
    Py_ssize_t place;     /* length of the ready queue up to our handle; -1:
                             unknown, and nothing may join */
    unsigned long run_no; /* st->call_queues_run when it was scheduled */
} CallQueueObject;

/* ----------------------------------------------------- the ready queue */

/* Return the object of exactly type `wanted` to which a handle in the ready
   queue refers: its call queue, or its tuple of arguments (new).  NULL without
   an exception if there is none, or if the handle is not of the loop's own
   type, for then its author wants to see each call. */
static PyObject *
call_queue_read_handle(al_state *st, PyObject *loop, PyObject *ready,
                       Py_ssize_t at, PyObject *wanted)
{
    PyObject *handle = at >= 0 ? PySequence_GetItem(ready, at) : NULL;
    PyObject *found = NULL;
    if (handle == NULL) {
        PyErr_Clear(); /* another thread was faster: nothing is there */
    }
    else if ((PyObject *)Py_TYPE(handle) == st->Handle
             && wanted == st->CallQueue && st->handle_callback != Py_None)
    {
        /* The usual case takes no search: a cancelled handle has None. */
        found = al_object_slot(handle, st->handle_callback);
        if (found != NULL && (PyObject *)Py_TYPE(found) != wanted) {
            Py_CLEAR(found);
        }
    }
    else if ((PyObject *)Py_TYPE(handle) == st->Handle
             || al_fast_path_is_uvloop(st, loop))
    {
        found = al_fast_path_find_referent(handle, Py_TYPE(handle), wanted);
    }
    Py_XDECREF(handle);
    return found;
}

/* Return the queue that a call may join (new); else NULL, without an
   exception.  This is R1: its handle must stand last in the ready queue, or
   something scheduled since would run too late.  The ready queue must be as
   long as when that handle was scheduled, and no queue may have run since, for
   one that runs may make it as long again: otherwise the loop has gone on to
   the iteration of that handle, and the call would run an iteration early. */
static CallQueueObject *
call_queue_find_open(al_state *st, PyObject *loop, PyObject *ready)
{
    Py_ssize_t n = PySequence_Size(ready);
    CallQueueObject *open = (CallQueueObject *)call_queue_read_handle(
        st, loop, ready, n - 1, st->CallQueue);
    if (open != NULL
        && (open->place != n || open->run_no != st->call_queues_run
            || open->count == CALL_QUEUE_MAX))
    {
        Py_CLEAR(open);
    }
    return open;
}

/* The last step of a Task. */
typedef struct {
    PyObject *task;    /* borrowed */
    PyObject *ready;   /* borrowed: the ready queue before it; NULL: unknown */
    Py_ssize_t length; /* of that queue before it */
} call_last_step;

/* Return where in the ready queue the handles of a Task's other done callbacks
   begin, which asyncio has scheduled at its end; -1: there are none.  A handle
   is taken for one of them if it was scheduled in the step and its argument is
   the Task. */
static Py_ssize_t
call_queue_find_callbacks(al_state *st, PyObject *loop, PyObject *ready,
                          const call_last_step *step)
{
    Py_ssize_t n = PySequence_Size(ready), at = n;
    bool is_callback = ready == step->ready && at > step->length;
    while (is_callback) {
        PyObject *args = call_queue_read_handle(st, loop, ready, at - 1,
                                                (PyObject *)&PyTuple_Type);
        is_callback = args != NULL && PyTuple_GET_SIZE(args) == 1
                      && PyTuple_GET_ITEM(args, 0) == step->task;
        at -= is_callback;
        is_callback = is_callback && at > step->length;
        Py_XDECREF(args);
    }
    return at < n ? at : -1;
}

/* Move the last handle of the ready queue forward, to the place `at`.  If that
   fails it stays the last. */
static void
call_queue_move_last(al_state *st, PyObject *ready, Py_ssize_t at)
{
    PyObject *where = AL_ALLOC(PyLong_FromSsize_t(at));
    PyObject *handle =
        where == NULL ? NULL : PyObject_CallMethodNoArgs(ready, st->s_pop);
    PyObject *none = handle == NULL
                         ? NULL
                         : PyObject_CallMethodObjArgs(ready, st->s_insert,
                                                      where, handle, NULL);
    if (none == NULL) {
        PyErr_Clear(); /* MemoryError */
        none = handle == NULL
                   ? NULL
                   : PyObject_CallMethodOneArg(ready, st->s_append, handle);
    }
    if (none == NULL) {
        PyErr_Clear(); /* nothing was popped: append() reuses its room */
    }
    Py_XDECREF(none);
    Py_XDECREF(handle);
    Py_XDECREF(where);
}

/* ------------------------------------------------------------ scheduling */

/* Move a call into the queue; it is then empty.  -1 with MemoryError. */
static int
call_queue_push(CallQueueObject *self, al_call *call)
{
    if (self->count == self->room) {
        Py_ssize_t room =
            self->room == 0 ? CALL_QUEUE_FIRST_ROOM : 2 * self->room;
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

/* Find our handle in the ready queue (may be NULL).  It is the last one,
   unless somebody has put something between the loop and us: what call_soon()
   returned need not be the Handle. */
static void
call_queue_find_handle(CallQueueObject *self, PyObject *ready)
{
    al_state *st = self->st;
    Py_ssize_t n = ready == NULL ? 0 : PySequence_Size(ready);
    PyObject *last = n == 0 ? NULL
                            : call_queue_read_handle(st, self->loop, ready,
                                                     n - 1, st->CallQueue);
    Py_XSETREF(self->handle, last == (PyObject *)self
                                 ? PySequence_GetItem(ready, n - 1)
                                 : NULL);
    if (self->handle == NULL) {
        PyErr_Clear(); /* another thread was faster: it keeps its one call */
    }
    else {
        self->place = n;
        self->run_no = st->call_queues_run;
    }
    Py_XDECREF(last);
}

/* loop.call_soon(queue), in a context of its own (R6): the loop enters it
   around the calls, and that of a call cannot be entered twice.  `ready` was
   the ready queue just before; if it was replaced meanwhile our handle is not
   in it, and no call joins.  -1 with an exception; if a signal handler raised
   it the queue may be scheduled all the same. */
static int
call_queue_schedule(CallQueueObject *self, PyObject *ready)
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
    call_queue_find_handle(self, ready);
    return 0;
}

/* Schedule a new queue with one call, its handle at the place `at` of the
   ready queue, or at the end if that is -1.  -1 with an exception: the call is
   the caller's again, and a handle that the loop may have does nothing. */
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
    self->place = -1;
    self->run_no = 0;
    PyObject_GC_Track((PyObject *)self);
    int begun = call_queue_push(self, call);
    if (begun == 0) {
        begun = call_queue_schedule(self, ready);
    }
    if (begun < 0 && self->next < self->count) {
        *call = self->calls[--self->count];
    }
    if (at >= 0 && self->handle != NULL) {
        call_queue_move_last(st, ready, at);
    }
    Py_DECREF((PyObject *)self);
    return begun;
}

/* al_call_queue_add; a new queue goes before the handles of the callbacks of
   the Task that has ended in `step`, which may be NULL. */
static int
call_queue_add(al_state *st, PyObject *loop, al_call *call,
               const call_last_step *step)
{
    PyObject *ready = al_fast_path_ready_queue(st, loop);
    CallQueueObject *open =
        ready == NULL ? NULL : call_queue_find_open(st, loop, ready);
    int queued = -1;
    if (open != NULL) {
        queued = call_queue_push(open, call);
        Py_DECREF((PyObject *)open);
    }
    if (queued < 0) {
        PyErr_Clear(); /* MemoryError: a new queue may need less */
        Py_ssize_t at = ready == NULL || step == NULL
                            ? -1
                            : call_queue_find_callbacks(st, loop, ready, step);
        queued = call_queue_begin(st, loop, call, ready, at);
    }
    Py_XDECREF(ready);
    return queued;
}

int
al_call_queue_add(al_state *st, PyObject *loop, al_call *call)
{
    return call_queue_add(st, loop, call, NULL);
}

/* al_call_queue_deliver, with the place of call_queue_add. */
static int
call_queue_deliver(al_state *st, PyObject *loop, al_call *call,
                   const call_last_step *step)
{
    if (call_queue_add(st, loop, call, step) == 0) {
        return 0;
    }
    PyObject *error = PyErr_GetRaisedException();
    int queued = call_queue_add(st, loop, call, step);
    if (queued == 0 && PyErr_GivenExceptionMatches(error, PyExc_MemoryError)) {
        Py_DECREF(error);
        return 0;
    }
    return al_loop_raise_more_severe(error);
}

int
al_call_queue_deliver(al_state *st, PyObject *loop, al_call *call)
{
    return call_queue_deliver(st, loop, call, NULL);
}

/* -------------------------------------------------------------- running */

/* Enter the context and make the call; what it returns is dropped.  -1 with
   an exception, fetched before the context is left, for leaving may fail. */
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

/* Do with the raised error of a call what its own Handle would do: return -1
   with KeyboardInterrupt and SystemExit, which end the loop's run (R4), and
   report any other to the loop. */
static int
call_queue_handle_error(CallQueueObject *self, al_call *call)
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
        /* An exit, of the call or of the loop's handler; or the report could
           not be made, and is now made without the Handle. */
        (void)al_loop_raise_more_severe(error);
        return al_loop_handle_error(self->st, self->loop,
                                    "Exception in a callback", NULL);
    }
    Py_DECREF(none);
    Py_DECREF(error);
    return 0;
}

/* Schedule the done callback of a Task that has ended; if that is impossible,
   call it at once, for a group would wait for its child for ever.  -1 with an
   exception; the callback is called all the same. */
static int
call_queue_notify(CallQueueObject *self, al_call *call,
                  const call_last_step *step)
{
    al_call done_call = {
        .call = Py_NewRef(call->on_done),
        .arg = Py_NewRef(call->task),
        .context = Py_NewRef(call->callback_context),
    };
    int notified = call_queue_deliver(self->st, self->loop, &done_call, step);
    if (done_call.call != NULL) {
        PyObject *error = PyErr_GetRaisedException();
        notified = call_make(&done_call) < 0
                       ? call_queue_handle_error(self, &done_call)
                       : 0;
        if (notified < 0
            || !PyErr_GivenExceptionMatches(error, PyExc_MemoryError))
        {
            notified = al_loop_raise_more_severe(error);
        }
        else {
            Py_DECREF(error);
        }
    }
    al_call_clear(&done_call);
    return notified;
}

/* After a step whose Task has our done callback not on it: notify if the Task
   has ended, else put the callback on.  -1 with an exception. */
static int
call_queue_finish_step(CallQueueObject *self, al_call *call,
                       const call_last_step *step)
{
    int done = al_task_done(self->st, call->task);
    if (done > 0) {
        return call_queue_notify(self, call, step);
    }
    if (done < 0) {
        PyErr_Clear(); /* MemoryError.  To add it to a Task that is done is
                          right too: asyncio then schedules it */
    }
    return al_done_callback_attach(self->st, self->loop, call->task,
                                   call->on_done, call->callback_context);
}

/* Before a step: see to it that our done callback is not on the Task.  That of
   a first step, which has no argument, is not on it yet.  Returns false if the
   callback stays, because the Task has others. */
static bool
call_detach_callback(al_state *st, al_call *call)
{
    if (call->on_done != NULL && call->arg != NULL) {
        Py_XSETREF(call->callback_context,
                   al_done_callback_detach(st, call->task, call->on_done));
    }
    return call->callback_context != NULL;
}

/* Make one call, and see to the done callback if it is a step.  `ready` is the
   ready queue, or NULL.  -1 with an exception that ends the loop's run. */
static int
call_queue_run(CallQueueObject *self, al_call *call, PyObject *ready)
{
    bool detached = call_detach_callback(self->st, call);
    call_last_step step = {call->task, ready, 0};
    if (detached && ready != NULL) {
        step.length = PySequence_Size(ready);
    }
    PyObject *error = call_make(call) < 0 ? PyErr_GetRaisedException() : NULL;
    int made = detached && call_queue_finish_step(self, call, &step) < 0
                   ? call_queue_handle_error(self, call)
                   : 0;
    if (error == NULL) {
        return made;
    }
    PyObject *exit = made < 0 ? PyErr_GetRaisedException() : NULL;
    PyErr_SetRaisedException(error);
    made = call_queue_handle_error(self, call);
    return exit == NULL ? made : al_loop_raise_more_severe(exit);
}

/* ------------------------------------------- the rest, while a call runs */

/* Tell whether the loop can be run from inside a call: uvloop cannot. */
static bool
call_queue_can_nest(const CallQueueObject *self)
{
    return self->handle != NULL
           && !al_fast_path_is_uvloop(self->st, self->loop);
}

/* Put our handle at the front of the ready queue, where the handles of the
   remaining calls would stand (R4), with a context that nobody has entered.
   Returns whether it stands there; if not, the caller tries again. */
static bool
call_queue_put_in_front(CallQueueObject *self)
{
    al_state *st = self->st;
    PyObject *ready =
        self->handle == NULL ? NULL : al_fast_path_ready_queue(st, self->loop);
    PyObject *context = NULL, *none = NULL;
    /* uvloop has left the context of the handle by the time it runs again. */
    bool fresh = ready != NULL && !call_queue_can_nest(self);
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

/* No calls remain behind the one that is made next: take our handle from the
   front of the ready queue, if it is there.  The queue that is open stays
   open, its handle one place further in front. */
static void
call_queue_leave_front(CallQueueObject *self)
{
    al_state *st = self->st;
    PyObject *ready = al_fast_path_ready_queue(st, self->loop);
    PyObject *first = ready == NULL ? NULL : PySequence_GetItem(ready, 0);
    PyObject *taken = NULL;
    if (first != NULL && first == self->handle) {
        CallQueueObject *open = call_queue_find_open(st, self->loop, ready);
        taken = PyObject_CallMethodNoArgs(ready, st->s_popleft);
        if (open != NULL && taken != NULL) {
            open->place--;
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

/* An exit ends the loop's run, and the remaining calls are not in the ready
   queue: put them there, at the front or else at the end, for they must not be
   lost (R4).  Keeps the raised exception. */
static void
call_queue_put_back(CallQueueObject *self)
{
    PyObject *error = PyErr_GetRaisedException();
    if (!call_queue_put_in_front(self)) {
        PyObject *ready = al_fast_path_ready_queue(self->st, self->loop);
        if (call_queue_schedule(self, ready) < 0) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(ready);
    }
    self->place = -1; /* nothing may join it */
    PyErr_SetRaisedException(error);
}

/* Drop the calls that were not made. */
static void
call_queue_drop_calls(CallQueueObject *self)
{
    while (self->next < self->count) {
        al_call call = self->calls[self->next++];
        al_call_clear(&call);
    }
    PyMem_Free(self->calls);
    self->calls = NULL;
    self->next = self->count = self->room = 0;
}

/* The loop calls the handle: make all calls, or those until an exit. */
static PyObject *
call_queue_call(PyObject *op, PyObject *Py_UNUSED(args),
                PyObject *Py_UNUSED(kwargs))
{
    CallQueueObject *self = (CallQueueObject *)op;
    PyObject *ready = al_fast_path_ready_queue(self->st, self->loop);
    bool in_front = false;
    int made = 0;
    self->place = -1;
    self->st->call_queues_run++;
    while (made == 0 && self->next < self->count) {
        al_call call = self->calls[self->next++];
        bool more = self->next < self->count;
        if (in_front && !more) {
            call_queue_leave_front(self);
        }
        in_front = more
                   && (in_front
                       || (call_queue_can_nest(self)
                           && call_queue_put_in_front(self)));
        made = call_queue_run(self, &call, ready);
        al_call_clear(&call);
    }
    Py_XDECREF(ready);
    if (self->next == self->count) {
        call_queue_drop_calls(self);
        Py_CLEAR(self->handle);
    }
    else if (!in_front) {
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
        Py_VISIT(call->on_done);
        Py_VISIT(call->callback_context);
    }
    return 0;
}

static int
call_queue_clear(PyObject *op)
{
    CallQueueObject *self = (CallQueueObject *)op;
    call_queue_drop_calls(self);
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
    .name = "pyasynclife._core.CallQueue",
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
