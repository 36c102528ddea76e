/* How the limits of a pump meet its workers, its timer and its source.
 *
 * The structure is in limits.c; this file moves items between it, the source
 * and the workers:
 *
 *     al_admission_pull    a retry, or a waiting item whose key has room; or
 *                          else read the source, and set aside what may not
 *                          start, until an item may, or enough are set aside
 *     al_admission_detach  an attempt has ended, and its place is free: does
 *                          the item wait for another, or is that its result?
 *     al_admission_due     a delay is over; the rate allows the next start
 *     al_admission_held    an item begins later than the rate has let it
 *     al_admission_stop    the pump is stopped: what waits ends
 *     al_admission_resting what is between two attempts, for a report
 *
 * A pump is not over while an item waits.  No item waits for a worker: an end
 * lets its worker, or al_pump_update(), pull the next one.
 *
 * With a registry, a failed attempt is parked until its Task has ended, for
 * until then the registry knows the Task by the item's id.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/deadline.h"
#include "batch/drive.h"
#include "batch/result.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/job.h"
#include "batch/limits.h"
#include "batch/pump.h"
#include "batch/reader.h"
#include "batch/worker.h"
#include "batch/admission.h"

/* How late a start may be, in seconds, for the next ones to make up for it. */
#define ADMISSION_LATE 0.010

/* An item starts.  Returns the loop time before which nothing may start; 0.0:
   the next one may start at once. */
static double
admission_start(al_limits *limits, double now)
{
    if (limits->interval == 0.0) {
        return 0.0;
    }
    double due = limits->next_start;
    bool on_grid = due > now || (limits->late && due > now - ADMISSION_LATE);
    limits->next_start = (on_grid ? due : now) + limits->interval;
    limits->late = limits->next_start <= now;
    return limits->late ? 0.0 : limits->next_start;
}

/* Start nothing until `when`.  A failure stops the pump. */
static void
admission_close(al_pump *p, double when)
{
    al_limits *limits = p->limits;
    assert(!limits->closed);
    limits->closed = true;
    if (al_deadline_add(&p->deadlines, &limits->opens, when) < 0) {
        limits->closed = false;
        al_pump_fail(p);
    }
}

void
al_admission_held(al_pump *p)
{
    al_limits *limits = p->limits;
    if (limits == NULL || limits->interval == 0.0
        || p->stopping != AL_STOP_NONE)
    {
        return;
    }
    double due = al_pump_time(p) + limits->interval;
    limits->next_start = Py_MAX(limits->next_start, due);
    al_deadline_drop(&limits->opens);
    limits->closed = false;
    admission_close(p, limits->next_start);
}

/* Read no more of the source in this iteration.  A failure stops the pump. */
static void
admission_rest(al_pump *p)
{
    al_limits *limits = p->limits;
    if (limits->resting) {
        return;
    }
    limits->resting = true;
    if (al_deadline_add(&p->deadlines, &limits->rests, al_pump_time(p)) < 0) {
        limits->resting = false;
        al_pump_fail(p);
    }
}

/* ---------------------------------------------- items that end without fn */

/* Hand over the result (stolen; NULL: with an exception) of an item that ends
   here, and drop what the item has held.  The pump is not over meanwhile: an
   on_result that stops it runs in the context that closing the source enters.
   `of_queue`: the item came from a queue; `fresh`: it was never started. */
static void
admission_hand_over(al_pump *p, al_item_parts parts, PyObject *result,
                    bool of_queue, bool fresh)
{
    if (result == NULL) {
        al_pump_fail(p);
    }
    bool spawning = p->spawning;
    p->spawning = true;
    al_pump_hand_over(p, parts.job, result);
    if (of_queue) {
        al_reader_item_over(p, fresh ? parts.value : NULL);
    }
    p->spawning = spawning;
    al_item_parts_drop(parts);
}

/* A result (new) like `result`, whose error the exception that is set
   replaces.  *exit is that exception (new) if it ends the batch, or the run of
   a pool's loop. */
static PyObject *
admission_replace(al_pump *p, const al_result_fields *before, PyObject **exit)
{
    al_state *st = p->st;
    PyObject *error = PyErr_GetRaisedException();
    al_result_fields fields = *before;
    bool cancelled =
        PyErr_GivenExceptionMatches(error, st->CancelledError) != 0;
    fields.error = error;
    fields.state = cancelled ? AL_RESULT_CANCELLED : AL_RESULT_FAILED;
    PyObject *result = al_result_new(st, &fields);
    *exit = NULL;
    if (al_item_raises(st, error, p->fn == NULL)) {
        *exit = Py_NewRef(error); /* the batch, or the loop, raises it */
        if (result != NULL) {
            ((ResultObject *)result)->received = true;
        }
    }
    Py_DECREF(error);
    return result;
}

