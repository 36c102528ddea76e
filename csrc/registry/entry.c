/* One registered task: the type TaskMetadata.
 *
 * An entry is the object that users see as TaskMetadata and, at the same time,
 * the done callback of its Task: one allocation per task.  While the task is
 * alive, the entry owns its registry, and finds the loop's clock through it.
 * An ended entry owns its id and the outcome, and nothing else.
 *
 * Its times come from two clocks.  created_at is the wall clock;
 * last_heartbeat, registered_at and ended_at are the loop's monotonic time.
 * The wall clock times that users read are created_at plus a difference of
 * loop times, so a change of the system's clock changes no age or silence.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/args.h"
#include "base/list.h"
#include "base/object.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/ending.h"
#include "registry/owner.h"
#include "registry/supervise.h"

#include <math.h>

/* The done callback: entry(task).  Users can call their TaskMetadata too: with
   another object, or after the end, that has no effect. */
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
        && (al_entry_supervision(self) == NULL ? al_ending_close(self)
                                               : al_supervise_run_ended(self))
               < 0)
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
    /* PyObject_GC_New() leaves the members undefined. */
    size_t head = offsetof(EntryObject, threshold);
    memset((char *)self + head, 0, sizeof(EntryObject) - head);
    self->vectorcall = entry_vectorcall;
    self->id.text = Py_NewRef(id);
    self->registry = Py_NewRef(registry);
    self->place = AL_NOWHERE;
    PyObject_GC_Track((PyObject *)self);
    return self;
}

al_entry_extras *
al_entry_extend(EntryObject *self)
{
    if (self->extras == NULL) {
        self->extras = AL_ALLOC(PyMem_Calloc(1, sizeof(al_entry_extras)));
        if (self->extras == NULL) {
            PyErr_NoMemory();
        }
    }
    return self->extras;
}

/* The loop time at which the entry is looked at: now, or its end.  -1.0 with
   an exception. */
static double
entry_now(EntryObject *self)
{
    if (self->threshold == NULL) {
        return self->ended_at;
    }
    al_heartbeats *heartbeats = self->threshold->heartbeats;
    return al_loop_time(heartbeats->st, heartbeats->bound);
}

/* The stale_after that applies now, or did at the end. */
static double
entry_stale_after(EntryObject *self)
{
    if (self->threshold == NULL) {
        return self->stale_after;
    }
    bool given = self->resting && self->stale_after != AL_STALE_AFTER_DEFAULT;
    return given ? self->stale_after
           : self->resting
               ? self->threshold->heartbeats->thresholds->stale_after
               : self->threshold->stale_after;
}

/* The seconds from the loop time `then` until now, or the end (new). */
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
entry_get_stale_after(PyObject *op, void *Py_UNUSED(closure))
{
    double seconds = entry_stale_after((EntryObject *)op);
    return AL_ALLOC(PyFloat_FromDouble(seconds));
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
    int started = self->ended ? 1 : al_heartbeats_started(self, false);
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
    /* By the clock, not by the list: only a sweep moves entries to stale. */
    int started = al_heartbeats_started(self, false);
    double now = entry_now(self);
    if (started < 0 || (now == -1.0 && PyErr_Occurred())) {
        return NULL;
    }
    return Py_NewRef(
        !started ? st->unknown
        : now - self->last_heartbeat > self->threshold->stale_after ? st->stale
        : self->heartbeats == 0 ? st->unknown
                                : st->healthy);
}

/* The value of an ended entry if its outcome is `outcome`; else None (new). */
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
    const al_entry_extras *extras = self->extras;
    return Py_NewRef(extras == NULL || extras->error_text == NULL
                             || (!self->ended && extras->supervision == NULL)
                         ? Py_None
                         : extras->error_text);
}

static PyObject *
entry_get_info(PyObject *op, void *Py_UNUSED(closure))
{
    const al_entry_extras *extras = ((EntryObject *)op)->extras;
    return Py_NewRef(extras == NULL || extras->info == NULL ? Py_None
                                                            : extras->info);
}

static int
entry_set_info(PyObject *op, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError,
                        "info cannot be deleted: set it to None");
        return -1;
    }
    al_entry_extras *extras = al_entry_extend((EntryObject *)op);
    if (extras == NULL) {
        return -1;
    }
    Py_XSETREF(extras->info, Py_NewRef(value));
    return 0;
}

static PyObject *
entry_get_cancel_reason(PyObject *op, void *Py_UNUSED(closure))
{
    const al_entry_extras *extras = ((EntryObject *)op)->extras;
    return Py_NewRef(extras == NULL || extras->cancel_reason == NULL
                         ? Py_None
                         : extras->cancel_reason);
}

