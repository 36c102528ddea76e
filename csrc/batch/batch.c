/* A batch: a pump with its results, its counts and its waiters.
 *
 * The user holds a Batch (pyasynclife/_batch.py), which owns the batch, which
 * embeds the pump.  Workers, timers and the reader own the batch and never the
 * Batch, so a Batch that is dropped while it runs is noticed, and stops it:
 *
 *     Batch --owns--> batch [pump, results, waiters] <--owns-- workers, timers
 *
 * The first use of the Batch decides who takes the results:
 *
 *     UNUSED --async with--> OPEN --left without a choice--> BLOCK
 *        |                    |
 *        +------ await -------+--> COLLECT: all results, each in its place
 *        +----- async for ----+--> STREAM:  one after the other, none kept
 *
 * In OPEN and BLOCK an on_result receives the results, and none is kept: once
 * the first one has come, it is too late to choose.
 *
 * In STREAM the pump's room bounds how many results wait for their consumer.
 * In OPEN without an on_result it bounds how many items of the source are
 * pulled; what was added runs, as it does in a TaskGroup.
 *
 * A failure is received by on_result, by the consumer of a stream, or in the
 * BatchResult, which takes the results.  Others are reported, in one call,
 * when nobody can receive them any more: as the block ends, as a stream is
 * closed, or when the Batch is dropped.  al_batch_report_unread() decides.
 *
 * Waiters wait for the next result, for the end, or for the reader's item to
 * be taken.  Each is in a list and is woken by a future of its own.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "batch/fifo.h"
#include "batch/result.h"
#include "batch/drive.h"
#include "batch/source.h"
#include "batch/pump.h"
#include "batch/batch.h"

/* --------------------------------------------------- the result buffer */

/* Put a result at a place.  Results come nearly in the order of their items,
   so the place is mostly the one behind the last. */
static int
result_buffer_place(PyObject *list, Py_ssize_t place, PyObject *result)
{
    assert(place >= 0);
    while (PyList_GET_SIZE(list) < place) {
        if (AL_ALLOC_INT(PyList_Append(list, Py_None)) < 0) {
            return -1;
        }
    }
    if (place == PyList_GET_SIZE(list)) {
        return AL_ALLOC_INT(PyList_Append(list, result));
    }
    return PyList_SetItem(list, place, Py_NewRef(result));
}

/* Put a result where it belongs.  Returns 0; -1 with an exception, and it is
   not there. */
static int
result_buffer_put(al_result_buffer *buffer, PyObject *result)
{
    if (buffer->by_index) {
        Py_ssize_t index = ((ResultObject *)result)->index;
        return result_buffer_place(buffer->list, index - buffer->base, result);
    }
    return AL_ALLOC_INT(PyList_Append(buffer->list, result));
}

/* The result that is taken next (borrowed); NULL if it is not there yet.
   `last`: no more results come, so gaps are passed over. */
static PyObject *
result_buffer_peek(al_result_buffer *buffer, bool last)
{
    while (buffer->front < PyList_GET_SIZE(buffer->list)) {
        PyObject *result = PyList_GET_ITEM(buffer->list, buffer->front);
        if (result != Py_None) {
            return result;
        }
        if (!last) {
            return NULL;
        }
        buffer->front++;
    }
    return NULL;
}

/* Give every result its item's place from now on.  Returns 0; -1 with an
   exception, nothing changed. */
static int
result_buffer_sort(al_result_buffer *buffer)
{
    if (buffer->by_index) {
        return 0;
    }
    assert(buffer->base == 0 && buffer->front == 0);
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(buffer->list); i++) {
        PyObject *result = PyList_GET_ITEM(buffer->list, i);
        Py_ssize_t index = ((ResultObject *)result)->index;
        if (result_buffer_place(list, index, result) < 0) {
            Py_DECREF(list);
            return -1;
        }
    }
    buffer->by_index = true;
    Py_SETREF(buffer->list, list);
    return 0;
}

