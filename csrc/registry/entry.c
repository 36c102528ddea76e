/* One registered task: TaskMetadata.
 *
 * An entry is the object that users see as TaskMetadata and, at the same
 * time, the Task's done callback: one allocation a task.  While its task is
 * alive it owns its registry, through which it finds the clock; ended, it
 * owns nothing but what became of the task.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"

static PyObject *
entry_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf,
                 PyObject *Py_UNUSED(kwnames))
{
    EntryObject *self = (EntryObject *)op;
    if (PyVectorcall_NARGS(nargsf) != 1) {
        PyErr_SetString(PyExc_TypeError, "TaskMetadata is not for calling");
        return NULL;
    }
    if (self->threshold != NULL && args[0] == self->task
        && al_registry_close(self) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

EntryObject *
al_entry_new(al_state *st, PyObject *registry, PyObject *id)
{
    EntryObject *self =
        AL_ALLOC(PyObject_GC_New(EntryObject, (PyTypeObject *)st->Entry));
    if (self == NULL) {
        return NULL;
    }
    size_t head = offsetof(EntryObject, threshold);
    memset((char *)self + head, 0, sizeof(EntryObject) - head);
    self->vectorcall = entry_vectorcall;
    self->id = Py_NewRef(id);
    self->registry = Py_NewRef(registry);
    self->place = AL_NOWHERE;
    PyObject_GC_Track((PyObject *)self);
    return self;
}

/* Seconds of the entry's clock: now, or when it ended.  -1.0 with an error. */
static double
entry_now(EntryObject *self)
{
    if (self->threshold == NULL) {
        return self->ended_at;
    }
    al_heartbeats *heartbeats = self->threshold->heartbeats;
    return al_loop_time(heartbeats->st, heartbeats->bound);
}

