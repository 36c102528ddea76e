/* The books of a batch: who takes the results, counts, status.
 *
 * The user holds a Batch (pyasynclife/_gather.py), which owns the books, which
 * embed the pump.  Workers, timers and the reader own the books and never the
 * Batch, so one that is dropped while it runs is noticed, and stops it.
 *
 * Those who wait, for the next result, for the end or for the reader's item to
 * be taken, are Waits in a list; each is woken by a future of its own.
 */
#include "compat.h"
#include "fault.h"
#include "list.h"
#include "state.h"
#include "loop.h"
#include "awaitable.h"
#include "drive.h"
#include "source.h"
#include "result.h"
#include "shelf.h"
#include "worker.h"
#include "pump.h"
#include "batch.h"

/* Who takes the results: the first use decides.  OPEN is a block (async with)
   that may still await or iterate, BLOCK one that did neither. */
typedef enum {
    MODE_UNUSED,
    MODE_OPEN,
    MODE_COLLECT,
    MODE_STREAM,
    MODE_BLOCK,
} batch_mode;

typedef struct {
    PyObject_HEAD
    al_pump pump;
    al_shelf shelf;
    al_link waits;       /* borrowed */
    PyObject *on_result; /* owned, or NULL */
    PyObject *errors;    /* owned: list, where there is a max_errors */
    batch_mode mode;
    bool ordered;
    Py_ssize_t window; /* of a stream: started and not handed over */
    Py_ssize_t max_errors; /* -1: none */
    Py_ssize_t done;
    Py_ssize_t failed; /* with those whose time ran out */
    Py_ssize_t cancelled;
    Py_ssize_t timed_out;
    Py_ssize_t refused; /* pulled and never started */
    double ended;       /* loop time, once over */
} BooksObject;

typedef enum { WAIT_NEXT, WAIT_END, WAIT_TAKEN } wait_kind;

typedef struct {
    PyObject_HEAD
    al_link link;       /* in the books' waits while suspended */
    BooksObject *books; /* owned */
    PyObject *handle;   /* owned: the Batch that is iterated, or NULL */
    PyObject *future;   /* owned, while suspended */
    PyObject *thrown;   /* owned: the first CancelledError of who waits */
    wait_kind kind;
} WaitObject;

/* The iterator of a Batch. */
typedef struct {
    PyObject_HEAD
    PyObject *handle;   /* owned */
    BooksObject *books; /* owned */
} StreamObject;

/* --------------------------------------------------- what the pump tells */

static void
books_wake(BooksObject *self, wait_kind kind)
{
    al_link *at = self->waits.next;
    while (at != &self->waits) {
        WaitObject *wait = AL_OWNER(at, WaitObject, link);
        at = at->next;
        if (wait->kind == kind) {
            PyObject *future = Py_XNewRef(wait->future);
            al_link_unlink(&wait->link);
            if (future != NULL) {
                al_future_wake(self->pump.st, &self->pump.bound, future);
                Py_DECREF(future);
            }
            at = self->waits.next; /* waking may have changed the list */
        }
    }
}

static void
books_count(BooksObject *self, PyObject *result)
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
    }
}

/* Keep a result for whoever takes it. */
static int
books_keep(BooksObject *self, PyObject *result)
{
    bool started = al_result_state_of(result) != AL_RESULT_PENDING;
    if (self->mode == MODE_BLOCK || (self->mode == MODE_STREAM && !started)) {
        return 0;
    }
    if (al_shelf_put(&self->shelf, result) < 0) {
        return -1;
    }
    if (self->mode == MODE_STREAM && !al_list_is_empty(&self->waits)
        && al_shelf_peek(&self->shelf, false) != NULL)
    {
        books_wake(self, WAIT_NEXT);
    }
    return 0;
}

