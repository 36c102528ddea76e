/* Awaitables in C: one with a value, and one that runs a step function.
 *
 * A Ready has its value and never suspends.  An Awaitable is a small state
 * machine around two functions of a feature:
 *
 *     lazy --first send(None)--> begin(first owner) --> its owner for steps
 *       |                              |
 *       |                              v
 *       |        made eagerly --> suspended --send, throw--> step(owner)
 *       |                              ^                       |  |
 *       |                              +----- PYGEN_NEXT ------+  |
 *       +--throw, close--> ended <---- PYGEN_RETURN, PYGEN_ERROR -+
 *
 * It owns its owner until it has ended; `await` after that raises.  One that
 * stands for a coroutine function of asyncio warns if it is dropped unawaited.
 *
 * `await` calls am_send of a C object on 3.11 and 3.15, tp_iternext on 3.12 to
 * 3.14, and on every version under a trace function.  So both slots call one
 * function.  tp_iternext may return NULL without an exception for "returned
 * None"; the methods send() and throw() may not.
 *
 * Danger spots.  A step runs Python, and may be entered again through the
 * object; while begin() runs there is no owner, so a second call raises.  A
 * Ready has no send, throw and close, or asyncio.iscoroutine() would take it
 * for a coroutine.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/awaitable.h"

typedef struct {
    PyObject_HEAD
    PyObject *value;  /* owned */
    PyObject *stop;   /* owned: the StopIteration to raise again, or NULL */
    PyObject *spares; /* owned: the list to which `stop` goes back, or NULL */
} ReadyObject;

typedef struct {
    PyObject_HEAD
    PyObject *owner; /* owned; NULL: it has ended, or begin() runs */
    al_begin begin;  /* NULL: it has begun */
    al_step step;
    const char *unawaited; /* its name, until the first step; NULL: it does not
                              warn if it is dropped before */
} AwaitableObject;

/* Make a StopIteration with a value (new), without a call of its type: that
   would take apart a value that is a tuple, and costs as much as the rest of
   an await.  NULL with MemoryError. */
static PyObject *
awaitable_new_stop(PyObject *value)
{
    PyTypeObject *type = (PyTypeObject *)PyExc_StopIteration;
    PyObject *args = AL_ALLOC(PyTuple_Pack(1, value));
    PyObject *stop =
        args == NULL ? NULL : AL_ALLOC(type->tp_new(type, args, NULL));
    Py_XDECREF(args);
    if (stop != NULL) {
        Py_XSETREF(((PyStopIterationObject *)stop)->value, Py_NewRef(value));
    }
    return stop;
}

/* Raise StopIteration with a value (stolen). */
static void
awaitable_stop(PyObject *value)
{
    PyObject *stop = awaitable_new_stop(value);
    Py_DECREF(value);
    if (stop != NULL) {
        PyErr_SetRaisedException(stop);
    }
}

