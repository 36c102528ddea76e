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
    PyObject *none = PyObject_CallOneArg(p->st->hold_abandoned, task);
    if (none == NULL) {
        al_loop_report(p->st, p->bound.loop,
                       "a task that did not stop cannot be held", task);
    }
    Py_XDECREF(none);
}

bool
al_late_has_ended(al_pump *p, PyObject *task)
{
    int done = al_task_done(p->st, task);
    if (done < 0) {
        al_loop_report(p->st, p->bound.loop,
                       "a task does not tell whether it has ended", task);
    }
    return done > 0;
}

/* What becomes of an item that is given up (new): one that was made a Task for
   and not begun never will be. */
static PyObject *
late_result(WorkerObject *self, double now)
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
late_give_up(WorkerObject *self, double now)
{
    al_pump *p = self->pump;
    PyObject *task = Py_XNewRef(self->task);
    if (self->stepping || (task != NULL && al_late_has_ended(p, task))
        || self->owner == NULL || self->item.value == NULL)
    {
        Py_XDECREF(task);
        return;
    }
    PyObject *owner = Py_NewRef(self->owner);
    PyObject *result = late_result(self, now);
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
    /* Each moves back before it is looked at: what ends meanwhile is safe. */
    al_link before;
    al_list_move(&p->workers, &before);
    while (!al_list_is_empty(&before)) {
        WorkerObject *worker = AL_OWNER(before.next, WorkerObject, link);
        al_link_unlink(&worker->link);
        al_list_append(&p->workers, &worker->link);
        if (worker->item.value != NULL) {
            Py_INCREF(worker);
            late_give_up(worker, now);
            Py_DECREF(worker);
        }
    }
}
