/* A pump: items from a source, driven by its workers, with one budget.
 *
 * An asynchronous source has one reader, a Task of its own from the first item
 * to aclose(), so that cancel scopes and context variables inside the source
 * work; it is at most one item ahead, and no item's timeout is its own.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/create_task.h"
#include "aio/deadline.h"
#include "batch/source.h"
#include "batch/result.h"
#include "batch/item.h"
#include "batch/worker.h"
#include "batch/abandon.h"
#include "batch/step.h"
#include "batch/item_task.h"
#include "batch/pump.h"

/* The item that was ahead when the pump was stopped. */
static void
pump_refuse_ahead(al_pump *p)
{
    al_item item = {0};
    PyObject *ahead = Py_NewRef(p->source.ahead);
    p->source.added_first = 0;
    int more = al_source_pull(p->st, &p->source, &item.value, &item.task_id);
    if (more < 0 && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* no batch that is ending fails for such a key */
        more = 1;
        item.value = Py_NewRef(ahead);
        p->source.pulled++;
        p->source.own++;
    }
    Py_DECREF(ahead);
    item.index = p->source.pulled - 1;
    PyObject *result =
        more > 0 ? al_item_unstarted(p->st, &item, p->stopping) : NULL;
    if (result != NULL) {
        p->calls->finished(p->owner, result);
        Py_DECREF(result);
    }
    else if (PyErr_Occurred()) {
        al_pump_fail(p);
    }
    al_item_clear(&item);
}

/* The reader was cancelled and has not stopped in time. */
static void
pump_give_up_reader(al_pump *p)
{
    PyObject *reader = Py_XNewRef(p->reader);
    if (reader != NULL && !al_pump_task_has_ended(p, reader)) {
        Py_CLEAR(p->reader);
        p->source.done = true;
        al_pump_keep_task(p, reader);
        if (p->source.ahead != NULL) {
            pump_refuse_ahead(p);
        }
        al_pump_update(p);
    }
    Py_XDECREF(reader);
}

static void
pump_due(al_deadlines *all, al_deadline *deadline)
{
    al_pump *p = AL_CONTAINER_OF(all, al_pump, deadlines);
    if (deadline == NULL) {
        al_pump_fail(p);
    }
    else if (deadline == &p->budget_end) {
        al_pump_stop(p, AL_STOP_BUDGET, NULL);
    }
    else if (deadline == &p->grace_end) {
        al_pump_abandon_all(p);
        pump_give_up_reader(p);
    }
    else {
        al_pump_item_due(deadline);
    }
}

void
al_pump_init(al_pump *p, al_state *st, PyObject *owner,
             const al_pump_calls *calls)
{
    *p = (al_pump){0};
    p->st = st;
    p->owner = owner;
    p->calls = calls;
    p->step = al_worker_step;
    p->left = al_worker_task_ended;
    p->timeout = p->budget = p->grace = Py_HUGE_VAL;
    al_list_init(&p->workers);
    al_deadline_init(&p->deadlines, st, owner, &p->bound, pump_due);
}

/* The Task that reads an asynchronous source. */
static int
pump_start_reader(al_pump *p)
{
    al_state *st = p->st;
    PyObject *stack[] = {p->source.items, p->owner};
    PyObject *coro =
        AL_ALLOC(PyObject_Vectorcall(st->read_source, stack, 2, NULL));
    PyObject *callback =
        coro == NULL ? NULL : PyObject_GetAttr(p->owner, st->s_reader_done);
    PyObject *task = NULL;
    if (callback != NULL) {
        task = al_create_task_plain(st, &p->bound, coro, p->name, NULL);
    }
    if (coro != NULL && task == NULL) {
        al_coro_close_unstarted(st, coro);
    }
    int failed = -1;
    if (task != NULL) {
        p->reader = Py_NewRef(task);
        failed = al_task_add_done_callback(st, &p->bound, task, callback);
        if (failed) {
            Py_CLEAR(p->reader);
        }
        else if (p->stopping != AL_STOP_NONE) {
            /* An eager one, that stopped its batch before it was known. */
            failed = al_task_cancel(st, task, NULL) < 0 ? -1 : 0;
        }
    }
    Py_XDECREF(task);
    Py_XDECREF(callback);
    Py_XDECREF(coro);
    return failed;
}

/* Source, budget and the first worker or the reader. */
static int
pump_start(al_pump *p)
{
    if (al_source_begin(&p->source) < 0) {
        return -1;
    }
    if (p->source.length == 0) {
        p->source.done = p->source.exhausted = true;
    }
    if (p->budget <= 0.0) {
        al_pump_stop(p, AL_STOP_BUDGET, NULL);
        return 0;
    }
    if (p->budget != Py_HUGE_VAL
        && al_deadline_add(&p->deadlines, &p->budget_end, p->began + p->budget)
               < 0)
    {
        return -1;
    }
    return p->source.async ? pump_start_reader(p) : 0;
}

void
al_pump_set_task_per_item(al_pump *p, PyObject *registry)
{
    p->solo = al_item_task_spawn;
    p->left = al_item_task_ended;
    p->registry = Py_XNewRef(registry);
}

