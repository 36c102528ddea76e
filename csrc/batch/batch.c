/* The batch of a batch: who takes the results, counts, status.
 *
 * The user holds a Batch (pyasynclife/_batch.py), which owns the batch, which
 * embed the pump.  Workers, timers and the reader own the batch and never the
 * Batch, so one that is dropped while it runs is noticed, and stops it.
 *
 * Those who wait, for the next result, for the end or for the reader's item to
 * be taken, are Waits in a list; each is woken by a future of its own.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/awaitable.h"
#include "batch/drive.h"
#include "batch/source.h"
#include "batch/result.h"
#include "batch/result_buffer.h"
#include "batch/pump.h"
#include "batch/batch.h"

/* --------------------------------------------------- what the pump tells */

static void
batch_wake(BatchObject *self, al_waiter_kind kind)
{
    al_link *at = self->waiters.next;
    while (at != &self->waiters) {
        al_waiter *wait = AL_CONTAINER_OF(at, al_waiter, link);
        at = at->next;
        if (wait->kind == kind) {
            PyObject *future = Py_XNewRef(wait->future);
            al_link_unlink(&wait->link);
            if (future != NULL) {
                al_loop_wake_waiter(self->pump.st, &self->pump.bound, future);
                Py_DECREF(future);
            }
            at = self->waiters.next; /* waking may have changed the list */
        }
    }
}

static void
batch_count(BatchObject *self, PyObject *result)
{
    switch (al_result_state_of(result)) {
    case AL_RESULT_DONE:
        self->done++;
        break;
    case AL_RESULT_FAILED:
        self->failed++;
        self->timed_out += al_result_timed_out(result);
        break;
    case AL_RESULT_CANCELLED:
        self->cancelled++;
        break;
    case AL_RESULT_PENDING:
        self->refused++;
        break;
    case AL_RESULT_RUNNING: /* that it counts as, for good */
        break;
    }
}

/* Keep a result for whoever takes it. */
static int
batch_keep(BatchObject *self, PyObject *result)
{
    bool started = al_result_state_of(result) != AL_RESULT_PENDING;
    if (self->mode == AL_MODE_BLOCK
        || (self->mode == AL_MODE_STREAM && !started))
    {
        return 0;
    }
    if (al_result_buffer_put(&self->results, result) < 0) {
        return -1;
    }
    if (self->mode == AL_MODE_STREAM && !al_list_is_empty(&self->waiters)
        && al_result_buffer_peek(&self->results, false) != NULL)
    {
        batch_wake(self, AL_WAIT_NEXT);
    }
    return 0;
}

/* Keep the error of a failed item, and stop if it is one too many. */
static int
batch_note_error(BatchObject *self, PyObject *result)
{
    PyObject *error = al_result_error(result);
    if (self->max_errors < 0 || self->errors == NULL) {
        return 0;
    }
    if (AL_ALLOC_INT(
            PyList_Append(self->errors, error == NULL ? Py_None : error))
        < 0)
    {
        return -1;
    }
    if (PyList_GET_SIZE(self->errors) > self->max_errors) {
        al_pump_stop(&self->pump, AL_STOP_ERRORS, NULL);
    }
    return 0;
}

static void
batch_tell(BatchObject *self, PyObject *result)
{
    al_pump *p = &self->pump;
    PyObject *on_result = Py_NewRef(self->on_result);
    PyObject *answer = al_drive_call(p->source.context, on_result, result);
    if (answer == NULL) {
        if (PyErr_ExceptionMatches(PyExc_Exception)
            || PyErr_ExceptionMatches(p->st->CancelledError))
        {
            al_loop_report_or_exit_later(p->st, p->bound.loop,
                                         "on_result of a batch failed", NULL);
        }
        else {
            al_pump_fail(p);
        }
    }
    Py_XDECREF(answer);
    Py_DECREF(on_result);
}

/* Nobody holds the Batch any more, and nobody hears of this failure else. */
static void
batch_tell_lost(BatchObject *self, PyObject *result)
{
    al_pump *p = &self->pump;
    PyObject *error = al_result_error(result);
    if (self->dropped && self->on_result == NULL && error != NULL
        && !al_result_timed_out(result)
        && PyErr_GivenExceptionMatches(error, PyExc_Exception))
    {
        al_loop_report_exception(
            p->st, p->bound.loop,
            "an item of a batch that was dropped while it ran "
            "has failed",
            NULL, error);
    }
}

static void
batch_item_ended(PyObject *op, PyObject *result)
{
    BatchObject *self = (BatchObject *)op;
    al_result_state state = al_result_state_of(result);
    bool failed =
        state == AL_RESULT_FAILED
        || (state == AL_RESULT_RUNNING && al_result_timed_out(result));
    batch_count(self, result);
    if (batch_keep(self, result) < 0
        || (failed && batch_note_error(self, result) < 0))
    {
        al_pump_fail(&self->pump);
    }
    if (failed) {
        batch_tell_lost(self, result);
    }
    if (self->on_result != NULL && state != AL_RESULT_PENDING) {
        batch_tell(self, result);
    }
}

static void
batch_item_taken(PyObject *op)
{
    batch_wake((BatchObject *)op, AL_WAIT_TAKEN);
}

void
al_batch_tell_fatal(BatchObject *self)
{
    al_pump *p = &self->pump;
    if (p->fatal != NULL) {
        PyErr_SetRaisedException(Py_NewRef(p->fatal));
        al_loop_report_or_exit_later(
            p->st, p->bound.loop,
            "a batch that was dropped before anybody was told "
            "has failed",
            NULL);
    }
}

