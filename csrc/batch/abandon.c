/* Items that were cancelled and do not stop in time.
 *
 * With a grace, an item that runs on after it is given up: its outcome is
 * RUNNING, its place is free, and its worker is the pump's no more.  The
 * worker's Task drives the item on, as any Task its coroutine, and is held
 * until it ends; what comes of it then is the Task's own.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/deadline.h"
#include "batch/result.h"
#include "batch/item.h"
#include "batch/worker.h"
#include "batch/abandon.h"

void
al_pump_keep_task(al_pump *p, PyObject *task)
{
    PyObject *none = PyObject_CallOneArg(p->st->hold_abandoned, task);
    if (none == NULL) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "a task that did not stop cannot be held",
                                     task);
    }
    Py_XDECREF(none);
}

bool
al_pump_task_has_ended(al_pump *p, PyObject *task)
{
    int done = al_task_done(p->st, task);
    if (done < 0) {
        al_loop_report_or_exit_later(
            p->st, p->bound.loop, "a task does not tell whether it has ended",
            task);
    }
    return done > 0;
}

/* What becomes of an item that is given up (new): one that was made a Task for
   and not begun never will be. */
static PyObject *
abandon_result(WorkerObject *self, double now)
{
    al_pump *p = self->pump;
    if (!self->begun) {
        return al_item_unstarted(p->st, &self->item, p->stopping);
    }
    bool budget = self->item.why == AL_STOP_BUDGET;
    return al_item_stuck(p->st, &self->item, budget ? p->budget : p->timeout,
                         p->grace, now - self->item.started);
}

/* The worker keeps the item, and nothing else. */
static void
abandon_item(WorkerObject *self, double now)
{
    al_pump *p = self->pump;
    PyObject *task = Py_XNewRef(self->task);
    if (self->stepping || (task != NULL && al_pump_task_has_ended(p, task))
        || self->owner == NULL || self->item.value == NULL)
    {
        Py_XDECREF(task);
        return;
    }
    PyObject *owner = Py_NewRef(self->owner);
    PyObject *result = abandon_result(self, now);
    if (result == NULL) {
        al_pump_fail(p);
    }
    al_worker_detach(self);
    if (task != NULL) {
        al_pump_keep_task(p, task);
    }
    if (result != NULL) {
        p->calls->finished(p->owner, result);
    }
    al_pump_update(p);
    Py_XDECREF(result);
    Py_XDECREF(task);
    Py_DECREF(owner);
}

/* The loop's time; a clock that fails ends the pump. */
static double
abandon_clock(al_pump *p)
{
    double now = al_loop_time(p->st, &p->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        al_pump_fail(p);
    }
    return now;
}

void
al_pump_item_due(al_deadline *deadline)
{
    al_item *item = AL_CONTAINER_OF(deadline, al_item, deadline);
    WorkerObject *worker = AL_CONTAINER_OF(item, WorkerObject, item);
    al_pump *p = worker->pump;
    Py_INCREF(worker);
    if (item->late) {
        abandon_item(worker, abandon_clock(p));
    }
    else {
        item->late = true;
        al_worker_cancel(worker, AL_STOP_NONE, NULL);
        if (item->late && p->grace != Py_HUGE_VAL
            && al_deadline_add(&p->deadlines, deadline,
                               abandon_clock(p) + p->grace)
                   < 0)
        {
            al_pump_fail(p);
        }
    }
    Py_DECREF(worker);
}

void
al_pump_abandon_all(al_pump *p)
{
    double now = abandon_clock(p);
    /* Each moves back before it is looked at: what ends meanwhile is safe. */
    al_link before;
    al_list_move(&p->workers, &before);
    while (!al_list_is_empty(&before)) {
        WorkerObject *worker =
            AL_CONTAINER_OF(before.next, WorkerObject, link);
        al_link_unlink(&worker->link);
        al_list_append(&p->workers, &worker->link);
        if (worker->item.value != NULL) {
            Py_INCREF(worker);
            abandon_item(worker, now);
            Py_DECREF(worker);
        }
    }
}