PyObject *
al_ready_new(al_state *st, PyObject *value)
{
    if (value == NULL) {
        return NULL;
    }
    ReadyObject *self =
        AL_ALLOC(PyObject_GC_New(ReadyObject, (PyTypeObject *)st->Ready));
    if (self == NULL) {
        Py_DECREF(value);
        return NULL;
    }
    self->value = value;
    self->stop = self->spares = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyObject *
al_awaitable_lazy(al_state *st, PyObject *owner, al_begin begin, al_step step)
{
    AwaitableObject *self = AL_ALLOC(
        PyObject_GC_New(AwaitableObject, (PyTypeObject *)st->Awaitable));
    if (self == NULL) {
        return NULL;
    }
    self->owner = Py_NewRef(owner);
    self->begin = begin;
    self->step = step;
    self->unawaited = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyObject *
al_awaitable_new(al_state *st, PyObject *owner, al_step step)
{
    return al_awaitable_lazy(st, owner, NULL, step);
}

PyObject *
al_awaitable_coroutine(al_state *st, PyObject *owner, al_step step,
                       const char *name)
{
    PyObject *self = al_awaitable_lazy(st, owner, NULL, step);
    if (self != NULL) {
        ((AwaitableObject *)self)->unawaited = name;
    }
    return self;
}

/* ----------------------------------------------- Ready: the Python API */

static PySendResult
ready_am_send(PyObject *op, PyObject *Py_UNUSED(arg), PyObject **result)
{
    *result = Py_NewRef(((ReadyObject *)op)->value);
    return PYGEN_RETURN;
}

/* Tell whether a StopIteration is as it was made with a value, and nobody else
   has it: a trace function sees each one. */
static bool
ready_is_fresh(PyObject *stop, PyObject *value)
{
    const PyBaseExceptionObject *self = (PyBaseExceptionObject *)stop;
    return Py_REFCNT(stop) == 1
           && Py_IS_TYPE(stop, (PyTypeObject *)PyExc_StopIteration)
           && self->traceback == NULL && self->context == NULL
           && self->cause == NULL && self->notes == NULL && self->dict == NULL
           && !self->suppress_context && self->args != NULL
           && Py_REFCNT(self->args) == 1 && PyTuple_GET_SIZE(self->args) == 1
           && PyTuple_GET_ITEM(self->args, 0) == value
           && ((PyStopIterationObject *)stop)->value == value;
}

/* Give a fresh StopIteration another value. */
static void
ready_set_value(PyObject *stop, PyObject *value)
{
    Py_XSETREF(((PyStopIterationObject *)stop)->value, Py_NewRef(value));
    al_object_set_first(((PyBaseExceptionObject *)stop)->args, value);
}

/* Return a StopIteration with the value of a Ready (new): the spare one or, if
   another Ready has that, one that is made.  NULL with an exception. */
static PyObject *
ready_take_stop(ReadyObject *self)
{
    al_state *st = al_state_of_type(Py_TYPE(self));
    if (st == NULL) {
        return NULL;
    }
    PyObject *spares = st->ready_stops;
    PyObject *spare =
        PyList_GET_SIZE(spares) == 1 ? PyList_GET_ITEM(spares, 0) : Py_None;
    Py_XSETREF(self->spares, Py_NewRef(spares));
    if (spare == Py_None || !ready_is_fresh(spare, Py_None)) {
        return awaitable_new_stop(self->value);
    }
    PyList_SET_ITEM(spares, 0, Py_NewRef(Py_None));
    ready_set_value(spare, self->value);
    PyObject *args = ((PyBaseExceptionObject *)spare)->args;
    if (!PyObject_GC_IsTracked(args)) {
        PyObject_GC_Track(args); /* the collector lets go of (None,) */
    }
    return spare;
}

/* Return a fresh StopIteration (stolen) without its value, which the caller
   has too, to the list, unless there is one. */
static void
ready_return_stop(PyObject *spares, PyObject *stop, PyObject *value)
{
    if (PyList_GET_SIZE(spares) == 1 && PyList_GET_ITEM(spares, 0) == Py_None
        && ready_is_fresh(stop, value))
    {
        ready_set_value(stop, Py_None);
        PyList_SET_ITEM(spares, 0, stop);
        Py_DECREF(Py_None);
    }
    else {
        Py_DECREF(stop);
    }
}

/* A Ready keeps the StopIteration that it has raised and raises it again,
   unless somebody else has touched it: one of True or False is shared.  When a
   Ready is freed the next one gets it; to make one and to free it costs as
   much as the rest of an await. */
static PyObject *
ready_iternext(PyObject *op)
{
    ReadyObject *self = (ReadyObject *)op;
    if (self->value == Py_None) {
        return NULL;
    }
    if (self->stop == NULL || !ready_is_fresh(self->stop, self->value)) {
        PyObject *stop = ready_take_stop(self);
        if (stop == NULL) {
            return NULL;
        }
        Py_XSETREF(self->stop, stop);
    }
    PyErr_SetRaisedException(Py_NewRef(self->stop));
    return NULL;
}

static int
ready_bool(PyObject *Py_UNUSED(op))
{
    PyErr_SetString(PyExc_TypeError,
                    "await this: a Ready has no truth value (or read "
                    ".result())");
    return -1;
}

static PyObject *
ready_iter(PyObject *Py_UNUSED(op))
{
    PyErr_SetString(PyExc_TypeError,
                    "await this: a Ready cannot be iterated or unpacked (or "
                    "read .result())");
    return NULL;
}

/* The step of what __await__() returns. */
static PySendResult
ready_step(PyObject *op, PyObject *thrown, PyObject **result)
{
    if (thrown != NULL) {
        PyErr_SetRaisedException(Py_NewRef(thrown));
        return PYGEN_ERROR;
    }
    return ready_am_send(op, NULL, result);
}

PyDoc_STRVAR(ready_await_doc,
"__await__($self, /)\n--\n\n"
"Return an iterator that ends with the value at once.");

/* `await` asks the slot, which returns the Ready itself.  A call by name is
   for `yield from`, which iterates over what it gets. */
static PyObject *
ready_await(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_state *st = al_state_of_type(Py_TYPE(op));
    return st == NULL ? NULL : al_awaitable_new(st, op, ready_step);
}

static PyObject *
ready_repr(PyObject *op)
{
    return AL_ALLOC(
        PyUnicode_FromFormat("<Ready %R>", ((ReadyObject *)op)->value));
}

PyDoc_STRVAR(ready_result_doc,
"result($self, /)\n--\n\n"
"Return the value, as await does.");

static PyObject *
ready_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(((ReadyObject *)op)->value);
}

static int
ready_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ReadyObject *)op)->value);
    Py_VISIT(((ReadyObject *)op)->stop);
    Py_VISIT(((ReadyObject *)op)->spares);
    return 0;
}

