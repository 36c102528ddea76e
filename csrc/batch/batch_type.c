/* Books: the door to a batch, for pyasynclife/_batch.py.
 *
 * The user holds a Batch, which owns the batch, which embed the pump.
 * Workers, timers and the reader own the batch and never the Batch, so one
 * that is dropped while it runs is noticed, and stops it.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "batch/source.h"
#include "batch/pump.h"
#include "batch/reader.h"
#include "batch/batch.h"
#include "batch/batch_wait.h"
#include "batch/batch_type.h"

PyDoc_STRVAR(batch_type_use_doc,
"use($self, mode, /)\n--\n\n"
"Say who takes the results (1 a block, 2 await, 3 iteration, 4 nobody), and\n"
"begin if it has not begun.");

static PyObject *
batch_type_use(PyObject *op, PyObject *arg)
{
    BatchObject *self = (BatchObject *)op;
    al_pump *p = &self->pump;
    long mode = PyLong_AsLong(arg);
    if (mode == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (mode < AL_MODE_OPEN || mode > AL_MODE_BLOCK) {
        return PyErr_Format(PyExc_ValueError, "no such use: %ld", mode);
    }
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    if (p->begun) {
        if (al_batch_set_mode(self, (al_mode)mode) < 0) {
            return NULL;
        }
        al_pump_update(p);
        Py_RETURN_NONE;
    }
    al_mode before = self->mode;
    if (al_batch_set_mode(self, (al_mode)mode) < 0) {
        return NULL;
    }
    if (al_pump_begin(p) < 0) {
        self->mode = before;
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_wait_doc,
"wait($self, /)\n--\n\n"
"An awaitable of the end.  What cancels who waits cancels the items, and\n"
"comes out, the very object, when they have ended.");

static PyObject *
batch_type_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_batch_wait_awaitable((BatchObject *)op, NULL, AL_WAIT_END);
}

PyDoc_STRVAR(batch_type_stream_doc,
"stream($self, batch, /)\n--\n\n"
"An asynchronous iterator of the results, which owns the Batch.");

static PyObject *
batch_type_stream(PyObject *op, PyObject *handle)
{
    return al_batch_wait_stream((BatchObject *)op, handle);
}

PyDoc_STRVAR(batch_type_stop_doc,
"stop($self, msg=None, /)\n--\n\n"
"Cancel what runs and start nothing new.");

static PyObject *
batch_type_stop(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    al_pump *p = &((BatchObject *)op)->pump;
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    al_pump_stop(p, AL_STOP_CANCEL, nargs > 0 ? args[0] : NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_drop_doc,
"drop($self, /)\n--\n\n"
"Nobody holds the Batch any more: stop, and report what it fails with.");

static PyObject *
batch_type_drop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BatchObject *self = (BatchObject *)op;
    al_pump *p = &self->pump;
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    if (p->over) {
        al_batch_report_fatal(self);
    }
    self->dropped = true;
    al_pump_stop(p, AL_STOP_CANCEL, NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_add_doc,
"add($self, item, /)\n--\n\n"
"One more item, behind all others.");

static PyObject *
batch_type_add(PyObject *op, PyObject *item)
{
    al_pump *p = &((BatchObject *)op)->pump;
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    return al_batch_add((BatchObject *)op, item) < 0 ? NULL
                                                     : Py_NewRef(Py_None);
}

PyDoc_STRVAR(batch_type_set_doc,
"set($self, what, value, /)\n--\n\n"
"Change \"limit\", \"paused\" or \"closed\".");

static PyObject *
batch_type_set(PyObject *op, PyObject *args)
{
    al_pump *p = &((BatchObject *)op)->pump;
    const char *what;
    Py_ssize_t value;
    if (!PyArg_ParseTuple(args, "sn:set", &what, &value)
        || (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0))
    {
        return NULL;
    }
    if (what[0] == 'l') {
        al_batch_set_limit((BatchObject *)op, value);
        Py_RETURN_NONE;
    }
    *(what[0] == 'p' ? &p->paused : &p->closed) = value != 0;
    al_pump_limit_changed(p);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_offer_doc,
"offer($self, item, /)\n--\n\n"
"The reader's next item; await until it is taken.");

static PyObject *
batch_type_offer(PyObject *op, PyObject *item)
{
    BatchObject *self = (BatchObject *)op;
    al_reader_offer(&self->pump, item);
    return al_batch_wait_awaitable(self, NULL, AL_WAIT_TAKEN);
}

static PyObject *
batch_type_reader_ended(PyObject *op, PyObject *task)
{
    al_reader_ended(&((BatchObject *)op)->pump, task);
    Py_RETURN_NONE;
}

/* How many were started and have no outcome, or RUNNING for one. */
static Py_ssize_t
batch_type_running(const BatchObject *self)
{
    return self->pump.source.pulled - self->refused - self->done - self->failed
           - self->cancelled;
}