/* Stop the batch by an exception (stolen), which it raises; NULL: none.  In a
   pool the loop raises it. */
static void
admission_raise(al_pump *p, PyObject *exit)
{
    if (exit == NULL) {
        return;
    }
    PyErr_SetRaisedException(exit);
    if (p->fn != NULL) {
        al_pump_fail(p);
    }
    else {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "the retry of a pool has exited", NULL);
    }
}

/* End an item that has no key, with the exception that is set. */
static void
admission_refuse(WorkerObject *self)
{
    al_pump *p = self->pump;
    PyObject *exit;
    bool of_queue = self->item.of_queue;
    al_result_fields fields = {.item = self->item.value,
                               .task_id = self->item.task_id,
                               .index = self->item.index,
                               .is_call = al_item_is_call(&self->item)};
    PyObject *result = admission_replace(p, &fields, &exit);
    al_item_parts parts = al_item_detach(&self->item, NULL);
    self->item.of_queue = false;
    admission_hand_over(p, parts, result, of_queue, false);
    admission_raise(p, exit);
}

PyObject *
al_admission_unstarted(al_pump *p, al_item *item)
{
    if (item->attempts == 0) {
        return al_item_unstarted(p->st, item, p->stopping, p->budget);
    }
    al_stop why = p->stopping == AL_STOP_NONE ? AL_STOP_FATAL : p->stopping;
    double now = al_pump_time(p);
    return al_item_waited(p->st, item, why, NULL, p->budget,
                          now - item->started);
}

/* The result (new) of an item that waited, after an attempt that has failed
   with `error`, or NULL.  `why` and `timed_out`: see admission_end(). */
static PyObject *
admission_waited(al_pump *p, al_item *item, PyObject *error, al_stop why,
                 bool timed_out)
{
    al_state *st = p->st;
    if (error == NULL) {
        why = why == AL_STOP_NONE ? AL_STOP_CANCEL : why;
        return al_item_unstarted(st, item, why, p->budget);
    }
    double duration = al_pump_time(p) - item->started;
    if (why == AL_STOP_NONE && !timed_out) {
        al_result_fields fields = {.item = item->value,
                                   .task_id = item->task_id,
                                   .error = error,
                                   .index = item->index,
                                   .duration = duration,
                                   .attempts = item->attempts,
                                   .is_call = al_item_is_call(item),
                                   .state = AL_RESULT_FAILED};
        return al_result_new(st, &fields);
    }
    return al_item_waited(st, item, why, error,
                          timed_out ? p->timeout : p->budget, duration);
}

/* End an item that waits: see al_admission_stop().  `msg`: of its
   CancelledError, or NULL; `timed_out`: by its own timeout.  It waits no
   longer before anything is called. */
static void
admission_end(al_pump *p, al_waiting *waiting, al_stop why, PyObject *msg,
              bool timed_out)
{
    al_item item;
    PyObject *error;
    PyObject *key = al_limits_remove(p->limits, waiting, &item, &error);
    bool spawning = p->spawning;
    p->spawning = true; /* not over yet */
    PyObject *result = admission_waited(p, &item, error, why, timed_out);
    if (result != NULL && msg != NULL) {
        al_result_set_message(result, msg);
    }
    bool of_queue = item.of_queue;
    admission_hand_over(p, al_item_detach(&item, key), result, of_queue,
                        error == NULL);
    p->spawning = spawning;
    Py_XDECREF(error);
}

void
al_admission_stop(al_pump *p, al_stop why)
{
    al_limits *limits = p->limits;
    bool spawning = p->spawning;
    p->spawning = true; /* not over yet */
    Py_CLEAR(limits->decide);
    for (;;) {
        al_link *first = !al_list_is_empty(&limits->fresh)
                             ? limits->fresh.next
                             : limits->retries.next;
        if (first == &limits->retries) {
            break;
        }
        admission_end(p, AL_CONTAINER_OF(first, al_waiting, all), why, NULL,
                      false);
    }
    p->spawning = spawning;
}

/* ------------------------------------------------------------ pulling */

/* The key of an item that was read (new): what limit_by returns for it, or
   has returned for a pool's job; NULL with an exception. */
static PyObject *
admission_key(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (p->limits->limit_by == NULL) {
        return Py_NewRef(Py_None);
    }
    if (al_item_is_call(&self->item)) {
        PyObject *key = self->item.job->key;
        self->item.job->key = NULL;
        return key;
    }
    PyObject *limit_by = Py_NewRef(p->limits->limit_by);
    PyObject *value = Py_NewRef(self->item.value);
    PyObject *key = al_coro_check_answer(
        p->st, "limit_by", al_drive_call(p->source.context, limit_by, value));
    Py_DECREF(value);
    Py_DECREF(limit_by);
    return key;
}

