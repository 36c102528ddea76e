/* TaskResult: how one item ended.
 *
 * A batch of a million items makes a million of these.  So a result has 64
 * bytes and the collector's head; its id is made on the first demand; and a
 * result whose parts cannot be in a cycle is not tracked by the collector.
 * From 100,000 results on, tracking them is most of what a batch costs.
 *
 * unwrap() raises the same exception each time, and each raise would add the
 * caller's frames to its traceback.  So a failed result keeps the traceback
 * that its error had at first, as a Future does.  It is in the place of the
 * data, which a failure seldom has.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "batch/result.h"

/* Tell whether an object may ever be in a reference cycle.  Dicts and tuples
   of atoms are untracked by the collector; a tuple stays so, a dict may not.
   The type is looked at first, because PyObject_IS_GC() is a call. */
static bool
result_may_cycle(PyObject *part)
{
    return part != NULL && PyType_IS_GC(Py_TYPE(part)) && PyObject_IS_GC(part)
           && (!PyTuple_CheckExact(part) || PyObject_GC_IsTracked(part));
}

/* What the member `data` is. */
typedef enum {
    RESULT_SLOT_DATA = 0,
    RESULT_SLOT_TRACEBACK, /* of the error, or None; the data is None */
    RESULT_SLOT_PAIR,      /* a tuple of the data and the traceback */
} result_slot;

/* The data (borrowed). */
static PyObject *
result_data(const ResultObject *self)
{
    return self->slot == RESULT_SLOT_DATA ? self->data
           : self->slot == RESULT_SLOT_TRACEBACK
               ? Py_None
               : PyTuple_GET_ITEM(self->data, 0);
}

/* Keep the traceback of a failed result's error.  Returns 0; -1 with
   MemoryError. */
static int
result_keep_traceback(ResultObject *self)
{
    PyObject *traceback = PyException_GetTraceback(self->error);
    if (traceback == NULL) {
        traceback = Py_NewRef(Py_None);
    }
    if (self->data == Py_None) {
        self->slot = RESULT_SLOT_TRACEBACK;
        Py_SETREF(self->data, traceback);
        return 0;
    }
    PyObject *pair = AL_ALLOC(PyTuple_Pack(2, self->data, traceback));
    Py_DECREF(traceback);
    if (pair == NULL) {
        return -1;
    }
    self->slot = RESULT_SLOT_PAIR;
    Py_SETREF(self->data, pair);
    return 0;
}

