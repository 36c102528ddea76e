/* A worker: a real Task that drives items, one after the other.
 *
 * In one step of its Task a worker pulls an item, calls the function, drives
 * what that returns in a context of the item's own, and passes on whatever the
 * item waits for.  When the item ends, the next one follows in the same step.
 * So an item costs no Task, no wrapper, no semaphore and no timer:
 *
 *     step -> pull -> fn(item) -> send ... suspended: yield what it waits for
 *               ^                  |
 *               +--- succeeded ----+---- failed or cancelled: retire
 *
 * A worker is retired, not cleaned: after an item that did not succeed, or
 * that left a cancellation behind, it ends, and a fresh worker takes its place
 * and pulls in a later loop iteration.
 * A worker is an object in the pump's list, which owns it, and the callback of
 * its Task.  So its end is always noticed, also if the Task was cancelled
 * before its first step.
 * Nothing here is entered twice.  While one worker of a pump is on the C
 * stack, any other that is stepped (by an eager task factory, or by hostile
 * code) yields once and tries again in the next loop iteration.
 * Every member that is used after a call that can run Python is read again.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/create_task.h"
#include "aio/awaitable.h"
#include "aio/deadline.h"
#include "batch/drive.h"
#include "batch/source.h"
#include "batch/result.h"
#include "batch/item.h"
#include "batch/pump.h"
#include "batch/reader.h"
#include "batch/worker.h"
#include "batch/item_task.h"
#include "batch/admission.h"

#include <string.h>

/* How many workers in a row may be replaced that were cancelled before they
   began. */
#define WORKER_CANCELLED_UNSTARTED_MAX 100

/* The worker goes on, or ends. */
static inline void
worker_end_rest(WorkerObject *self)
{
    if (self->resting) {
        self->resting = false;
        self->pump->resting--;
    }
}

/* Give the place of the item's key back.  Returns the key (new) to drop, or
   NULL. */
static inline PyObject *
worker_leave_key(WorkerObject *self)
{
    return self->item.key == NULL
               ? NULL
               : al_limits_leave(self->pump->limits, &self->item);
}

void
al_worker_detach(WorkerObject *self)
{
    al_pump *p = self->pump;
    PyObject *owner = self->owner;
    PyObject *task = self->task;
    PyObject *cancelling = self->cancelling;
    if (owner == NULL) {
        return;
    }
    /* All state first: dropping the references may run code and, with the last
       one to the owner, free the pump. */
    self->owner = self->task = self->cancelling = NULL;
    al_deadline_drop(&self->item.deadline);
    if (self->item.job != NULL) {
        al_job_detach(self->item.job);
    }
    al_link_unlink(&self->link);
    p->alive--;
    if (!self->begun) {
        p->unstarted--;
    }
    worker_end_rest(self);
    if (p->yielding == self) {
        p->yielding = NULL;
    }
    if (self->again != NULL) {
        self->again->parked = NULL;
        self->again = NULL;
    }
    PyObject *key = worker_leave_key(self);
    Py_XDECREF(cancelling);
    Py_XDECREF(task);
    Py_DECREF(owner);
    Py_DECREF(self); /* the list's */
    Py_XDECREF(key);
}

/* ---------------------------------------------------- the item's end */

