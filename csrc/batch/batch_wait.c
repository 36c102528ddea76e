/* The awaitables of a batch, and the iterator of its results.
 *
 * A waiter waits for the next result, for the end, or for the reader's item to
 * be taken.  Each suspends on a future of its own, looks again when it is
 * woken, and is in the batch's list only while it is suspended:
 *
 *     step -> settle: there it is    -> return or raise
 *               |
 *               +---- not yet        -> into the list, yield a future
 *
 * The waiter for the end stands for the batch: the first CancelledError that
 * is thrown into it stops the batch, and is raised when the items have ended.
 * It is the very object, for a new one would escape anyio's cancel scopes.
 * Further ones are absorbed meanwhile, however many come.  A block that was
 * left by a CancelledError has its first one already: its waiter absorbs all.
 *
 * Any other exception that is thrown in is raised at once, and stops the
 * batch.  A waiter that only observes the end raises all of them at once, and
 * stops nothing.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/awaitable.h"
#include "batch/source.h"
#include "batch/pump.h"
#include "batch/worker.h"
#include "batch/batch.h"
#include "batch/batch_wait.h"

typedef struct {
    PyObject_HEAD
    al_waiter wait;
    BatchObject *batch; /* owned */
    PyObject *handle;   /* owned: the Batch that is iterated, or NULL */
    PyObject *thrown;   /* owned: the first CancelledError, or NULL */
    bool absorbs;       /* the first CancelledError is raised elsewhere */
    bool observes;      /* it does not stand for the batch */
} BatchWaitObject;

/* The asynchronous iterator of a Batch. */
typedef struct {
    PyObject_HEAD
    PyObject *handle;   /* owned */
    BatchObject *batch; /* owned */
} BatchStreamObject;

