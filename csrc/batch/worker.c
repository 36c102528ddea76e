/* The workers of a pump: real Tasks that drive items, one after the other.
 *
 * Here they are made, counted, told to stop and let go; what one does in a
 * step of its Task is in step.c.  A worker is an object in the pump's list,
 * which owns it, and the callback of its Task's end, so that the end is always
 * noticed, also of one that was cancelled before its first step.
 *
 * Every member that is used after a call that can run Python is read again.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
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
#include "batch/worker.h"

#include <string.h>

/* How many Tasks of one item each are made at once, from nothing. */
#define ITEM_TASK_RAMP 64

/* How often the workers may be replaced that were cancelled before they began,
   with none between them that did. */
#define CANCELLED_UNSTARTED_MAX 100

bool
al_pump_may_pull(const al_pump *p)
{
    return p->stopping == AL_STOP_NONE && p->fatal == NULL && !p->paused
           && p->room > 0 && al_source_may_give(&p->source);
}

void
al_worker_detach(WorkerObject *self)
{
    al_pump *p = self->pump;
    PyObject *owner = self->owner;
    PyObject *task = self->task;
    PyObject *counter = self->counter;
    if (owner == NULL) {
        return;
    }
    self->owner = self->task = self->counter = NULL;
    al_deadline_drop(&self->item.deadline);
    al_link_unlink(&self->link);
    p->alive--;
    if (!self->begun) {
        p->unstarted--;
    }
    if (p->yielding == self) {
        p->yielding = NULL;
    }
    Py_XDECREF(counter);
    Py_XDECREF(task);
    Py_DECREF(owner);
    Py_DECREF(self); /* the list's */
}

/* Tell whether nothing more happens by itself. */
static bool
pump_is_at_end(const al_pump *p)
{
    if (!p->begun || p->alive > 0 || p->spawning || p->reader != NULL
        || p->source.ahead != NULL)
    {
        return false;
    }
    return p->stopping != AL_STOP_NONE
           || (al_source_is_over(&p->source)
               && (p->closed || p->calls->may_end(p->owner)));
}

/* Nothing runs, nothing comes: tell the owner, once. */
static void
pump_check_over(al_pump *p)
{
    if (p->over || !pump_is_at_end(p)) {
        return;
    }
    p->over = true;
    al_deadline_disarm(&p->deadlines);
    p->calls->over(p->owner);
}

/* ---------------------------------------------------- making workers */

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
al_worker_own(WorkerObject *self, PyObject *task)
{
    al_pump *p = self->pump;
    self->counter = al_task_cancelling_method(p->st, task);
    if (self->counter == NULL) {
        return -1;
    }
    self->task = Py_NewRef(task); /* from now on it may be stepped */
    return al_task_add_done_callback(p->st, &p->bound, task, (PyObject *)self);
}

/* The Task of a worker (new). */
static PyObject *
worker_make_task(WorkerObject *self)
{
    al_state *st = self->pump->st;
    PyObject *task = NULL;
    PyObject *step = al_awaitable_new(st, (PyObject *)self, self->pump->step);
    PyObject *coro = step == NULL
                         ? NULL
                         : AL_ALLOC(PyObject_CallOneArg(st->run_worker, step));
    Py_XDECREF(step);
    if (coro != NULL) {
        task = al_create_task_plain(st, &self->pump->bound, coro,
                                    self->pump->name, NULL);
        if (task == NULL) {
            al_coro_close_unstarted(st, coro);
        }
        Py_DECREF(coro);
    }
    return task;
}

/* One more worker.  Returns 0; -1 with an exception. */
static int
pump_spawn(al_pump *p)
{
    WorkerObject *self = al_worker_new(p);
    if (self == NULL) {
        return -1;
    }
    Py_INCREF(self);
    int failed = -1;
    PyObject *task = worker_make_task(self);
    if (task != NULL && self->owner != NULL) {
        failed = al_worker_own(self, task);
    }
    if (failed) {
        /* Its Task, if there is one, finds it ended. */
        PyObject *error = PyErr_GetRaisedException();
        al_worker_detach(self);
        PyErr_SetRaisedException(error);
    }
    Py_XDECREF(task);
    Py_DECREF(self);
    return failed;
}

void
al_pump_spawn(al_pump *p, Py_ssize_t n)
{
    if (p->spawning) {
        return; /* who makes them goes on */
    }
    p->spawning = true;
    while (n-- > 0 && al_pump_may_pull(p) && p->alive < p->limit) {
        if ((p->solo != NULL ? p->solo : pump_spawn)(p) < 0) {
            al_pump_fail(p);
        }
    }
    p->spawning = false;
    pump_check_over(p);
}

/* One item that has its Task and was held may begin. */
static void
pump_admit(al_pump *p)
{
    int done = 1;
    while (done > 0 && p->gates != NULL && PyList_GET_SIZE(p->gates) > 0
           && !al_pump_holds_items(p))
    {
        PyObject *gate = Py_NewRef(PyList_GET_ITEM(p->gates, 0));
        done = PyList_SetSlice(p->gates, 0, 1, NULL) < 0
                   ? -1
                   : al_task_done(p->st, gate);
        if (done < 0) {
            al_pump_fail(p);
        }
        else if (done == 0) {
            al_loop_wake_waiter(p->st, &p->bound, gate);
        }
        Py_DECREF(gate);
    }
}