static int
ready_clear(PyObject *op)
{
    /* None, not NULL: finalizers in its cycle may still await it. */
    Py_XSETREF(((ReadyObject *)op)->value, Py_NewRef(Py_None));
    Py_CLEAR(((ReadyObject *)op)->stop);
    Py_CLEAR(((ReadyObject *)op)->spares);
    return 0;
}

/* Not al_object_dealloc: ready_clear does not drop the None that it sets. */
static void
ready_dealloc(PyObject *op)
{
    ReadyObject *self = (ReadyObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (self->stop != NULL && self->spares != NULL) {
        ready_return_stop(self->spares, self->stop, self->value);
        self->stop = NULL;
    }
    Py_CLEAR(self->spares);
    Py_CLEAR(self->stop);
    Py_CLEAR(self->value);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef ready_methods[] = {
    {"result", ready_result, METH_NOARGS, ready_result_doc},
    {"__reduce__", al_object_refuse_pickling, METH_NOARGS, NULL},
    {"__await__", ready_await, METH_NOARGS | METH_COEXIST, ready_await_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(ready_doc,
"The value of a call that has taken effect already, as an awaitable.\n\n"
"Await it (this does not suspend, and works any number of times), read\n"
"result(), or drop it.  It has no truth value and cannot be unpacked:\n"
"``if registry.cancel(task_id):`` and\n"
"``task, task_id = registry.register(coro)`` without await raise TypeError.");

static PyType_Slot ready_slots[] = {
    {Py_tp_doc, (void *)ready_doc},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, ready_am_send},
    {Py_tp_iter, ready_iter},
    {Py_tp_iternext, ready_iternext},
    {Py_nb_bool, ready_bool},
    {Py_tp_repr, ready_repr},
    {Py_tp_methods, ready_methods},
    {Py_tp_traverse, ready_traverse},
    {Py_tp_clear, ready_clear},
    {Py_tp_dealloc, ready_dealloc},
    {0, NULL},
};

static PyType_Spec ready_spec = {
    .name = "pyasynclife.Ready",
    .basicsize = sizeof(ReadyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ready_slots,
};

/* ----------------------------------------------- Awaitable: core half */

/* Begin a lazy awaitable, or end it with what is thrown into it.  PYGEN_NEXT:
   it has its owner for the steps.  While begin() runs it has none, so that it
   cannot be entered again. */
static PySendResult
awaitable_begin(AwaitableObject *self, PyObject *thrown, PyObject **result)
{
    al_begin begin = self->begin;
    PyObject *first = self->owner;
    PySendResult answer = PYGEN_ERROR;
    self->begin = NULL;
    self->owner = NULL;
    if (thrown != NULL) {
        PyErr_SetRaisedException(Py_NewRef(thrown));
    }
    else {
        answer = begin(first, result);
    }
    if (answer == PYGEN_NEXT) {
        self->owner = *result;
        *result = NULL;
    }
    Py_DECREF(first);
    return answer;
}

/* Run one step, or raise if the awaitable has ended.  The owner is dropped at
   the end. */
static PySendResult
awaitable_step(AwaitableObject *self, PyObject *thrown, PyObject **result)
{
    *result = NULL;
    self->unawaited = NULL;
    if (self->begin != NULL && self->owner != NULL) {
        PySendResult answer = awaitable_begin(self, thrown, result);
        if (answer != PYGEN_NEXT) {
            return answer;
        }
    }
    PyObject *owner = self->owner;
    if (owner == NULL) {
        if (thrown != NULL) {
            PyErr_SetRaisedException(Py_NewRef(thrown));
        }
        else {
            PyErr_SetString(PyExc_RuntimeError,
                            "cannot reuse already awaited awaitable");
        }
        return PYGEN_ERROR;
    }
    Py_INCREF(owner);
    PySendResult answer = self->step(owner, thrown, result);
    if (answer != PYGEN_NEXT) {
        Py_CLEAR(self->owner);
    }
    Py_DECREF(owner);
    return answer;
}

/* ------------------------------------------- Awaitable: the Python API */

static PySendResult
awaitable_am_send(PyObject *op, PyObject *Py_UNUSED(arg), PyObject **result)
{
    return awaitable_step((AwaitableObject *)op, NULL, result);
}

/* Turn the outcome of a step into what send() and throw() return: what was
   yielded (new), or NULL with StopIteration or the error. */
static PyObject *
awaitable_answer(PySendResult answer, PyObject *result)
{
    if (answer == PYGEN_RETURN) {
        awaitable_stop(result);
        return NULL;
    }
    return result;
}

static PyObject *
awaitable_iternext(PyObject *op)
{
    PyObject *result;
    PySendResult answer = awaitable_step((AwaitableObject *)op, NULL, &result);
    if (answer == PYGEN_RETURN && result == Py_None) {
        Py_DECREF(result);
        return NULL;
    }
    return awaitable_answer(answer, result);
}

static PyObject *
awaitable_send(PyObject *op, PyObject *Py_UNUSED(arg))
{
    PyObject *result;
    PySendResult answer = awaitable_step((AwaitableObject *)op, NULL, &result);
    return awaitable_answer(answer, result);
}

/* Return the exception that the arguments of throw(type, value, traceback)
   mean (new); NULL with an exception. */
static PyObject *
awaitable_thrown(PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *type = args[0];
    PyObject *value = nargs > 1 && args[1] != Py_None ? args[1] : NULL;
    PyObject *error = NULL;
    if (PyExceptionInstance_Check(type) && value == NULL) {
        error = Py_NewRef(type);
    }
    else if (PyExceptionClass_Check(type)) {
        error = value != NULL && PyExceptionInstance_Check(value)
                    ? Py_NewRef(value)
                : value == NULL ? PyObject_CallNoArgs(type)
                                : PyObject_CallOneArg(type, value);
    }
    if (error == NULL || !PyExceptionInstance_Check(error)) {
        Py_XDECREF(error);
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError,
                         "throw() takes an exception, got %.200R", type);
        }
        return NULL;
    }
    if (nargs > 2 && args[2] != Py_None
        && PyException_SetTraceback(error, args[2]) < 0)
    {
        Py_CLEAR(error);
    }
    return error;
}

static PyObject *
awaitable_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_Format(PyExc_TypeError,
                     "throw() takes 1 to 3 arguments (%zd given)", nargs);
        return NULL;
    }
    PyObject *error = awaitable_thrown(args, nargs);
    if (error == NULL) {
        return NULL;
    }
    PyObject *result;
    PySendResult answer =
        awaitable_step((AwaitableObject *)op, error, &result);
    Py_DECREF(error);
    return awaitable_answer(answer, result);
}