bool
al_worker_end_item(WorkerObject *self, PySendResult answer, PyObject *end,
                   PyObject **verdict)
{
    al_pump *p = self->pump;
    al_result_fields fields = {0};
    double now = al_pump_time(p);
    int clean =
        al_item_judge(p->st, &self->item, self->task, self->cancelling, answer,
                      al_admission_seconds(p, &self->item), &end, &fields);
    fields.duration = now - self->item.started;
    /* The item is detached before the owner is notified, so nothing that runs
       meanwhile finds an item that has ended. */
    PyObject *result = clean < 0 ? NULL : al_result_new(p->st, &fields);
    al_item_parts parts;
    bool ended = al_admission_leave(self, now, &result, &parts);
    if (result == NULL) {
        al_pump_fail(p);
    }
    else {
        self->now = now;
    }
    bool bare =
        answer == PYGEN_ERROR && al_item_raises(p->st, end, p->fn == NULL);
    if (bare && result != NULL) {
        ((ResultObject *)result)->received = true;
    }
    if (ended) {
        al_pump_hand_over(p, parts.job, result);
    }
    else {
        Py_XDECREF(result);
    }
    if (bare) {
        PyErr_SetRaisedException(Py_NewRef(end));
        if (p->fn != NULL) {
            al_pump_fail(p);
        }
        else {
            al_loop_report_or_exit_later(p->st, p->bound.loop,
                                         "a job of a pool has exited", NULL);
        }
    }
    if (self->item.of_queue) { /* of the item that has ended */
        al_reader_item_over(p, NULL);
    }
    al_item_parts_drop(parts);
    if (verdict != NULL) {
        *verdict = end;
    }
    else {
        Py_DECREF(end);
    }
    return answer == PYGEN_RETURN && clean == 1;
}

void
al_worker_end_cancelled(WorkerObject *self)
{
    al_pump *p = self->pump;
    self->item.cancels_sent = 0; /* the Task is gone: nothing to take back */
    al_drive_clear(&self->item.drive);
    PyObject *error = AL_ALLOC(PyObject_CallNoArgs(p->st->CancelledError));
    if (error != NULL) {
        (void)al_worker_end_item(self, PYGEN_ERROR, error, NULL);
    }
    else {
        al_item_parts parts =
            al_item_detach(&self->item, worker_leave_key(self));
        al_pump_fail(p);
        al_pump_hand_over(p, parts.job, NULL);
        if (self->item.of_queue) {
            al_reader_item_over(p, NULL);
        }
        al_item_parts_drop(parts);
    }
}

void
al_worker_end_unstarted(WorkerObject *self)
{
    al_pump *p = self->pump;
    bool fresh = self->item.attempts == 0;
    JobObject *job = self->item.job;
    PyObject *result = job != NULL && job->result != NULL
                           ? Py_NewRef(job->result)
                           : al_admission_unstarted(p, &self->item);
    if (result != NULL) { /* a job foresees its index */
        ((ResultObject *)result)->index = self->item.index;
    }
    al_item_parts parts = al_item_detach(&self->item, worker_leave_key(self));
    if (result == NULL) {
        al_pump_fail(p);
    }
    al_pump_hand_over(p, parts.job, result);
    if (self->item.of_queue) {
        al_reader_item_over(p, fresh ? parts.value : NULL);
    }
    al_item_parts_drop(parts);
}

/* ------------------------------------------------------------ a step */

/* Leave the pump before the Task ends, whose callback is removed: the loop
   need not call it then.  Returns whether the worker was detached. */
static bool
worker_leave(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (al_task_remove_done_callback(p->st, self->task, (PyObject *)self) > 0)
    {
        al_worker_detach(self);
        return true;
    }
    if (PyErr_Occurred()) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "retiring a worker failed", self->task);
    }
    return false;
}

/* Start a job, unless it was cancelled while it waited, or the pump stops. */
static al_pull
worker_take_job(WorkerObject *self, JobObject *job, bool *again)
{
    al_pump *p = self->pump;
    self->item.index = job->is_call ? job->number : self->item.index;
    if (job->pump != NULL && p->stopping == AL_STOP_NONE) {
        job->worker = p->limits == NULL ? self : NULL; /* may be set aside */
        return AL_PULL_ITEM;
    }
    al_pump_return_room(p);
    al_worker_end_unstarted(self);
    *again = al_pump_may_pull(p);
    return AL_PULL_NOTHING;
}