/* Take a place of its key for an item that was read.  Returns whether the item
   may start; otherwise it is set aside, or has failed. */
static bool
admission_enter(WorkerObject *self)
{
    al_pump *p = self->pump;
    al_limits *limits = p->limits;
    PyObject *key = admission_key(self);
    int entered = -1;
    if (key != NULL) {
        entered =
            al_limits_enter(p->st, limits, key, limits->closed, &self->item);
    }
    if (entered < 0) {
        admission_refuse(self);
    }
    else if (entered > 0 && self->item.job != NULL
             && self->item.job->pump == NULL)
    {
        al_pump_return_room(p);
        al_worker_end_unstarted(self); /* cancelled by limit_by, or by a key */
        entered = 0;
    }
    else if (entered == 0) {
        al_pump_return_room(p);            /* it takes it when it starts */
        if (p->stopping != AL_STOP_NONE) { /* by limit_by, or by a key */
            al_admission_stop(p, p->stopping);
        }
    }
    Py_XDECREF(key);
    return entered > 0;
}

/* Read the source until an item may start. */
static al_pull
admission_read(WorkerObject *self)
{
    al_pump *p = self->pump;
    al_limits *limits = p->limits;
    double began = 0.0;
    for (;;) {
        if (limits->resting || !al_limits_may_read(limits)
            || !al_pump_may_read(p))
        {
            return AL_PULL_NOTHING;
        }
        al_pull pulled = al_worker_pull(self);
        if (pulled != AL_PULL_ITEM
            || (limits->limit_by == NULL && !limits->closed)
            || admission_enter(self))
        {
            return pulled;
        }
        /* A key that was asked may have stopped the pump; and an item that
           has ended meanwhile may have left room for one that waits. */
        if (!al_pump_may_pull(p)
            || al_limits_may_start(limits, al_pump_has_room(p), p->head))
        {
            return AL_PULL_YIELD;
        }
        if (began == 0.0) {
            began = al_clock();
        }
        else if (al_clock() - began > AL_PUMP_SLICE) {
            admission_rest(p);
            return AL_PULL_NOTHING;
        }
    }
}

al_pull
al_admission_pull(WorkerObject *self)
{
    al_pump *p = self->pump;
    al_limits *limits = p->limits;
    al_pull pulled = AL_PULL_YIELD; /* look again */
    while (pulled == AL_PULL_YIELD) {
        if (!al_pump_may_pull(p)) {
            pulled = AL_PULL_NOTHING;
        }
        else if (!limits->closed
                 && al_limits_take(limits, al_pump_has_room(p), p->head, self,
                                   &self->item))
        {
            p->room -= self->item.attempts == 0 && !p->room_of_source;
            pulled = AL_PULL_ITEM;
            if (p->source.is_queue && al_pump_reads_on(p)) {
                p->calls->item_taken(p->owner);
            }
        }
        else {
            pulled = admission_read(self);
        }
    }
    if (pulled != AL_PULL_ITEM) {
        limits->late = false; /* it is not the rate that items wait for */
        return pulled;
    }
    if (p->stopping != AL_STOP_NONE) { /* by limit_by, or by a key */
        al_worker_end_unstarted(self);
        return AL_PULL_NOTHING;
    }
    if (self->item.job != NULL) {
        self->item.job->worker = self;
    }
    double now = al_pump_time(p);
    double opens = admission_start(limits, now);
    if (opens != 0.0) {
        admission_close(p, opens);
    }
    al_admission_begin(p, &self->item, now);
    return AL_PULL_ITEM;
}

Py_ssize_t
al_admission_left(const al_pump *p, Py_ssize_t left)
{
    const al_limits *limits = p->limits;
    Py_ssize_t aside = limits->lookahead - limits->n_fresh;
    if (limits->interval != 0.0) {
        return 1;
    }
    if (limits->limit_by != NULL && (left < 0 || left > aside)) {
        left = aside; /* the first worker reads no more than these */
    }
    Py_ssize_t waiting = limits->n_ready + limits->n_fresh_keys;
    return left < 0 ? left : al_source_sum(left, waiting);
}

/* ------------------------------------------------------------- retries */

/* Tell whether an attempt may be followed by another, as far as the Retry need
   not be asked. */
