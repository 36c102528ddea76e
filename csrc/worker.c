/* The workers of a pump: real Tasks that drive items, one after the other.
 *
 * A worker is a real asyncio.Task on a tiny coroutine that awaits our step.
 * The step pulls an item, calls the function, drives what it returns in a
 * context of the item's own, and passes up whatever that waits for; when the
 * item ends, the next one follows in the same step.  So an item costs no Task,
 * no wrapper, no semaphore, no timer.
 *
 * A worker is retired, not laundered: after an item that did not succeed, or
 * that left a cancellation behind, it ends and a fresh one takes its place,
 * pulling in a later turn.  None is parked: a worker with nothing to pull ends
 * too, and one is made when there is something again.
 *
 * Nothing here is re-entered.  While a worker of a pump is on the C stack, any
 * other that is stepped (eager task factories, hostile code) yields once and
 * tries again in the next turn.  Every member that is used after a call that
 * can run Python is read again.
 */
#include "compat.h"
#include "fault.h"
#include "list.h"
#include "state.h"
#include "loop.h"
#include "awaitable.h"
#include "deadline.h"
#include "drive.h"
#include "source.h"
#include "result.h"
#include "item.h"
#include "worker.h"

#include <string.h>

/* How long a pump pulls before it gives the loop a turn, in seconds. */
#define PUMP_SLICE 0.010

/* How many workers the first item that suspends brings, where the length of
   the source is known, and where it is not; from then on they double. */
#define PUMP_RAMP_KNOWN 64
#define PUMP_RAMP 8

typedef struct WorkerObject {
    PyObject_HEAD
    al_link link; /* in the pump's workers */
    PyObject *owner; /* owned: what embeds the pump; NULL once ended */
    al_pump *pump;   /* inside the owner */
    PyObject *task;  /* owned; NULL while it is being made */
    al_item item;
    double now; /* end of the item before, if it is still the time; or 0 */
    bool begun;
    bool stepping;
} WorkerObject;

/* What a worker does after a try to pull. */
typedef enum { PULL_NOTHING, PULL_ITEM, PULL_REST } pump_pull;

static double
pump_clock(al_pump *p)
{
    double now = al_loop_time(p->st, &p->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        al_worker_fail(p);
    }
    return now;
}

static bool
pump_may_pull(const al_pump *p)
{
    return p->stopping == AL_STOP_NONE && p->room > 0
           && al_source_may_give(&p->source);
}

/* Out of the pump; what the worker held is dropped last. */
static void
worker_detach(WorkerObject *self)
{
    al_pump *p = self->pump;
    PyObject *owner = self->owner;
    PyObject *task = self->task;
    if (owner == NULL) {
        return;
    }
    self->owner = self->task = NULL;
    al_deadline_drop(&self->item.deadline);
    al_link_unlink(&self->link);
    p->alive--;
    if (!self->begun) {
        p->unstarted--;
    }
    if (p->resting == self) {
        p->resting = NULL;
    }
    Py_XDECREF(task);
    Py_DECREF(owner);
    Py_DECREF(self); /* the list's */
}

/* Nothing runs, nothing comes: tell the owner, once. */
static void
pump_check_over(al_pump *p)
{
    if (p->over || !p->begun || p->alive > 0 || p->reader != NULL
        || p->source.ahead != NULL
        || (p->stopping == AL_STOP_NONE && !p->source.done))
    {
        return;
    }
    p->over = true;
    al_deadline_disarm(&p->deadlines);
    p->calls->over(p->owner);
}

/* ------------------------------------------------------- one item's end */

/* The item has ended with `end` (stolen): make its result and hand it over.
   Tells whether its worker may take another one.  Sets no exception. */
static bool
worker_finish(WorkerObject *self, PySendResult answer, PyObject *end)
{
    al_pump *p = self->pump;
    al_item gone;
    al_facts facts = {0};
    double now = pump_clock(p);
    bool budget = self->item.why == AL_STOP_BUDGET;
    int clean = al_item_judge(p->st, &self->item, self->task, answer,
                              budget ? p->budget : p->timeout, &end, &facts);
    facts.duration = now - self->item.started;
    PyObject *result = clean < 0 ? NULL : al_result_new(p->st, &facts);
    al_item_detach(&self->item, &gone);
    if (result == NULL) {
        al_worker_fail(p);
    }
    else {
        self->now = now;
        p->calls->finished(p->owner, result);
        Py_DECREF(result);
    }
    if (answer == PYGEN_ERROR
        && !PyErr_GivenExceptionMatches(end, PyExc_Exception)
        && !PyErr_GivenExceptionMatches(end, p->st->CancelledError))
    {
        PyErr_SetRaisedException(Py_NewRef(end));
        al_worker_fail(p);
    }
    al_item_clear(&gone);
    Py_DECREF(end);
    return answer == PYGEN_RETURN && clean == 1;
}