static PyObject *
batch_wait_new(BatchObject *batch, PyObject *handle, al_waiter_kind kind)
{
    al_state *st = batch->pump.st;
    BatchWaitObject *self = AL_ALLOC(
        PyObject_GC_New(BatchWaitObject, (PyTypeObject *)st->BatchWait));
    if (self == NULL) {
        return NULL;
    }
    self->wait = (al_waiter){.kind = kind};
    self->batch = (BatchObject *)Py_NewRef((PyObject *)batch);
    self->handle = Py_XNewRef(handle);
    self->thrown = NULL;
    self->absorbs = self->observes = false;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* Note a CancelledError that is thrown into a waiter for the end. */
static void
batch_wait_note_cancelled(BatchWaitObject *self, PyObject *thrown)
{
    if (self->thrown == NULL && !self->absorbs) {
        self->thrown = Py_NewRef(thrown);
    }
    al_pump_stop(&self->batch->pump, AL_STOP_CANCEL, NULL, false);
}

/* End the iteration: Batch._ended() raises the reason, if there is one. */
static PySendResult
batch_wait_finish_stream(BatchWaitObject *self)
{
    PyObject *none = PyObject_CallMethodNoArgs(self->handle,
                                               self->batch->pump.st->s__ended);
    if (none != NULL) {
        Py_DECREF(none);
        PyErr_SetNone(PyExc_StopAsyncIteration);
    }
    return PYGEN_ERROR;
}

/* Tell whether the waiter, for anything but a result, need wait no more. */
static bool
batch_wait_is_there(const BatchWaitObject *self)
{
    const al_pump *p = &self->batch->pump;
    switch (self->wait.kind) {
    case AL_WAIT_IDLE:
        return p->over || al_batch_is_idle(self->batch);
    case AL_WAIT_ROOM:
        return al_pump_refusal(p) != NULL || al_batch_room(self->batch) > 0;
    case AL_WAIT_TAKEN:
        return al_pump_reads_on(p);
    default:
        return p->over;
    }
}

/* Look for what the waiter waits for.  PYGEN_NEXT: it is not there yet. */
static PySendResult
batch_wait_settle(BatchWaitObject *self, PyObject **result)
{
    al_pump *p = &self->batch->pump;
    if (self->wait.kind == AL_WAIT_NEXT) {
        *result = al_batch_hand_over(self->batch);
        if (*result != NULL) {
            return PYGEN_RETURN;
        }
        self->batch->consumer_waits = true;
        if (al_source_is_empty(&p->source)) {
            /* The consumer has added nothing more: that may be the end. */
            al_pump_update(p);
        }
        return p->over ? batch_wait_finish_stream(self) : PYGEN_NEXT;
    }
    if (self->wait.kind == AL_WAIT_TAKEN && p->stopping != AL_STOP_NONE) {
        /* A source that has swallowed its cancellation is not read on. */
        PyErr_SetNone(p->st->CancelledError);
        return PYGEN_ERROR;
    }
    if (!batch_wait_is_there(self)) {
        return PYGEN_NEXT;
    }
    p->reader_gets |= self->wait.kind == AL_WAIT_TAKEN && p->source.is_queue;
    if (self->thrown != NULL) {
        /* As the `raise` statement does: the exception that a block was left
           by, if any, becomes the context. */
        PyObject *thrown = self->thrown;
        self->thrown = NULL;
        PyErr_SetObject((PyObject *)Py_TYPE(thrown), thrown);
        Py_DECREF(thrown);
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

/* Enter the list and suspend on a future. */
static PySendResult
batch_wait_suspend(BatchWaitObject *self, PyObject **result)
{
    BatchObject *batch = self->batch;
    for (al_link *at = batch->waiters.next; at != &batch->waiters;
         at = at->next)
    {
        if (self->wait.kind == AL_WAIT_NEXT
            && AL_CONTAINER_OF(at, al_waiter, link)->kind == AL_WAIT_NEXT)
        {
            PyErr_SetString(PyExc_RuntimeError,
                            "this batch is being iterated by somebody else: "
                            "it has one consumer");
            return PYGEN_ERROR;
        }
    }
    PyObject *future =
        al_loop_create_waiter(batch->pump.st, &batch->pump.bound);
    if (future == NULL) {
        if (self->wait.kind == AL_WAIT_END && !self->observes) {
            /* Nobody would notice the end of the items. */
            PyObject *error = PyErr_GetRaisedException();
            al_pump_stop(&batch->pump, AL_STOP_CANCEL, NULL, false);
            PyErr_SetRaisedException(error);
        }
        return PYGEN_ERROR;
    }
    al_link_unlink(&self->wait.link);
    al_list_append(&batch->waiters, &self->wait.link);
    Py_XSETREF(self->wait.future, Py_NewRef(future));
    *result = future;
    return PYGEN_NEXT;
}

/* Refuse the use of a waiter that the collector has cleared. */
static PySendResult
batch_wait_is_gone(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this batch is being collected");
    return PYGEN_ERROR;
}

/* End with an exception that is thrown in.  If it is the GeneratorExit of
   close(), the caller may be the collector, in any thread, or long after the
   loop.  Stop the batch if that is possible. */
static PySendResult
batch_wait_abort(BatchWaitObject *self, PyObject *thrown)
{
    al_pump *p = &self->batch->pump;
    if (self->wait.kind == AL_WAIT_END && !self->observes && !p->over) {
        if (al_loop_check_thread(p->st, &p->bound, al_pump_what(p)) == 0
            && al_loop_is_closed(p->st, p->bound.loop) == 0)
        {
            al_pump_stop(p, AL_STOP_CANCEL, NULL, false);
        }
        else {
            PyErr_Clear();
        }
    }
    PyErr_SetRaisedException(Py_NewRef(thrown));
    return PYGEN_ERROR;
}

/* The al_step of all waiters. */
static PySendResult
batch_wait_step(PyObject *op, PyObject *thrown, PyObject **result)
{
    BatchWaitObject *self = (BatchWaitObject *)op;
    *result = NULL;
    if (self->batch == NULL) {
        return batch_wait_is_gone();
    }
    al_pump *p = &self->batch->pump;
    /* Not suspended any more, whatever follows. */
    al_link_unlink(&self->wait.link);
    Py_CLEAR(self->wait.future);
    if (self->wait.kind == AL_WAIT_NEXT) {
        self->batch->consumer_waits = false;
    }
    if (thrown != NULL
        && (self->wait.kind != AL_WAIT_END || self->observes
            || !PyErr_GivenExceptionMatches(thrown, p->st->CancelledError)))
    {
        if (self->wait.kind == AL_WAIT_ROOM) {
            /* It may have been woken: then the next in line takes the room. */
            al_batch_wake_pool(self->batch);
        }
        return batch_wait_abort(self, thrown);
    }
    if (!p->over
        && al_loop_check_thread(p->st, &p->bound, al_pump_what(p)) < 0)
    {
        return PYGEN_ERROR;
    }
    if (thrown != NULL) {
        batch_wait_note_cancelled(self, thrown);
    }
    PySendResult answer = batch_wait_settle(self, result);
    return answer == PYGEN_NEXT ? batch_wait_suspend(self, result) : answer;
}

PyObject *
al_batch_wait_awaitable(BatchObject *batch, al_waiter_kind kind, bool absorbs,
                        bool observes)
{
    PyObject *wait = batch_wait_new(batch, NULL, kind);
    if (wait == NULL) {
        return NULL;
    }
    ((BatchWaitObject *)wait)->absorbs = absorbs;
    ((BatchWaitObject *)wait)->observes = observes;
    PyObject *awaitable =
        al_awaitable_new(batch->pump.st, wait, batch_wait_step);
    Py_DECREF(wait);
    return awaitable;
}

static int
batch_wait_traverse(PyObject *op, visitproc visit, void *arg)
{
    BatchWaitObject *self = (BatchWaitObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->batch);
    Py_VISIT(self->handle);
    Py_VISIT(self->wait.future);
    Py_VISIT(self->thrown);
    return 0;
}

static int
batch_wait_clear(PyObject *op)
{
    BatchWaitObject *self = (BatchWaitObject *)op;
    al_link_unlink(&self->wait.link);
    Py_CLEAR(self->batch); /* first: without it nothing else is used */
    Py_CLEAR(self->handle);
    Py_CLEAR(self->wait.future);
    Py_CLEAR(self->thrown);
    return 0;
}

/* -------------------------------------------------------- the iterator */

/* The first step of an anext(): a result that is ready, or a waiter. */
static PySendResult
batch_stream_begin(PyObject *op, PyObject **result)
{
    BatchStreamObject *self = (BatchStreamObject *)op;
    BatchObject *batch = self->batch;
    if (batch == NULL) {
        return batch_wait_is_gone();
    }
    al_pump *p = &batch->pump;
    if (al_loop_check_thread(p->st, &p->bound, al_pump_what(p)) < 0) {
        return PYGEN_ERROR;
    }
    *result = al_batch_hand_over(batch);
    if (*result != NULL) {
        return PYGEN_RETURN;
    }
    *result = batch_wait_new(batch, self->handle, AL_WAIT_NEXT);
    return *result == NULL ? PYGEN_ERROR : PYGEN_NEXT;
}

/* anext() takes nothing before it is awaited, so one that is dropped loses no
   result. */
static PyObject *
batch_stream_anext(PyObject *op)
{
    BatchObject *batch = ((BatchStreamObject *)op)->batch;
    if (batch == NULL) {
        (void)batch_wait_is_gone();
        return NULL;
    }
    return al_awaitable_lazy(batch->pump.st, op, batch_stream_begin,
                             batch_wait_step);
}

PyDoc_STRVAR(batch_stream_aclose_doc,
"aclose($self, /)\n--\n\n"
"Cancel the items that are left and wait until they have ended.\n\n"
"A coroutine.  Like the end of the batch's block it raises the failure of\n"
"the batch, unless its caller is handling an exception.");

static PyObject *
batch_stream_aclose(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BatchStreamObject *self = (BatchStreamObject *)op;
    if (self->batch == NULL) {
        (void)batch_wait_is_gone();
        return NULL;
    }
    return PyObject_CallMethodNoArgs(self->handle,
                                     self->batch->pump.st->s__aclose);
}

static PyMethodDef batch_stream_methods[] = {
    {"aclose", batch_stream_aclose, METH_NOARGS, batch_stream_aclose_doc},
    {NULL, NULL, 0, NULL},
};

static int
batch_stream_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((BatchStreamObject *)op)->handle);
    Py_VISIT((PyObject *)((BatchStreamObject *)op)->batch);
    return 0;
}

static int
batch_stream_clear(PyObject *op)
{
    Py_CLEAR(((BatchStreamObject *)op)->handle);
    Py_CLEAR(((BatchStreamObject *)op)->batch);
    return 0;
}

PyObject *
al_batch_wait_stream(BatchObject *batch, PyObject *handle)
{
    al_state *st = batch->pump.st;
    BatchStreamObject *self = AL_ALLOC(
        PyObject_GC_New(BatchStreamObject, (PyTypeObject *)st->BatchStream));
    if (self == NULL) {
        return NULL;
    }
    self->handle = Py_NewRef(handle);
    self->batch = (BatchObject *)Py_NewRef((PyObject *)batch);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* For the await chain of a Task that waits for the batch: a list of the
   workers that have an item, and of the Task that reads an asynchronous
   source. */
static PyObject *
batch_wait_get_waits_for(PyObject *op, void *Py_UNUSED(closure))
{
    BatchWaitObject *self = (BatchWaitObject *)op;
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list == NULL || self->batch == NULL
        || self->wait.kind == AL_WAIT_TAKEN)
    {
        return list;
    }
    al_pump *p = &self->batch->pump;
    int failed = 0;
    for (al_link *at = p->workers.next; !failed && at != &p->workers;
         at = at->next)
    {
        WorkerObject *worker = AL_CONTAINER_OF(at, WorkerObject, link);
        if (worker->item.value != NULL) {
            failed = AL_ALLOC_INT(PyList_Append(list, (PyObject *)worker));
        }
    }
    if (!failed && p->reader != NULL) {
        failed = AL_ALLOC_INT(PyList_Append(list, p->reader));
    }
    if (failed) {
        Py_CLEAR(list);
    }
    return list;
}

static PyGetSetDef batch_wait_getset[] = {
    {"_waits_for", batch_wait_get_waits_for, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot batch_wait_slots[] = {
    {Py_tp_getset, batch_wait_getset},
    {Py_tp_traverse, batch_wait_traverse},
    {Py_tp_clear, batch_wait_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec batch_wait_spec = {
    .name = "pyasynclife._core.BatchWait",
    .basicsize = sizeof(BatchWaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = batch_wait_slots,
};

static PyType_Slot batch_stream_slots[] = {
    {Py_am_aiter, PyObject_SelfIter},
    {Py_am_anext, batch_stream_anext},
    {Py_tp_methods, batch_stream_methods},
    {Py_tp_traverse, batch_stream_traverse},
    {Py_tp_clear, batch_stream_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec batch_stream_spec = {
    .name = "pyasynclife._core.BatchStream",
    .basicsize = sizeof(BatchStreamObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = batch_stream_slots,
};

int
al_batch_wait_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->BatchWait, &batch_wait_spec, false)
                       < 0
                   || al_state_add_type(module, &st->BatchStream,
                                        &batch_stream_spec, false)
                          < 0
               ? -1
               : 0;
}