static bool
admission_may_retry(WorkerObject *self, const ResultObject *result)
{
    const al_pump *p = self->pump;
    const al_limits *limits = p->limits;
    return limits->decide != NULL && p->stopping == AL_STOP_NONE
           && p->fatal == NULL && !self->item.refused
           && self->item.attempts < limits->attempts
           && result->state == AL_RESULT_FAILED && result->error != NULL
           && (!result->timed_out || self->item.short_lived)
           && PyErr_GivenExceptionMatches(result->error, PyExc_Exception);
}

/* The seconds until the next attempt; -1.0: there is none, and *result may
   have been replaced, with NULL and an exception if there is no memory. */
static double
admission_ask(al_pump *p, al_waiting *again, PyObject **result)
{
    PyObject *decide = Py_NewRef(p->limits->decide);
    PyObject *failure =
        AL_ALLOC(Py_BuildValue("iO", again->item.attempts, again->error));
    PyObject *answer = failure == NULL
                           ? NULL
                           : al_drive_call(p->source.context, decide, failure);
    double delay = -1.0;
    if (answer != NULL && answer != Py_None) {
        delay = PyFloat_AsDouble(answer);
    }
    else if (answer == NULL) {
        const ResultObject *before = (const ResultObject *)*result;
        PyObject *exit;
        al_result_fields fields = {.item = again->item.value,
                                   .task_id = again->item.task_id,
                                   .index = again->item.index,
                                   .duration = (double)before->duration,
                                   .attempts = again->item.attempts,
                                   .is_call = al_item_is_call(&again->item)};
        Py_SETREF(*result, admission_replace(p, &fields, &exit));
        if (*result == NULL) {
            Py_CLEAR(exit);
        }
        admission_raise(p, exit);
    }
    Py_XDECREF(answer);
    Py_XDECREF(failure);
    Py_DECREF(decide);
    return delay;
}

/* Arm the timer for the first delay.  A failure stops the pump. */
static void
admission_arm(al_pump *p)
{
    al_limits *limits = p->limits;
    if (limits->heap_size == 0 || p->over) {
        return;
    }
    double when = limits->heap[0]->due;
    if (al_link_is_in(&limits->wake.link)) {
        if (limits->wake.when <= when) {
            return;
        }
        al_deadline_drop(&limits->wake);
    }
    if (al_deadline_add(&p->deadlines, &limits->wake, when) < 0) {
        al_pump_fail(p);
    }
}

/* Let an item wait for its next attempt, unless the pump was stopped. */
static void
admission_wait(al_pump *p, al_waiting *again)
{
    if (p->stopping != AL_STOP_NONE) {
        admission_end(p, again, p->stopping, NULL, false);
    }
    else if (al_limits_delay(p->limits, again) < 0) {
        PyErr_Clear(); /* without memory, the failure counts */
        admission_end(p, again, AL_STOP_NONE, NULL, false);
    }
    else {
        admission_arm(p);
    }
}

/* Ask the Retry whether an item that is held, and whose attempt has ended at
   `now`, is tried again.  Returns whether it waits; if not, *result counts,
   and may have been replaced. */
static bool
admission_retry(WorkerObject *self, al_waiting *again, double now,
                PyObject **result)
{
    al_pump *p = self->pump;
    again->parked = &self->again;
    al_list_append(&p->limits->asked, &again->link);
    double delay = admission_ask(p, again, result);
    al_link_unlink(&again->link);
    again->parked = NULL;
    if (delay < 0.0 || p->stopping != AL_STOP_NONE || p->fatal != NULL
        || p->limits->decide == NULL || again->refused)
    {
        return false;
    }
    again->due = Py_MIN(now + delay, again->ends);
    if (p->registry == NULL) {
        admission_wait(p, again);
    }
    else {
        al_list_append(&p->limits->retries, &again->all);
        again->parked = &self->again;
        self->again = again;
    }
    return true;
}

/* Give back what al_limits_hold() has taken, and forget the attempt. */
static void
admission_give_back(WorkerObject *self, al_waiting *again,
                    al_item_parts *parts)
{
    al_item item;
    PyObject *failure;
    PyObject *key =
        al_limits_remove(self->pump->limits, again, &item, &failure);
    parts->job = item.job;
    self->item.of_queue = item.of_queue;
    item.job = NULL;
    if (parts->job != NULL) {
        parts->job->worker = self;
    }
    al_item_clear(&item);
    Py_XDECREF(failure);
    Py_XDECREF(key);
}

