/* TaskRegistry, the type: signs of life, cancelling, and what can be read.
 *
 * What waits (shutdown, wait, the monitor) and what needs no speed (where,
 * dump, the report) is Python, in _registry.py, over the methods with an
 * underscore here.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/args.h"
#include "base/list.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/awaitable.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/registry.h"
#include "registry/register.h"
#include "registry/registry_type.h"

/* ---------------------------------------------- heartbeat and complete */

/* The alive entry of an id (borrowed); NULL without an exception if there is
   none, NULL with TypeError for what is no id. */
static EntryObject *
registry_type_alive(RegistryObject *self, PyObject *id)
{
    /* Mostly it is the very str that register() was given or gave. */
    al_ptr_link *link = al_ptr_table_find(&self->beats.names, id);
    if (link != NULL) {
        return AL_CONTAINER_OF(link, EntryObject, name);
    }
    EntryObject *entry = NULL;
    if (PyUnicode_CheckExact(id)) {
        entry = al_registry_find(self, id);
    }
    else {
        PyObject *exact = al_args_id(id);
        if (exact == NULL) {
            return NULL;
        }
        entry = al_registry_find(self, exact);
        Py_DECREF(exact);
    }
    return entry == NULL || entry->ended ? NULL : entry;
}

PyDoc_STRVAR(registry_type_heartbeat_doc,
"heartbeat($self, /, task_id=None)\n--\n\n"
"Record a sign of life.\n\n"
"task_id: whose; without one the current task's, not that of one which waits\n"
"for it.  Returns a Ready of True, or of False where no such task is alive,\n"
"which is counted and no error.  With an id from any thread.");

static PyObject *
registry_type_heartbeat(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames)
{
    static const al_signature signature = {
        "heartbeat", 0, 1, 1, {"task_id"},
    };
    RegistryObject *self = (RegistryObject *)op;
    PyObject *got[1] = {NULL};
    if (nargs == 1 && kwnames == NULL) {
        got[0] = args[0];
    }
    else if (al_args_sort(&signature, args, nargs, kwnames, got) < 0) {
        return NULL;
    }
    EntryObject *entry = got[0] == NULL || got[0] == Py_None
                             ? al_register_current(self)
                             : registry_type_alive(self, got[0]);
    if (entry == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        self->beats_unknown++;
        return Py_NewRef(self->st->ready_false);
    }
    Py_INCREF((PyObject *)entry);
    double now = al_loop_time(self->st, &self->bound);
    int beaten = now == -1.0 && PyErr_Occurred()
                     ? -1
                     : al_heartbeats_beat(&self->beats, entry, now);
    Py_DECREF((PyObject *)entry);
    self->beats_count += beaten > 0;
    self->beats_unknown += beaten == 0; /* it ended while we asked */
    return beaten < 0 ? NULL
                      : Py_NewRef(beaten ? self->st->ready_true
                                         : self->st->ready_false);
}

PyDoc_STRVAR(registry_type_complete_doc,
"complete($self, /, task_id, result=None, error=None)\n--\n\n"
"Fix a task's outcome before it ends.\n\n"
"result: what it will show when DONE.  error: an exception instead; a\n"
"CancelledError makes it CANCELLED.  The first call wins; the task stays\n"
"alive, counted and cancellable until it ends, which changes nothing, though\n"
"another error of it is logged.  No effect on a finished task.\n\n"
"Returns a Ready of None.  Raises UnknownTaskError for an id never heard of.");

