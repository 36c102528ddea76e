/* The Python API of a batch: BatchCore, for pyasynclife/_batch.py.
 *
 * The structure and its ownership are explained in batch.c.  Every method that
 * changes the batch first refuses other threads than the loop's, and those
 * that may start items or wait refuse other loops.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "batch/result.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/pump.h"
#include "batch/reader.h"
#include "batch/admission.h"
#include "batch/batch.h"
#include "batch/batch_wait.h"
#include "batch/batch_type.h"

/* Refuse a call from another thread than the loop's, unless the batch is over.
   Returns 0; -1 with RuntimeError. */
static int
batch_type_check_thread(BatchObject *self)
{
    al_pump *p = &self->pump;
    return p->over ? 0
                   : al_loop_check_thread(p->st, &p->bound, al_pump_what(p));
}

int
al_batch_type_check_loop(BatchObject *self)
{
    al_pump *p = &self->pump;
    if (batch_type_check_thread(self) < 0) {
        return -1;
    }
    if (p->over || p->bound.loop == NULL) {
        return 0;
    }
    PyObject *running = al_object_call(p->st->get_running_loop);
    if (running == NULL) { /* there is none */
        if (!PyErr_ExceptionMatches(PyExc_RuntimeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    bool same = running == p->bound.loop;
    if (!same) {
        PyErr_Format(PyExc_RuntimeError,
                     "this %s has begun in %R, and cannot be used in %R: "
                     "use it in its own loop, or make a new one",
                     p->fn == NULL ? "pool" : "batch", p->bound.loop, running);
    }
    Py_DECREF(running);
    return same ? 0 : -1;
}

PyDoc_STRVAR(batch_type_use_doc,
"use($self, mode, /)\n--\n\n"
"Choose who takes the results, and begin if the batch has not begun.\n\n"
"mode is one of MODE_OPEN, MODE_COLLECT, MODE_STREAM and MODE_BLOCK.\n"
"Raises RuntimeError if an earlier use does not allow it.");

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
    al_mode before = self->mode;
    if (al_batch_type_check_loop(self) < 0
        || al_batch_set_mode(self, (al_mode)mode) < 0)
    {
        return NULL;
    }
    if (p->begun) {
        al_pump_update(p);
    }
    else if (al_pump_begin(p) < 0) {
        self->mode = before;
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_wait_doc,
"wait($self, absorbs=False, observes=False, /)\n--\n\n"
"Return an awaitable of the end.\n\n"
"If its task is cancelled, so are the items; when they have ended, the first\n"
"CancelledError is raised, unless absorbs is true.  If observes is true, the\n"
"items are not cancelled, and each CancelledError is raised at once.");

static PyObject *
batch_type_wait(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    BatchObject *self = (BatchObject *)op;
    bool absorbs = nargs > 0 && args[0] == Py_True;
    bool observes = nargs > 1 && args[1] == Py_True;
    return al_batch_type_check_loop(self) < 0
               ? NULL
               : al_batch_wait_awaitable(self, AL_WAIT_END, absorbs, observes);
}

PyDoc_STRVAR(batch_type_stream_doc,
"stream($self, batch, /)\n--\n\n"
"Return an asynchronous iterator of the results, which owns the Batch.");

static PyObject *
batch_type_stream(PyObject *op, PyObject *handle)
{
    return al_batch_wait_stream((BatchObject *)op, handle);
}

PyDoc_STRVAR(batch_type_stop_doc,
"stop($self, msg=None, /)\n--\n\n"
"Start nothing new, and cancel the items that run and were not cancelled.");

static PyObject *
batch_type_stop(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    BatchObject *self = (BatchObject *)op;
    if (al_batch_type_check_loop(self) < 0) {
        return NULL;
    }
    al_pump_stop(&self->pump, AL_STOP_CANCEL, nargs > 0 ? args[0] : NULL,
                 false);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_drain_doc,
"drain($self, /)\n--\n\n"
"Start nothing new and read the source no further; what runs goes on.");

static PyObject *
batch_type_drain(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BatchObject *self = (BatchObject *)op;
    if (batch_type_check_thread(self) < 0) {
        return NULL;
    }
    al_pump_stop(&self->pump, AL_STOP_DRAIN, NULL, false);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_cancel_doc,
"cancel($self, msg=None, /)\n--\n\n"
"Start nothing new and cancel the items that run, each call once more.");

static PyObject *
batch_type_cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    BatchObject *self = (BatchObject *)op;
    if (batch_type_check_thread(self) < 0) {
        return NULL;
    }
    al_pump_stop(&self->pump, AL_STOP_CANCEL, nargs > 0 ? args[0] : NULL,
                 true);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_detach_doc,
"detach($self, /)\n--\n\n"
"Stop, and report to the loop what nobody has received: the Batch is gone.");

static PyObject *
batch_type_detach(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BatchObject *self = (BatchObject *)op;
    if (batch_type_check_thread(self) < 0) {
        return NULL;
    }
    al_batch_detach(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_report_unread_doc,
"report_unread($self, /)\n--\n\n"
"Drop the results and report to the loop what nobody has received: the error\n"
"that ended the batch, and failures.  Nothing is reported twice.");

static PyObject *
batch_type_report_unread(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_batch_report_unread((BatchObject *)op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_take_results_doc,
"take_results($self, /)\n--\n\n"
"Return the list of the results, which the caller answers for from now on.");

static PyObject *
batch_type_take_results(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_batch_take_results((BatchObject *)op);
}

PyDoc_STRVAR(batch_type_add_doc,
"add($self, item, /)\n--\n\n"
"Add an item behind all others; return its Job.");

static PyObject *
batch_type_add(PyObject *op, PyObject *item)
{
    BatchObject *self = (BatchObject *)op;
    return al_batch_type_check_loop(self) < 0 ? NULL
                                              : al_batch_add(self, item);
}

PyDoc_STRVAR(batch_type_set_limit_doc,
"set_limit($self, limit, /)\n--\n\n"
"Change how many items may run at once.");

static PyObject *
batch_type_set_limit(PyObject *op, PyObject *arg)
{
    BatchObject *self = (BatchObject *)op;
    Py_ssize_t limit = PyLong_AsSsize_t(arg);
    if ((limit == -1 && PyErr_Occurred())
        || al_batch_type_check_loop(self) < 0)
    {
        return NULL;
    }
    al_batch_set_limit(self, limit);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_set_paused_doc,
"set_paused($self, paused, /)\n--\n\n"
"Start nothing new, or go on.");

static PyObject *
batch_type_set_paused(PyObject *op, PyObject *arg)
{
    BatchObject *self = (BatchObject *)op;
    int paused = PyObject_IsTrue(arg);
    if (paused < 0 || al_batch_type_check_loop(self) < 0) {
        return NULL;
    }
    self->pump.paused = paused;
    al_pump_limit_changed(&self->pump);
    al_batch_wake_pool(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_close_doc,
"close($self, /)\n--\n\n"
"Refuse further add(): the batch is over when nothing runs.");

static PyObject *
batch_type_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    BatchObject *self = (BatchObject *)op;
    if (al_batch_type_check_loop(self) < 0) {
        return NULL;
    }
    self->pump.closed = true;
    al_reader_close(&self->pump);
    al_pump_limit_changed(&self->pump);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_offer_doc,
"offer($self, item, backlog=0, /)\n--\n\n"
"Hand over the reader's next item, of a queue that has some more ready.");

static PyObject *
batch_type_offer(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    BatchObject *self = (BatchObject *)op;
    Py_ssize_t backlog = nargs > 1 ? PyLong_AsSsize_t(args[1]) : 0;
    if (backlog == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "offer() takes an item");
        return NULL;
    }
    self->pump.source.backlog = backlog;
    al_reader_offer(&self->pump, args[0]);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_demand_doc,
"demand($self, /)\n--\n\n"
"Return an awaitable of the moment when the reader's next item is wanted.\n\n"
"The awaitable raises CancelledError if the batch was stopped.");

static PyObject *
batch_type_demand(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_batch_wait_awaitable((BatchObject *)op, AL_WAIT_TAKEN, false,
                                   false);
}

PyDoc_STRVAR(batch_type_reader_reopens_doc,
"reader_reopens($self, /)\n--\n\n"
"Tell the reader of a queue whether close() has cancelled it, once.");

static PyObject *
batch_type_reader_reopens(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(al_reader_take_close(&((BatchObject *)op)->pump));
}

PyDoc_STRVAR(batch_type_reader_ended_doc,
"reader_ended($self, task, /)\n--\n\n"
"The done callback of the reader's task.");

static PyObject *
batch_type_reader_ended(PyObject *op, PyObject *task)
{
    al_reader_ended(&((BatchObject *)op)->pump, task);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(batch_type_counts_doc,
"counts($self, /)\n--\n\n"
"Return how far the batch is.\n\n"
"A tuple of total (-1: not known), started, running, done, failed,\n"
"cancelled, timed_out and elapsed (seconds).");

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
    Py_ssize_t fresh = p->limits == NULL ? 0 : p->limits->n_fresh;
    Py_ssize_t started = p->source.pulled - self->refused - fresh;
    Py_ssize_t waiting = p->source.waiting;
    Py_ssize_t total =
        p->source.length >= 0
            ? al_source_sum(p->source.length, p->source.added_count)
        : p->source.exhausted ? p->source.pulled + waiting
                              : -1;
    return AL_ALLOC(Py_BuildValue(
        "nnnnnnnd", total, started, al_batch_running(self), self->done,
        self->failed, self->cancelled, self->timed_out, elapsed));
}

PyDoc_STRVAR(batch_type_resting_doc,
"resting($self, /)\n--\n\n"
"Return a list with four entries for each item between two attempts.\n\n"
"The Task of the last attempt if it has not ended, or None; the index; the\n"
"id, or in a pool the Job; and the error of the last attempt.");

static PyObject *
batch_type_resting(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_admission_resting(&((BatchObject *)op)->pump);
}

PyDoc_STRVAR(batch_type_end_with_registry_doc,
"end_with_registry($self, /)\n--\n\n"
"Stop, because the registry of the items' tasks has shut down.\n\n"
"It cancels those tasks itself.");

static PyObject *
batch_type_end_with_registry(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_pump *p = &((BatchObject *)op)->pump;
    if (al_pump_lets_run(p)) {
        al_pump_stop(p, AL_STOP_REGISTRY, NULL, false);
    }
    Py_RETURN_NONE;
}

static PyMethodDef batch_type_methods[] = {
    {"use", batch_type_use, METH_O, batch_type_use_doc},
    {"wait", AL_METHOD(batch_type_wait), METH_FASTCALL, batch_type_wait_doc},
    {"stream", batch_type_stream, METH_O, batch_type_stream_doc},
    {"stop", AL_METHOD(batch_type_stop), METH_FASTCALL, batch_type_stop_doc},
    {"drain", batch_type_drain, METH_NOARGS, batch_type_drain_doc},
    {"cancel", AL_METHOD(batch_type_cancel), METH_FASTCALL,
     batch_type_cancel_doc},
    {"offer", AL_METHOD(batch_type_offer), METH_FASTCALL,
     batch_type_offer_doc},
    {"demand", batch_type_demand, METH_NOARGS, batch_type_demand_doc},
    {"reader_reopens", batch_type_reader_reopens, METH_NOARGS,
     batch_type_reader_reopens_doc},
    {"reader_ended", batch_type_reader_ended, METH_O,
     batch_type_reader_ended_doc},
    {"detach", batch_type_detach, METH_NOARGS, batch_type_detach_doc},
    {"report_unread", batch_type_report_unread, METH_NOARGS,
     batch_type_report_unread_doc},
    {"take_results", batch_type_take_results, METH_NOARGS,
     batch_type_take_results_doc},
    {"add", batch_type_add, METH_O, batch_type_add_doc},
    {"set_limit", batch_type_set_limit, METH_O, batch_type_set_limit_doc},
    {"set_paused", batch_type_set_paused, METH_O, batch_type_set_paused_doc},
    {"close", batch_type_close, METH_NOARGS, batch_type_close_doc},
    {"end_with_registry", batch_type_end_with_registry, METH_NOARGS,
     batch_type_end_with_registry_doc},
    {"resting", batch_type_resting, METH_NOARGS, batch_type_resting_doc},
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
batch_type_get_from_items(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(
        PyLong_FromSsize_t(((BatchObject *)op)->pump.source.from_items));
}

static PyObject *
batch_type_get_refused(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromSsize_t(((BatchObject *)op)->refused));
}

static PyObject *
batch_type_get_is_idle(PyObject *op, void *Py_UNUSED(closure))
{
    BatchObject *self = (BatchObject *)op;
    return PyBool_FromLong(al_pump_is_empty(&self->pump)
                           && al_batch_running(self) == 0);
}

static PyObject *
batch_type_get_closed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BatchObject *)op)->pump.closed);
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
batch_type_get_delivered(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BatchObject *)op)->delivered);
}

