/* What a worker does in a step of its Task.
 *
 * It pulls an item, calls the function, drives what it returns in a context of
 * the item's own, and passes up whatever that waits for; when the item ends,
 * the next one follows in the same step.  So an item costs no Task, no
 * wrapper, no semaphore, no timer.
 *
 * A worker is retired, not laundered: after an item that did not succeed, or
 * that left a cancellation behind, it ends and a fresh one takes its place,
 * pulling in a later turn.  None is parked: a worker with nothing to pull ends
 * too, and one is made when there is something again.
 *
 * Nothing here is re-entered.  While a worker of a pump is on the C stack, any
 * other that is stepped (eager task factories, hostile code) yields once and
 * tries again in the next turn.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/awaitable.h"
#include "aio/deadline.h"
#include "batch/drive.h"
#include "batch/source.h"
#include "batch/result.h"
#include "batch/item.h"
#include "batch/worker.h"
#include "batch/step.h"

/* How long a pump pulls before it gives the loop a turn, in seconds. */
#define PUMP_SLICE 0.010

/* How many workers the first item that suspends brings, where the length of
   the source is known, and where it is not; from then on they double. */
#define PUMP_RAMP_KNOWN 64
#define PUMP_RAMP 8

/* What a worker does after a try to pull. */
typedef enum { PULL_NOTHING, PULL_ITEM, PULL_REST } worker_pulled;

/* The loop's time; a clock that fails ends the pump. */
static double
worker_clock(al_pump *p)
{
    double now = al_loop_time(p->st, &p->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        al_pump_fail(p);
    }
    return now;
}

bool
al_worker_finish(WorkerObject *self, PySendResult answer, PyObject *end,
                 PyObject **verdict)
{
    al_pump *p = self->pump;
    PyObject *value, *task_id;
    al_result_fields facts = {0};
    double now = worker_clock(p);
    bool budget = self->item.why == AL_STOP_BUDGET;
    int clean =
        al_item_judge(p->st, &self->item, self->task, self->counter, answer,
                      budget ? p->budget : p->timeout, &end, &facts);
    facts.duration = now - self->item.started;
    PyObject *result = clean < 0 ? NULL : al_result_new(p->st, &facts);
    al_item_detach(&self->item, &value, &task_id);
    if (result == NULL) {
        al_pump_fail(p);
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
        al_pump_fail(p);
    }
    Py_DECREF(value);
    Py_XDECREF(task_id);
    if (verdict != NULL) {
        *verdict = end;
    }
    else {
        Py_DECREF(end);
    }
    return answer == PYGEN_RETURN && clean == 1;
}

void
al_worker_abandon(WorkerObject *self)
{
    al_pump *p = self->pump;
    self->item.asked = 0;
    al_drive_clear(&self->item.drive);
    PyObject *error = AL_ALLOC(PyObject_CallNoArgs(p->st->CancelledError));
    if (error != NULL) {
        (void)al_worker_finish(self, PYGEN_ERROR, error, NULL);
    }
    else {
        PyObject *value, *task_id;
        al_item_detach(&self->item, &value, &task_id);
        al_pump_fail(p);
        Py_DECREF(value);
        Py_XDECREF(task_id);
    }
}

void
al_worker_refuse(WorkerObject *self)
{
    al_pump *p = self->pump;
    PyObject *value, *task_id;
    PyObject *result = al_item_unstarted(p->st, &self->item, p->stopping);
    al_item_detach(&self->item, &value, &task_id);
    if (result == NULL) {
        al_pump_fail(p);
    }
    else {
        p->calls->finished(p->owner, result);
        Py_DECREF(result);
    }
    Py_DECREF(value);
    Py_XDECREF(task_id);
}

/* There are more workers than the limit: one less, at once. */
static void
worker_shed(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (al_task_remove_done_callback(p->st, self->task, (PyObject *)self) > 0)
    {
        al_worker_detach(self);
    }
    else if (PyErr_Occurred()) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "retiring a worker failed", self->task);
    }
}