/* Pull one item.  *again: it was a job that was cancelled while it waited. */
static al_pull
worker_pull_one(WorkerObject *self, bool *again)
{
    al_pump *p = self->pump;
    JobObject *job;
    Py_ssize_t from_items = p->source.from_items;
    int more = al_source_pull(p->st, &p->source, p->room <= 0,
                              &self->item.value, &self->item.task_id, &job);
    if (more <= 0) {
        if (p->source.refused) { /* with an exception */
            PyObject *error = PyErr_GetRaisedException();
            p->source.refused = false;
            al_reader_item_over(p, NULL);
            PyErr_SetRaisedException(error);
        }
        if (job != NULL) {
            al_job_refuse(job, NULL);
            Py_DECREF(job);
        }
        return more < 0 ? AL_PULL_ERROR : AL_PULL_NOTHING;
    }
    p->room -= !p->room_of_source || p->source.from_items > from_items;
    self->item.index = p->source.pulled - 1;
    self->item.job = job;
    if (p->source.async) {
        self->item.of_queue =
            p->source.is_queue && p->source.from_items > from_items;
        if (al_pump_reads_on(p)) {
            p->calls->item_taken(p->owner);
        }
    }
    if (job != NULL) {
        return worker_take_job(self, job, again);
    }
    if (p->stopping != AL_STOP_NONE) { /* by the source, or by its key */
        al_worker_end_unstarted(self);
        return AL_PULL_NOTHING;
    }
    return AL_PULL_ITEM;
}

al_pull
al_worker_pull(WorkerObject *self)
{
    bool again;
    al_pull pulled;
    do {
        again = false;
        pulled = worker_pull_one(self, &again);
    } while (again);
    return pulled;
}

/* The slice is used up.  One worker yields for all: until the loop has come
   back to it, the others must not use up its iteration.  If enough of them
   rest already, this one leaves; al_pump_grow() replaces it. */
static al_pull
worker_rest(WorkerObject *self)
{
    al_pump *p = self->pump;
    self->now = 0.0; /* it goes on in another iteration */
    if (p->resting >= AL_PUMP_WAITING_MAX && worker_leave(self)) {
        return AL_PULL_NOTHING;
    }
    if (p->yielding == NULL) {
        p->yielding = self;
    }
    self->resting = true;
    p->resting++;
    return AL_PULL_YIELD;
}

/* Pull the next item, if this worker may go on.  Sets no exception. */
static al_pull
worker_next(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (!al_pump_may_pull(p) && !al_pump_may_poll(p)) {
        return AL_PULL_NOTHING;
    }
    /* The end of the item before is the time, unless something was awaited
       since: so the clock is read once for each item. */
    double now = self->now != 0.0 ? self->now : al_pump_time(p);
    double wall =
        al_loop_has_system_clock(p->st, &p->bound) ? now : al_clock();
    if (p->alive > p->limit) {
        (void)worker_leave(self); /* the limit was lowered */
        return AL_PULL_NOTHING;
    }
    if (p->yielding != NULL || wall - p->yielded_at > AL_PUMP_SLICE) {
        return worker_rest(self);
    }
    al_pull pulled = al_admission_next(self);
    if (pulled == AL_PULL_ERROR) {
        al_pump_fail(p);
    }
    if (pulled == AL_PULL_ITEM && p->limits == NULL) {
        self->item.started = p->source.runs_no_python ? now : al_pump_time(p);
    }
    return pulled;
}

/* The item has suspended.  The first time, start its timeout and make more
   workers. */
static void
worker_suspend(WorkerObject *self)
{
    al_pump *p = self->pump;
    self->now = 0.0;
    if (self->item.suspended) {
        return;
    }
    self->item.suspended = true;
    double when = al_admission_deadline(p, &self->item);
    if (when != Py_HUGE_VAL && !self->item.timeout_sent /* by its own job */
        && al_deadline_add(&p->deadlines, &self->item.deadline, when) < 0)
    {
        al_pump_fail(p);
    }
    al_pump_grow(p);
}

/* A fresh worker takes the place of this one. */
static void
worker_retire(WorkerObject *self)
{
    if (al_pump_may_pull(self->pump) && worker_leave(self)) {
        /* Two, while the limit allows.  Otherwise items that fail at once, and
           so never suspend, would be driven one to a loop iteration. */
        al_pump_spawn(self->pump, 2);
    }
}

/* Drive items until one suspends (PYGEN_NEXT) or the worker is to end.
   `nested`: this step runs inside another worker's, and takes one item. */