int
al_pump_begin(al_pump *p)
{
    al_state *st = p->st;
    PyObject *loop = al_loop_running(st, "a batch");
    if (loop == NULL) {
        return -1;
    }
    int failed = al_loop_bind(st, &p->bound, loop);
    Py_DECREF(loop);
    if (failed) {
        return -1;
    }
    p->began = al_loop_time(st, &p->bound);
    if (p->began == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    p->turn_at = al_clock();
    p->begun = true;
    p->spawning = true; /* whatever the source does meanwhile */
    if (p->stopping == AL_STOP_NONE && pump_start(p) < 0) {
        al_pump_fail(p);
    }
    p->spawning = false;
    al_pump_update(p);
    return 0;
}

void
al_pump_offer(al_pump *p, PyObject *item)
{
    p->source.added_first = al_source_waiting(&p->source);
    Py_XSETREF(p->source.ahead, Py_NewRef(item));
    al_pump_update(p);
}

/* What the reader's end says: raise it, or not.  Returns -1 if raised. */
static int
pump_judge_reader(al_pump *p, PyObject *reader)
{
    PyObject *value;
    al_outcome outcome = al_task_outcome(p->st, reader, &value);
    bool stopped = p->stopping != AL_STOP_NONE;
    if (outcome == AL_CANCELLED && !stopped) {
        PyErr_SetString(p->st->CancelledError,
                        "the batch's asynchronous source was cancelled");
        outcome = AL_ERROR;
    }
    else if (outcome == AL_FAILED
             || (outcome == AL_DONE && PyExceptionInstance_Check(value)))
    {
        PyErr_SetRaisedException(Py_NewRef(value));
        if (outcome == AL_FAILED && stopped) {
            al_loop_report_or_exit_later(
                p->st, p->bound.loop,
                "a batch's asynchronous source failed while it "
                "was being cancelled",
                NULL);
        }
        else {
            outcome = AL_ERROR;
        }
    }
    Py_XDECREF(value);
    return outcome == AL_ERROR ? -1 : 0;
}

/* The end of a reader that was given up: nobody waits for it. */
static void
pump_end_late_reader(al_pump *p, PyObject *reader)
{
    PyObject *value;
    al_outcome outcome = al_task_outcome(p->st, reader, &value);
    if (outcome != AL_CANCELLED && value != NULL
        && PyExceptionInstance_Check(value))
    {
        PyErr_SetRaisedException(Py_NewRef(value));
        outcome = AL_ERROR;
    }
    if (outcome == AL_ERROR) {
        al_loop_report_or_exit_later(
            p->st, p->bound.loop,
            "a batch's asynchronous source, which did not stop in "
            "time, failed",
            reader);
    }
    Py_XDECREF(value);
}

void
al_pump_read(al_pump *p, PyObject *task)
{
    PyObject *reader = p->reader;
    if (reader == NULL) {
        pump_end_late_reader(p, task);
        return;
    }
    p->reader = NULL;
    p->source.done = true;
    bool stopped = p->stopping != AL_STOP_NONE;
    if (pump_judge_reader(p, reader) < 0) {
        al_pump_fail(p);
    }
    p->source.exhausted = !stopped && p->fatal == NULL;
    if (p->stopping != AL_STOP_NONE && p->source.ahead != NULL) {
        pump_refuse_ahead(p);
    }
    Py_DECREF(reader);
    al_pump_update(p);
}

int
al_pump_add(al_pump *p, PyObject *item)
{
    if (p->over || p->closed) {
        PyErr_SetString(PyExc_RuntimeError,
                        p->over ? "this batch has ended: nothing can be added "
                                  "to it"
                                : "this batch was closed: nothing can be "
                                  "added to it");
        return -1;
    }
    if (PyCoro_CheckExact(item)) {
        al_source_refuse(p->st, item);
        return -1;
    }
    if (al_source_add(&p->source, item) < 0) {
        return -1;
    }
    al_pump_update(p);
    return 0;
}

void
al_pump_limit_changed(al_pump *p)
{
    al_pump_update(p);
    if (p->gates != NULL && !p->paused) {
        (void)PyList_Reverse(p->gates); /* the last is woken first */
        al_loop_wake_waiters(p->st, &p->bound, p->gates);
    }
    if (p->begun) {
        al_pump_spawn(p, p->limit - p->alive < al_source_left(&p->source)
                             ? p->limit - p->alive
                             : al_source_left(&p->source));
        al_pump_grow(p);
    }
}

int
al_pump_visit(al_pump *p, visitproc visit, void *arg)
{
    Py_VISIT(p->fn);
    Py_VISIT(p->name);
    Py_VISIT(p->reader);
    Py_VISIT(p->fatal);
    Py_VISIT(p->registry);
    Py_VISIT(p->gates);
    Py_VISIT(p->deadlines.timer);
    for (al_link *at = p->workers.next; at != &p->workers; at = at->next) {
        Py_VISIT(AL_CONTAINER_OF(at, WorkerObject, link));
    }
    int stop = al_source_visit(&p->source, visit, arg);
    return stop != 0 ? stop : al_loop_visit(&p->bound, visit, arg);
}

void
al_pump_clear(al_pump *p)
{
    while (!al_list_is_empty(&p->workers)) {
        al_worker_detach(AL_CONTAINER_OF(p->workers.next, WorkerObject, link));
    }
    al_source_clear(&p->source);
    Py_CLEAR(p->deadlines.timer);
    Py_CLEAR(p->fatal);
    Py_CLEAR(p->registry);
    Py_CLEAR(p->gates);
    Py_CLEAR(p->reader);
    Py_CLEAR(p->name);
    Py_CLEAR(p->fn);
    al_loop_clear(&p->bound);
}