static PyObject *
registry_type_complete(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    static const al_signature signature = {
        "complete", 1, 3, 3, {"task_id", "result", "error"},
    };
    RegistryObject *self = (RegistryObject *)op;
    PyObject *got[3];
    if (al_args_sort(&signature, args, nargs, kwnames, got) < 0
        || al_loop_check_thread(self->st, &self->bound,
                                "TaskRegistry.complete()")
               < 0)
    {
        return NULL;
    }
    PyObject *error = got[2] == Py_None ? NULL : got[2];
    if (error != NULL && !PyExceptionInstance_Check(error)) {
        PyErr_Format(PyExc_TypeError, "error is an exception, got %R", error);
        return NULL;
    }
    PyObject *id = al_args_id(got[0]);
    if (id == NULL) {
        return NULL;
    }
    EntryObject *entry = al_registry_find(self, id);
    if (entry == NULL) {
        PyErr_Format(self->st->UnknownTaskError,
                     "no task %R is alive or in the history", id);
        Py_DECREF(id);
        return NULL;
    }
    Py_DECREF(id);
    int fixed = al_registry_fix(self, entry, got[1], error);
    return fixed < 0 ? NULL : Py_NewRef(self->st->ready_none);
}

/* ---------------------------------------------------------------- cancel */

PyDoc_STRVAR(registry_type_cancel_doc,
"cancel($self, /, task_id, msg=None)\n--\n\n"
"Ask a task to end, as Task.cancel() does.\n\n"
"Returns a Ready of True if it was asked, of False if no such task is alive.");

static PyObject *
registry_type_cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    static const al_signature signature = {
        "cancel", 1, 2, 2, {"task_id", "msg"},
    };
    RegistryObject *self = (RegistryObject *)op;
    PyObject *got[2];
    if (al_args_sort(&signature, args, nargs, kwnames, got) < 0
        || al_loop_check_thread(self->st, &self->bound,
                                "TaskRegistry.cancel()")
               < 0)
    {
        return NULL;
    }
    EntryObject *entry = registry_type_alive(self, got[0]);
    if (entry == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(self->st->ready_false);
    }
    int asked = al_registry_cancel(self, entry, got[1]);
    return asked < 0 ? NULL
                     : Py_NewRef(asked ? self->st->ready_true
                                       : self->st->ready_false);
}

PyDoc_STRVAR(registry_type_cancel_all_doc,
"cancel_all($self, /, msg=None)\n--\n\n"
"Ask every task that is alive to end.\n\n"
"Returns a Ready of how many were asked.  Waits for nothing: see wait() and\n"
"shutdown().");

static PyObject *
registry_type_cancel_all(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames)
{
    static const al_signature signature = {
        "cancel_all", 0, 1, 1, {"msg"},
    };
    RegistryObject *self = (RegistryObject *)op;
    PyObject *got[1];
    if (al_args_sort(&signature, args, nargs, kwnames, got) < 0
        || al_loop_check_thread(self->st, &self->bound,
                                "TaskRegistry.cancel_all()")
               < 0)
    {
        return NULL;
    }
    PyObject *exit = NULL, *alive = al_registry_list(self, false);
    Py_ssize_t count = 0, n = alive == NULL ? -1 : PyList_GET_SIZE(alive);
    for (Py_ssize_t i = 0; i < n; i++) {
        EntryObject *entry = (EntryObject *)PyList_GET_ITEM(alive, i);
        PyObject *task = Py_XNewRef(entry->task);
        int asked = entry->ended ? 0 : al_registry_cancel(self, entry, got[0]);
        if (asked < 0) {
            al_loop_handle_error_keep_exit(self->st, self->bound.loop,
                                           "cancelling a task failed", task,
                                           &exit);
        }
        Py_XDECREF(task);
        count += asked > 0;
    }
    Py_XDECREF(alive);
    return n < 0 || al_loop_raise_exit(exit) < 0
               ? NULL
               : al_ready_new(self->st, AL_ALLOC(PyLong_FromSsize_t(count)));
}

/* --------------------------------------------------------------- reading */

/* Bring everything to where it belongs now.  Returns 0; -1 with an error. */
static int
registry_type_sweep(RegistryObject *self)
{
    double now = al_loop_time(self->st, &self->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    return al_heartbeats_sweep(&self->beats, now);
}

/* Put ids in the place of a list's entries; NULL passes an error through. */
static PyObject *
registry_type_ids(PyObject *list)
{
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *entry = PyList_GET_ITEM(list, i);
        PyList_SET_ITEM(list, i, Py_NewRef(((EntryObject *)entry)->id));
        Py_DECREF(entry);
    }
    return list;
}