/* Drop all results. */
static void
result_buffer_drop(al_result_buffer *buffer)
{
    PyObject *list = buffer->list;
    Py_ssize_t size = PyList_GET_SIZE(list);
    buffer->base += size;
    buffer->front = 0;
    if (PyList_SetSlice(list, 0, size, NULL) < 0
        && PyErr_ExceptionMatches(PyExc_MemoryError))
    {
        PyErr_Clear();
    }
}

/* ------------------------------------- failures that nobody has received */

/* Count a result that nobody will receive, if it is a failure. */
static void
batch_note_unread(BatchObject *self, ResultObject *result)
{
    PyObject *error = result->error;
    if (self->on_result != NULL || !al_result_is_failure(result)
        || !al_result_leave(result))
    {
        return;
    }
    self->unread++;
    if (self->first_unread == NULL) {
        self->first_unread = Py_XNewRef(error);
    }
}

/* Drop the results, of which nobody will receive any. */
static void
batch_discard_results(BatchObject *self)
{
    PyObject *list = self->results.list;
    for (Py_ssize_t i = self->results.front; i < PyList_GET_SIZE(list); i++) {
        PyObject *result = PyList_GET_ITEM(list, i);
        if (result != Py_None) {
            batch_note_unread(self, (ResultObject *)result);
        }
    }
    result_buffer_drop(&self->results);
}

PyObject *
al_batch_take_results(BatchObject *self)
{
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list != NULL) {
        PyObject *results = self->results.list;
        self->results.list = list;
        self->results.base += PyList_GET_SIZE(results);
        self->results.front = 0;
        list = results;
    }
    return list;
}

/* Report the exception that the end of the batch would have raised, if any. */
static void
batch_report_end(BatchObject *self)
{
    al_pump *p = &self->pump;
    PyObject *error = Py_XNewRef(p->fatal);
    if (error == NULL && p->stopping == AL_STOP_ERRORS && self->errors != NULL)
    {
        error = AL_ALLOC(PyObject_CallFunction(
            p->st->too_many_errors, "On", self->errors, self->max_errors));
        if (error == NULL) {
            error = PyErr_GetRaisedException();
        }
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        al_loop_report_or_exit_later(
            p->st, p->bound.loop,
            self->dropped
                ? "a batch failed, and was dropped before anybody received "
                  "its error"
                : "a batch failed, and its block raised another exception",
            NULL);
    }
}

/* Report the failures that nobody will receive, if there are any, in one call.
   `aborted`: an error that has them in it was reported or raised. */
static void
batch_report_items(BatchObject *self, bool aborted)
{
    al_pump *p = &self->pump;
    Py_ssize_t unread = self->unread;
    PyObject *first = self->first_unread;
    self->unread = 0;
    self->first_unread = NULL;
    if (unread > 0 && !aborted) {
        PyObject *none = AL_ALLOC(PyObject_CallFunction(
            p->st->report_unread_items, "OnOs", p->bound.loop, unread,
            first == NULL ? Py_None : first,
            p->fn == NULL   ? "pool"
            : self->dropped ? "dropped"
                            : "left"));
        if (none == NULL) {
            al_loop_report_or_exit_later(
                p->st, p->bound.loop,
                "reporting the failures of a batch failed", NULL);
        }
        Py_XDECREF(none);
    }
    Py_XDECREF(first);
}

void
al_batch_report_unread(BatchObject *self)
{
    al_pump *p = &self->pump;
    bool delivered = self->delivered;
    batch_discard_results(self);
    self->delivered = true;
    if (!delivered) {
        batch_report_end(self);
    }
    batch_report_items(self,
                       p->fatal == NULL && p->stopping == AL_STOP_ERRORS);
}

void
al_batch_detach(BatchObject *self)
{
    al_pump *p = &self->pump;
    self->dropped = true;
    if (p->over) {
        al_batch_report_unread(self);
        return;
    }
    self->mode = AL_MODE_BLOCK;
    batch_discard_results(self);
    al_pump_stop(p, AL_STOP_CANCEL, NULL, false);
}

/* ------------------------------------------------ the pump's four calls */