static PySendResult
worker_run(WorkerObject *self, PyObject *thrown, bool nested,
           PyObject **result)
{
    al_pump *p = self->pump;
    al_state *st = p->st;
    PyObject *value;
    PySendResult answer;
    /* Closing the Task's coroutine closes the item, but only the item may
       catch that; no further one is pulled. */
    bool closing = thrown != NULL
                   && PyErr_GivenExceptionMatches(thrown, PyExc_GeneratorExit);
    for (;;) {
        if (self->item.value != NULL) {
            answer = al_drive_resume(st, &self->item.drive, thrown, &value);
        }
        else {
            al_pull pulled = worker_next(self);
            if (pulled != AL_PULL_ITEM) {
                *result = Py_NewRef(Py_None);
                return pulled == AL_PULL_YIELD ? PYGEN_NEXT : PYGEN_RETURN;
            }
            self->item.attempts++;
            answer = p->fn == NULL
                         ? al_job_begin(self->item.job, &self->item.drive,
                                        self->item.value, &value)
                         : al_item_begin(st, &self->item, p->source.context,
                                         p->fn, &value);
        }
        if (answer == PYGEN_NEXT) {
            worker_suspend(self);
            *result = value;
            return PYGEN_NEXT;
        }
        if (closing && answer == PYGEN_ERROR && value != NULL
            && PyErr_GivenExceptionMatches(value, PyExc_GeneratorExit))
        {
            Py_DECREF(value);
            al_worker_end_cancelled(self);
        }
        else if (!al_worker_end_item(self, answer, value, NULL) && !closing) {
            worker_retire(self);
            *result = Py_NewRef(Py_None);
            return PYGEN_RETURN;
        }
        if (closing) {
            PyErr_SetRaisedException(Py_NewRef(thrown));
            return PYGEN_ERROR;
        }
        if (nested) {
            *result = Py_NewRef(Py_None);
            return PYGEN_RETURN;
        }
        thrown = NULL;
    }
}