PyObject *
al_result_new(al_state *st, const al_result_fields *fields)
{
    ResultObject *self = AL_ALLOC(
        PyObject_GC_New(ResultObject, (PyTypeObject *)st->TaskResult));
    if (self == NULL) {
        return NULL;
    }
    PyObject *task_id = fields->task_id;
    PyObject *data = fields->data == NULL ? Py_None : fields->data;
    PyObject *error = fields->error;
    self->state = (uint8_t)fields->state;
    self->attempts = (uint16_t)Py_MIN(fields->attempts, UINT16_MAX);
    if (fields->state == AL_RESULT_DONE
        && Py_IS_TYPE(data, (PyTypeObject *)st->TaskResult))
    {
        ResultObject *own = (ResultObject *)data;
        if (own->task_id != NULL) {
            task_id = own->task_id;
        }
        self->state = al_result_succeeded(own)            ? AL_RESULT_DONE
                      : own->state == AL_RESULT_CANCELLED ? own->state
                                                          : AL_RESULT_FAILED;
        error = own->error;
        data = result_data(own);
    }
    /* One byte, and mostly 0. */
    self->slot = RESULT_SLOT_DATA;
    self->timed_out = self->is_call = false;
    self->received = self->has_job = self->left = false;
    if (fields->timed_out || fields->is_call) {
        self->timed_out = fields->timed_out;
        self->is_call = fields->is_call;
    }
    self->index = fields->index;
    self->duration = (float)fields->duration;
    self->item = Py_NewRef(fields->item);
    self->task_id = Py_XNewRef(task_id);
    self->data = Py_NewRef(data);
    self->error = Py_XNewRef(error);
    if (error != NULL || result_may_cycle(data)
        || result_may_cycle(self->item))
    {
        PyObject_GC_Track(self);
    }
    if (error != NULL && !al_result_succeeded(self)
        && result_keep_traceback(self) < 0)
    {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

PyObject *
al_result_default_id(PyObject *item, Py_ssize_t index)
{
    if (PyUnicode_CheckExact(item) && PyUnicode_GET_LENGTH(item) > 0) {
        return Py_NewRef(item);
    }
    if (PyUnicode_Check(item) && PyUnicode_GET_LENGTH(item) > 0) {
        return AL_ALLOC(PyUnicode_FromObject(item));
    }
    if (PyLong_Check(item) && !PyBool_Check(item)) {
        PyObject *digits = AL_ALLOC(PyLong_Type.tp_repr(item));
        if (digits != NULL || !PyErr_ExceptionMatches(PyExc_ValueError)) {
            return digits;
        }
        PyErr_Clear(); /* more digits than sys.set_int_max_str_digits */
    }
    return AL_ALLOC(PyUnicode_FromFormat("%zd", index));
}

PyObject *
al_result_call_id(Py_ssize_t index)
{
    return AL_ALLOC(PyUnicode_FromFormat("job_%zd", index));
}

/* The task id (borrowed), made on the first demand; NULL with an exception. */
static PyObject *
result_id(ResultObject *self)
{
    if (self->task_id == NULL) {
        self->task_id = self->is_call
                            ? al_result_call_id(self->index)
                            : al_result_default_id(self->item, self->index);
    }
    return self->task_id;
}

/* ------------------------------------------------------ the Python API */

static PyObject *
result_get_task_id(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_XNewRef(result_id((ResultObject *)op));
}

static PyObject *
result_get_success(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(al_result_succeeded((ResultObject *)op));
}

static PyObject *
result_get_data(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(result_data((ResultObject *)op));
}

static PyObject *
result_get_error(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *error = ((ResultObject *)op)->error;
    return Py_NewRef(error == NULL ? Py_None : error);
}

static PyObject *
result_get_index(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromSsize_t(((ResultObject *)op)->index));
}

static PyObject *
result_get_item(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((ResultObject *)op)->item);
}

PyObject *
al_result_task_state(al_state *st, const ResultObject *self)
{
    PyObject *states[] = {st->pending, st->done, st->failed, st->cancelled,
                          st->running};
    return Py_NewRef(states[self->state]);
}

static PyObject *
result_get_state(PyObject *op, void *Py_UNUSED(closure))
{
    al_state *st = al_state_of_type(Py_TYPE(op));
    if (st == NULL) {
        return NULL;
    }
    return al_result_task_state(st, (ResultObject *)op);
}

static PyObject *
result_get_timed_out(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((ResultObject *)op)->timed_out);
}

static PyObject *
result_get_duration(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyFloat_FromDouble(((ResultObject *)op)->duration));
}

static PyObject *
result_get_attempts(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromLong(((ResultObject *)op)->attempts));
}

PyDoc_STRVAR(result_unwrap_doc,
"unwrap($self, /)\n--\n\n"
"Return the data if the item succeeded, otherwise raise the error.\n\n"
"Raises:\n"
"    BaseException: The error of the item.\n"
"    RuntimeError: The item did not succeed, and has no error.");