/* Keep the error of a failed item, and stop if it is one too many. */
static int
books_note_error(BooksObject *self, PyObject *result)
{
    PyObject *error = al_result_error(result);
    if (self->max_errors < 0) {
        return 0;
    }
    if (error != NULL && AL_ALLOC_INT(PyList_Append(self->errors, error)) < 0)
    {
        return -1;
    }
    if (self->failed > self->max_errors) {
        al_worker_stop(&self->pump, AL_STOP_ERRORS, NULL);
    }
    return 0;
}

static void
books_tell(BooksObject *self, PyObject *result)
{
    al_pump *p = &self->pump;
    PyObject *on_result = Py_NewRef(self->on_result);
    PyObject *answer = al_drive_call(p->source.context, on_result, result);
    if (answer == NULL) {
        if (PyErr_ExceptionMatches(PyExc_Exception)) {
            al_loop_report(p->st, p->bound.loop,
                           "on_result of a batch failed", NULL);
        }
        else {
            al_worker_fail(p);
        }
    }
    Py_XDECREF(answer);
    Py_DECREF(on_result);
}

static void
books_finished(PyObject *op, PyObject *result)
{
    BooksObject *self = (BooksObject *)op;
    al_result_state state = al_result_state_of(result);
    books_count(self, result);
    if (books_keep(self, result) < 0
        || (state == AL_RESULT_FAILED && books_note_error(self, result) < 0))
    {
        al_worker_fail(&self->pump);
    }
    if (self->on_result != NULL && state != AL_RESULT_PENDING) {
        books_tell(self, result);
    }
}

static void
books_taken(PyObject *op)
{
    books_wake((BooksObject *)op, WAIT_TAKEN);
}

static void
books_over(PyObject *op)
{
    BooksObject *self = (BooksObject *)op;
    self->ended = al_loop_time(self->pump.st, &self->pump.bound);
    if (self->ended == -1.0 && PyErr_Occurred()) {
        al_loop_report(self->pump.st, self->pump.bound.loop,
                       "the loop's clock failed", NULL);
    }
    books_wake(self, WAIT_NEXT);
    books_wake(self, WAIT_END);
}

static const al_pump_calls books_calls = {
    .finished = books_finished,
    .taken = books_taken,
    .over = books_over,
};

/* ------------------------------------------------------------ modes */

/* Let the pump start as many items as this use allows. */
static void
books_set_room(BooksObject *self)
{
    al_pump *p = &self->pump;
    bool stream = self->mode == MODE_STREAM
                  || (self->mode == MODE_OPEN && self->on_result == NULL);
    p->room = stream ? self->window - p->source.pulled : PY_SSIZE_T_MAX;
}

/* Change to a mode that the one before allows.  Returns 0; -1 with
   RuntimeError. */
static int
books_set_mode(BooksObject *self, batch_mode mode)
{
    batch_mode before = self->mode;
    if (before == mode || (mode == MODE_OPEN && before != MODE_UNUSED)) {
        return 0;
    }
    if (before > MODE_OPEN) {
        PyErr_SetString(
            PyExc_RuntimeError,
            before == MODE_COLLECT
                ? "this batch was awaited, which keeps all results: it cannot "
                  "be iterated too"
            : before == MODE_STREAM
                ? "this batch is iterated, which hands its results over one "
                  "by one: it cannot be awaited too"
                : "the block of this batch has ended, and its results went "
                  "to on_result: await or iterate inside the block");
        return -1;
    }
    if (mode == MODE_COLLECT && al_shelf_sort(&self->shelf) < 0) {
        return -1;
    }
    self->mode = mode;
    if (mode == MODE_BLOCK) {
        al_shelf_drop(&self->shelf);
    }
    books_set_room(self);
    return 0;
}

PyDoc_STRVAR(books_use_doc,
"use($self, mode, /)\n--\n\n"
"Say who takes the results (1 a block, 2 await, 3 iteration, 4 nobody), and\n"
"begin if it has not begun.");