bool
al_admission_detach(WorkerObject *self, double now, PyObject **result,
                    al_item_parts *parts)
{
    al_limits *limits = self->pump->limits;
    const ResultObject *ended = (const ResultObject *)*result;
    al_waiting *again = NULL;
    if (ended != NULL && admission_may_retry(self, ended)) {
        again = al_limits_hold(limits, &self->item, ended->error);
        if (again != NULL) {
            again->ends = self->item.since + self->item.left;
        }
        else {
            PyErr_Clear(); /* without memory, the failure counts */
        }
    }
    *parts = al_item_detach(&self->item, al_limits_leave(limits, &self->item));
    if (again == NULL || admission_retry(self, again, now, result)) {
        return again == NULL;
    }
    PyObject *error = PyErr_GetRaisedException();
    admission_give_back(self, again, parts);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return true;
}

void
al_admission_refuse(al_pump *p, al_waiting *waiting, PyObject *msg)
{
    bool held = !al_link_is_in(&waiting->all);
    if (held) { /* the Retry is being asked */
        waiting->refused = true;
    }
    else {
        admission_end(p, waiting, AL_STOP_CANCEL, msg, false);
        al_pump_update(p);
    }
}

void
al_admission_task_ended(WorkerObject *self)
{
    al_waiting *again = self->again;
    if (again != NULL) {
        self->again = NULL;
        again->parked = NULL;
        admission_wait(self->pump, again);
    }
}

/* Append to a list the entries of an item for al_admission_resting(), but its
   value in place of an id that is not known.  No garbage is collected
   meanwhile.  Returns 0; -1 with MemoryError. */
static int
admission_append_resting(const al_waiting *waiting, bool of_pool,
                         PyObject *list)
{
    const al_item *item = &waiting->item;
    PyObject *task = NULL;
    if (waiting->parked != NULL) {
        task = AL_CONTAINER_OF(waiting->parked, WorkerObject, again)->task;
    }
    PyObject *index = AL_ALLOC(PyLong_FromSsize_t(item->index));
    PyObject *name = of_pool                 ? (PyObject *)item->job
                     : item->task_id != NULL ? item->task_id
                                             : item->value;
    PyObject *entries[] = {task == NULL ? Py_None : task, index, name,
                           waiting->error};
    int failed = index == NULL ? -1 : 0;
    for (int i = 0; !failed && i < 4; i++) {
        failed = AL_ALLOC_INT(PyList_Append(list, entries[i]));
    }
    Py_XDECREF(index);
    return failed;
}

PyObject *
al_admission_resting(const al_pump *p)
{
    bool of_pool = p->fn == NULL;
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list == NULL || p->limits == NULL) {
        return list;
    }
    int failed = 0;
    const al_link *end = &p->limits->asked, *at;
    for (at = end->next; !failed && at != end; at = at->next) {
        failed = admission_append_resting(
            AL_CONTAINER_OF(at, al_waiting, link), of_pool, list);
    }
    end = &p->limits->retries;
    for (at = end->next; !failed && at != end; at = at->next) {
        failed = admission_append_resting(AL_CONTAINER_OF(at, al_waiting, all),
                                          of_pool, list);
    }
    /* What follows may collect garbage, which may end items. */
    Py_ssize_t size = of_pool || failed ? 0 : PyList_GET_SIZE(list);
    for (Py_ssize_t i = 0; !failed && i < size; i += 4) {
        Py_ssize_t index = PyLong_AsSsize_t(PyList_GET_ITEM(list, i + 1));
        PyObject *id =
            al_result_default_id(PyList_GET_ITEM(list, i + 2), index);
        failed = id == NULL ? -1 : PyList_SetItem(list, i + 2, id);
    }
    if (failed) {
        Py_CLEAR(list);
    }
    return list;
}

/* -------------------------------------------------------------- timers */

/* The first delay is over, or more. */
static void
admission_wake(al_pump *p)
{
    double now = Py_MAX(al_pump_time(p), p->limits->wake.when);
    al_waiting *timed_out;
    while ((timed_out = al_limits_due(p->limits, now)) != NULL) {
        admission_end(p, timed_out, AL_STOP_NONE, NULL, true);
    }
    admission_arm(p);
}

bool
al_admission_due(al_pump *p, al_deadline *deadline)
{
    al_limits *limits = p->limits;
    if (limits == NULL
        || (deadline != &limits->opens && deadline != &limits->wake
            && deadline != &limits->rests))
    {
        return false;
    }
    if (deadline != &limits->opens) {
        if (deadline == &limits->wake) {
            admission_wake(p);
        }
        else {
            limits->resting = false;
        }
        al_pump_update(p);
        return true;
    }
    limits->closed = false;
    limits->late = true;
    al_pump_update(p);
    /* If no worker is about to start an item, none waits for the rate. */
    limits->late = limits->late && (p->unstarted > 0 || p->resting > 0);
    return true;
}