void
al_result_set_message(PyObject *result, PyObject *msg)
{
    PyObject *error = ((ResultObject *)result)->error;
    if (msg == NULL || msg == Py_None || error == NULL) {
        return;
    }
    PyObject *args = AL_ALLOC(PyTuple_Pack(1, msg));
    if (args == NULL || PyObject_SetAttrString(error, "args", args) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(args);
}

PyObject *
al_result_unwrap(PyObject *op)
{
    ResultObject *self = (ResultObject *)op;
    if (al_result_succeeded(self)) {
        return Py_NewRef(self->data);
    }
    if (self->error == NULL) {
        PyObject *task_id = result_id(self);
        if (task_id != NULL) {
            al_object_raise_about(PyExc_RuntimeError,
                                  "task %U failed and gave no error", task_id);
        }
        return NULL;
    }
    PyObject *traceback = self->slot == RESULT_SLOT_TRACEBACK
                              ? self->data
                              : PyTuple_GET_ITEM(self->data, 1);
    PyObject *error = Py_NewRef(self->error);
    if (PyException_SetTraceback(error, traceback) < 0) {
        Py_DECREF(error);
        return NULL;
    }
    PyErr_SetRaisedException(error);
    return NULL;
}

static PyObject *
result_unwrap(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_result_unwrap(op);
}

PyDoc_STRVAR(result_leave_doc,
"_leave($self, /)\n--\n\n"
"Let go of a result that nobody has read; tell whether it is a failure that\n"
"nobody else has received or may receive.");

static PyObject *
result_leave(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    return PyBool_FromLong(al_result_leave(self)
                           && al_result_is_failure(self));
}

/* as_dict() walks over this table, in its order. */
static PyGetSetDef result_getset[] = {
    {"task_id", result_get_task_id, NULL,
     "What ``key`` returned for the item.  Without a key: the item, if it is\n"
     "a non-empty str or an int, otherwise its index, as a str.",
     NULL},
    {"success", result_get_success, NULL,
     "Whether the item returned a value.", NULL},
    {"data", result_get_data, NULL, "The value, or None.", NULL},
    {"error", result_get_error, NULL, "The exception, or None.", NULL},
    {"index", result_get_index, NULL, "The item's place in the input, from 0.",
     NULL},
    {"item", result_get_item, NULL, "The item itself.", NULL},
    {"state", result_get_state, NULL, "How the item ended: a TaskState.",
     NULL},
    {"timed_out", result_get_timed_out, NULL,
     "Whether the timeout of the item, or the budget, ended it.", NULL},
    {"duration", result_get_duration, NULL,
     "Seconds from the first call of the function to the end.", NULL},
    {"attempts", result_get_attempts, NULL,
     "How often the function was called: more than once only with a Retry; 0\n"
     "if the item was never started.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(result_as_dict_doc,
"as_dict($self, /)\n--\n\n"
"Return all attributes in a dict, by name.");

static PyObject *
result_as_dict(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *fields = AL_ALLOC(PyDict_New());
    for (PyGetSetDef *def = result_getset; fields != NULL && def->name; def++)
    {
        PyObject *value = def->get(op, NULL);
        if (value == NULL
            || AL_ALLOC_INT(PyDict_SetItemString(fields, def->name, value))
                   < 0)
        {
            Py_CLEAR(fields);
        }
        Py_XDECREF(value);
    }
    return fields;
}

PyDoc_STRVAR(result_restore_doc,
"_restore($type, task_id, data, error, index, item, state, timed_out,\n"
"         duration, attempts, /)\n--\n\n"
"Make a result of its parts, for pickle and for items that never started.");

static PyObject *
result_restore(PyObject *type, PyObject *args)
{
    al_result_fields fields = {0};
    int state, timed_out;
    al_state *st = al_state_of_type((PyTypeObject *)type);
    if (st == NULL
        || !PyArg_ParseTuple(args, "OOOnOipdi:_restore", &fields.task_id,
                             &fields.data, &fields.error, &fields.index,
                             &fields.item, &state, &timed_out,
                             &fields.duration, &fields.attempts))
    {
        return NULL;
    }
    fields.task_id = fields.task_id == Py_None ? NULL : fields.task_id;
    fields.error = fields.error == Py_None ? NULL : fields.error;
    fields.state = (al_result_state)state;
    fields.timed_out = timed_out != 0;
    if (state < AL_RESULT_PENDING || state > AL_RESULT_RUNNING
        || fields.attempts < 0
        || (fields.task_id != NULL && !PyUnicode_CheckExact(fields.task_id))
        || (fields.error != NULL && !PyExceptionInstance_Check(fields.error)))
    {
        PyErr_SetString(PyExc_ValueError, "not the parts of a TaskResult");
        return NULL;
    }
    return al_result_new(st, &fields);
}

static PyObject *
result_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *self = (ResultObject *)op;
    PyObject *task_id = result_id(self);
    al_state *st = al_state_of_type(Py_TYPE(op));
    if (task_id == NULL || st == NULL) {
        return NULL;
    }
    PyObject *restore =
        PyObject_GetAttr((PyObject *)Py_TYPE(op), st->s__restore);
    if (restore == NULL) {
        return NULL;
    }
    return AL_ALLOC(Py_BuildValue(
        "N(OOOnOiOdi)", restore, task_id, result_data(self),
        self->error == NULL ? Py_None : self->error, self->index, self->item,
        (int)self->state, self->timed_out ? Py_True : Py_False,
        (double)self->duration, (int)self->attempts));
}

/* ----------------------------------------------------------- the type */

/* TaskResult(...) as user code calls it, with its arguments checked. */
static PyObject *
result_make(al_state *st, PyObject *task_id, int success, PyObject *data,
            PyObject *error)
{
    if (!PyUnicode_Check(task_id) || PyUnicode_GET_LENGTH(task_id) == 0) {
        PyErr_Format(PyExc_TypeError,
                     "task_id must be a non-empty str, got %.200R", task_id);
        return NULL;
    }
    if (error != NULL && !PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError,
                     "error must be an exception or None, got %.200R", error);
        return NULL;
    }
    int cancelled =
        error == NULL ? 0 : PyObject_IsInstance(error, st->CancelledError);
    PyObject *exact = AL_ALLOC(PyUnicode_FromObject(task_id));
    if (cancelled < 0 || exact == NULL) {
        Py_XDECREF(exact);
        return NULL;
    }
    al_result_fields fields = {
        .item = Py_None,
        .task_id = exact,
        .data = success ? NULL : data,
        .error = error,
        .attempts = 1,
        .state = success     ? AL_RESULT_DONE
                 : cancelled ? AL_RESULT_CANCELLED
                             : AL_RESULT_FAILED,
    };
    PyObject *self = al_result_new(st, &fields);
    Py_DECREF(exact);
    if (self != NULL && success) {
        /* Only now: al_result_new() takes a TaskResult to pieces. */
        Py_SETREF(((ResultObject *)self)->data, Py_NewRef(data));
        if (!PyObject_GC_IsTracked(self) && result_may_cycle(data)) {
            PyObject_GC_Track(self);
        }
    }
    return self;
}

