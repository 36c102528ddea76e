/* The type Registry, the native base of TaskRegistry: arguments, docstrings.
 *
 * TaskRegistry itself is Python, in _registry.py: it has the methods that wait
 * (shutdown, wait, monitor_loop) and those that need no speed (where, dump,
 * stats).  They stand on the methods here whose names begin with an
 * underscore.
 *
 * A method checks all its arguments and the thread before it calls the core,
 * so a refused call has changed nothing.  heartbeat() is the exception: given
 * an id it may come from any thread, and skips what it does not need.
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
#include "aio/awaitable.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/ending.h"
#include "registry/owner.h"
#include "registry/register.h"
#include "registry/supervise.h"
#include "registry/shutdown.h"
#include "registry/reading.h"
#include "registry/registry_type.h"

/* ----------------------------------------------------- register and track */

/* Read stale_after; None and NULL follow the registry's own.  Returns 0; -1
   with TypeError or ValueError. */
static int
registry_type_threshold(RegistryObject *self, PyObject *value, double *seconds)
{
    *seconds = AL_STALE_AFTER_DEFAULT;
    return value == NULL || value == Py_None
               ? 0
               : al_args_seconds(self->st->check_seconds, "stale_after", value,
                                 seconds);
}

/* Refuse anything but a coroutine that has not started.  Returns 0; -1 with
   TypeError or RuntimeError. */
static int
registry_type_check_coro(RegistryObject *self, PyObject *coro)
{
    if (!PyCoro_CheckExact(coro)) {
        int is =
            al_object_truth(PyObject_CallOneArg(self->st->iscoroutine, coro));
        if (is == 0) {
            PyErr_Format(PyExc_TypeError,
                         "register() takes a coroutine, got %.200R%s", coro,
                         PyFunction_Check(coro) || PyMethod_Check(coro)
                             ? ": call it, register(function(...))"
                         : PyObject_HasAttr(coro, self->st->s_get_coro)
                             ? ": use track() for a Task that runs already"
                             : "");
        }
        return is > 0 ? 0 : -1;
    }
    int started = al_coro_started(self->st, coro);
    if (started > 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "%.200R has been started already: pass a fresh "
                     "coroutine",
                     coro);
    }
    return started == 0 ? 0 : -1;
}

PyDoc_STRVAR(registry_type_register_doc,
"register($self, /, coro, task_id=None, *, stale_after=None, context=None,\n"
"         info=None)\n"
"--\n\n"
"Start a coroutine as a Task and register it under an id.\n\n"
"Args:\n"
"    coro: A coroutine that has not been started.\n"
"    task_id: A non-empty str that no living task has; None: the next of\n"
"        \"task_0\", \"task_1\", and so on.\n"
"    stale_after: Seconds without a heartbeat until the task is stale;\n"
"        None: the registry's `stale_threshold`; math.inf: never.\n"
"    context: As for asyncio.create_task().\n"
"    info: Any object, for `TaskMetadata.info`.\n\n"
"Returns:\n"
"    A Ready of (task, id).  The Task's name is the id.\n\n"
"Raises:\n"
"    DuplicateTaskError: A living task has the id.\n"
"    ClosedError: A shutdown() is under way.\n"
"    TypeError, ValueError: An argument is wrong.\n"
"    RuntimeError: No loop runs in this thread, the registry belongs to\n"
"        another loop or thread, or the coroutine has been started.\n\n"
"After an error nothing has changed, and the coroutine is closed if it has\n"
"not started.");

static PyObject *
registry_type_register(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    static const al_signature signature = {
        "register",
        1,
        2,
        5,
        {"coro", "task_id", "stale_after", "context", "info"},
    };
    RegistryObject *self = (RegistryObject *)op;
    PyObject *got[5] = {NULL};
    double stale_after;
    if (al_args_sort(&signature, args, nargs, kwnames, got) < 0) {
        goto refused;
    }
    PyObject *context = got[3] == Py_None ? NULL : got[3];
    if (context != NULL && !PyContext_CheckExact(context)) {
        PyErr_Format(PyExc_TypeError,
                     "context is a contextvars.Context, got %.200R", context);
        goto refused;
    }
    if (registry_type_check_coro(self, got[0]) < 0
        || registry_type_threshold(self, got[2], &stale_after) < 0
        || al_registry_bind(self, "TaskRegistry.register()",
                            "registry.register, coro, task_id")
               < 0)
    {
        goto refused;
    }
    return al_register_coro(self, got[0], got[1], stale_after, context,
                            got[4]);
refused: /* nobody else can close the coroutine now, wherever it stands */
    for (Py_ssize_t i = 0; i < 4; i++) {
        PyObject *coro = i < nargs ? args[i] : got[i];
        al_coro_close_unstarted(self->st, coro == NULL ? Py_None : coro);
    }
    return NULL;
}