static PyObject *
entry_get_restarts(PyObject *op, void *Py_UNUSED(closure))
{
    const al_entry_extras *extras = ((EntryObject *)op)->extras;
    return AL_ALLOC(
        PyLong_FromUnsignedLongLong(extras == NULL ? 0 : extras->restarts));
}

static PyGetSetDef entry_getset[] = {
    {"task", entry_get_task, NULL,
     "The asyncio.Task; None once it has ended.", NULL},
    {"state", entry_get_state, NULL,
     "The TaskState: PENDING, RUNNING, DONE, CANCELLED, FAILED.", NULL},
    {"health", entry_get_health, NULL,
     "The TaskHealth: HEALTHY, STALE, FAILED or UNKNOWN.", NULL},
    {"last_heartbeat", entry_get_last_heartbeat, NULL,
     "The wall clock time of the last heartbeat; before the first of a run,\n"
     "that of its beginning: created_at, unless it was restarted.",
     NULL},
    {"finished_at", entry_get_finished_at, NULL,
     "The wall clock time of the end; None while the task is alive.", NULL},
    {"age", entry_get_age, NULL,
     "Seconds since the registration, or from the registration to the end.",
     NULL},
    {"silence", entry_get_silence, NULL,
     "Seconds since last_heartbeat, or from there to the end.", NULL},
    {"stale_after", entry_get_stale_after, NULL,
     "Seconds of silence until the task is stale; math.inf: never.", NULL},
    {"result", entry_get_result, NULL,
     "The result of a task that is DONE; else None.", NULL},
    {"error", entry_get_error, NULL,
     "The exception of a task that FAILED; None for older failures.", NULL},
    {"error_text", entry_get_error_text, NULL,
     "The type and text of the exception, as in 'ValueError: no price', or\n"
     "None.  A supervised task has that of its last failure while it is\n"
     "alive.",
     NULL},
    {"info", entry_get_info, entry_set_info,
     "The ``info`` that register() was given, or None.  It may be set.", NULL},
    {"cancel_reason", entry_get_cancel_reason, NULL,
     "The msg of the first cancel() or cancel_all() that reached the task;\n"
     "None without a msg, or if a shutdown cancelled it first.",
     NULL},
    {"restarts", entry_get_restarts, NULL,
     "How often a supervised task was started again; 0 of any other.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef entry_members[] = {
    {"task_id", T_OBJECT_EX, offsetof(EntryObject, id.text), READONLY,
     "The id, an exact str; also the name of a Task that register() made."},
    {"created_at", T_DOUBLE, offsetof(EntryObject, created_at), READONLY,
     "The wall clock time of the registration, as time.time() has it."},
    {"heartbeats", T_ULONGLONG, offsetof(EntryObject, heartbeats), READONLY,
     "How many heartbeats were recorded."},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(EntryObject, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static const char *const entry_fields[] = {
    "task_id",        "task",        "state",      "health",     "created_at",
    "last_heartbeat", "finished_at", "heartbeats", "age",        "silence",
    "stale_after",    "result",      "error",      "error_text", "info",
    "cancel_reason",  "restarts",
};

/* Return an exact str that can be written as UTF-8 (new): the name of a file
   that could not be decoded holds lone surrogates, which become "\\udcff". */
static PyObject *
entry_json_text(PyObject *text)
{
    if (PyUnicode_IS_ASCII(text)) {
        return AL_ALLOC(PyUnicode_FromObject(text));
    }
    PyObject *bytes =
        AL_ALLOC(PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace"));
    PyObject *clean =
        bytes == NULL
            ? NULL
            : AL_ALLOC(PyUnicode_DecodeUTF8(PyBytes_AS_STRING(bytes),
                                            PyBytes_GET_SIZE(bytes), NULL));
    Py_XDECREF(bytes);
    return clean;
}

/* Return what json.dumps() can make of a value: a str, a finite float, an int
   that has a repr, a bool or None; else None (new).  NULL with MemoryError. */
static PyObject *
entry_json(PyObject *value)
{
    if (PyUnicode_Check(value)) { /* maybe a member of an enum */
        return entry_json_text(value);
    }
    if (PyFloat_Check(value)) {
        double number = PyFloat_AS_DOUBLE(value);
        return isfinite(number) ? AL_ALLOC(PyFloat_FromDouble(number))
                                : Py_NewRef(Py_None);
    }
    bool known = value == Py_None || PyLong_Check(value);
    int overflow = 0;
    if (known && value != Py_None) {
        (void)PyLong_AsLongLongAndOverflow(value, &overflow);
    }
    if (overflow != 0) { /* by default no more than 4,300 digits are written */
        PyObject *text = AL_ALLOC(PyLong_Type.tp_repr(value));
        known = text != NULL;
        Py_XDECREF(text);
        if (!known && !PyErr_ExceptionMatches(PyExc_ValueError)) {
            return NULL;
        }
        PyErr_Clear();
    }
    return Py_NewRef(known ? value : Py_None);
}

/* Return the value of a field of as_dict() (new). */
static PyObject *
entry_field(PyObject *op, PyObject *name, bool json)
{
    if (!json) {
        return PyObject_GetAttr(op, name);
    }
    bool is_error = PyUnicode_CompareWithASCIIString(name, "error") == 0;
    PyObject *value =
        is_error ? entry_get_error_text(op, NULL) : PyObject_GetAttr(op, name);
    PyObject *answer = value == NULL ? NULL : entry_json(value);
    Py_XDECREF(value);
    return answer;
}

PyDoc_STRVAR(entry_as_dict_doc,
"as_dict($self, /, *, json=False)\n--\n\n"
"Return the present values of all attributes in a dict, by name.\n\n"
"Args:\n"
"    json: Only values that json.dumps() takes, for a status page.  There\n"
"        is no ``task``; ``state`` and ``health`` are plain str; inf and nan\n"
"        are None; ``error`` is the ``error_text``; ``result`` and ``info``\n"
"        are None unless they are str, int, float or bool.");

static PyObject *
entry_as_dict(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    static const al_signature signature = {"as_dict", 0, 0, 1, {"json"}};
    PyObject *json = NULL;
    if (al_args_sort(&signature, args, nargs, kwnames, &json) < 0) {
        return NULL;
    }
    if (json != NULL && !PyBool_Check(json)) {
        PyErr_Format(PyExc_TypeError, "json must be True or False, got %.60R",
                     json);
        return NULL;
    }
    PyObject *dict = AL_ALLOC(PyDict_New());
    size_t n = sizeof(entry_fields) / sizeof(entry_fields[0]);
    for (size_t i = 0; dict != NULL && i < n; i++) {
        if (json == Py_True && strcmp(entry_fields[i], "task") == 0) {
            continue;
        }
        PyObject *name = AL_ALLOC(PyUnicode_InternFromString(entry_fields[i]));
        PyObject *value =
            name == NULL ? NULL : entry_field(op, name, json == Py_True);
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
    EntryObject *self = (EntryObject *)op;
    PyObject *state = entry_get_state(op, NULL);
    PyObject *name =
        state == NULL
            ? NULL
            : PyObject_GetAttr(state, al_state_of_type(Py_TYPE(op))->s_name);
    PyObject *id = name == NULL ? NULL : al_object_short(self->id.text);
    PyObject *repr =
        id == NULL
            ? NULL
            : AL_ALLOC(PyUnicode_FromFormat("<TaskMetadata %U %U>", id, name));
    Py_XDECREF(id);
    Py_XDECREF(name);
    Py_XDECREF(state);
    return repr;
}

static int
entry_traverse(PyObject *op, visitproc visit, void *arg)
{
    EntryObject *self = (EntryObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->id.text);
    Py_VISIT(self->task);
    Py_VISIT(self->value);
    Py_VISIT(self->registry);
    Py_VISIT(self->member);
    Py_VISIT(self->owner);
    if (self->extras != NULL) {
        Py_VISIT(self->extras->supervision);
        Py_VISIT(self->extras->info);
        Py_VISIT(self->extras->cancel_reason);
        Py_VISIT(self->extras->error_text);
    }
    return 0;
}

static int
entry_clear(PyObject *op)
{
    /* The lists belong to the registry: leave them before it is dropped. */
    EntryObject *self = (EntryObject *)op;
    al_heartbeats_remove(self);
    al_link_unlink(&self->registry_link);
    al_link_unlink(&self->heartbeat_link);
    Py_CLEAR(self->task);
    Py_CLEAR(self->value);
    Py_CLEAR(self->member);
    al_owner_end(self);
    Py_CLEAR(self->owner);
    if (self->extras != NULL) {
        Py_CLEAR(self->extras->supervision);
        Py_CLEAR(self->extras->info);
        Py_CLEAR(self->extras->cancel_reason);
        Py_CLEAR(self->extras->error_text);
    }
    Py_CLEAR(self->registry);
    return 0;
}

static void
entry_dealloc(PyObject *op)
{
    /* The trashcan: a result may be the metadata of another task, whose result
       is one too, and so on. */
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, entry_dealloc);
    (void)entry_clear(op);
    Py_CLEAR(((EntryObject *)op)->id.text);
    PyMem_Free(((EntryObject *)op)->extras);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMethodDef entry_methods[] = {
    {"as_dict", AL_METHOD(entry_as_dict), METH_FASTCALL | METH_KEYWORDS,
     entry_as_dict_doc},
    {"__reduce__", al_object_refuse_pickling, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(entry_doc,
"The metadata of one registered task.\n\n"
"It is live and read-only: each attribute is computed when it is read.\n"
"After the task has ended, the outcome stays.  Only a TaskRegistry makes it.");

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
