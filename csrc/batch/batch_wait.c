/* Those who wait for a batch: for the next result, for the end, or for the
 * reader's item to be taken.
 *
 * Each is woken by a future of its own.  Of who waits for the end, the first
 * CancelledError thrown in cancels the items, and comes out when they have
 * ended: the very object, for a fresh one would escape anyio's cancel scopes.
 * Further ones are absorbed meanwhile, as often as they come.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/awaitable.h"
#include "batch/source.h"
#include "batch/worker.h"
#include "batch/batch.h"
#include "batch/batch_wait.h"

typedef struct {
    PyObject_HEAD
    al_wait wait;
    BooksObject *books; /* owned */
    PyObject *handle;   /* owned: the Batch that is iterated, or NULL */
    PyObject *thrown;   /* owned: the first CancelledError of who waits */
} WaitObject;

/* The iterator of a Batch. */
typedef struct {
    PyObject_HEAD
    PyObject *handle;   /* owned */
    BooksObject *books; /* owned */
} StreamObject;

static PyObject *
wait_new(BooksObject *books, PyObject *handle, al_wait_kind kind)
{
    al_state *st = books->pump.st;
    WaitObject *self =
        AL_ALLOC(PyObject_GC_New(WaitObject, (PyTypeObject *)st->Wait));
    if (self == NULL) {
        return NULL;
    }
    self->wait = (al_wait){.kind = kind};
    self->books = (BooksObject *)Py_NewRef((PyObject *)books);
    self->handle = Py_XNewRef(handle);
    self->thrown = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* What is thrown into who waits.  Returns 1 if that is to go on waiting; 0
   with what was thrown raised. */
static int
wait_take_thrown(WaitObject *self, PyObject *thrown)
{
    al_pump *p = &self->books->pump;
    if (self->wait.kind == AL_WAIT_END && !p->over) {
        bool first = self->thrown == NULL;
        if (first) {
            self->thrown = Py_NewRef(thrown);
            al_worker_stop(p, AL_STOP_CANCEL, NULL);
        }
        if (!first || !p->over) {
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
    if (self->wait.kind == AL_WAIT_NEXT) {
        *result = al_books_hand_over(self->books);
        if (*result != NULL) {
            return PYGEN_RETURN;
        }
        self->books->asking = true;
        if (al_source_is_over(&p->source)) {
            al_worker_kick(p); /* that may have been the end */
        }
        return p->over ? wait_finish_stream(self) : PYGEN_NEXT;
    }
    if (self->wait.kind == AL_WAIT_TAKEN && p->stopping != AL_STOP_NONE) {
        /* A source that swallowed its cancellation is not read on. */
        PyErr_SetNone(p->st->CancelledError);
        return PYGEN_ERROR;
    }
    if (self->wait.kind == AL_WAIT_END ? !p->over : p->source.ahead != NULL) {
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
        if (self->wait.kind == AL_WAIT_NEXT
            && AL_OWNER(at, al_wait, link)->kind == AL_WAIT_NEXT)
        {
            PyErr_SetString(PyExc_RuntimeError,
                            "this batch is being iterated by somebody else: "
                            "it has one consumer");
            return PYGEN_ERROR;
        }
    }
    PyObject *future = al_loop_pause(books->pump.st, &books->pump.bound);
    if (future == NULL) {
        if (self->wait.kind == AL_WAIT_END) {
            PyObject *error = PyErr_GetRaisedException();
            al_worker_stop(&books->pump, AL_STOP_CANCEL, NULL);
            PyErr_SetRaisedException(error);
        }
        return PYGEN_ERROR;
    }
    al_link_unlink(&self->wait.link);
    al_list_append(&books->waits, &self->wait.link);
    Py_XSETREF(self->wait.future, Py_NewRef(future));
    *result = future;
    return PYGEN_NEXT;
}

/* The collector has taken it apart, and something dying still uses it. */
static PySendResult
wait_is_gone(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this batch is being collected");
    return PYGEN_ERROR;
}

/* Who waits is closed, maybe by the collector, in any thread, or long after
   its loop: stop the batch if that can be. */
static PySendResult
wait_close(WaitObject *self, PyObject *thrown)
{
    al_pump *p = &self->books->pump;
    if (self->wait.kind == AL_WAIT_END && !p->over) {
        if (al_loop_check_thread(p->st, &p->bound, "a batch") == 0
            && al_loop_is_closed(p->st, p->bound.loop) == 0)
        {
            al_worker_stop(p, AL_STOP_CANCEL, NULL);
        }
        else {
            PyErr_Clear();
        }
    }
    PyErr_SetRaisedException(Py_NewRef(thrown));
    return PYGEN_ERROR;
}

static PySendResult
wait_step(PyObject *op, PyObject *thrown, PyObject **result)
{
    WaitObject *self = (WaitObject *)op;
    *result = NULL;
    if (self->books == NULL) {
        return wait_is_gone();
    }
    al_pump *p = &self->books->pump;
    al_link_unlink(&self->wait.link);
    Py_CLEAR(self->wait.future);
    if (self->wait.kind == AL_WAIT_NEXT) {
        self->books->asking = false;
    }
    if (thrown != NULL
        && PyErr_GivenExceptionMatches(thrown, PyExc_GeneratorExit))
    {
        return wait_close(self, thrown);
    }
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return PYGEN_ERROR;
    }
    if (thrown != NULL && wait_take_thrown(self, thrown) == 0) {
        return PYGEN_ERROR;
    }
    PySendResult answer = wait_settle(self, result);
    return answer == PYGEN_NEXT ? wait_suspend(self, result) : answer;
}

PyObject *
al_wait_awaitable(BooksObject *books, PyObject *handle, al_wait_kind kind)
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
    Py_VISIT(self->wait.future);
    Py_VISIT(self->thrown);
    return 0;
}

static int
wait_clear(PyObject *op)
{
    WaitObject *self = (WaitObject *)op;
    al_link_unlink(&self->wait.link);
    Py_CLEAR(self->books); /* first: without them nothing else is used */
    Py_CLEAR(self->handle);
    Py_CLEAR(self->wait.future);
    Py_CLEAR(self->thrown);
    return 0;
}

static void
wait_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)wait_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