PyDoc_STRVAR(registry_type_track_doc,
"track($self, /, task, task_id=None, *, stale_after=math.inf)\n--\n\n"
"Register a Task that other code has made.\n\n"
"A Task that is done goes to the history at once.  A Task that is already\n"
"registered keeps its id.  While shutdown() runs, the Task is cancelled at\n"
"once.\n\n"
"Args:\n"
"    task: A Task of the running loop.\n"
"    task_id: Its id; None: the Task's name if it is free, else a new id.\n"
"    stale_after: As for register(), but never by default.\n\n"
"Returns:\n"
"    The id.\n\n"
"Raises:\n"
"    DuplicateTaskError: Another living task has the id, or the Task is\n"
"        registered under another one.\n"
"    TypeError, ValueError: An argument is wrong.\n"
"    RuntimeError: No loop runs in this thread, or the registry or the\n"
"        Task belongs to another loop or thread.");

static PyObject *
registry_type_track(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                    PyObject *kwnames)
{
    static const al_signature signature = {
        "track", 1, 2, 3, {"task", "task_id", "stale_after"},
    };
    RegistryObject *self = (RegistryObject *)op;
    PyObject *got[3] = {NULL};
    double stale_after = Py_HUGE_VAL;
    if (al_args_sort(&signature, args, nargs, kwnames, got) < 0
        || (got[2] != NULL
            && registry_type_threshold(self, got[2], &stale_after) < 0)
        || al_registry_bind(self, "TaskRegistry.track()",
                            "registry.track, task")
               < 0
        || al_task_check(self->st, &self->bound, got[0]) < 0)
    {
        if (got[0] != NULL) { /* maybe a coroutine */
            al_coro_close_unstarted(self->st, got[0]);
        }
        return NULL;
    }
    return al_register_task(self, got[0], got[1], stale_after);
}

/* -------------------------------------------------- heartbeat and complete */

/* Find the alive entry of an id.  Returns it (borrowed); NULL, without an
   exception, if there is none; NULL with TypeError or ValueError for an object
   that is no id. */
static EntryObject *
registry_type_alive(RegistryObject *self, PyObject *id)
{
    EntryObject *entry = NULL;
    if (PyUnicode_CheckExact(id) && PyUnicode_GET_LENGTH(id) > 0) {
        entry = al_registry_find(self, id);
    }
    else {
        PyObject *exact = al_register_check_id(self, id);
        if (exact == NULL) {
            return NULL;
        }
        entry = al_registry_find(self, exact);
        Py_DECREF(exact);
    }
    return entry == NULL || entry->ended ? NULL : entry;
}

/* Count a heartbeat that no live task has sent, and log the first one: an
   error of logging is written to stderr, for a heartbeat raises none.  Returns
   a Ready of False (new); NULL with SystemExit or KeyboardInterrupt. */
static PyObject *
registry_type_refuse_heartbeat(RegistryObject *self, PyObject *id)
{
    if (self->heartbeats_unknown++ == 0) {
        PyObject *none = PyObject_CallFunctionObjArgs(
            self->st->warn_unknown_heartbeat, (PyObject *)self,
            id == NULL ? Py_None : id, NULL);
        if (none == NULL && al_loop_is_exit(PyErr_Occurred())) {
            return NULL;
        }
        if (none == NULL) {
            PyErr_WriteUnraisable((PyObject *)self);
        }
        Py_XDECREF(none);
    }
    return Py_NewRef(self->st->ready_false);
}