/* The item of a worker whose Task was closed under it: cancelled. */
static void
worker_abandon(WorkerObject *self)
{
    al_pump *p = self->pump;
    self->item.asked = 0;
    al_drive_clear(&self->item.drive);
    PyObject *error = AL_ALLOC(PyObject_CallNoArgs(p->st->CancelledError));
    if (error != NULL) {
        (void)worker_finish(self, PYGEN_ERROR, error);
    }
    else {
        al_item gone;
        al_item_detach(&self->item, &gone);
        al_worker_fail(p);
        al_item_clear(&gone);
    }
}

/* ---------------------------------------------------- making workers */

static PySendResult worker_step(PyObject *op, PyObject *thrown,
                                PyObject **result);

/* A worker without a Task yet, in the pump's list (borrowed). */
static WorkerObject *
worker_new(al_pump *p)
{
    WorkerObject *self = AL_ALLOC(
        PyObject_GC_New(WorkerObject, (PyTypeObject *)p->st->Worker));
    if (self == NULL) {
        return NULL;
    }
    memset((char *)self + sizeof(PyObject), 0,
           sizeof(*self) - sizeof(PyObject));
    self->pump = p;
    self->owner = Py_NewRef(p->owner);
    al_list_append(&p->workers, &self->link);
    p->alive++;
    p->unstarted++;
    PyObject_GC_Track(self);
    return self;
}

/* The Task of a worker (new). */
static PyObject *
worker_make_task(WorkerObject *self)
{
    al_state *st = self->pump->st;
    PyObject *task = NULL;
    PyObject *step = al_awaitable_new(st, (PyObject *)self, worker_step);
    PyObject *coro =
        step == NULL ? NULL : AL_ALLOC(PyObject_CallOneArg(st->work, step));
    Py_XDECREF(step);
    if (coro != NULL) {
        task = al_loop_create_task(st, &self->pump->bound, coro,
                                   self->pump->name, NULL);
        if (task == NULL) {
            al_coro_refuse(st, coro);
        }
        Py_DECREF(coro);
    }
    return task;
}

/* One more worker.  Returns 0; -1 with an exception. */
static int
pump_spawn(al_pump *p)
{
    WorkerObject *self = worker_new(p);
    if (self == NULL) {
        return -1;
    }
    Py_INCREF(self);
    int failed = -1;
    PyObject *task = worker_make_task(self);
    if (task != NULL && self->owner != NULL) {
        self->task = Py_NewRef(task);
        failed = al_task_watch(p->st, &p->bound, task, (PyObject *)self);
    }
    if (failed) {
        /* Its Task, if there is one, finds it ended. */
        PyObject *error = PyErr_GetRaisedException();
        worker_detach(self);
        PyErr_SetRaisedException(error);
    }
    Py_XDECREF(task);
    Py_DECREF(self);
    return failed;
}

/* Up to n more workers. */
static void
pump_spawn_many(al_pump *p, Py_ssize_t n)
{
    while (n-- > 0 && pump_may_pull(p) && p->alive < p->limit) {
        if (pump_spawn(p) < 0) {
            al_worker_fail(p);
        }
    }
}

/* An item was suspended: where all workers are busy, more are wanted. */
static void
pump_grow(al_pump *p)
{
    if (p->unstarted > 0 || p->alive >= p->limit || !pump_may_pull(p)) {
        return;
    }
    Py_ssize_t known = p->source.length;
    Py_ssize_t n = known < 0 ? PUMP_RAMP : PUMP_RAMP_KNOWN;
    n = n < p->alive ? p->alive : n;
    n = n > p->room ? p->room : n;
    if (known >= 0 && n > known - p->source.pulled) {
        n = known - p->source.pulled;
    }
    pump_spawn_many(p, n < 1 || p->source.async ? 1 : n);
}

void
al_worker_kick(al_pump *p)
{
    if (p->begun && p->unstarted == 0) {
        pump_spawn_many(p, 1);
    }
    pump_check_over(p);
}

/* --------------------------------------------------------- one worker */

/* The pump was stopped while the source gave the item: never started. */
static void
worker_refuse(WorkerObject *self)
{
    al_pump *p = self->pump;
    al_item gone;
    al_item_detach(&self->item, &gone);
    PyObject *result = al_item_unstarted(p->st, &gone, p->stopping);
    if (result == NULL) {
        al_worker_fail(p);
    }
    else {
        p->calls->finished(p->owner, result);
        Py_DECREF(result);
    }
    al_item_clear(&gone);
}