PyDoc_STRVAR(batch_type_counts_doc,
"counts($self, /)\n--\n\n"
"total (-1: not known), started, running, done, failed, cancelled,\n"
"timed_out, elapsed.");

static PyObject *
batch_type_counts(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BatchObject *self = (BatchObject *)op;
    al_pump *p = &self->pump;
    double elapsed = 0.0;
    if (p->begun) {
        double now = p->over ? self->over_at : al_loop_time(p->st, &p->bound);
        if (now == -1.0 && PyErr_Occurred()) {
            return NULL;
        }
        elapsed = now - p->begun_at;
    }
    Py_ssize_t started = p->source.pulled - self->refused;
    Py_ssize_t waiting = al_source_waiting(&p->source);
    Py_ssize_t total = p->source.length >= 0
                           ? p->source.length + p->source.added_count
                       : p->source.exhausted ? p->source.pulled + waiting
                                             : -1;
    return AL_ALLOC(Py_BuildValue(
        "nnnnnnnd", total, started, batch_type_running(self), self->done,
        self->failed, self->cancelled, self->timed_out, elapsed));
}

static PyMethodDef batch_type_methods[] = {
    {"use", batch_type_use, METH_O, batch_type_use_doc},
    {"wait", batch_type_wait, METH_NOARGS, batch_type_wait_doc},
    {"stream", batch_type_stream, METH_O, batch_type_stream_doc},
    {"stop", AL_METHOD(batch_type_stop), METH_FASTCALL, batch_type_stop_doc},
    {"offer", batch_type_offer, METH_O, batch_type_offer_doc},
    {"reader_ended", batch_type_reader_ended, METH_O, NULL},
    {"drop", batch_type_drop, METH_NOARGS, batch_type_drop_doc},
    {"add", batch_type_add, METH_O, batch_type_add_doc},
    {"set", batch_type_set, METH_VARARGS, batch_type_set_doc},
    {"counts", batch_type_counts, METH_NOARGS, batch_type_counts_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *
batch_type_get_results(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((BatchObject *)op)->results.list);
}

static PyObject *
batch_type_get_queued(PyObject *op, void *Py_UNUSED(closure))
{
    return al_source_queued(&((BatchObject *)op)->pump.source);
}

static PyObject *
batch_type_get_own(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(
        PyLong_FromSsize_t(((BatchObject *)op)->pump.source.from_items));
}

static PyObject *
batch_type_get_quiet(PyObject *op, void *Py_UNUSED(closure))
{
    BatchObject *self = (BatchObject *)op;
    return PyBool_FromLong(al_source_is_empty(&self->pump.source)
                           && batch_type_running(self) == 0);
}

static PyObject *
batch_type_get_paused(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BatchObject *)op)->pump.paused);
}

static PyObject *
batch_type_get_errors(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *errors = ((BatchObject *)op)->errors;
    return Py_NewRef(errors == NULL ? Py_None : errors);
}

static PyObject *
batch_type_get_fatal(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *fatal = ((BatchObject *)op)->pump.fatal;
    return Py_NewRef(fatal == NULL ? Py_None : fatal);
}

static PyObject *
batch_type_get_loop(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *loop = ((BatchObject *)op)->pump.bound.loop;
    return Py_NewRef(loop == NULL ? Py_None : loop);
}

