/* Items that were cancelled and do not stop in time.
 *
 * With a grace, an item that runs on after it is given up: its outcome is
 * RUNNING, its place is free, and its worker is the pump's no more.  The
 * worker's Task drives the item on, as any Task its coroutine, and is held
 * until it ends; what comes of it then is the Task's own.
 */
#include "compat.h"
#include "fault.h"
#include "list.h"
#include "state.h"
#include "loop.h"
#include "deadline.h"
#include "result.h"
#include "item.h"
#include "worker.h"
#include "late.h"

void
al_late_keep(al_pump *p, PyObject *task)
{
    PyObject *none = PyObject_CallOneArg(p->st->keep, task);
    if (none == NULL) {
        al_loop_report(p->st, p->bound.loop,
                       "a task that did not stop cannot be held", task);
    }
    Py_XDECREF(none);
}

/* The worker keeps the item, and nothing else. */
static void
late_give_up(WorkerObject *self, double now)
{
    al_pump *p = self->pump;
    if (self->owner == NULL || self->item.value == NULL || self->stepping) {
        return;
    }
    PyObject *owner = Py_NewRef(self->owner);
    PyObject *task = Py_XNewRef(self->task);
    bool budget = self->item.why == AL_STOP_BUDGET;
    PyObject *result = al_item_stuck(
        p->st, &self->item, budget ? p->budget : p->timeout, p->grace,
        now - self->item.started);
    if (result == NULL) {
        al_worker_fail(p);
    }
    al_worker_detach(self);
    if (task != NULL) {
        al_late_keep(p, task);
    }
    if (result != NULL) {
        p->calls->finished(p->owner, result);
    }
    al_worker_kick(p);
    Py_XDECREF(result);
    Py_XDECREF(task);
    Py_DECREF(owner);
}

/* The loop's time; a clock that fails ends the pump. */
static double
late_clock(al_pump *p)
{
    double now = al_loop_time(p->st, &p->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        al_worker_fail(p);
    }
    return now;
}

void
al_late_due(al_deadline *deadline)
{
    al_item *item = AL_OWNER(deadline, al_item, deadline);
    WorkerObject *worker = AL_OWNER(item, WorkerObject, item);
    al_pump *p = worker->pump;
    Py_INCREF(worker);
    if (item->late) {
        late_give_up(worker, late_clock(p));
    }
    else {
        item->late = true;
        al_worker_cancel(worker, AL_STOP_NONE, NULL);
        if (item->late && p->grace != Py_HUGE_VAL
            && al_deadline_add(&p->deadlines, deadline,
                               late_clock(p) + p->grace) < 0)
        {
            al_worker_fail(p);
        }
    }
    Py_DECREF(worker);
}

void
al_late_give_up_all(al_pump *p)
{
    double now = late_clock(p);
    al_link *at = p->workers.next;
    while (at != &p->workers) {
        WorkerObject *worker = AL_OWNER(at, WorkerObject, link);
        at = at->next;
        if (worker->item.value != NULL && !worker->stepping) {
            Py_INCREF(worker);
            late_give_up(worker, now);
            Py_DECREF(worker);
            at = p->workers.next; /* anything may have run */
        }
    }
}