/* Pull one item. */
static pump_pull
worker_pull(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (!pump_may_pull(p)) {
        return PULL_NOTHING;
    }
    double now = self->now != 0.0 ? self->now : pump_clock(p);
    double wall = p->bound.monotonic ? now : al_clock();
    if (p->resting != NULL || wall - p->turn_at > PUMP_SLICE) {
        if (p->resting == NULL) {
            p->resting = self;
        }
        return PULL_REST;
    }
    int more = al_source_pull(&p->source, &self->item.value,
                              &self->item.task_id);
    if (more <= 0) {
        if (more < 0) {
            al_worker_fail(p);
        }
        return PULL_NOTHING;
    }
    p->room--;
    self->item.index = p->source.pulled - 1;
    if (p->source.async) {
        p->calls->taken(p->owner);
    }
    if (p->stopping != AL_STOP_NONE) {
        worker_refuse(self);
        return PULL_NOTHING;
    }
    self->item.started = p->source.quiet ? now : pump_clock(p);
    return PULL_ITEM;
}

/* The item waits for something: see to its deadline, and to more workers. */
static void
worker_suspend(WorkerObject *self)
{
    al_pump *p = self->pump;
    self->now = 0.0;
    if (self->item.suspended) {
        return;
    }
    self->item.suspended = true;
    if (p->timeout != Py_HUGE_VAL
        && al_deadline_add(&p->deadlines, &self->item.deadline,
                           self->item.started + p->timeout) < 0)
    {
        al_worker_fail(p);
    }
    pump_grow(p);
}

/* A fresh worker for this one, whose end nobody need be told of then. */
static void
worker_retire(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (!pump_may_pull(p)) {
        return;
    }
    if (pump_spawn(p) < 0) {
        al_worker_fail(p);
        return;
    }
    if (al_task_unwatch(p->st, self->task, (PyObject *)self) > 0) {
        worker_detach(self);
    }
    else if (PyErr_Occurred()) {
        PyErr_Clear(); /* a Task of another kind: its callback will come */
    }
}

/* Drive items until one waits (PYGEN_NEXT) or the worker is to end. */
static PySendResult
worker_run(WorkerObject *self, PyObject *thrown, bool nested,
           PyObject **result)
{
    al_pump *p = self->pump;
    al_state *st = p->st;
    PyObject *value;
    PySendResult answer;
    bool closing = thrown != NULL
                   && PyErr_GivenExceptionMatches(thrown,
                                                  PyExc_GeneratorExit);
    for (;;) {
        if (self->item.value != NULL) {
            answer = al_drive_resume(st, &self->item.drive, thrown, &value);
        }
        else {
            pump_pull pulled = worker_pull(self);
            if (pulled != PULL_ITEM) {
                *result = Py_NewRef(Py_None);
                return pulled == PULL_REST ? PYGEN_NEXT : PYGEN_RETURN;
            }
            answer = al_drive_begin(st, &self->item.drive, p->source.context,
                                    p->fn, self->item.value, &value);
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
            worker_abandon(self);
        }
        else if (!worker_finish(self, answer, value) && !closing) {
            worker_retire(self);
            *result = Py_NewRef(Py_None);
            return PYGEN_RETURN;
        }
        if (closing || nested) {
            if (closing) {
                PyErr_SetRaisedException(Py_NewRef(thrown));
                return PYGEN_ERROR;
            }
            *result = Py_NewRef(Py_None);
            return PYGEN_RETURN;
        }
        thrown = NULL;
    }
}

/* The step of the worker's awaitable. */
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
    if (self->item.value == NULL && thrown != NULL) {
        PyErr_SetRaisedException(Py_NewRef(thrown));
        return PYGEN_ERROR;
    }
    if (self->owner == NULL) {
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    if (thrown == NULL && (p->driving || self->task == NULL)) {
        *result = Py_NewRef(Py_None);
        return PYGEN_NEXT;
    }
    PyObject *owner = Py_NewRef(self->owner);
    bool nested = p->driving;
    p->driving = self->stepping = true;
    if (!self->begun) {
        self->begun = true;
        p->unstarted--;
    }
    if (p->resting == self) {
        p->resting = NULL;
        p->turn_at = al_clock();
    }
    PySendResult answer = worker_run(self, thrown, nested, result);
    self->stepping = false;
    p->driving = nested;
    Py_DECREF(owner);
    return answer;
}