static PyObject *
awaitable_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    AwaitableObject *self = (AwaitableObject *)op;
    self->unawaited = NULL;
    if (self->owner == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *exit = AL_ALLOC(PyObject_CallNoArgs(PyExc_GeneratorExit));
    if (exit == NULL) {
        return NULL;
    }
    PyObject *result;
    PySendResult answer = awaitable_step(self, exit, &result);
    Py_DECREF(exit);
    Py_XDECREF(result);
    if (answer == PYGEN_NEXT) {
        PyErr_SetString(PyExc_RuntimeError, "awaitable ignored GeneratorExit");
        return NULL;
    }
    if (answer == PYGEN_ERROR) {
        if (!PyErr_ExceptionMatches(PyExc_GeneratorExit)) {
            return NULL;
        }
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

/* Show what the owner drives, or waits for, to code that follows a chain of
   awaits, such as asyncio.capture_call_graph() and where(): the owner's
   attribute, or AttributeError. */
static PyObject *
awaitable_get_driven(PyObject *op, void *name)
{
    PyObject *owner = ((AwaitableObject *)op)->owner;
    if (owner == NULL) {
        PyErr_SetString(PyExc_AttributeError, name);
        return NULL;
    }
    return PyObject_GetAttrString(owner, name);
}

static PyGetSetDef awaitable_getset[] = {
    {"cr_frame", awaitable_get_driven, NULL, NULL, (void *)"cr_frame"},
    {"cr_await", awaitable_get_driven, NULL, NULL, (void *)"cr_await"},
    {"_waits_for", awaitable_get_driven, NULL, NULL, (void *)"_waits_for"},
    {NULL, NULL, NULL, NULL, NULL},
};

static int
awaitable_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((AwaitableObject *)op)->owner);
    return 0;
}