void
al_pump_update(al_pump *p)
{
    if (p->fatal != NULL && p->stopping == AL_STOP_NONE && p->unstarted == 0) {
        al_pump_stop(p, AL_STOP_FATAL, NULL);
    }
    if (p->begun && p->unstarted == 0) {
        al_pump_spawn(p, p->solo != NULL ? ITEM_TASK_RAMP : 1);
    }
    pump_admit(p);
    pump_check_over(p);
}

/* A worker ends.  One that was cancelled before it began is replaced; but from
   a task factory that cancels what it makes, no end of them would come. */
static void
pump_count_unstarted(al_pump *p)
{
    if (p->unstarted == 0 && p->stopping == AL_STOP_NONE
        && ++p->cancelled_unstarted == CANCELLED_UNSTARTED_MAX)
    {
        PyErr_SetString(PyExc_RuntimeError,
                        "a batch's workers are cancelled before they begin, "
                        "again and again: look at the loop's task factory");
        al_pump_fail(p);
    }
}

/* The worker's Task has ended. */
static PyObject *
worker_call(PyObject *op, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kw))
{
    WorkerObject *self = (WorkerObject *)op;
    al_pump *p = self->pump;
    if (self->owner != NULL && !self->stepping) {
        PyObject *owner = Py_NewRef(self->owner);
        p->left(op);
        al_worker_detach(self);
        if (!self->begun && p->solo == NULL) {
            pump_count_unstarted(p);
        }
        al_pump_update(p);
        Py_DECREF(owner);
    }
    Py_RETURN_NONE;
}

/* ------------------------------------------------- all of the workers */

void
al_worker_cancel(WorkerObject *self, al_stop why, PyObject *msg)
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
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "cancelling an item failed", task);
    }
    Py_DECREF(task);
}

/* Tell whether every item has ended, and only the workers have not. */
static bool
pump_is_through(const al_pump *p)
{
    if (!p->begun || !al_source_is_over(&p->source)) {
        return false;
    }
    al_link *at = p->workers.next;
    while (at != &p->workers
           && AL_CONTAINER_OF(at, WorkerObject, link)->item.value == NULL)
    {
        at = at->next;
    }
    return at == &p->workers;
}

static void
pump_cancel_reader(al_pump *p)
{
    PyObject *reader = Py_XNewRef(p->reader);
    if (reader != NULL && al_task_cancel(p->st, reader, NULL) < 0) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "cancelling the source's reader failed",
                                     reader);
    }
    Py_XDECREF(reader);
}

/* What is cancelled has `grace` seconds from now. */
static int
pump_begin_grace(al_pump *p)
{
    if (p->over || !p->begun || p->grace == Py_HUGE_VAL) {
        return 0;
    }
    double now = al_loop_time(p->st, &p->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    return al_deadline_add(&p->deadlines, &p->grace_end, now + p->grace);
}

void
al_pump_stop(al_pump *p, al_stop why, PyObject *msg)
{
    bool late = why == AL_STOP_BUDGET || why == AL_STOP_CANCEL;
    bool first = p->stopping == AL_STOP_NONE;
    if (p->over) {
        return;
    }
    if (late && first && pump_is_through(p)) {
        p->closed = true;
        pump_check_over(p);
        return;
    }
    if (first) {
        p->stopping = why;
    }
    pump_cancel_reader(p);
    /* Each moves back before it is told, so what ends meanwhile is safe. */
    al_link before;
    al_list_move(&p->workers, &before);
    while (!al_list_is_empty(&before)) {
        WorkerObject *worker =
            AL_CONTAINER_OF(before.next, WorkerObject, link);
        al_link_unlink(&worker->link);
        al_list_append(&p->workers, &worker->link);
        Py_INCREF(worker);
        al_worker_cancel(worker, why, msg);
        Py_DECREF(worker);
    }
    pump_check_over(p);
    if (first && pump_begin_grace(p) < 0) {
        al_pump_fail(p);
    }
}

void
al_pump_fail(al_pump *p)
{
    const char *message = "a batch failed more than once, and raises another "
                          "exception";
    PyObject *error = PyErr_GetRaisedException(), *other = p->fatal;
    assert(error != NULL);
    if (other != NULL && p->over) {
        PyErr_SetRaisedException(error);
        al_loop_report_or_exit_later(p->st, p->bound.loop, message, NULL);
        return;
    }
    if (other == NULL || (al_loop_is_exit(error) && !al_loop_is_exit(other))) {
        p->fatal = error;
    }
    else {
        other = error;
    }
    if (other != NULL) {
        al_loop_report_exception(p->st, p->bound.loop, message, NULL, other);
        Py_DECREF(other);
    }
    al_pump_stop(p, AL_STOP_FATAL, NULL);
}

/* ----------------------------------------------------------- the type */

/* What the item's coroutine says of itself; AttributeError between items. */
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

static PyGetSetDef worker_getset[] = {
    {"cr_frame", worker_get_driven, NULL, NULL, (void *)"cr_frame"},
    {"cr_await", worker_get_driven, NULL, NULL, (void *)"cr_await"},
    {NULL, NULL, NULL, NULL, NULL},
};

static int
worker_traverse(PyObject *op, visitproc visit, void *arg)
{
    WorkerObject *self = (WorkerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->owner);
    Py_VISIT(self->task);
    Py_VISIT(self->counter);
    Py_VISIT(self->refused);
    return al_item_visit(&self->item, visit, arg);
}

static int
worker_clear(PyObject *op)
{
    WorkerObject *self = (WorkerObject *)op;
    al_worker_detach(self);
    al_item_clear(&self->item);
    Py_CLEAR(self->refused);
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