PyDoc_STRVAR(registry_type_heartbeat_doc,
"heartbeat($self, /, task_id=None)\n--\n\n"
"Record a heartbeat of a task; this may be called from any thread.\n\n"
"Args:\n"
"    task_id: The task's id; None: that of current_id().\n\n"
"Returns:\n"
"    A Ready of True, or of False if no such task is alive, or current_id()\n"
"    is None.  That is counted, and the first one is logged at WARNING; it\n"
"    is no error, except in another thread without an id.\n\n"
"Raises:\n"
"    TypeError, ValueError: The id is not a non-empty str.\n"
"    RuntimeError: current_id() is None, in another thread than the loop's.");

PyDoc_STRVAR(registry_type_current_id_doc,
"current_id($self, /)\n--\n\n"
"Return the id of the registered task for which this code runs, or None.\n\n"
"That is the current task or, if it is not registered, the task that\n"
"started this code: as a child, an item of a batch, a callback, or a thread\n"
"of asyncio.to_thread().  None if that task has ended, or was passed to\n"
"track().");

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
                             ? al_owner_current(self, true)
                             : registry_type_alive(self, got[0]);
    if (entry == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        return registry_type_refuse_heartbeat(self, got[0]);
    }
    Py_INCREF((PyObject *)entry);
    double now = al_loop_time(self->st, &self->bound);
    int recorded = now == -1.0 && PyErr_Occurred()
                       ? -1
                       : al_heartbeats_record(&self->heartbeats, entry, now);
    Py_DECREF((PyObject *)entry);
    self->heartbeats_recorded += recorded > 0;
    self->heartbeats_unknown += recorded == 0; /* it ended meanwhile */
    return recorded < 0 ? NULL
                        : Py_NewRef(recorded ? self->st->ready_true
                                             : self->st->ready_false);
}

PyDoc_STRVAR(registry_type_complete_doc,
"complete($self, /, task_id, result=None, error=None)\n--\n\n"
"Set a task's outcome before the task ends.\n\n"
"The first call decides.  The end of the task changes nothing then; if the\n"
"task raises another exception, that is logged.  Until it ends, the task\n"
"stays alive: it is counted and can be cancelled.  A finished task is left\n"
"as it is.\n\n"
"Args:\n"
"    task_id: The task's id.\n"
"    result: The result of a task that is DONE.\n"
"    error: An exception: the task is FAILED, or CANCELLED if this is a\n"
"        CancelledError.  None: it is DONE.\n\n"
"Returns:\n"
"    A Ready of None.\n\n"
"Raises:\n"
"    UnknownTaskError: No task with this id is alive or in the history.\n"
"    TypeError: ``error`` is not an exception.\n"
"    RuntimeError: This is not the thread of the registry's loop.");

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
        PyErr_Format(PyExc_TypeError, "error is an exception, got %.200R",
                     error);
        al_coro_close_unstarted(self->st, error);
        return NULL;
    }
    PyObject *id = al_register_check_id(self, got[0]);
    if (id == NULL) {
        return NULL;
    }
    EntryObject *entry = al_registry_find(self, id);
    if (entry == NULL) {
        al_object_raise_about(self->st->UnknownTaskError,
                              "no task %U is alive or in the history", id);
        Py_DECREF(id);
        return NULL;
    }
    Py_DECREF(id);
    int set = al_ending_complete(self, entry, got[1], error);
    return set < 0 ? NULL : Py_NewRef(self->st->ready_none);
}

/* ---------------------------------------------------------------- cancel */

PyDoc_STRVAR(registry_type_cancel_doc,
"cancel($self, /, task_id, msg=None)\n--\n\n"
"Request the cancellation of a task, as Task.cancel() does.\n\n"
"Args:\n"
"    task_id: The task's id.\n"
"    msg: The message of the CancelledError.\n\n"
"Returns:\n"
"    A Ready of True if it was requested, of False if no such task lives.\n\n"
"Raises:\n"
"    TypeError, ValueError: An argument is wrong.\n"
"    RuntimeError: This is not the thread of the registry's loop.");

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
    int requested = al_registry_cancel(self, entry, got[1]);
    return requested < 0 ? NULL
                         : Py_NewRef(requested ? self->st->ready_true
                                               : self->st->ready_false);
}