static int
awaitable_clear(PyObject *op)
{
    Py_CLEAR(((AwaitableObject *)op)->owner);
    return 0;
}

/* Warn that an awaitable was dropped before its first step.  Keeps the raised
   exception. */
static void
awaitable_warn(AwaitableObject *self)
{
    PyObject *error = PyErr_GetRaisedException();
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1,
                         "coroutine '%s' was never awaited", self->unawaited)
        < 0)
    {
        PyErr_WriteUnraisable(self->owner); /* the filter makes it an error */
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

static void
awaitable_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    if (((AwaitableObject *)op)->unawaited != NULL) {
        awaitable_warn((AwaitableObject *)op);
    }
    (void)awaitable_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef awaitable_methods[] = {
    {"send", awaitable_send, METH_O, NULL},
    {"throw", AL_METHOD(awaitable_throw), METH_FASTCALL, NULL},
    {"close", awaitable_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot awaitable_slots[] = {
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, awaitable_am_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, awaitable_iternext},
    {Py_tp_methods, awaitable_methods},
    {Py_tp_getset, awaitable_getset},
    {Py_tp_traverse, awaitable_traverse},
    {Py_tp_clear, awaitable_clear},
    {Py_tp_dealloc, awaitable_dealloc},
    {0, NULL},
};

static PyType_Spec awaitable_spec = {
    .name = "pyasynclife._core.Awaitable",
    .basicsize = sizeof(AwaitableObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = awaitable_slots,
};

/* ------------------------------------------------------------- setup */

int
al_awaitable_setup(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->Ready, &ready_spec, true) < 0
        || al_state_add_type(module, &st->Awaitable, &awaitable_spec, false)
               < 0)
    {
        return -1;
    }
    st->ready_stops = AL_ALLOC(Py_BuildValue("[O]", Py_None));
    st->ready_none = al_ready_new(st, Py_NewRef(Py_None));
    st->ready_true = al_ready_new(st, Py_NewRef(Py_True));
    st->ready_false = al_ready_new(st, Py_NewRef(Py_False));
    return st->ready_stops != NULL && st->ready_none != NULL
                   && st->ready_true != NULL && st->ready_false != NULL
               ? 0
               : -1;
}
