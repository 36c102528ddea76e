/* Books: the door to a batch, for pyasynclife/_batch.py.
 *
 * The user holds a Batch, which owns the books, which embed the pump.
 * Workers, timers and the reader own the books and never the Batch, so one
 * that is dropped while it runs is noticed, and stops it.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "batch/source.h"
#include "batch/result_buffer.h"
#include "batch/worker.h"
#include "batch/pump.h"
#include "batch/batch.h"
#include "batch/batch_wait.h"
#include "batch/batch_type.h"

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
    if (mode < AL_MODE_OPEN || mode > AL_MODE_BLOCK) {
        return PyErr_Format(PyExc_ValueError, "no such use: %ld", mode);
    }
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    if (p->begun) {
        if (al_books_set_mode(self, (al_mode)mode) < 0) {
            return NULL;
        }
        al_worker_kick(p);
        Py_RETURN_NONE;
    }
    al_mode before = self->mode;
    if (al_books_set_mode(self, (al_mode)mode) < 0) {
        return NULL;
    }
    if (al_pump_begin(p) < 0) {
        self->mode = before;
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(books_wait_doc,
"wait($self, /)\n--\n\n"
"An awaitable of the end.  What cancels who waits cancels the items, and\n"
"comes out, the very object, when they have ended.");

static PyObject *
books_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_wait_awaitable((BooksObject *)op, NULL, AL_WAIT_END);
}

PyDoc_STRVAR(books_stream_doc,
"stream($self, batch, /)\n--\n\n"
"An asynchronous iterator of the results, which owns the Batch.");

static PyObject *
books_stream(PyObject *op, PyObject *handle)
{
    return al_wait_stream((BooksObject *)op, handle);
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

PyDoc_STRVAR(books_drop_doc,
"drop($self, /)\n--\n\n"
"Nobody holds the Batch any more: stop, and report what it fails with.");

static PyObject *
books_drop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BooksObject *self = (BooksObject *)op;
    al_pump *p = &self->pump;
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    if (p->over) {
        al_books_tell_fatal(self);
    }
    self->dropped = true;
    al_worker_stop(p, AL_STOP_CANCEL, NULL);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(books_add_doc,
"add($self, item, /)\n--\n\n"
"One more item, behind all others.");

static PyObject *
books_add(PyObject *op, PyObject *item)
{
    al_pump *p = &((BooksObject *)op)->pump;
    if (!p->over && al_loop_check_thread(p->st, &p->bound, "a batch") < 0) {
        return NULL;
    }
    return al_pump_add(p, item) < 0 ? NULL : Py_NewRef(Py_None);
}

PyDoc_STRVAR(books_set_doc,
"set($self, what, value, /)\n--\n\n"
"Change \"limit\", \"paused\" or \"closed\".");

static PyObject *
books_set(PyObject *op, PyObject *args)
{
    al_pump *p = &((BooksObject *)op)->pump;
    const char *what;
    Py_ssize_t value;
    if (!PyArg_ParseTuple(args, "sn:set", &what, &value)
        || (!p->over
            && al_loop_check_thread(p->st, &p->bound, "a batch") < 0))
    {
        return NULL;
    }
    if (what[0] == 'l') {
        al_books_set_limit((BooksObject *)op, value);
        Py_RETURN_NONE;
    }
    *(what[0] == 'p' ? &p->paused : &p->closed) = value != 0;
    al_pump_change(p);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(books_offer_doc,
"offer($self, item, /)\n--\n\n"
"The reader's next item; await until it is taken.");

static PyObject *
books_offer(PyObject *op, PyObject *item)
{
    BooksObject *self = (BooksObject *)op;
    /* A reader that was given up offers in vain. */
    if (!self->pump.source.done && self->pump.source.ahead == NULL) {
        al_pump_offer(&self->pump, item);
    }
    return al_wait_awaitable(self, NULL, AL_WAIT_TAKEN);
}

static PyObject *
books_reader_done(PyObject *op, PyObject *task)
{
    al_pump_read(&((BooksObject *)op)->pump, task);
    Py_RETURN_NONE;
}

/* How many were started and have no outcome, or RUNNING for one. */
static Py_ssize_t
books_running(const BooksObject *self)
{
    return self->pump.source.pulled - self->refused - self->done
           - self->failed - self->cancelled;
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
    Py_ssize_t waiting = al_source_waiting(&p->source);
    Py_ssize_t total =
        p->source.length >= 0 ? p->source.length + p->source.added_count
        : p->source.exhausted ? p->source.pulled + waiting
                              : -1;
    return AL_ALLOC(Py_BuildValue(
        "nnnnnnnd", total, started,
        books_running(self), self->done, self->failed, self->cancelled,
        self->timed_out, elapsed));
}