PyDoc_STRVAR(registry_type_cancel_all_doc,
"cancel_all($self, /, msg=None)\n--\n\n"
"Request the cancellation of every task that is alive.\n\n"
"It does not wait for the tasks: wait() and shutdown() do.\n\n"
"Args:\n"
"    msg: The message of each CancelledError.\n\n"
"Returns:\n"
"    A Ready of the number of requests.\n\n"
"Raises:\n"
"    RuntimeError: This is not the thread of the registry's loop.");

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
    /* A cancellation may run code that registers or ends tasks. */
    PyObject *exit = NULL, *alive = al_registry_list(self, false);
    Py_ssize_t count = 0, n = alive == NULL ? -1 : PyList_GET_SIZE(alive);
    for (Py_ssize_t i = 0; i < n; i++) {
        EntryObject *entry = (EntryObject *)PyList_GET_ITEM(alive, i);
        PyObject *task = Py_XNewRef(entry->task);
        int requested =
            entry->ended ? 0 : al_registry_cancel(self, entry, got[0]);
        if (requested < 0) {
            al_loop_handle_error_keep_exit(self->st, self->bound.loop,
                                           "cancelling a task failed", task,
                                           &exit);
        }
        Py_XDECREF(task);
        count += requested > 0;
    }
    Py_XDECREF(alive);
    return n < 0 || al_loop_raise_exit(exit) < 0
               ? NULL
               : al_ready_new(self->st, AL_ALLOC(PyLong_FromSsize_t(count)));
}

/* --------------------------------------------------------------- reading */

/* The methods that these describe are in reading.c. */
PyDoc_STRVAR(registry_type_get_status_doc,
"get_status($self, /)\n--\n\n"
"Return a Ready of a dict, id to TaskMetadata.\n\n"
"The finished tasks of the history come first, then the tasks that are\n"
"alive, each oldest first.");

PyDoc_STRVAR(registry_type_get_stale_tasks_doc,
"get_stale_tasks($self, /)\n--\n\n"
"Return a Ready of the ids whose health is STALE, longest silence first.\n\n"
"Its cost depends on the number of stale tasks, not on the number of all.");

PyDoc_STRVAR(registry_type_newly_stale_doc,
"_newly_stale($self, /)\n--\n\n"
"Return the metadata of the stale tasks not reported in this silence yet.");

PyDoc_STRVAR(registry_type_counts_doc,
"_counts($self, /)\n--\n\n"
"Return the fields of RegistryStats, in their order.");

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
    PyObject *id = al_register_check_id(self, key);
    if (id == NULL) {
        return NULL;
    }
    EntryObject *entry = al_registry_find(self, id);
    if (entry == NULL) {
        al_object_raise_about(self->st->UnknownTaskError,
                              "no task %U is alive or in the history", id);
    }
    Py_DECREF(id);
    return Py_XNewRef((PyObject *)entry);
}

static PyObject *
registry_type_iter(PyObject *op)
{
    PyObject *list =
        al_reading_ids(al_registry_list((RegistryObject *)op, false));
    PyObject *iterator =
        list == NULL ? NULL : AL_ALLOC(PyObject_GetIter(list));
    Py_XDECREF(list);
    return iterator;
}

/* ------------------------------------------------------ for _registry.py */

PyDoc_STRVAR(registry_type_configure_doc,
"_configure($self, history, keep_results, keep_errors, on_finish, /)\n"
"--\n\n"
"Set those of the constructor's arguments that C needs; they are checked.");