static void
batch_over(PyObject *op)
{
    BatchObject *self = (BatchObject *)op;
    self->over_at = al_loop_time(self->pump.st, &self->pump.bound);
    if (self->over_at == -1.0 && PyErr_Occurred()) {
        al_loop_report_or_exit_later(self->pump.st, self->pump.bound.loop,
                                     "the loop's clock failed", NULL);
    }
    if (self->dropped) {
        al_batch_tell_fatal(self);
    }
    batch_wake(self, AL_WAIT_NEXT);
    batch_wake(self, AL_WAIT_END);
}

/* A block may add until it is left, and a consumer until he asks again. */
static bool
batch_may_be_over(PyObject *op)
{
    BatchObject *self = (BatchObject *)op;
    return self->mode == AL_MODE_STREAM
               ? self->consumer_waits
                     && al_result_buffer_peek(&self->results, false) == NULL
               : self->mode != AL_MODE_OPEN;
}

const al_pump_calls al_batch_calls = {
    .item_ended = batch_item_ended,
    .item_taken = batch_item_taken,
    .over = batch_over,
    .may_be_over = batch_may_be_over,
};

/* ------------------------------------------------------------ modes */

/* Tell whether somebody must take results for more items to be started. */
static bool
batch_is_bounded(const BatchObject *self)
{
    return self->mode == AL_MODE_STREAM
           || (self->mode == AL_MODE_OPEN && self->on_result == NULL);
}

/* How many a stream may have started and not handed over. */
static Py_ssize_t
batch_window(const BatchObject *self)
{
    Py_ssize_t limit = self->pump.limit;
    Py_ssize_t buffer = self->buffer >= 0             ? self->buffer
                        : limit <= PY_SSIZE_T_MAX / 4 ? 2 * limit
                                                      : PY_SSIZE_T_MAX / 4;
    /* Half of all numbers, so that no sum of two windows overflows. */
    limit = limit < PY_SSIZE_T_MAX / 4 ? limit : PY_SSIZE_T_MAX / 4;
    buffer = buffer < PY_SSIZE_T_MAX / 4 ? buffer : PY_SSIZE_T_MAX / 4;
    return limit + buffer;
}

/* Let the pump start as many items as this use allows. */
static void
batch_set_room(BatchObject *self)
{
    al_pump *p = &self->pump;
    p->room = batch_is_bounded(self) ? batch_window(self) - p->source.pulled
                                     : PY_SSIZE_T_MAX;
}

void
al_batch_set_limit(BatchObject *self, Py_ssize_t limit)
{
    al_pump *p = &self->pump;
    Py_ssize_t before = batch_window(self);
    p->limit = limit;
    if (p->begun && batch_is_bounded(self)) {
        p->room += batch_window(self) - before;
    }
    al_pump_limit_changed(p);
}

int
al_batch_add(BatchObject *self, PyObject *item)
{
    al_pump *p = &self->pump;
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

int
al_batch_set_mode(BatchObject *self, al_mode mode)
{
    al_mode before = self->mode;
    if (before == mode || (mode == AL_MODE_OPEN && before != AL_MODE_UNUSED)) {
        return 0;
    }
    if (before > AL_MODE_OPEN) {
        PyErr_SetString(
            PyExc_RuntimeError,
            before == AL_MODE_COLLECT
                ? "this batch was awaited, which keeps all results: it cannot "
                  "be iterated too"
            : before == AL_MODE_STREAM
                ? "this batch is iterated, which hands its results over one "
                  "by one: it cannot be awaited too"
                : "the block of this batch has ended, and its results went "
                  "to on_result: await or iterate inside the block");
        return -1;
    }
    if (mode == AL_MODE_COLLECT && al_result_buffer_sort(&self->results) < 0) {
        return -1;
    }
    self->mode = mode;
    if (mode == AL_MODE_BLOCK) {
        al_result_buffer_drop(&self->results);
    }
    batch_set_room(self);
    return 0;
}

PyObject *
al_batch_hand_over(BatchObject *self)
{
    al_pump *p = &self->pump;
    PyObject *result = NULL;
    while (result == NULL) {
        result = Py_XNewRef(al_result_buffer_peek(&self->results, p->over));
        if (result == NULL) {
            return NULL;
        }
        al_result_buffer_take(&self->results);
        if (al_result_state_of(result) == AL_RESULT_PENDING) {
            Py_CLEAR(result); /* kept while a block might have awaited all */
        }
    }
    p->room++;
    if (p->unstarted == 0 && !p->over) {
        al_pump_update(p);
    }
    return result;
}

int
al_batch_traverse(PyObject *op, visitproc visit, void *arg)
{
    BatchObject *self = (BatchObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->results.list);
    Py_VISIT(self->on_result);
    Py_VISIT(self->errors);
    return al_pump_visit(&self->pump, visit, arg);
}

int
al_batch_clear(PyObject *op)
{
    BatchObject *self = (BatchObject *)op;
    al_pump_clear(&self->pump);
    Py_CLEAR(self->on_result);
    Py_CLEAR(self->errors);
    return 0;
}

void
al_batch_dealloc(PyObject *op)
{
    BatchObject *self = (BatchObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)al_batch_clear(op);
    Py_CLEAR(self->results.list);
    type->tp_free(op);
    Py_DECREF(type);
}