static PyMethodDef books_methods[] = {
    {"use", books_use, METH_O, books_use_doc},
    {"wait", books_wait, METH_NOARGS, books_wait_doc},
    {"stream", books_stream, METH_O, books_stream_doc},
    {"stop", AL_METHOD(books_stop), METH_FASTCALL, books_stop_doc},
    {"offer", books_offer, METH_O, books_offer_doc},
    {"reader_done", books_reader_done, METH_O, NULL},
    {"drop", books_drop, METH_NOARGS, books_drop_doc},
    {"add", books_add, METH_O, books_add_doc},
    {"set", books_set, METH_VARARGS, books_set_doc},
    {"counts", books_counts, METH_NOARGS, books_counts_doc},
    {NULL, NULL, 0, NULL},
};

static PyObject *
books_get_results(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((BooksObject *)op)->shelf.list);
}

static PyObject *
books_get_queued(PyObject *op, void *Py_UNUSED(closure))
{
    return al_source_queued(&((BooksObject *)op)->pump.source);
}

static PyObject *
books_get_own(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(
        PyLong_FromSsize_t(((BooksObject *)op)->pump.source.own));
}

static PyObject *
books_get_quiet(PyObject *op, void *Py_UNUSED(closure))
{
    BooksObject *self = (BooksObject *)op;
    return PyBool_FromLong(al_source_is_over(&self->pump.source)
                           && books_running(self) == 0);
}

static PyObject *
books_get_paused(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BooksObject *)op)->pump.paused);
}

static PyObject *
books_get_errors(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *errors = ((BooksObject *)op)->errors;
    return Py_NewRef(errors == NULL ? Py_None : errors);
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
    return PyBool_FromLong(((BooksObject *)op)->pump.source.exhausted);
}

static PyObject *
books_get_stopping(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromLong(((BooksObject *)op)->pump.stopping));
}

static PyObject *
books_get_mode(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromLong(((BooksObject *)op)->mode));
}

static PyGetSetDef books_getset[] = {
    {"results", books_get_results, NULL, "The list, by index.", NULL},
    {"queued", books_get_queued, NULL, "Added and never pulled.", NULL},
    {"own", books_get_own, NULL, "How many were pulled, not added.", NULL},
    {"quiet", books_get_quiet, NULL, "Nothing runs, nothing waits.", NULL},
    {"paused", books_get_paused, NULL, NULL, NULL},
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
    PyObject *fn, *items, *name, *key, *on_result, *registry;
    int async, ordered, solo;
    Py_ssize_t limit, buffer, max_errors;
    double timeout, budget, grace;
    if (!PyArg_ParseTuple(args, "OOpOndddnpnOOpO:Books", &fn, &items, &async,
                          &name, &limit, &timeout, &budget, &grace,
                          &max_errors, &ordered, &buffer, &key, &on_result,
                          &solo, &registry))
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
    al_pump_init(p, st, (PyObject *)self, &al_books_calls);
    p->fn = Py_NewRef(fn);
    p->name = Py_NewRef(name);
    p->limit = limit;
    p->timeout = timeout;
    p->budget = budget;
    p->grace = grace;
    if (solo) {
        al_pump_set_solo(p, registry == Py_None ? NULL : registry);
    }
    p->source.items = Py_NewRef(items);
    p->source.async = async != 0;
    p->source.key = key == Py_None ? NULL : Py_NewRef(key);
    p->source.length = al_source_length(&p->source);
    self->on_result = on_result == Py_None ? NULL : Py_NewRef(on_result);
    self->max_errors = max_errors;
    self->ordered = ordered != 0;
    self->buffer = buffer;
    self->errors = AL_ALLOC(PyList_New(0));
    if (self->errors == NULL || al_shelf_init(&self->shelf, ordered) < 0) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyType_Slot books_slots[] = {
    {Py_tp_new, books_new},
    {Py_tp_methods, books_methods},
    {Py_tp_getset, books_getset},
    {Py_tp_traverse, al_books_traverse},
    {Py_tp_clear, al_books_clear},
    {Py_tp_dealloc, al_books_dealloc},
    {0, NULL},
};

static PyType_Spec books_spec = {
    .name = "pyasynclife._core.Books",
    .basicsize = sizeof(BooksObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = books_slots,
};

int
al_batch_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Books, &books_spec, true);
}