/* The worker's Task has ended. */
static PyObject *
worker_call(PyObject *op, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kw))
{
    WorkerObject *self = (WorkerObject *)op;
    al_pump *p = self->pump;
    if (self->owner != NULL && !self->stepping) {
        PyObject *owner = Py_NewRef(self->owner);
        if (self->item.value != NULL) {
            worker_abandon(self);
        }
        worker_detach(self);
        al_worker_kick(p);
        Py_DECREF(owner);
    }
    Py_RETURN_NONE;
}

/* ------------------------------------------------- all of the workers */

/* Cancel the item of one worker, once more. */
static void
worker_cancel(WorkerObject *self, al_stop why, PyObject *msg)
{
    al_pump *p = self->pump;
    if (self->item.value == NULL || self->task == NULL) {
        return;
    }
    if (self->item.asked++ == 0) {
        self->item.why = why;
    }
    PyObject *task = Py_NewRef(self->task);
    if (al_task_cancel(p->st, task, msg) < 0) {
        al_loop_report(p->st, p->bound.loop, "cancelling an item failed",
                       task);
    }
    Py_DECREF(task);
}

/* Tell whether every item has ended, and only the workers have not. */
static bool
pump_is_through(const al_pump *p)
{
    if (!p->begun || !p->source.done || p->source.ahead != NULL) {
        return false;
    }
    al_link *at = p->workers.next;
    while (at != &p->workers
           && AL_OWNER(at, WorkerObject, link)->item.value == NULL)
    {
        at = at->next;
    }
    return at == &p->workers;
}

void
al_worker_stop(al_pump *p, al_stop why, PyObject *msg)
{
    bool late = why == AL_STOP_BUDGET || why == AL_STOP_CANCEL;
    if (p->over || (late && pump_is_through(p))) {
        return;
    }
    if (p->stopping == AL_STOP_NONE) {
        p->stopping = why;
        PyObject *reader = Py_XNewRef(p->reader);
        if (reader != NULL && al_task_cancel(p->st, reader, NULL) < 0) {
            al_loop_report(p->st, p->bound.loop,
                           "cancelling the source's reader failed", reader);
        }
        Py_XDECREF(reader);
    }
    /* Each moves back before it is told, so what ends meanwhile is safe. */
    al_link before;
    al_list_init(&before);
    while (!al_list_is_empty(&p->workers)) {
        al_link *link = p->workers.next;
        al_link_unlink(link);
        al_list_append(&before, link);
    }
    while (!al_list_is_empty(&before)) {
        WorkerObject *worker = AL_OWNER(before.next, WorkerObject, link);
        al_link_unlink(&worker->link);
        al_list_append(&p->workers, &worker->link);
        Py_INCREF(worker);
        worker_cancel(worker, why, msg);
        Py_DECREF(worker);
    }
    pump_check_over(p);
}

void
al_worker_fail(al_pump *p)
{
    PyObject *error = PyErr_GetRaisedException();
    assert(error != NULL);
    if (p->fatal == NULL) {
        p->fatal = error;
    }
    else {
        PyErr_SetRaisedException(error);
        al_loop_report(p->st, p->bound.loop,
                       "a batch that is ending failed once more", NULL);
    }
    al_worker_stop(p, AL_STOP_FATAL, NULL);
}

void
al_worker_due(al_deadline *deadline)
{
    al_item *item = AL_OWNER(deadline, al_item, deadline);
    WorkerObject *worker = AL_OWNER(item, WorkerObject, item);
    Py_INCREF(worker);
    worker_cancel(worker, AL_STOP_NONE, NULL);
    Py_DECREF(worker);
}

int
al_worker_visit(al_pump *p, visitproc visit, void *arg)
{
    for (al_link *at = p->workers.next; at != &p->workers; at = at->next) {
        Py_VISIT(AL_OWNER(at, WorkerObject, link));
    }
    return 0;
}

void
al_worker_clear(al_pump *p)
{
    while (!al_list_is_empty(&p->workers)) {
        worker_detach(AL_OWNER(p->workers.next, WorkerObject, link));
    }
}

/* ----------------------------------------------------------- the type */

static int
worker_traverse(PyObject *op, visitproc visit, void *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->owner);
    Py_VISIT(self->task);
    return al_item_visit(&self->item, visit, arg);
}

static int
worker_clear(PyObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    al_item gone;
    al_item_detach(&self->item, &gone);
    worker_detach(self);
    al_item_clear(&gone);
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
    {Py_tp_traverse, worker_traverse},
    {Py_tp_clear, worker_clear},
    {Py_tp_dealloc, worker_dealloc},
    {0, NULL},
};

static PyType_Spec worker_spec = {
    .name = "pyasynclife._core.Worker",
    .basicsize = sizeof(WorkerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = worker_slots,
};

int
al_worker_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Worker, &worker_spec, false);
}