/* A step of an abandoned item, whose end is the Task's. */
static PySendResult
worker_step_abandoned(WorkerObject *self, PyObject *thrown, PyObject **result)
{
    self->stepping = true;
    PySendResult answer =
        al_drive_resume(self->st, &self->item.drive, thrown, result);
    self->stepping = false;
    if (answer == PYGEN_ERROR) {
        PyErr_SetRaisedException(*result);
        *result = NULL;
    }
    if (answer != PYGEN_NEXT) {
        PyObject *error = PyErr_GetRaisedException();
        al_item_parts_drop(al_item_detach(&self->item, NULL));
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    return answer;
}

/* The al_step of a worker's awaitable. */
static PySendResult
worker_step(PyObject *op, PyObject *thrown, PyObject **result)
{
    WorkerObject *self = (WorkerObject *)op;
    al_pump *p = self->pump;
    if (self->stepping) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a worker was stepped by the item it is driving");
        return PYGEN_ERROR;
    }
    if (self->item.value == NULL && thrown != NULL) { /* between two items */
        PyErr_SetRaisedException(Py_NewRef(thrown));
        return PYGEN_ERROR;
    }
    if (self->owner == NULL && self->item.value != NULL) {
        return worker_step_abandoned(self, thrown, result);
    }
    if (self->owner == NULL) { /* detached before it began */
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    /* An eager task factory steps a Task inside the step of another worker, or
       before it is known here: not now, then. */
    if (thrown == NULL && (p->driving || self->task == NULL)) {
        *result = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    }
    PyObject *owner = Py_NewRef(self->owner); /* embeds the pump */
    bool nested = p->driving;
    p->driving = self->stepping = true;
    if (!self->begun) {
        self->begun = true;
        p->unstarted--;
        p->cancelled_unstarted = 0;
    }
    worker_end_rest(self);
    if (p->yielding == self) {
        p->yielding = NULL;
        p->yielded_at = al_clock();
    }
    PySendResult answer = worker_run(self, thrown, nested, result);
    self->stepping = false;
    p->driving = nested;
    Py_DECREF(owner);
    return answer;
}

/* ------------------------------------------------------- its Task */

WorkerObject *
al_worker_new(al_pump *p)
{
    WorkerObject *self =
        AL_ALLOC(PyObject_GC_New(WorkerObject, (PyTypeObject *)p->st->Worker));
    if (self == NULL) {
        return NULL;
    }
    memset((char *)self + sizeof(PyObject), 0,
           sizeof(*self) - sizeof(PyObject));
    self->pump = p;
    self->st = p->st;
    self->owner = Py_NewRef(p->owner);
    al_list_append(&p->workers, &self->link);
    p->alive++;
    p->unstarted++;
    PyObject_GC_Track(self);
    return self;
}

int
al_worker_attach(WorkerObject *self, PyObject *task)
{
    al_pump *p = self->pump;
    self->cancelling = al_task_cancelling_method(p->st, task);
    if (self->cancelling == NULL) {
        return -1;
    }
    self->task = Py_NewRef(task); /* from now on it may be stepped */
    return al_task_add_done_callback(p->st, task, (PyObject *)self, NULL);
}

/* Make the Task of a worker (new). */
static PyObject *
worker_make_task(WorkerObject *self)
{
    al_state *st = self->pump->st;
    PyObject *task = NULL;
    PyObject *step = al_awaitable_new(st, (PyObject *)self, worker_step);
    PyObject *coro = step == NULL
                         ? NULL
                         : AL_ALLOC(PyObject_CallOneArg(st->run_worker, step));
    Py_XDECREF(step);
    if (coro != NULL) {
        al_pump_name_coro(self->pump, coro, self->pump->fn_name);
        task = al_create_task_plain(st, &self->pump->bound, coro,
                                    self->pump->name, NULL);
        if (task == NULL) {
            al_coro_close_unstarted(st, coro);
        }
        Py_DECREF(coro);
    }
    return task;
}

int
al_worker_spawn(al_pump *p)
{
    WorkerObject *self = al_worker_new(p);
    if (self == NULL) {
        return -1;
    }
    Py_INCREF(self);
    int failed = -1;
    /* An eager task factory runs the Task's first step in here. */
    PyObject *task = worker_make_task(self);
    if (task != NULL && self->owner != NULL) {
        failed = al_worker_attach(self, task);
    }
    if (failed) {
        /* The Task, if there is one, finds its worker detached and ends. */
        PyObject *error = PyErr_GetRaisedException();
        al_worker_detach(self);
        PyErr_SetRaisedException(error);
    }
    Py_XDECREF(task);
    Py_DECREF(self);
    return failed;
}

/* Tell whether the registry of the items' Tasks, which shuts down, has
   cancelled the worker's.  It leaves out the Task that has called it. */
static bool
worker_was_cancelled_by_registry(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (!p->left_to_registry || self->cancelling == NULL) {
        return false;
    }
    long requests = al_object_count(PyObject_CallNoArgs(self->cancelling));
    if (requests < 0) {
        al_loop_report_or_exit_later(
            p->st, p->bound.loop, "asking an item's task failed", self->task);
    }
    return requests > 0;
}

void
al_worker_cancel(WorkerObject *self, al_stop why, PyObject *msg, bool again)
{
    al_pump *p = self->pump;
    bool cancelled = !again && worker_was_cancelled_by_registry(self);
    if (cancelled || self->item.value == NULL
        || (self->item.cancels_sent > 0 && !again))
    {
        return;
    }
    if (self->item.cancels_sent++ == 0) {
        self->item.why = why;
    }
    if (self->task == NULL) { /* item_task_start() is making it */
        return;
    }
    PyObject *task = Py_NewRef(self->task);
    if (al_task_cancel(p->st, task, msg) < 0) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "cancelling an item failed", task);
    }
    Py_DECREF(task);
}

/* A worker that was cancelled before it began has ended and will be replaced.
   With a task factory that cancels every Task it makes, this would go on for
   ever, so fail after many in a row. */
static void
worker_count_unstarted(al_pump *p)
{
    if (p->unstarted == 0 && p->stopping == AL_STOP_NONE
        && ++p->cancelled_unstarted == WORKER_CANCELLED_UNSTARTED_MAX)
    {
        PyErr_SetString(PyExc_RuntimeError,
                        "a batch's workers are cancelled before they begin, "
                        "again and again: look at the loop's task factory");
        al_pump_fail(p);
    }
}