static PyObject *
batch_type_get_begun(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BatchObject *)op)->pump.begun);
}

static PyObject *
batch_type_get_over(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BatchObject *)op)->pump.over);
}

static PyObject *
batch_type_get_exhausted(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BatchObject *)op)->pump.source.exhausted);
}

static PyObject *
batch_type_get_stopping(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromLong(((BatchObject *)op)->pump.stopping));
}

static PyObject *
batch_type_get_mode(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromLong(((BatchObject *)op)->mode));
}

static PyGetSetDef batch_type_getset[] = {
    {"results", batch_type_get_results, NULL, "The list, by index.", NULL},
    {"queued", batch_type_get_queued, NULL, "Added and never pulled.", NULL},
    {"own", batch_type_get_own, NULL, "How many were pulled, not added.",
     NULL},
    {"quiet", batch_type_get_quiet, NULL, "Nothing runs, nothing waits.",
     NULL},
    {"paused", batch_type_get_paused, NULL, NULL, NULL},
    {"errors", batch_type_get_errors, NULL, "Of failed items.", NULL},
    {"fatal", batch_type_get_fatal, NULL, "What ended it, bare.", NULL},
    {"loop", batch_type_get_loop, NULL, "Bound to it, or None.", NULL},
    {"begun", batch_type_get_begun, NULL, NULL, NULL},
    {"over", batch_type_get_over, NULL, NULL, NULL},
    {"exhausted", batch_type_get_exhausted, NULL, "The source has ended.",
     NULL},
    {"stopping", batch_type_get_stopping, NULL, "Why, 0: it is not.", NULL},
    {"mode", batch_type_get_mode, NULL, "Who takes the results.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *
batch_type_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *fn, *items, *name, *key, *on_result, *registry;
    int async, ordered, task_per_item;
    Py_ssize_t limit, buffer, max_errors;
    double timeout, budget, grace;
    if (!PyArg_ParseTuple(args, "OOpOndddnpnOOpO:Books", &fn, &items, &async,
                          &name, &limit, &timeout, &budget, &grace,
                          &max_errors, &ordered, &buffer, &key, &on_result,
                          &task_per_item, &registry))
    {
        return NULL;
    }
    al_state *st = al_state_of_type(type);
    BatchObject *self =
        st == NULL ? NULL : (BatchObject *)AL_ALLOC(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    al_pump *p = &self->pump;
    al_list_init(&self->waiters);
    al_pump_init(p, st, (PyObject *)self, &al_batch_calls);
    p->fn = Py_NewRef(fn);
    p->name = Py_NewRef(name);
    p->limit = limit;
    p->timeout = timeout;
    p->budget = budget;
    p->grace = grace;
    p->task_per_item = task_per_item != 0;
    p->registry = registry == Py_None ? NULL : Py_NewRef(registry);
    p->source.items = Py_NewRef(items);
    p->source.async = async != 0;
    p->source.key = key == Py_None ? NULL : Py_NewRef(key);
    p->source.length = al_source_length(&p->source);
    self->on_result = on_result == Py_None ? NULL : Py_NewRef(on_result);
    self->max_errors = max_errors;
    self->buffer = buffer;
    self->results.by_index = ordered != 0;
    self->results.list = AL_ALLOC(PyList_New(0));
    if (self->results.list != NULL) {
        self->errors = AL_ALLOC(PyList_New(0));
    }
    if (self->errors == NULL) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void
batch_type_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)al_batch_clear(op);
    Py_CLEAR(((BatchObject *)op)->results.list);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot batch_type_slots[] = {
    {Py_tp_new, batch_type_new},
    {Py_tp_methods, batch_type_methods},
    {Py_tp_getset, batch_type_getset},
    {Py_tp_traverse, al_batch_traverse},
    {Py_tp_clear, al_batch_clear},
    {Py_tp_dealloc, batch_type_dealloc},
    {0, NULL},
};

static PyType_Spec batch_type_spec = {
    .name = "pyasynclife._core.Books",
    .basicsize = sizeof(BatchObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = batch_type_slots,
};

int
al_batch_type_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Batch, &batch_type_spec, true);
}