/* ------------------------------------------------------------ Stream */

/* The first step of an anext(): what is ready, or a Wait. */
static PySendResult
stream_begin(PyObject *op, PyObject **result)
{
    StreamObject *self = (StreamObject *)op;
    BooksObject *books = self->books;
    if (books == NULL) {
        return wait_is_gone();
    }
    al_pump *p = &books->pump;
    if (al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return PYGEN_ERROR;
    }
    *result = al_books_hand_over(books);
    if (*result != NULL) {
        return PYGEN_RETURN;
    }
    *result = wait_new(books, self->handle, AL_WAIT_NEXT);
    return *result == NULL ? PYGEN_ERROR : PYGEN_NEXT;
}

/* Takes nothing yet: one that is dropped unawaited loses no result. */
static PyObject *
stream_anext(PyObject *op)
{
    BooksObject *books = ((StreamObject *)op)->books;
    if (books == NULL) {
        (void)wait_is_gone();
        return NULL;
    }
    return al_awaitable_lazy(books->pump.st, op, stream_begin, wait_step);
}

static int
stream_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((StreamObject *)op)->handle);
    Py_VISIT((PyObject *)((StreamObject *)op)->books);
    return 0;
}

static int
stream_clear(PyObject *op)
{
    Py_CLEAR(((StreamObject *)op)->handle);
    Py_CLEAR(((StreamObject *)op)->books);
    return 0;
}

static void
stream_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)stream_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyObject *
al_wait_stream(BooksObject *books, PyObject *handle)
{
    al_state *st = books->pump.st;
    StreamObject *self =
        AL_ALLOC(PyObject_GC_New(StreamObject, (PyTypeObject *)st->Stream));
    if (self == NULL) {
        return NULL;
    }
    self->handle = Py_NewRef(handle);
    self->books = (BooksObject *)Py_NewRef((PyObject *)books);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyType_Slot wait_slots[] = {
    {Py_tp_traverse, wait_traverse},
    {Py_tp_clear, wait_clear},
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
    {Py_tp_clear, stream_clear},
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
al_wait_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Wait, &wait_spec, false) < 0
                   || al_state_add_type(module, &st->Stream, &stream_spec,
                                        false) < 0
               ? -1
               : 0;
}