static int
batch_type_set_delivered(PyObject *op, PyObject *value,
                         void *Py_UNUSED(closure))
{
    ((BatchObject *)op)->delivered = value == Py_True;
    return 0;
}

static PyObject *
batch_type_get_observed(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((BatchObject *)op)->on_result != NULL);
}

static PyObject *
batch_type_get_mode(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromLong(((BatchObject *)op)->mode));
}

static PyGetSetDef batch_type_getset[] = {
    {"delivered", batch_type_get_delivered, batch_type_set_delivered,
     "Whether the error that ended the batch was raised or reported.", NULL},
    {"observed", batch_type_get_observed, NULL,
     "Whether on_result receives the results.", NULL},
    {"results", batch_type_get_results, NULL,
     "The list of the results that nobody has taken yet; not to be changed.",
     NULL},
    {"queued", batch_type_get_queued, NULL,
     "A list of the items that were added and not pulled.", NULL},
    {"from_items", batch_type_get_from_items, NULL,
     "How many items were pulled that were not added.", NULL},
    {"refused", batch_type_get_refused, NULL,
     "How many items were pulled and never started.", NULL},
    {"is_idle", batch_type_get_is_idle, NULL,
     "Whether nothing runs and nothing is left to pull.", NULL},
    {"closed", batch_type_get_closed, NULL,
     "Whether nothing can be added any more.", NULL},
    {"paused", batch_type_get_paused, NULL, "Whether nothing new is started.",
     NULL},
    {"errors", batch_type_get_errors, NULL,
     "The exceptions of failed items, with None for one without; kept for\n"
     "max_errors.",
     NULL},
    {"fatal", batch_type_get_fatal, NULL,
     "The exception that stopped the batch and that it raises, or None.",
     NULL},
    {"loop", batch_type_get_loop, NULL,
     "The event loop, or None before the beginning.", NULL},
    {"begun", batch_type_get_begun, NULL, "Whether it has begun.", NULL},
    {"over", batch_type_get_over, NULL,
     "Whether nothing runs and nothing will.", NULL},
    {"exhausted", batch_type_get_exhausted, NULL,
     "Whether the source was read to its end.", NULL},
    {"stopping", batch_type_get_stopping, NULL,
     "Why the batch was stopped: one of STOP_NONE, STOP_DRAIN, STOP_BUDGET,\n"
     "STOP_ERRORS, STOP_CANCEL and STOP_FATAL.",
     NULL},
    {"mode", batch_type_get_mode, NULL,
     "Who takes the results: one of MODE_UNUSED, MODE_OPEN, MODE_COLLECT,\n"
     "MODE_STREAM and MODE_BLOCK.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* What a function is called (new).  A plain name, that of a function of a
   module, is taken as it is. */
static PyObject *
batch_type_name_of(al_state *st, PyObject *fn)
{
    if (PyFunction_Check(fn)) {
        PyObject *name = ((PyFunctionObject *)fn)->func_qualname;
        Py_ssize_t n = PyUnicode_GET_LENGTH(name);
        if (PyUnicode_CheckExact(name) && n > 0 && n <= AL_SHORT
            && PyUnicode_FindChar(name, '.', 0, n, 1) < 0)
        {
            return Py_NewRef(name);
        }
    }
    return PyObject_CallOneArg(st->function_name, fn);
}

/* Name the workers after the function, in `what`.  Returns 0; -1 with an
   exception. */
static int
batch_type_set_names(al_pump *p, PyObject *what)
{
    if (p->fn == Py_None) { /* each job of a pool has its own */
        p->fn_name = Py_NewRef(what);
        p->name = Py_NewRef(what);
        return 0;
    }
    p->fn_name = batch_type_name_of(p->st, p->fn);
    if (p->fn_name != NULL) {
        p->name = AL_ALLOC(PyUnicode_FromFormat("%U %U", what, p->fn_name));
    }
    return p->name == NULL ? -1 : 0;
}

/* The limits of the pump, from a tuple of Python.  Returns 0; -1 with an
   exception. */
static int
batch_type_make_limits(al_pump *p, PyObject *options)
{
    PyObject *limit_by, *decide;
    al_limits *limits = AL_ALLOC(PyMem_Calloc(1, sizeof(al_limits)));
    if (limits == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    al_limits_init(limits);
    p->limits = limits;
    if (!PyArg_ParseTuple(options, "OnndOnd:BatchCore", &limit_by,
                          &limits->per_key, &limits->lookahead,
                          &limits->interval, &decide, &limits->attempts,
                          &limits->attempt_timeout))
    {
        return -1;
    }
    limits->limit_by = limit_by == Py_None ? NULL : Py_NewRef(limit_by);
    limits->decide = decide == Py_None ? NULL : Py_NewRef(decide);
    return 0;
}

static PyObject *
batch_type_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *fn, *items, *name, *key, *on_result, *registry, *limits;
    int async, ordered, task_per_item; /* -1: the task factory decides */
    Py_ssize_t limit, buffer, max_errors;
    double timeout, budget, grace;
    if (!PyArg_ParseTuple(args, "OOiOndddnpnOOiOO:BatchCore", &fn, &items,
                          &async, &name, &limit, &timeout, &budget, &grace,
                          &max_errors, &ordered, &buffer, &key, &on_result,
                          &task_per_item, &registry, &limits))
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
    p->limit = limit;
    p->timeout = timeout;
    p->budget = budget;
    p->grace = grace;
    p->task_per_item = task_per_item > 0;
    p->task_per_item_unset = task_per_item < 0;
    p->registry = registry == Py_None ? NULL : Py_NewRef(registry);
    p->source.items = Py_NewRef(items);
    p->source.async = async != 0;
    p->source.is_queue = async == 2;
    p->source.key = key == Py_None ? NULL : Py_NewRef(key);
    /* For progress before the beginning; the source may change until then. */
    p->source.length = al_source_length(&p->source);
    self->on_result = on_result == Py_None ? NULL : Py_NewRef(on_result);
    self->max_errors = max_errors;
    self->max_pending = -1;
    self->buffer = buffer;
    self->results.by_index = ordered != 0;
    self->results.list = AL_ALLOC(PyList_New(0));
    if (self->results.list != NULL
        && (limits == Py_None || batch_type_make_limits(p, limits) == 0))
    {
        self->errors = AL_ALLOC(PyList_New(0));
    }
    if (self->errors == NULL || batch_type_set_names(p, name) < 0) {
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

PyDoc_STRVAR(batch_type_doc,
"The native half of a Batch: see pyasynclife/_batch.py.");

static PyType_Slot batch_type_slots[] = {
    {Py_tp_doc, (void *)batch_type_doc},
    {Py_tp_new, batch_type_new},
    {Py_tp_methods, batch_type_methods},
    {Py_tp_getset, batch_type_getset},
    {Py_tp_traverse, al_batch_traverse},
    {Py_tp_clear, al_batch_clear},
    {Py_tp_dealloc, batch_type_dealloc},
    {0, NULL},
};

static PyType_Spec batch_type_spec = {
    .name = "pyasynclife._core.BatchCore",
    .basicsize = sizeof(BatchObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_BASETYPE, /* of PoolCore */
    .slots = batch_type_slots,
};

/* The enums that Python code shares. */
static const struct {
    const char *name;
    long value;
} batch_type_constants[] = {
    {"MODE_UNUSED", AL_MODE_UNUSED},
    {"MODE_OPEN", AL_MODE_OPEN},
    {"MODE_COLLECT", AL_MODE_COLLECT},
    {"MODE_STREAM", AL_MODE_STREAM},
    {"MODE_BLOCK", AL_MODE_BLOCK},
    {"STOP_NONE", AL_STOP_NONE},
    {"STOP_DRAIN", AL_STOP_DRAIN},
    {"STOP_BUDGET", AL_STOP_BUDGET},
    {"STOP_ERRORS", AL_STOP_ERRORS},
    {"STOP_CANCEL", AL_STOP_CANCEL},
    {"STOP_FATAL", AL_STOP_FATAL},
    {"RESULT_PENDING", AL_RESULT_PENDING},
    {"RESULT_DONE", AL_RESULT_DONE},
    {"RESULT_FAILED", AL_RESULT_FAILED},
    {"RESULT_CANCELLED", AL_RESULT_CANCELLED},
    {"RESULT_RUNNING", AL_RESULT_RUNNING},
};

int
al_batch_type_setup(PyObject *module, al_state *st)
{
    size_t count =
        sizeof(batch_type_constants) / sizeof(*batch_type_constants);
    for (size_t i = 0; i < count; i++) {
        if (PyModule_AddIntConstant(module, batch_type_constants[i].name,
                                    batch_type_constants[i].value)
            < 0)
        {
            return -1;
        }
    }
    return al_state_add_type(module, &st->Batch, &batch_type_spec, true);
}