/* Wake the first `most` waiters of a kind. */
static void
batch_wake_some(BatchObject *self, al_waiter_kind kind, Py_ssize_t most)
{
    al_link *at = self->waiters.next;
    while (at != &self->waiters && most > 0) {
        al_waiter *waiter = AL_CONTAINER_OF(at, al_waiter, link);
        at = at->next;
        if (waiter->kind == kind) {
            most--;
            PyObject *future = Py_XNewRef(waiter->future);
            al_link_unlink(&waiter->link);
            if (future != NULL) {
                al_loop_wake_waiter(self->pump.st, &self->pump.bound, future);
                Py_DECREF(future);
            }
            at = self->waiters.next; /* waking may have changed the list */
        }
    }
}

/* Wake all waiters of a kind. */
static void
batch_wake(BatchObject *self, al_waiter_kind kind)
{
    batch_wake_some(self, kind, PY_SSIZE_T_MAX);
}

/* ------------------------------------------------------- of a pool alone */

void
al_batch_wake_pool(BatchObject *self)
{
    if (self->pump.fn != NULL || al_list_is_empty(&self->waiters)) {
        return;
    }
    if (self->pump.over || al_batch_is_idle(self)) {
        batch_wake(self, AL_WAIT_IDLE);
    }
    bool all = al_pump_refusal(&self->pump) != NULL;
    batch_wake_some(self, AL_WAIT_ROOM,
                    all ? PY_SSIZE_T_MAX : al_batch_room(self));
}

static void
batch_count(BatchObject *self, const ResultObject *result)
{
    switch ((al_result_state)result->state) {
    case AL_RESULT_DONE:
        self->done++;
        break;
    case AL_RESULT_FAILED:
        self->failed++;
        self->timed_out += result->timed_out;
        break;
    case AL_RESULT_CANCELLED:
        self->cancelled++;
        break;
    case AL_RESULT_PENDING:
        self->refused++;
        break;
    case AL_RESULT_RUNNING: /* it counts as running for good */
        self->abandoned++;
        break;
    }
}

/* Keep a result for the consumer, if there may be one.  Returns 1; 0 if it is
   not kept; -1 with an exception. */
static int
batch_keep(BatchObject *self, PyObject *result, bool started)
{
    if (self->mode == AL_MODE_OPEN && self->on_result != NULL && started) {
        self->handled = true;
    }
    /* An ordered consumer would wait at the place of one that is not kept. */
    if (self->handled || self->mode == AL_MODE_BLOCK
        || (self->mode == AL_MODE_STREAM && !started
            && !self->results.by_index))
    {
        return 0;
    }
    if (result_buffer_put(&self->results, result) < 0) {
        return -1;
    }
    if (self->mode == AL_MODE_STREAM && !al_list_is_empty(&self->waiters)
        && result_buffer_peek(&self->results, false) != NULL)
    {
        batch_wake(self, AL_WAIT_NEXT);
    }
    return 1;
}

/* Keep the error of a failed item, and stop if it is one too many.  A block
   whose results go to on_result keeps no more of them.  Returns 0; -1 with an
   exception. */
static int
batch_note_error(BatchObject *self, PyObject *error)
{
    bool handled =
        self->on_result != NULL
        && (self->mode == AL_MODE_OPEN || self->mode == AL_MODE_BLOCK);
    if (self->max_errors < 0 || self->errors == NULL
        || (handled && self->pump.stopping == AL_STOP_ERRORS))
    {
        return 0;
    }
    if (AL_ALLOC_INT(
            PyList_Append(self->errors, error == NULL ? Py_None : error))
        < 0)
    {
        return -1;
    }
    if (PyList_GET_SIZE(self->errors) > self->max_errors) {
        al_pump_stop(&self->pump, AL_STOP_ERRORS, NULL, false);
    }
    return 0;
}

/* Call on_result.  Its errors go to the loop's exception handler; an exit
   stops the batch, which raises it. */