/* Pull one item. */
static worker_pulled
worker_pull(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (!al_pump_may_pull(p)) {
        return PULL_NOTHING;
    }
    double now = self->now != 0.0 ? self->now : worker_clock(p);
    double wall = p->bound.clock != AL_CLOCK_ITS_OWN ? now : al_clock();
    if (p->alive > p->limit) {
        worker_shed(self);
        return PULL_NOTHING;
    }
    if (p->yielding != NULL || wall - p->turn_at > PUMP_SLICE) {
        if (p->yielding == NULL) {
            p->yielding = self;
        }
        return PULL_REST;
    }
    int more = al_source_pull(p->st, &p->source, &self->item.value,
                              &self->item.task_id);
    if (more <= 0) {
        if (more < 0) {
            al_pump_fail(p);
        }
        return PULL_NOTHING;
    }
    p->room--;
    self->item.index = p->source.pulled - 1;
    if (p->source.async && p->source.ahead == NULL) {
        p->calls->taken(p->owner);
    }
    if (p->stopping != AL_STOP_NONE) {
        al_worker_refuse(self);
        return PULL_NOTHING;
    }
    self->item.started = p->source.quiet ? now : worker_clock(p);
    return PULL_ITEM;
}

void
al_pump_grow(al_pump *p)
{
    if (p->unstarted > 0 || p->alive >= p->limit || !al_pump_may_pull(p)) {
        return;
    }
    Py_ssize_t left = al_source_left(&p->source);
    Py_ssize_t n = left < 0 ? PUMP_RAMP : PUMP_RAMP_KNOWN;
    n = n < p->alive ? p->alive : n;
    n = n > p->room ? p->room : n;
    if (p->source.async && !p->source.done) {
        left = 1 + al_source_waiting(&p->source);
    }
    if (left >= 0 && n > left) {
        n = left;
    }
    al_pump_spawn(p, n < 1 ? 1 : n);
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
                           self->item.started + p->timeout)
               < 0)
    {
        al_pump_fail(p);
    }
    al_pump_grow(p);
}

/* A fresh worker for this one, whose end nobody need be told of then. */
static void
worker_retire(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (!al_pump_may_pull(p)) {
        return;
    }
    if (al_task_remove_done_callback(p->st, self->task, (PyObject *)self) > 0)
    {
        al_worker_detach(self);
        /* Two, while the limit allows: else items that fail at once, and so
           never suspend, would be driven one to a turn. */
        al_pump_spawn(p, 2);
    }
    else if (PyErr_Occurred()) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "retiring a worker failed", self->task);
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
                   && PyErr_GivenExceptionMatches(thrown, PyExc_GeneratorExit);
    for (;;) {
        if (self->item.value != NULL) {
            answer = al_drive_resume(st, &self->item.drive, thrown, &value);
        }
        else {
            worker_pulled pulled = worker_pull(self);
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
            al_worker_abandon(self);
        }
        else if (!al_worker_finish(self, answer, value, NULL) && !closing) {
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

/* A step of an item that was given up: its end is the Task's. */
static PySendResult
worker_alone(WorkerObject *self, PyObject *thrown, PyObject **result)
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
        PyObject *value, *task_id;
        al_item_detach(&self->item, &value, &task_id);
        Py_XDECREF(value);
        Py_XDECREF(task_id);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    return answer;
}

PySendResult
al_worker_step(PyObject *op, PyObject *thrown, PyObject **result)
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
    if (self->owner == NULL && self->item.value != NULL) {
        return worker_alone(self, thrown, result);
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
        p->cancelled_unstarted = 0;
    }
    if (p->yielding == self) {
        p->yielding = NULL;
        p->turn_at = al_clock();
    }
    PySendResult answer = worker_run(self, thrown, nested, result);
    self->stepping = false;
    p->driving = nested;
    Py_DECREF(owner);
    return answer;
}

void
al_worker_task_ended(PyObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    if (self->item.value != NULL) {
        al_worker_abandon(self);
    }
}