static PyObject *
books_use(PyObject *op, PyObject *arg)
{
    BooksObject *self = (BooksObject *)op;
    al_pump *p = &self->pump;
    long mode = PyLong_AsLong(arg);
    if (mode == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (mode < MODE_OPEN || mode > MODE_BLOCK) {
        return PyErr_Format(PyExc_ValueError, "no such use: %ld", mode);
    }
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    if (p->begun) {
        if (books_set_mode(self, (batch_mode)mode) < 0) {
            return NULL;
        }
        al_worker_kick(p);
        Py_RETURN_NONE;
    }
    batch_mode before = self->mode;
    if (books_set_mode(self, (batch_mode)mode) < 0) {
        return NULL;
    }
    if (al_pump_begin(p) < 0) {
        self->mode = before;
        return NULL;
    }
    Py_RETURN_NONE;
}

/* What is to be handed over next (new), or NULL without an exception; with
   one if al_ready_new, where `ready` asks for a Ready of it, failed. */
static PyObject *
books_hand_over(BooksObject *self, bool ready)
{
    al_pump *p = &self->pump;
    PyObject *result = al_shelf_peek(&self->shelf, p->over);
    if (result == NULL) {
        return NULL;
    }
    Py_INCREF(result);
    if (ready) {
        result = al_ready_new(p->st, result);
        if (result == NULL) {
            return NULL;
        }
    }
    al_shelf_take(&self->shelf);
    p->room++;
    if (p->unstarted == 0 && !p->over) {
        al_worker_kick(p);
    }
    return result;
}

/* -------------------------------------------------------------- Wait */

static PyObject *
wait_new(BooksObject *books, PyObject *handle, wait_kind kind)
{
    al_state *st = books->pump.st;
    WaitObject *self =
        AL_ALLOC(PyObject_GC_New(WaitObject, (PyTypeObject *)st->Wait));
    if (self == NULL) {
        return NULL;
    }
    self->link = (al_link){0};
    self->books = (BooksObject *)Py_NewRef((PyObject *)books);
    self->handle = Py_XNewRef(handle);
    self->future = self->thrown = NULL;
    self->kind = kind;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* What is thrown into who waits.  Returns 1 if that is to go on waiting; 0
   with what was thrown raised. */
static int
wait_take_thrown(WaitObject *self, PyObject *thrown)
{
    al_pump *p = &self->books->pump;
    bool closing = PyErr_GivenExceptionMatches(thrown, PyExc_GeneratorExit);
    if (self->kind == WAIT_END && !p->over) {
        bool first = self->thrown == NULL;
        if (first) {
            self->thrown = Py_NewRef(thrown);
            al_worker_stop(p, AL_STOP_CANCEL, NULL);
        }
        if (!closing && (!first || !p->over)) {
            return 1; /* until the items have ended; then the first is raised */
        }
    }
    PyErr_SetRaisedException(Py_NewRef(thrown));
    return 0;
}

/* The iteration has come to its end: the Batch raises why, or it just ends. */
static PySendResult
wait_finish_stream(WaitObject *self)
{
    PyObject *none =
        PyObject_CallMethodNoArgs(self->handle, self->books->pump.st->s__ended);
    if (none != NULL) {
        Py_DECREF(none);
        PyErr_SetNone(PyExc_StopAsyncIteration);
    }
    return PYGEN_ERROR;
}

/* PYGEN_NEXT: not yet. */
static PySendResult
wait_settle(WaitObject *self, PyObject **result)
{
    al_pump *p = &self->books->pump;
    if (self->kind == WAIT_NEXT) {
        *result = books_hand_over(self->books, false);
        if (*result != NULL) {
            return PYGEN_RETURN;
        }
        return p->over ? wait_finish_stream(self) : PYGEN_NEXT;
    }
    if (self->kind == WAIT_TAKEN && p->stopping != AL_STOP_NONE) {
        /* A source that swallowed its cancellation is not read on. */
        PyErr_SetNone(p->st->CancelledError);
        return PYGEN_ERROR;
    }
    if (self->kind == WAIT_END ? !p->over : p->source.ahead != NULL) {
        return PYGEN_NEXT;
    }
    if (self->thrown != NULL) {
        PyObject *thrown = self->thrown;
        self->thrown = NULL;
        PyErr_SetRaisedException(thrown);
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* Suspend on a future of our own. */
static PySendResult
wait_suspend(WaitObject *self, PyObject **result)
{
    BooksObject *books = self->books;
    for (al_link *at = books->waits.next; at != &books->waits; at = at->next) {
        if (self->kind == WAIT_NEXT
            && AL_OWNER(at, WaitObject, link)->kind == WAIT_NEXT)
        {
            PyErr_SetString(PyExc_RuntimeError,
                            "this batch is being iterated by somebody else: "
                            "it has one consumer");
            return PYGEN_ERROR;
        }
    }
    PyObject *future = al_loop_pause(books->pump.st, &books->pump.bound);
    if (future == NULL) {
        if (self->kind == WAIT_END) {
            PyObject *error = PyErr_GetRaisedException();
            al_worker_stop(&books->pump, AL_STOP_CANCEL, NULL);
            PyErr_SetRaisedException(error);
        }
        return PYGEN_ERROR;
    }
    al_link_unlink(&self->link);
    al_list_append(&books->waits, &self->link);
    Py_XSETREF(self->future, Py_NewRef(future));
    *result = future;
    return PYGEN_NEXT;
}

static PySendResult
wait_step(PyObject *op, PyObject *thrown, PyObject **result)
{
    WaitObject *self = (WaitObject *)op;
    al_pump *p = &self->books->pump;
    *result = NULL;
    al_link_unlink(&self->link);
    Py_CLEAR(self->future);
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return PYGEN_ERROR;
    }
    if (thrown != NULL && wait_take_thrown(self, thrown) == 0) {
        return PYGEN_ERROR;
    }
    PySendResult answer = wait_settle(self, result);
    return answer == PYGEN_NEXT ? wait_suspend(self, result) : answer;
}

/* An awaitable of a Wait (new). */
static PyObject *
wait_awaitable(BooksObject *books, PyObject *handle, wait_kind kind)
{
    PyObject *wait = wait_new(books, handle, kind);
    if (wait == NULL) {
        return NULL;
    }
    PyObject *awaitable = al_awaitable_new(books->pump.st, wait, wait_step);
    Py_DECREF(wait);
    return awaitable;
}

static int
wait_traverse(PyObject *op, visitproc visit, void *arg)
{
    WaitObject *self = (WaitObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->books);
    Py_VISIT(self->handle);
    Py_VISIT(self->future);
    Py_VISIT(self->thrown);
    return 0;
}

static void
wait_dealloc(PyObject *op)
{
    WaitObject *self = (WaitObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    al_link_unlink(&self->link);
    Py_CLEAR(self->handle);
    Py_CLEAR(self->future);
    Py_CLEAR(self->thrown);
    Py_CLEAR(self->books);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ------------------------------------------------------------ Stream */

static PyObject *
stream_anext(PyObject *op)
{
    StreamObject *self = (StreamObject *)op;
    BooksObject *books = self->books;
    al_pump *p = &books->pump;
    if (al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    PyObject *ready = books_hand_over(books, true);
    return ready != NULL || PyErr_Occurred()
               ? ready
               : wait_awaitable(books, self->handle, WAIT_NEXT);
}

static int
stream_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((StreamObject *)op)->handle);
    Py_VISIT((PyObject *)((StreamObject *)op)->books);
    return 0;
}

static void
stream_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_CLEAR(((StreamObject *)op)->handle);
    Py_CLEAR(((StreamObject *)op)->books);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ------------------------------------------------------ Books: the door */

PyDoc_STRVAR(books_wait_doc,
"wait($self, /)\n--\n\n"
"An awaitable of the end.  What cancels who waits cancels the items, and\n"
"comes out, the very object, when they have ended.");

static PyObject *
books_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return wait_awaitable((BooksObject *)op, NULL, WAIT_END);
}

PyDoc_STRVAR(books_stream_doc,
"stream($self, batch, /)\n--\n\n"
"An asynchronous iterator of the results, which owns the Batch.");

static PyObject *
books_stream(PyObject *op, PyObject *handle)
{
    al_state *st = ((BooksObject *)op)->pump.st;
    StreamObject *self =
        AL_ALLOC(PyObject_GC_New(StreamObject, (PyTypeObject *)st->Stream));
    if (self == NULL) {
        return NULL;
    }
    self->handle = Py_NewRef(handle);
    self->books = (BooksObject *)Py_NewRef(op);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyDoc_STRVAR(books_stop_doc,
"stop($self, msg=None, /)\n--\n\n"
"Cancel what runs and start nothing new.");

static PyObject *
books_stop(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    al_pump *p = &((BooksObject *)op)->pump;
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    al_worker_stop(p, AL_STOP_CANCEL, nargs > 0 ? args[0] : NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(books_offer_doc,
"offer($self, item, /)\n--\n\n"
"The reader's next item; await until it is taken.");

static PyObject *
books_offer(PyObject *op, PyObject *item)
{
    BooksObject *self = (BooksObject *)op;
    if (self->pump.source.ahead == NULL) {
        al_pump_offer(&self->pump, item);
    }
    return wait_awaitable(self, NULL, WAIT_TAKEN);
}

static PyObject *
books_reader_done(PyObject *op, PyObject *Py_UNUSED(task))
{
    al_pump_read(&((BooksObject *)op)->pump);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(books_counts_doc,
"counts($self, /)\n--\n\n"
"total (-1: not known), started, running, done, failed, cancelled,\n"
"timed_out, elapsed.");

static PyObject *
books_counts(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BooksObject *self = (BooksObject *)op;
    al_pump *p = &self->pump;
    double elapsed = 0.0;
    if (p->begun) {
        double now = p->over ? self->ended : al_loop_time(p->st, &p->bound);
        if (now == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        elapsed = now - p->began;
    }
    Py_ssize_t started = p->source.pulled - self->refused;
    Py_ssize_t total = p->source.length >= 0 ? p->source.length
                       : p->source.done      ? p->source.pulled
                                             : -1;
    return AL_ALLOC(Py_BuildValue(
        "nnnnnnnd", total, started,
        started - self->done - self->failed - self->cancelled, self->done,
        self->failed, self->cancelled, self->timed_out, elapsed));
}

static PyMethodDef books_methods[] = {
    {"use", books_use, METH_O, books_use_doc},
    {"wait", books_wait, METH_NOARGS, books_wait_doc},
    {"stream", books_stream, METH_O, books_stream_doc},
    {"stop", AL_METHOD(books_stop), METH_FASTCALL, books_stop_doc},
    {"offer", books_offer, METH_O, books_offer_doc},
    {"reader_done", books_reader_done, METH_O, NULL},
    {"counts", books_counts, METH_NOARGS, books_counts_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *
books_get_results(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((BooksObject *)op)->shelf.list);
}

static PyObject *
books_get_errors(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((BooksObject *)op)->errors);
}

static PyObject *
books_get_fatal(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *fatal = ((BooksObject *)op)->pump.fatal;
    return Py_NewRef(fatal == NULL ? Py_None : fatal);
}

static PyObject *
books_get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *loop = ((BooksObject *)op)->pump.bound.loop;
    return Py_NewRef(loop == NULL ? Py_None : loop);
}

static PyObject *
books_get_begun(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BooksObject *)op)->pump.begun);
}

static PyObject *
books_get_over(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BooksObject *)op)->pump.over);
}

static PyObject *
books_get_exhausted(PyObject *op, void *Py_UNUSED(closure))
{
    al_pump *p = &((BooksObject *)op)->pump;
    return PyBool_FromLong(p->source.done && p->fatal == NULL);
}

static PyObject *
books_get_stopping(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((BooksObject *)op)->pump.stopping);
}