static void
batch_call_on_result(BatchObject *self, PyObject *result)
{
    al_pump *p = &self->pump;
    PyObject *on_result = Py_NewRef(self->on_result);
    ((ResultObject *)result)->received = true;
    PyObject *answer = al_coro_check_answer(
        p->st, "on_result",
        al_drive_call(p->source.context, on_result, result));
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

static void
batch_item_ended(PyObject *op, PyObject *ended)
{
    BatchObject *self = (BatchObject *)op;
    ResultObject *result = (ResultObject *)ended;
    bool started = result->state != AL_RESULT_PENDING;
    batch_count(self, result);
    int kept = batch_keep(self, ended, started);
    if (kept <= 0) {
        batch_note_unread(self, result);
    }
    if (kept < 0
        || (al_result_is_failure(result)
            && batch_note_error(self, result->error) < 0))
    {
        al_pump_fail(&self->pump);
    }
    if (self->on_result != NULL && started) {
        batch_call_on_result(self, ended);
    }
    if (self->pump.fn == NULL) {
        if (self->unread > 0) {
            batch_report_items(self, false); /* its job was dropped */
        }
        al_batch_wake_pool(self);
    }
}

static void
batch_item_taken(PyObject *op)
{
    batch_wake((BatchObject *)op, AL_WAIT_TAKEN);
    al_batch_wake_pool((BatchObject *)op);
}

/* Tell whether a drain has kept something from being started or read. */
static bool
batch_left_something(const BatchObject *self)
{
    const al_source *source = &self->pump.source;
    Py_ssize_t length = al_source_length(source);
    bool read =
        source->exhausted || (length >= 0 && length <= source->from_items);
    return !read || source->waiting > 0 || self->refused > 0;
}

static void
batch_over(PyObject *op)
{
    BatchObject *self = (BatchObject *)op;
    if (self->pump.stopping == AL_STOP_DRAIN && !batch_left_something(self)) {
        self->pump.stopping = AL_STOP_NONE; /* it came too late */
    }
    self->over_at = al_loop_time(self->pump.st, &self->pump.bound);
    if (self->over_at == -1.0 && PyErr_Occurred()) {
        al_loop_report_or_exit_later(self->pump.st, self->pump.bound.loop,
                                     "the loop's clock failed", NULL);
    }
    if (self->dropped) {
        al_batch_report_unread(self);
    }
    batch_wake(self, AL_WAIT_NEXT);
    batch_wake(self, AL_WAIT_END);
    al_batch_wake_pool(self);
}

/* A block may add items until it is left, and the consumer of a stream until
   it asks for the next result. */
static bool
batch_may_be_over(PyObject *op)
{
    BatchObject *self = (BatchObject *)op;
    return self->mode == AL_MODE_STREAM
               ? self->consumer_waits
                     && result_buffer_peek(&self->results, false) == NULL
               : self->mode != AL_MODE_OPEN;
}

const al_pump_calls al_batch_calls = {
    .item_ended = batch_item_ended,
    .item_taken = batch_item_taken,
    .over = batch_over,
    .may_be_over = batch_may_be_over,
};

/* ------------------------------------------------------ mode and limit */

/* Tell whether a block may still choose, and keeps its results until then.
   Items of a queue run all the same, as added ones do: the body may wait for
   join().  A pool keeps nothing: its results count as handled. */
static bool
batch_is_undecided(const BatchObject *self)
{
    return self->mode == AL_MODE_OPEN && self->on_result == NULL
           && !self->handled && !self->pump.source.is_queue;
}

/* Tell whether results must be taken before more items can be pulled. */
static bool
batch_is_bounded(const BatchObject *self)
{
    return self->mode == AL_MODE_STREAM || batch_is_undecided(self);
}

/* How many items of a stream may be started and not handed over. */
static Py_ssize_t
batch_window(const BatchObject *self)
{
    Py_ssize_t limit = self->pump.limit;
    Py_ssize_t buffer = self->buffer >= 0             ? self->buffer
                        : limit <= PY_SSIZE_T_MAX / 4 ? 2 * limit
                                                      : PY_SSIZE_T_MAX / 4;
    /* A quarter of the range each, so that no sum of two windows overflows. */
    limit = limit < PY_SSIZE_T_MAX / 4 ? limit : PY_SSIZE_T_MAX / 4;
    buffer = buffer < PY_SSIZE_T_MAX / 4 ? buffer : PY_SSIZE_T_MAX / 4;
    return limit + buffer;
}

/* Name the item whose result an ordered consumer waits for: with limits it
   may have been set aside, and needs no room then. */
static void
batch_set_head(BatchObject *self)
{
    self->pump.head = self->mode == AL_MODE_STREAM && self->results.by_index
                          ? self->results.base + self->results.front
                          : -1;
}

/* Let the pump start as many items as the mode allows.  What was pulled and
   never started, such as a job that was cancelled, takes no room. */
static void
batch_set_room(BatchObject *self)
{
    al_pump *p = &self->pump;
    Py_ssize_t started = p->source.pulled - self->refused
                         - (p->limits == NULL ? 0 : p->limits->n_fresh);
    p->room_of_source = batch_is_undecided(self);
    p->room = p->room_of_source ? batch_window(self) - p->source.from_items
              : batch_is_bounded(self) ? batch_window(self) - started
                                       : PY_SSIZE_T_MAX;
    batch_set_head(self);
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
    al_batch_wake_pool(self);
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
    if (self->handled && mode != AL_MODE_BLOCK && mode != AL_MODE_OPEN) {
        PyErr_SetString(PyExc_RuntimeError,
                        "results of this batch have gone to on_result, and "
                        "an `async with` block keeps none then: await or "
                        "iterate before the first one, or have on_result "
                        "keep them");
        return -1;
    }
    if (mode == AL_MODE_COLLECT && result_buffer_sort(&self->results) < 0) {
        return -1;
    }
    self->mode = mode;
    if (mode == AL_MODE_BLOCK) {
        batch_discard_results(self);
    }
    batch_set_room(self);
    return 0;
}

/* ------------------------------------------------------ items, results */

PyObject *
al_batch_add(BatchObject *self, PyObject *item)
{
    al_pump *p = &self->pump;
    const char *refusal = al_pump_refusal(p);
    if (refusal != NULL) {
        PyErr_Format(PyExc_RuntimeError,
                     "this batch %s: nothing can be added to it", refusal);
        return NULL;
    }
    if (al_coro_is(p->st, item)) {
        al_source_refuse_coroutine(p->st, item);
        return NULL;
    }
    JobObject *job = al_job_new(p, item);
    if (job != NULL) {
        al_source_add(&p->source, (JobObject *)Py_NewRef((PyObject *)job));
        if (p->begun) {
            al_pump_update(p);
        }
    }
    return (PyObject *)job;
}

PyObject *
al_batch_hand_over(BatchObject *self)
{
    al_pump *p = &self->pump;
    al_result_buffer *results = &self->results;
    PyObject *result = NULL;
    bool passed = false;
    while (result == NULL) {
        /* Once the pump is over, no gap will be filled any more. */
        result = Py_XNewRef(result_buffer_peek(results, p->over));
        if (result == NULL && !passed) {
            return NULL;
        }
        if (result == NULL) {
            passed = false;
            batch_set_head(self);
            al_pump_update(p); /* it may bring the result */
            continue;
        }
        results->base += al_fifo_take(results->list, &results->front);
        if (((ResultObject *)result)->state == AL_RESULT_PENDING) {
            Py_CLEAR(result); /* kept while a block might have awaited all */
            passed = p->limits != NULL;
        }
    }
    ((ResultObject *)result)->received = true;
    p->room++; /* the consumer has taken one: one more may start */
    if (p->limits != NULL) {
        batch_set_head(self);
    }
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
    Py_VISIT(self->numbers);
    Py_VISIT(self->first_unread);
    return al_pump_visit(&self->pump, visit, arg);
}

int
al_batch_clear(PyObject *op)
{
    BatchObject *self = (BatchObject *)op;
    al_pump_clear(&self->pump);
    Py_CLEAR(self->on_result);
    Py_CLEAR(self->errors);
    Py_CLEAR(self->numbers);
    Py_CLEAR(self->first_unread);
    return 0;
}