static PyObject *
registry_type_configure(PyObject *op, PyObject *args)
{
    RegistryObject *self = (RegistryObject *)op;
    Py_ssize_t history, errors;
    int results;
    PyObject *on_finish;
    if (!PyArg_ParseTuple(args, "npnO:_configure", &history, &results, &errors,
                          &on_finish))
    {
        return NULL;
    }
    if (self->registered > 0 || al_registry_count(self) > 0) {
        return PyErr_Format(PyExc_RuntimeError, "this TaskRegistry is in use "
                                                "already: make a new one");
    }
    self->history_limit = history;
    self->errors_limit = errors;
    self->keep_results = results;
    Py_XSETREF(self->on_finish,
               on_finish == Py_None ? NULL : Py_NewRef(on_finish));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(registry_type_set_on_finish_doc,
"_set_on_finish($self, on_finish, /)\n"
"--\n\n"
"Replace on_finish, at any time; None: nobody is called.");

static PyObject *
registry_type_set_on_finish(PyObject *op, PyObject *on_finish)
{
    RegistryObject *self = (RegistryObject *)op;
    Py_XSETREF(self->on_finish,
               on_finish == Py_None ? NULL : Py_NewRef(on_finish));
    Py_RETURN_NONE;
}

/* The methods that these describe are in supervise.c and shutdown.c. */
PyDoc_STRVAR(registry_type_supervise_doc,
"_supervise($self, supervision, fn, task_id, stale_after, info, /)\n--\n\n"
"Register a Supervision and begin its first run; return a Ready of the id.");

PyDoc_STRVAR(registry_type_begin_shutdown_doc,
"_begin_shutdown($self, caller, whom, /)\n--\n\n"
"Begin a shutdown, or join the running one: queue every task but one.\n\n"
"caller: the Task to leave alone, or None.\n"
"whom: of the tasks that a shutdown has cancelled before, SHUTDOWN_AGAIN:\n"
"cancel them again; SHUTDOWN_ONCE: only wait for them;\n"
"SHUTDOWN_UNREPORTED: not even that if they were reported as stuck.\n"
"Returns the JoinSet, to cancel and to wait on, and how many are queued.\n"
"_end_shutdown() must follow.");

PyDoc_STRVAR(registry_type_note_shutdown_doc,
"_note_shutdown($self, meta, stuck, /)\n--\n\n"
"Note that a shutdown has cancelled a task and, if stuck is true, has\n"
"reported it as stuck.\n\n"
"Returns whether that was noted before.");

PyDoc_STRVAR(registry_type_list_alive_doc,
"_list_alive($self, /)\n--\n\nReturn the TaskMetadata of all alive tasks.");

PyDoc_STRVAR(registry_type_end_shutdown_doc,
"_end_shutdown($self, /)\n--\n\n"
"End one shutdown.\n\n"
"The last cancels what is still queued; then register() works again.\n"
"Returns how many tasks failed meanwhile without a record of their own.");

PyDoc_STRVAR(registry_type_bind_doc,
"_bind($self, what, /)\n--\n\n"
"Bind to the running loop, or check that it is the bound one.\n\n"
"what: the public call, for the text of the RuntimeError.");

static PyObject *
registry_type_bind(PyObject *op, PyObject *what)
{
    const char *text = PyUnicode_AsUTF8(what);
    if (text == NULL || al_registry_bind((RegistryObject *)op, text, NULL) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(registry_type_find_doc,
"_find($self, task, /)\n--\n\n"
"Return the metadata of an alive Task, or None.");

static PyObject *
registry_type_find(PyObject *op, PyObject *task)
{
    RegistryObject *self = (RegistryObject *)op;
    al_ptr_link *link = al_ptr_table_find(&self->heartbeats.by_task, task);
    return Py_NewRef(link == NULL ? Py_None
                                  : (PyObject *)AL_CONTAINER_OF(
                                        link, EntryObject, task_link));
}

/* An eager Task in its first step may be missing from the running shutdown:
   register() cancels it when create_task() returns. */
static PyObject *
registry_type_get_starting(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((RegistryObject *)op)->pending_starts != NULL);
}

static PyObject *
registry_type_get_stale_threshold(PyObject *op, void *Py_UNUSED(closure))
{
    RegistryObject *self = (RegistryObject *)op;
    return AL_ALLOC(
        PyFloat_FromDouble(self->heartbeats.thresholds->stale_after));
}

/* `value` is a float that _registry.py has checked. */
static int
registry_type_set_stale_threshold(PyObject *op, PyObject *value,
                                  void *Py_UNUSED(closure))
{
    RegistryObject *self = (RegistryObject *)op;
    if (value == NULL || !PyFloat_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "_stale_threshold is a float");
        return -1;
    }
    al_heartbeats_set_default(&self->heartbeats, PyFloat_AS_DOUBLE(value));
    return 0;
}

static PyObject *
registry_type_get_closing(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(al_registry_is_closing((RegistryObject *)op));
}

static PyGetSetDef registry_type_getset[] = {
    {"closing", registry_type_get_closing, NULL,
     "Whether a shutdown() is under way, during which register() raises\n"
     "ClosedError.  It is False again once the last concurrent call of\n"
     "shutdown() has returned, at its deadline or by a cancellation too.",
     NULL},
    {"_stale_threshold", registry_type_get_stale_threshold,
     registry_type_set_stale_threshold,
     "The stale_after of the tasks that have none of their own.", NULL},
    {"_starting", registry_type_get_starting, NULL,
     "Whether register() is making a Task, which shutdown() cannot see yet.",
     NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef registry_type_members[] = {
    {"_waiters", T_OBJECT_EX, offsetof(RegistryObject, waiters), READONLY,
     "The futures of wait(): they get None when at most one task is alive."},
    {"_joiners", T_OBJECT_EX, offsetof(RegistryObject, joiners), READONLY,
     "A dict of an alive TaskMetadata to the futures of join(), in a list:\n"
     "they get None at its end."},
    {"_loop", T_OBJECT, offsetof(RegistryObject, bound.loop), READONLY,
     "The bound loop, or None."},
    {NULL, 0, 0, 0, NULL},
};

/* ------------------------------------------------------------ GC and spec */

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
    al_list_init(&self->unfailed);
    self->history_limit = 1000;
    self->errors_limit = 20;
    self->keep_results = true;
    self->waiters = AL_ALLOC(PyList_New(0));
    self->joiners = self->waiters == NULL ? NULL : AL_ALLOC(PyDict_New());
    if (self->joiners == NULL
        || al_heartbeats_init(&self->heartbeats, st, &self->bound, 15.0) < 0)
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
    al_heartbeats_clear(&((RegistryObject *)op)->heartbeats);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef registry_type_methods[] = {
    {"register", AL_METHOD(registry_type_register),
     METH_FASTCALL | METH_KEYWORDS, registry_type_register_doc},
    {"track", AL_METHOD(registry_type_track),
     METH_FASTCALL | METH_KEYWORDS, registry_type_track_doc},
    {"heartbeat", AL_METHOD(registry_type_heartbeat),
     METH_FASTCALL | METH_KEYWORDS, registry_type_heartbeat_doc},
    {"current_id", al_owner_current_id, METH_NOARGS,
     registry_type_current_id_doc},
    {"complete", AL_METHOD(registry_type_complete),
     METH_FASTCALL | METH_KEYWORDS, registry_type_complete_doc},
    {"cancel", AL_METHOD(registry_type_cancel),
     METH_FASTCALL | METH_KEYWORDS, registry_type_cancel_doc},
    {"cancel_all", AL_METHOD(registry_type_cancel_all),
     METH_FASTCALL | METH_KEYWORDS, registry_type_cancel_all_doc},
    {"get_status", al_reading_get_status, METH_NOARGS,
     registry_type_get_status_doc},
    {"get_stale_tasks", al_reading_get_stale_tasks, METH_NOARGS,
     registry_type_get_stale_tasks_doc},
    {"_supervise", al_supervise_open, METH_VARARGS,
     registry_type_supervise_doc},
    {"_newly_stale", al_reading_newly_stale, METH_NOARGS,
     registry_type_newly_stale_doc},
    {"_counts", al_reading_counts, METH_NOARGS, registry_type_counts_doc},
    {"_configure", registry_type_configure, METH_VARARGS,
     registry_type_configure_doc},
    {"_set_on_finish", registry_type_set_on_finish, METH_O,
     registry_type_set_on_finish_doc},
    {"_begin_shutdown", al_shutdown_begin, METH_VARARGS,
     registry_type_begin_shutdown_doc},
    {"_note_shutdown", al_shutdown_note, METH_VARARGS,
     registry_type_note_shutdown_doc},
    {"_list_alive", al_shutdown_list, METH_NOARGS,
     registry_type_list_alive_doc},
    {"_end_shutdown", al_shutdown_end, METH_NOARGS,
     registry_type_end_shutdown_doc},
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
    {Py_tp_getset, registry_type_getset},
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
    if (al_shutdown_setup(module) < 0) {
        return -1;
    }
    return al_state_add_type(module, &st->Registry, &registry_type_spec, true);
}