PyDoc_STRVAR(registry_type_get_status_doc,
"get_status($self, /)\n--\n\n"
"Return a Ready of a dict, id to TaskMetadata: the history, then the alive,\n"
"oldest first.");

static PyObject *
registry_type_get_status(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    PyObject *status = AL_ALLOC(PyDict_New());
    for (int finished = 1; status != NULL && finished >= 0; finished--) {
        PyObject *list = al_registry_list(self, finished);
        Py_ssize_t n = list == NULL ? -1 : PyList_GET_SIZE(list);
        for (Py_ssize_t i = 0; status != NULL && i < n; i++) {
            PyObject *entry = PyList_GET_ITEM(list, i);
            if (AL_ALLOC_INT(
                    PyDict_SetItem(status, ((EntryObject *)entry)->id, entry))
                < 0)
            {
                Py_CLEAR(status);
            }
        }
        if (list == NULL) {
            Py_CLEAR(status);
        }
        Py_XDECREF(list);
    }
    return al_ready_new(self->st, status);
}

PyDoc_STRVAR(registry_type_get_stale_tasks_doc,
"get_stale_tasks($self, /)\n--\n\n"
"Return a Ready of the ids whose health is STALE, longest silence first.\n\n"
"Costs what is stale, not what is alive.");

static PyObject *
registry_type_get_stale_tasks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    if (registry_type_sweep(self) < 0) {
        return NULL;
    }
    return al_ready_new(
        self->st, registry_type_ids(al_heartbeats_stale(&self->beats, false)));
}

PyDoc_STRVAR(registry_type_newly_stale_doc,
"_newly_stale($self, /)\n--\n\n"
"Return the metadata of stale tasks not yet told of in this silence.");

static PyObject *
registry_type_newly_stale(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    return registry_type_sweep(self) < 0
               ? NULL
               : al_heartbeats_stale(&self->beats, true);
}

PyDoc_STRVAR(registry_type_counts_doc,
"_counts($self, /)\n--\n\n"
"Return the numbers of RegistryStats, in its order.");

static PyObject *
registry_type_counts(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    if (registry_type_sweep(self) < 0) {
        return NULL;
    }
    const Py_ssize_t *count = self->beats.count;
    return AL_ALLOC(Py_BuildValue("(nnnnnKKKKKK)", al_registry_count(self),
                                  count[AL_PENDING], count[AL_BEATING],
                                  count[AL_STALE], count[AL_NEVER_BEAT],
                                  self->ended[AL_DONE], self->ended[AL_FAILED],
                                  self->ended[AL_CANCELLED], self->registered,
                                  self->beats_count, self->beats_unknown));
}

static Py_ssize_t
registry_type_length(PyObject *op)
{
    return al_registry_count((RegistryObject *)op);
}