static PyObject *
books_get_mode(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(((BooksObject *)op)->mode);
}

static PyGetSetDef books_getset[] = {
    {"results", books_get_results, NULL, "The list, by index.", NULL},
    {"errors", books_get_errors, NULL, "Of failed items.", NULL},
    {"fatal", books_get_fatal, NULL, "What ended it, bare.", NULL},
    {"loop", books_get_loop, NULL, "Bound to it, or None.", NULL},
    {"begun", books_get_begun, NULL, NULL, NULL},
    {"over", books_get_over, NULL, NULL, NULL},
    {"exhausted", books_get_exhausted, NULL, "The source has ended.", NULL},
    {"stopping", books_get_stopping, NULL, "Why, 0: it is not.", NULL},
    {"mode", books_get_mode, NULL, "Who takes the results.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *
books_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *fn, *items, *name, *key, *on_result;
    int async, ordered;
    Py_ssize_t limit, buffer, max_errors;
    double timeout, budget;
    if (!PyArg_ParseTuple(args, "OOpOnddnpnOO:Books", &fn, &items, &async,
                          &name, &limit, &timeout, &budget, &max_errors,
                          &ordered, &buffer, &key, &on_result))
    {
        return NULL;
    }
    al_state *st = al_state_of_type(type);
    BooksObject *self =
        st == NULL ? NULL : (BooksObject *)AL_ALLOC(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    al_pump *p = &self->pump;
    al_list_init(&self->waits);
    al_pump_init(p, st, (PyObject *)self, &books_calls);
    p->fn = Py_NewRef(fn);
    p->name = Py_NewRef(name);
    p->limit = limit;
    p->timeout = timeout;
    p->budget = budget;
    p->source.items = Py_NewRef(items);
    p->source.async = async != 0;
    p->source.key = key == Py_None ? NULL : Py_NewRef(key);
    p->source.length = al_source_length(&p->source);
    self->on_result = on_result == Py_None ? NULL : Py_NewRef(on_result);
    self->max_errors = max_errors;
    self->ordered = ordered != 0;
    self->window = buffer > PY_SSIZE_T_MAX - limit ? PY_SSIZE_T_MAX
                                                   : limit + buffer;
    self->errors = AL_ALLOC(PyList_New(0));
    if (self->errors == NULL || al_shelf_init(&self->shelf, ordered) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int
books_traverse(PyObject *op, visitproc visit, void *arg)
{
    BooksObject *self = (BooksObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->shelf.list);
    Py_VISIT(self->on_result);
    Py_VISIT(self->errors);
    return al_pump_visit(&self->pump, visit, arg);
}

static int
books_clear(PyObject *op)
{
    BooksObject *self = (BooksObject *)op;
    al_pump_clear(&self->pump);
    Py_CLEAR(self->on_result);
    return 0;
}

static void
books_dealloc(PyObject *op)
{
    BooksObject *self = (BooksObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)books_clear(op);
    Py_CLEAR(self->shelf.list);
    Py_CLEAR(self->errors);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot books_slots[] = {
    {Py_tp_new, books_new},
    {Py_tp_methods, books_methods},
    {Py_tp_getset, books_getset},
    {Py_tp_traverse, books_traverse},
    {Py_tp_clear, books_clear},
    {Py_tp_dealloc, books_dealloc},
    {0, NULL},
};

static PyType_Spec books_spec = {
    .name = "pyasynclife._core.Books",
    .basicsize = sizeof(BooksObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = books_slots,
};

static PyType_Slot wait_slots[] = {
    {Py_tp_traverse, wait_traverse},
    {Py_tp_dealloc, wait_dealloc},
    {0, NULL},
};

static PyType_Spec wait_spec = {
    .name = "pyasynclife._core.Wait",
    .basicsize = sizeof(WaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = wait_slots,
};

static PyType_Slot stream_slots[] = {
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, stream_anext},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_dealloc, stream_dealloc},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    .name = "pyasynclife._core.Stream",
    .basicsize = sizeof(StreamObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stream_slots,
};

int
al_batch_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Books, &books_spec, true) < 0
                   || al_state_add_type(module, &st->Wait, &wait_spec, false)
                          < 0
                   || al_state_add_type(module, &st->Stream, &stream_spec,
                                        false) < 0
               ? -1
               : 0;
}