/* The Task of a worker of many items has ended. */
static void
worker_task_ended(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (self->item.value != NULL) {
        al_worker_end_cancelled(self);
    }
    al_worker_detach(self);
    if (!self->begun) {
        worker_count_unstarted(p);
    }
}

/* The callback of a worker's Task. */
static PyObject *
worker_call(PyObject *op, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kw))
{
    WorkerObject *self = (WorkerObject *)op;
    al_pump *p = self->pump;
    if (self->owner != NULL && !self->stepping) {
        PyObject *owner = Py_NewRef(self->owner);
        if (p->task_per_item) {
            al_item_task_ended(self);
        }
        else {
            worker_task_ended(self);
        }
        al_pump_update(p);
        Py_DECREF(owner);
    }
    Py_RETURN_NONE;
}

/* ----------------------------------------------------------- the type */

/* An attribute of the item's coroutine; AttributeError between two items.  So
   traceback tools that walk cr_await find their way through a worker. */
static PyObject *
worker_get_driven(PyObject *op, void *name)
{
    PyObject *driven = Py_XNewRef(((WorkerObject *)op)->item.drive.iterator);
    if (driven == NULL) {
        PyErr_SetString(PyExc_AttributeError, name);
        return NULL;
    }
    PyObject *answer = PyObject_GetAttrString(driven, name);
    Py_DECREF(driven);
    return answer;
}

/* The id of the item, for await chains; None between two items. */
static PyObject *
worker_get_task_id(PyObject *op, void *Py_UNUSED(closure))
{
    WorkerObject *self = (WorkerObject *)op;
    return self->item.value == NULL ? Py_NewRef(Py_None)
                                    : al_item_id(&self->item);
}

/* The coroutine or iterator that runs the item, or None. */
static PyObject *
worker_get_coro(PyObject *op, void *Py_UNUSED(closure))
{
    WorkerObject *self = (WorkerObject *)op;
    PyObject *task = self->owner == NULL || !self->pump->task_per_item
                         ? NULL
                         : Py_XNewRef(self->task);
    if (task == NULL) {
        PyObject *driven = self->item.drive.iterator;
        return Py_NewRef(driven == NULL ? Py_None : driven);
    }
    PyObject *coro = al_task_coro(self->st, task);
    Py_DECREF(task);
    return coro;
}

static PyGetSetDef worker_getset[] = {
    {"_task_id", worker_get_task_id, NULL, NULL, NULL},
    {"_coro", worker_get_coro, NULL, NULL, NULL},
    {"cr_frame", worker_get_driven, NULL, NULL, (void *)"cr_frame"},
    {"cr_await", worker_get_driven, NULL, NULL, (void *)"cr_await"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef worker_members[] = {
    {"_task", T_OBJECT, offsetof(WorkerObject, task), READONLY, NULL},
    {"_index", T_PYSSIZET, offsetof(WorkerObject, item.index), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
worker_traverse(PyObject *op, visitproc visit, void *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->owner);
    Py_VISIT(self->task);
    Py_VISIT(self->cancelling);
    Py_VISIT(self->register_error);
    return al_item_visit(&self->item, visit, arg);
}

static int
worker_clear(PyObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    al_worker_detach(self);
    al_item_clear(&self->item);
    Py_CLEAR(self->register_error);
    return 0;
}

static void
worker_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    /* The pump's list owns a worker, so this one is in none. */
    assert(((WorkerObject *)op)->owner == NULL);
    (void)worker_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot worker_slots[] = {
    {Py_tp_call, worker_call},
    {Py_tp_getset, worker_getset},
    {Py_tp_members, worker_members},
    {Py_tp_traverse, worker_traverse},
    {Py_tp_clear, worker_clear},
    {Py_tp_dealloc, worker_dealloc},
    {0, NULL},
};

static PyType_Spec worker_spec = {
    .name = "pyasynclife._core.Worker",
    .basicsize = sizeof(WorkerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = worker_slots,
};

int
al_worker_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Worker, &worker_spec, false);
}