static int
registry_type_contains(PyObject *op, PyObject *id)
{
    if (!PyUnicode_Check(id) || PyUnicode_GET_LENGTH(id) == 0) {
        return 0;
    }
    if (registry_type_alive((RegistryObject *)op, id) == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    return 1;
}

static PyObject *
registry_type_subscript(PyObject *op, PyObject *key)
{
    RegistryObject *self = (RegistryObject *)op;
    PyObject *id = al_args_id(key);
    if (id == NULL) {
        return NULL;
    }
    EntryObject *entry = al_registry_find(self, id);
    if (entry == NULL) {
        PyErr_Format(self->st->UnknownTaskError,
                     "no task %R is alive or in the history", id);
    }
    Py_DECREF(id);
    return Py_XNewRef((PyObject *)entry);
}

static PyObject *
registry_type_iter(PyObject *op)
{
    PyObject *list =
        registry_type_ids(al_registry_list((RegistryObject *)op, false));
    PyObject *iterator =
        list == NULL ? NULL : AL_ALLOC(PyObject_GetIter(list));
    Py_XDECREF(list);
    return iterator;
}

/* ------------------------------------------- what the Python half stands on
 */

PyDoc_STRVAR(registry_type_configure_doc,
"_configure($self, stale_threshold, history, keep_results, keep_errors,\n"
"           on_finish, /)\n--\n\n"
"Set what is native of the constructor's arguments, checked already.");

static PyObject *
registry_type_configure(PyObject *op, PyObject *args)
{
    RegistryObject *self = (RegistryObject *)op;
    double threshold;
    Py_ssize_t history, errors;
    int results;
    PyObject *on_finish;
    if (!PyArg_ParseTuple(args, "dnpnO:_configure", &threshold, &history,
                          &results, &errors, &on_finish))
    {
        return NULL;
    }
    if (self->registered > 0 || al_registry_count(self) > 0) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this TaskRegistry is in use already: make a new one");
        return NULL;
    }
    self->beats.rings->stale_after = threshold;
    self->history_limit = history;
    self->errors_limit = errors;
    self->keep_results = results;
    Py_XSETREF(self->on_finish,
               on_finish == Py_None ? NULL : Py_NewRef(on_finish));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(registry_type_begin_drain_doc,
"_begin_drain($self, spared, /)\n--\n\n"
"Cancel every task but one, in the shutdown that runs or a new one.\n\n"
"Returns its JoinSet, which _end_drain() gives back.");

static PyObject *
registry_type_begin_drain(PyObject *op, PyObject *spared)
{
    RegistryObject *self = (RegistryObject *)op;
    if (al_register_bind(self, "TaskRegistry.shutdown()") < 0) {
        return NULL;
    }
    EntryObject *current = al_register_current(self);
    if (current == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (current != NULL) {
        current->spared = true;
    }
    if (self->drain == NULL) {
        self->drain = al_join_set_new(self->st, &self->bound);
    }
    PyObject *alive =
        self->drain == NULL ? NULL : al_registry_list(self, false);
    if (alive == NULL) {
        al_register_drained(self);
        return NULL;
    }
    PyObject *drain = Py_NewRef(self->drain);
    self->drainers++;
    for (Py_ssize_t i = 0; alive != NULL && i < PyList_GET_SIZE(alive); i++) {
        EntryObject *entry = (EntryObject *)PyList_GET_ITEM(alive, i);
        if (entry->task != spared && al_register_drain(self, entry) < 0) {
            Py_CLEAR(alive);
        }
    }
    if (alive == NULL) {
        PyObject *error = PyErr_GetRaisedException();
        self->drainers--;
        al_register_drained(self);
        PyErr_SetRaisedException(error);
        Py_CLEAR(drain);
    }
    Py_XDECREF(alive);
    return drain;
}

PyDoc_STRVAR(registry_type_end_drain_doc,
"_end_drain($self, /)\n--\n\n"
"One shutdown less; after the last one new tasks run again.");

static PyObject *
registry_type_end_drain(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    self->drainers--;
    al_register_drained(self);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(registry_type_bind_doc,
"_bind($self, what, /)\n--\n\n"
"Bind to the running loop, or see that it is the one; what: who asks.");

static PyObject *
registry_type_bind(PyObject *op, PyObject *what)
{
    const char *text = PyUnicode_AsUTF8(what);
    if (text == NULL || al_register_bind((RegistryObject *)op, text) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(registry_type_find_doc,
"_find($self, task, /)\n--\n\n"
"Return the metadata of an alive task by the Task, or None.");

static PyObject *
registry_type_find(PyObject *op, PyObject *task)
{
    RegistryObject *self = (RegistryObject *)op;
    al_ptr_link *link = al_ptr_table_find(&self->beats.tasks, task);
    return Py_NewRef(
        link == NULL ? Py_None
                     : (PyObject *)AL_CONTAINER_OF(link, EntryObject, key));
}

static PyMemberDef registry_type_members[] = {
    {"_waiters", T_OBJECT_EX, offsetof(RegistryObject, waiters), READONLY,
     "Futures, given None when one or none is alive."},
    {"_unborn", T_PYSSIZET, offsetof(RegistryObject, unborn), READONLY, NULL},
    {"_loop", T_OBJECT, offsetof(RegistryObject, bound.loop), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* ---------------------------------------------------------- GC and spec */

static PyObject *
registry_type_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                  PyObject *Py_UNUSED(kwargs))
{
    al_state *st = al_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    RegistryObject *self = (RegistryObject *)AL_ALLOC(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    self->st = st;
    al_list_init(&self->alive);
    al_list_init(&self->history);
    al_list_init(&self->errors);
    self->history_limit = 1000;
    self->errors_limit = 20;
    self->keep_results = true;
    self->ids = AL_ALLOC(PyDict_New());
    self->waiters = self->ids == NULL ? NULL : AL_ALLOC(PyList_New(0));
    if (self->waiters == NULL
        || al_heartbeats_init(&self->beats, st, &self->bound,
                              al_registry_close, 15.0)
               < 0)
    {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
registry_type_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    return al_registry_visit((RegistryObject *)op, visit, arg);
}

static int
registry_type_clear(PyObject *op)
{
    al_registry_clear((RegistryObject *)op);
    return 0;
}

static void
registry_type_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    al_registry_clear((RegistryObject *)op);
    al_heartbeats_clear(&((RegistryObject *)op)->beats);
    type->tp_free(op);
    Py_DECREF(type);
}

#define KEYWORDS (METH_FASTCALL | METH_KEYWORDS)

static PyMethodDef registry_type_methods[] = {
    {"register", AL_METHOD(al_register_register), KEYWORDS,
     al_register_register_doc},
    {"track", AL_METHOD(al_register_track), KEYWORDS, al_register_track_doc},
    {"heartbeat", AL_METHOD(registry_type_heartbeat), KEYWORDS,
     registry_type_heartbeat_doc},
    {"complete", AL_METHOD(registry_type_complete), KEYWORDS,
     registry_type_complete_doc},
    {"cancel", AL_METHOD(registry_type_cancel), KEYWORDS,
     registry_type_cancel_doc},
    {"cancel_all", AL_METHOD(registry_type_cancel_all), KEYWORDS,
     registry_type_cancel_all_doc},
    {"get_status", registry_type_get_status, METH_NOARGS,
     registry_type_get_status_doc},
    {"get_stale_tasks", registry_type_get_stale_tasks, METH_NOARGS,
     registry_type_get_stale_tasks_doc},
    {"_newly_stale", registry_type_newly_stale, METH_NOARGS,
     registry_type_newly_stale_doc},
    {"_counts", registry_type_counts, METH_NOARGS, registry_type_counts_doc},
    {"_configure", registry_type_configure, METH_VARARGS,
     registry_type_configure_doc},
    {"_begin_drain", registry_type_begin_drain, METH_O,
     registry_type_begin_drain_doc},
    {"_end_drain", registry_type_end_drain, METH_NOARGS,
     registry_type_end_drain_doc},
    {"_bind", registry_type_bind, METH_O, registry_type_bind_doc},
    {"_find", registry_type_find, METH_O, registry_type_find_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot registry_type_slots[] = {
    {Py_tp_new, registry_type_new},
    {Py_tp_iter, registry_type_iter},
    {Py_mp_length, registry_type_length},
    {Py_mp_subscript, registry_type_subscript},
    {Py_sq_contains, registry_type_contains},
    {Py_tp_methods, registry_type_methods},
    {Py_tp_members, registry_type_members},
    {Py_tp_traverse, registry_type_traverse},
    {Py_tp_clear, registry_type_clear},
    {Py_tp_dealloc, registry_type_dealloc},
    {0, NULL},
};

static PyType_Spec registry_type_spec = {
    .name = "pyasynclife._core.Registry",
    .basicsize = sizeof(RegistryObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = registry_type_slots,
};

int
al_registry_type_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Registry, &registry_type_spec, true);
}