static PyObject *
result_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *const names[] = {"task_id", "success", "data", "error", NULL};
    PyObject *task_id, *data = Py_None, *error = Py_None;
    int success;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Op|OO:TaskResult",
                                     (char **)names, &task_id, &success, &data,
                                     &error))
    {
        return NULL;
    }
    al_state *st = al_state_of_type(type);
    return st == NULL ? NULL
                      : result_make(st, task_id, success, data,
                                    error == Py_None ? NULL : error);
}

static PyObject *
result_richcompare(PyObject *op, PyObject *other, int order)
{
    if ((order != Py_EQ && order != Py_NE) || Py_TYPE(op) != Py_TYPE(other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    ResultObject *a = (ResultObject *)op;
    ResultObject *b = (ResultObject *)other;
    PyObject *a_id = result_id(a);
    PyObject *b_id = a_id == NULL ? NULL : result_id(b);
    if (b_id == NULL) {
        return NULL;
    }
    PyObject *a_error = a->error == NULL ? Py_None : a->error;
    PyObject *b_error = b->error == NULL ? Py_None : b->error;
    int same = al_result_succeeded(a) == al_result_succeeded(b);
    same = same != 1 ? same : PyObject_RichCompareBool(a_id, b_id, Py_EQ);
    same = same != 1 ? same
                     : PyObject_RichCompareBool(result_data(a), result_data(b),
                                                Py_EQ);
    same =
        same != 1 ? same : PyObject_RichCompareBool(a_error, b_error, Py_EQ);
    return same < 0 ? NULL : PyBool_FromLong(same == (order == Py_EQ));
}

static PyObject *
result_repr(PyObject *op)
{
    ResultObject *self = (ResultObject *)op;
    PyObject *task_id = result_id(self);
    if (task_id == NULL) {
        return NULL;
    }
    int inside = Py_ReprEnter(op);
    if (inside != 0) {
        return inside < 0 ? NULL
                          : AL_ALLOC(PyUnicode_FromString("TaskResult(...)"));
    }
    const char *success = al_result_succeeded(self) ? "True" : "False";
    PyObject *name = al_object_short(task_id);
    PyObject *text = NULL;
    if (name != NULL) {
        text = AL_ALLOC(
            self->error == NULL
                ? PyUnicode_FromFormat("TaskResult(%U, success=%s, data=%R)",
                                       name, success, result_data(self))
                : PyUnicode_FromFormat("TaskResult(%U, success=%s, error=%R)",
                                       name, success, self->error));
        Py_DECREF(name);
    }
    Py_ReprLeave(op);
    return text;
}

static int
result_traverse(PyObject *op, visitproc visit, void *arg)
{
    ResultObject *self = (ResultObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->item);
    Py_VISIT(self->task_id);
    Py_VISIT(self->data);
    Py_VISIT(self->error);
    return 0;
}

static int
result_clear(PyObject *op)
{
    /* None, not NULL: a result in a cycle may still be read. */
    ResultObject *self = (ResultObject *)op;
    Py_CLEAR(self->error); /* first: unwrap() of an error reads the slot */
    Py_SETREF(self->item, Py_NewRef(Py_None));
    self->slot = RESULT_SLOT_DATA;
    Py_SETREF(self->data, Py_NewRef(Py_None));
    Py_CLEAR(self->task_id);
    return 0;
}

static void
result_dealloc(PyObject *op)
{
    ResultObject *self = (ResultObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    /* Results nest in results, to any depth. */
    Py_TRASHCAN_BEGIN(op, result_dealloc);
    Py_DECREF(self->item);
    Py_DECREF(self->data);
    Py_XDECREF(self->task_id);
    Py_XDECREF(self->error);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMethodDef result_methods[] = {
    {"_leave", result_leave, METH_NOARGS, result_leave_doc},
    {"unwrap", result_unwrap, METH_NOARGS, result_unwrap_doc},
    {"as_dict", result_as_dict, METH_NOARGS, result_as_dict_doc},
    {"_restore", result_restore, METH_VARARGS | METH_CLASS,
     result_restore_doc},
    {"__reduce__", result_reduce, METH_NOARGS, NULL},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(result_doc,
"TaskResult(task_id, success, data=None, error=None)\n--\n\n"
"How one item of a batch ended; read-only and picklable.\n\n"
"A function that bounded_gather runs may return a TaskResult; the item's\n"
"result then takes these four values from it.  Two results are equal if the\n"
"four are.\n\n"
"Args:\n"
"    task_id: A non-empty str.\n"
"    success: Whether the item succeeded.\n"
"    data: The value of an item that succeeded.\n"
"    error: The exception of an item that did not.");

static PyType_Slot result_slots[] = {
    {Py_tp_doc, (void *)result_doc},
    {Py_tp_new, result_new},
    {Py_tp_methods, result_methods},
    {Py_tp_getset, result_getset},
    {Py_tp_richcompare, result_richcompare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_repr, result_repr},
    {Py_tp_traverse, result_traverse},
    {Py_tp_clear, result_clear},
    {Py_tp_dealloc, result_dealloc},
    {0, NULL},
};

static PyType_Spec result_spec = {
    .name = "pyasynclife.TaskResult",
    .basicsize = sizeof(ResultObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = result_slots,
};

int
al_result_setup(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->TaskResult, &result_spec, true) < 0) {
        return -1;
    }
    PyObject *names = AL_ALLOC(
        Py_BuildValue("(ssss)", "task_id", "success", "data", "error"));
    int failed =
        names == NULL
        || PyObject_SetAttrString(st->TaskResult, "__match_args__", names) < 0;
    Py_XDECREF(names);
    /* Only now: an immutable type accepts no attribute. */
    ((PyTypeObject *)st->TaskResult)->tp_flags |= Py_TPFLAGS_IMMUTABLETYPE;
    return failed ? -1 : 0;
}