static PyObject *
entry_since(EntryObject *self, double then)
{
    double now = entry_now(self);
    if (now == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    return AL_ALLOC(PyFloat_FromDouble(now - then));
}

static PyObject *
entry_get_age(PyObject *op, void *Py_UNUSED(closure))
{
    return entry_since((EntryObject *)op, ((EntryObject *)op)->registered_at);
}

static PyObject *
entry_get_silence(PyObject *op, void *Py_UNUSED(closure))
{
    return entry_since((EntryObject *)op, ((EntryObject *)op)->last_heartbeat);
}

static PyObject *
entry_get_last_heartbeat(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    return AL_ALLOC(PyFloat_FromDouble(
        self->created_at + (self->last_heartbeat - self->registered_at)));
}

static PyObject *
entry_get_finished_at(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    if (!self->ended) {
        Py_RETURN_NONE;
    }
    return AL_ALLOC(PyFloat_FromDouble(
        self->created_at + (self->ended_at - self->registered_at)));
}

static PyObject *
entry_get_state(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    al_state *st = al_state_of_type(Py_TYPE(op));
    if (st == NULL) {
        return NULL;
    }
    int started = self->ended ? 1 : al_heartbeats_started(self);
    if (started < 0) {
        return NULL;
    }
    PyObject *const ends[] = {st->done, st->cancelled, st->failed};
    return Py_NewRef(self->ended ? ends[self->outcome]
                     : started   ? st->running
                                 : st->pending);
}

static PyObject *
entry_get_health(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    al_state *st = al_state_of_type(Py_TYPE(op));
    if (st == NULL) {
        return NULL;
    }
    if (self->ended) {
        PyObject *const ends[] = {st->healthy, st->unknown, st->health_failed};
        return Py_NewRef(ends[self->outcome]);
    }
    int started = al_heartbeats_started(self);
    double now = entry_now(self);
    if (started < 0 || (now == -1.0 && PyErr_Occurred())) {
        return NULL;
    }
    return Py_NewRef(!started ? st->unknown
                     : now - self->last_heartbeat > self->stale_after
                         ? st->stale
                     : self->heartbeats == 0 ? st->unknown
                                             : st->healthy);
}

/* The result or the error, for the outcome that has one. */
static PyObject *
entry_value(EntryObject *self, al_outcome outcome)
{
    if (!self->ended || self->outcome != (uint8_t)outcome
        || self->value == NULL)
    {
        Py_RETURN_NONE;
    }
    return Py_NewRef(self->value);
}

static PyObject *
entry_get_result(PyObject *op, void *Py_UNUSED(closure))
{
    return entry_value((EntryObject *)op, AL_DONE);
}

static PyObject *
entry_get_error(PyObject *op, void *Py_UNUSED(closure))
{
    return entry_value((EntryObject *)op, AL_FAILED);
}

static PyObject *
entry_get_task(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *task = ((EntryObject *)op)->task;
    return Py_NewRef(task == NULL ? Py_None : task);
}

static PyObject *
entry_get_error_text(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    return Py_NewRef(
        self->error_text == NULL || !self->ended ? Py_None : self->error_text);
}

static PyGetSetDef entry_getset[] = {
    {"task", entry_get_task, NULL, "The Task; None once finished.", NULL},
    {"state", entry_get_state, NULL, "A TaskState.", NULL},
    {"health", entry_get_health, NULL, "A TaskHealth.", NULL},
    {"last_heartbeat", entry_get_last_heartbeat, NULL,
     "created_at plus monotonic time; created_at before the first one.", NULL},
    {"finished_at", entry_get_finished_at, NULL,
     "Wall clock; None while it runs.", NULL},
    {"age", entry_get_age, NULL,
     "Seconds since registration, or until it finished.", NULL},
    {"silence", entry_get_silence, NULL,
     "Seconds since the last heartbeat, or since registration.", NULL},
    {"result", entry_get_result, NULL, "None until DONE.", NULL},
    {"error", entry_get_error, NULL,
     "The exception, for the newest failures; else None.", NULL},
    {"error_text", entry_get_error_text, NULL,
     "'ValueError: no price', for as long as the entry lives.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef entry_members[] = {
    {"task_id", T_OBJECT_EX, offsetof(EntryObject, id), READONLY,
     "The id, an exact str; also the name of a Task that register() made."},
    {"created_at", T_DOUBLE, offsetof(EntryObject, created_at), READONLY,
     "Wall clock, as time.time()."},
    {"heartbeats", T_ULONGLONG, offsetof(EntryObject, heartbeats), READONLY,
     "How many heartbeats were recorded."},
    {"stale_after", T_DOUBLE, offsetof(EntryObject, stale_after), READONLY,
     "Seconds of silence; math.inf: never."},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(EntryObject, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static const char *const entry_fields[] = {
    "task_id",        "task",        "state",      "health",     "created_at",
    "last_heartbeat", "finished_at", "heartbeats", "age",        "silence",
    "stale_after",    "result",      "error",      "error_text",
};

PyDoc_STRVAR(entry_as_dict_doc,
"as_dict($self, /)\n--\n\n"
"Return what it says now as a dict, name to value.");

static PyObject *
entry_as_dict(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *dict = AL_ALLOC(PyDict_New());
    size_t n = sizeof(entry_fields) / sizeof(entry_fields[0]);
    for (size_t i = 0; dict != NULL && i < n; i++) {
        PyObject *name = AL_ALLOC(PyUnicode_InternFromString(entry_fields[i]));
        PyObject *value = name == NULL ? NULL : PyObject_GetAttr(op, name);
        if (value == NULL
            || AL_ALLOC_INT(PyDict_SetItem(dict, name, value)) < 0)
        {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
        Py_XDECREF(name);
    }
    return dict;
}

static PyObject *
entry_repr(PyObject *op)
{
    PyObject *state = entry_get_state(op, NULL);
    PyObject *name =
        state == NULL
            ? NULL
            : PyObject_GetAttr(state, al_state_of_type(Py_TYPE(op))->s_name);
    PyObject *repr =
        name == NULL
            ? NULL
            : AL_ALLOC(PyUnicode_FromFormat("<TaskMetadata %R %U>",
                                            ((EntryObject *)op)->id, name));
    Py_XDECREF(name);
    Py_XDECREF(state);
    return repr;
}

static int
entry_traverse(PyObject *op, visitproc visit, void *arg)
{
    EntryObject *self = (EntryObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->id);
    Py_VISIT(self->task);
    Py_VISIT(self->value);
    Py_VISIT(self->error_text);
    Py_VISIT(self->registry);
    Py_VISIT(self->member);
    return 0;
}

static int
entry_clear(PyObject *op)
{
    /* The lists go through the registry, so they are left first. */
    EntryObject *self = (EntryObject *)op;
    al_heartbeats_remove(self);
    al_link_unlink(&self->registry_link);
    al_link_unlink(&self->heartbeat_link);
    Py_CLEAR(self->task);
    Py_CLEAR(self->value);
    Py_CLEAR(self->error_text);
    Py_CLEAR(self->member);
    Py_CLEAR(self->registry);
    return 0;
}

static void
entry_dealloc(PyObject *op)
{
    /* A result may be the metadata of the task before, and so on. */
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, entry_dealloc)(void) entry_clear(op);
    Py_CLEAR(((EntryObject *)op)->id);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMethodDef entry_methods[] = {
    {"as_dict", entry_as_dict, METH_NOARGS, entry_as_dict_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(entry_doc,
"One task as the registry sees it.\n\n"
"Live and read-only: read it again and it has moved on; after the end it\n"
"says what became of the task.  Made by TaskRegistry only.");

static PyType_Slot entry_slots[] = {
    {Py_tp_doc, (void *)entry_doc},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_repr, entry_repr},
    {Py_tp_getset, entry_getset},
    {Py_tp_members, entry_members},
    {Py_tp_methods, entry_methods},
    {Py_tp_traverse, entry_traverse},
    {Py_tp_clear, entry_clear},
    {Py_tp_dealloc, entry_dealloc},
    {0, NULL},
};

static PyType_Spec entry_spec = {
    .name = "pyasynclife.TaskMetadata",
    .basicsize = sizeof(EntryObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = entry_slots,
};

int
al_entry_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Entry, &entry_spec, true);
}
