/* TaskRegistry's two ways in: register() and track().
 *
 * Everything is checked first; then the entry is in the books before its Task
 * is made, for an eager Task runs its first step while it is being made.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/args.h"
#include "base/list.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/create_task.h"
#include "aio/awaitable.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/registry.h"
#include "registry/register.h"

/* ------------------------------------------------------------- the books */

static int
register_rebind(RegistryObject *self, PyObject *loop, const char *what)
{
    int closed = al_loop_is_closed(self->st, self->bound.loop);
    if (closed < 0) {
        return -1;
    }
    if (al_registry_count(self) == 0 && closed) {
        return al_loop_bind(self->st, &self->bound, loop);
    }
    PyErr_Format(PyExc_RuntimeError,
                 "%s runs in %R, but this registry is bound to %R, %s: use "
                 "one registry per loop",
                 what, loop, self->bound.loop,
                 closed ? "where it still has tasks" : "which is not closed");
    return -1;
}

int
al_register_bind(RegistryObject *self, const char *what)
{
    PyObject *loop = al_loop_running(self->st, what);
    int bound = -1;
    if (loop != NULL && self->bound.loop == loop) {
        bound = al_loop_check_thread(self->st, &self->bound, what);
    }
    else if (loop != NULL) {
        bound = self->bound.loop == NULL
                    ? al_loop_bind(self->st, &self->bound, loop)
                    : register_rebind(self, loop, what);
    }
    Py_XDECREF(loop);
    return bound;
}

/* Put a new, alive entry under its id: in one look, for most ids are new.
   `*old` is set to a finished entry of that id (new), which goes.  1; 0 if a
   living entry has the id; -1 with an exception; both with nothing changed. */
static int
register_place(RegistryObject *self, EntryObject *entry, EntryObject **old)
{
    EntryObject *there = (EntryObject *)AL_ALLOC(
        PyDict_SetDefault(self->ids, entry->id, (PyObject *)entry));
    if (there == NULL || there == entry) {
        return there == NULL ? -1 : 1;
    }
    if (!there->ended) {
        return 0;
    }
    *old = (EntryObject *)Py_NewRef((PyObject *)there);
    int set =
        AL_ALLOC_INT(PyDict_SetItem(self->ids, entry->id, (PyObject *)entry));
    return set < 0 ? -1 : 1;
}

/* Put a new, alive entry under its id and into every order.  Returns 0; -1
   with an exception, nothing changed. */
static int
register_open(RegistryObject *self, EntryObject *entry, double stale_after)
{
    if (al_ptr_table_reserve(&self->beats.tasks) < 0
        || al_ptr_table_reserve(&self->beats.names) < 0)
    {
        return -1;
    }
    double now = al_loop_time(self->st, &self->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (self->ids == NULL) { /* the collector has been here */
        PyErr_SetString(PyExc_RuntimeError, "this TaskRegistry is gone");
        return -1;
    }
    entry->created = al_wall_clock();
    entry->birth = entry->last = now;
    entry->stale_after = stale_after;
    if (al_heartbeats_join(&self->beats, entry) < 0) {
        return -1;
    }
    /* Until all is in place nothing runs that could look for it. */
    EntryObject *old = NULL;
    int placed = register_place(self, entry, &old);
    if (placed <= 0) {
        al_heartbeats_leave(entry);
    }
    else {
        al_list_append(&self->alive, &entry->order);
        al_ptr_table_add(&self->beats.names, &entry->name, entry->id);
        if (old != NULL) {
            al_registry_unlink(self, old);
        }
    }
    Py_XDECREF((PyObject *)old);
    if (placed == 0) {
        PyErr_Format(self->st->DuplicateTaskError,
                     "a task %R is alive already: wait for it, cancel it, or "
                     "choose another id",
                     entry->id);
    }
    return placed > 0 ? 0 : -1;
}

/* Take an entry out again, as if it had never been. */
static void
register_revoke(RegistryObject *self, EntryObject *entry)
{
    PyObject *error = PyErr_GetRaisedException();
    if (entry->ended) {
        al_registry_unlink(self, entry);
        self->ended[entry->outcome]--;
    }
    al_heartbeats_leave(entry);
    al_link_unlink(&entry->order);
    al_registry_forget(self, entry);
    Py_CLEAR(entry->owner);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* Give an alive entry its Task.  Pure C. */
static void
register_give(RegistryObject *self, EntryObject *entry, PyObject *task)
{
    entry->task = Py_NewRef(task);
    al_ptr_table_add(&self->beats.tasks, &entry->key, task);
}

/* Give an alive entry its Task and hear of its end.  Returns 0; -1 with an
   exception, the entry without a Task. */
static int
register_attach(RegistryObject *self, EntryObject *entry, PyObject *task)
{
    register_give(self, entry, task);
    if (al_task_add_done_callback(self->st, &self->bound, task,
                                  (PyObject *)entry)
        < 0)
    {
        al_ptr_table_remove(&self->beats.tasks, &entry->key);
        Py_CLEAR(entry->task);
        return -1;
    }
    return 0;
}

/* The birth that a running, still unknown task belongs to. */
static EntryObject *
register_newborn(RegistryObject *self, PyObject *task)
{
    PyObject *coro = al_task_coro(self->st, task);
    if (coro == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear(); /* a task of another make: not one of ours */
        }
        return NULL;
    }
    EntryObject *found = NULL;
    for (al_birth *at = self->births; at != NULL; at = at->outer) {
        if (at->entry->coro == coro && at->entry->task == NULL) {
            found = at->entry;
        }
    }
    Py_DECREF(coro);
    if (found != NULL && register_attach(self, found, task) < 0) {
        return NULL;
    }
    return found;
}

EntryObject *
al_register_current(RegistryObject *self)
{
    if (self->bound.loop == NULL
        || al_loop_check_thread(self->st, &self->bound,
                                "TaskRegistry.heartbeat() without an id")
               < 0)
    {
        return NULL;
    }
    PyObject *task = al_loop_current_task(self->st, &self->bound);
    if (task == NULL) {
        return NULL;
    }
    al_ptr_link *link = al_ptr_table_find(&self->beats.tasks, task);
    EntryObject *entry =
        link == NULL ? NULL : AL_CONTAINER_OF(link, EntryObject, key);
    if (entry == NULL && task != Py_None && self->births != NULL) {
        entry = register_newborn(self, task);
    }
    Py_DECREF(task);
    return entry;
}

/* ------------------------------------------------------------- arguments */

static int
register_threshold(RegistryObject *self, PyObject *value, double *seconds)
{
    *seconds = self->beats.rings->stale_after;
    return value == NULL || value == Py_None
               ? 0
               : al_args_seconds("stale_after", value, seconds);
}

/* "task_<number>" (new).  Written by hand, since printf takes longer than all
   the rest of the books. */
static PyObject *
register_number_id(unsigned long long number)
{
    static const char prefix[] = {'t', 'a', 's', 'k', '_'};
    char text[32];
    char *end = text + sizeof(text);
    char *at = end;
    do {
        *--at = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    at -= sizeof(prefix);
    memcpy(at, prefix, sizeof(prefix));
    return AL_ALLOC(PyUnicode_FromStringAndSize(at, end - at));
}

/* An id that is given, or the next free "task_<n>" (new).  While none was
   given each of these is free. */
static PyObject *
register_new_id(RegistryObject *self, PyObject *given)
{
    if (given != NULL && given != Py_None) {
        self->ids_given = true;
        return al_args_id(given);
    }
    for (;;) {
        PyObject *id = register_number_id(self->next_id++);
        if (id == NULL || !self->ids_given
            || al_registry_find(self, id) == NULL)
        {
            return id;
        }
        Py_DECREF(id);
    }
}

/* Refuse what is not a fresh coroutine.  Returns 0; -1 with the error. */
static int
register_check_coro(RegistryObject *self, PyObject *coro)
{
    if (!PyCoro_CheckExact(coro)) {
        PyObject *answer = PyObject_CallOneArg(self->st->iscoroutine, coro);
        int is = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
        if (is == 0) {
            PyErr_Format(PyExc_TypeError,
                         "register() takes a coroutine, got %R%s", coro,
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
                     "%R has been started already: pass a fresh coroutine",
                     coro);
    }
    return started == 0 ? 0 : -1;
}

/* -------------------------------------------------------------- register */

int
al_register_drain(RegistryObject *self, EntryObject *entry)
{
    PyObject *drain = self->drain;
    if (drain == NULL || entry->task == NULL || entry->node != NULL) {
        return 0;
    }
    Py_INCREF(drain);
    PyObject *node = al_join_set_add(drain, entry->task, (PyObject *)entry);
    Py_DECREF(drain);
    if (node == NULL) {
        return -1;
    }
    entry->node = Py_NewRef(node);
    al_member_cancel(node);
    Py_DECREF(node);
    return 0;
}

void
al_register_drained(RegistryObject *self)
{
    if (self->drainers > 0 || self->drain == NULL) {
        return;
    }
    al_link *at = self->alive.next;
    while (at != &self->alive) {
        EntryObject *entry = (EntryObject *)Py_NewRef(
            (PyObject *)AL_CONTAINER_OF(at, EntryObject, order));
        Py_CLEAR(entry->node);
        /* Should that have run anything that ended it: from the start. */
        at = entry->ended || !al_link_is_in(at) ? self->alive.next : at->next;
        Py_DECREF((PyObject *)entry);
    }
    Py_CLEAR(self->drain);
}

/* Take back an entry whose Task could not be made, or not be watched: that one
   is cancelled and has the coroutine, else it is closed. */
static void
register_fail(RegistryObject *self, EntryObject *entry, PyObject *coro,
              PyObject *task)
{
    register_revoke(self, entry);
    if (task != NULL) {
        PyObject *error = PyErr_GetRaisedException();
        if (al_task_cancel(self->st, task, NULL) < 0) {
            PyErr_Clear(); /* what a task factory made need not be a Task */
            Py_CLEAR(task);
        }
        PyErr_SetRaisedException(error);
    }
    if (task == NULL) {
        al_coro_close_unstarted(self->st, coro);
    }
    Py_XDECREF(task);
}

/* Make the Task of an entry that is in the books (new). */
static PyObject *
register_start(RegistryObject *self, EntryObject *entry, PyObject *coro,
               PyObject *context)
{
    al_birth birth = {self->births, entry, NULL, false};
    self->births = &birth;
    self->unborn++;
    entry->coro = coro;
    al_created how;
    PyObject *task =
        al_create_task_named(self->st, &self->bound, coro, entry->id, context,
                             (PyObject *)entry, &how);
    self->births = birth.outer;
    self->unborn--;
    entry->coro = NULL;
    bool missing = entry->task == NULL && entry->ring != NULL;
    if (task != NULL && missing && how == AL_CREATED_WATCHED) {
        register_give(self, entry, task);
    }
    else if (task == NULL
             || (missing && register_attach(self, entry, task) < 0))
    {
        Py_XDECREF(birth.msg);
        register_fail(self, entry, coro, task);
        return NULL;
    }
    self->registered++;
    if ((birth.cancelled && al_registry_cancel(self, entry, birth.msg) < 0)
        || (!entry->spared && al_register_drain(self, entry) < 0))
    {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "cancelling a new task failed", task);
    }
    Py_XDECREF(birth.msg);
    return task;
}

/* register(), its arguments checked but for the id; sees to the coroutine of
   an error too.  All that can fail is made before the Task. */
static PyObject *
register_start_coro(RegistryObject *self, PyObject *coro, PyObject *given,
                    double stale_after, PyObject *context)
{
    PyObject *id = register_new_id(self, given);
    PyObject *pair = NULL;
    PyObject *ready = NULL;
    PyObject *task = NULL;
    EntryObject *entry =
        id == NULL ? NULL : al_entry_new(self->st, (PyObject *)self, id);
    if (entry != NULL) {
        /* The entry holds the Task's place: something that the collector
           looks at, else it would look at the pair never again. */
        pair = AL_ALLOC(PyTuple_Pack(2, (PyObject *)entry, id));
        ready = al_ready_new(self->st, pair);
    }
    if (ready != NULL && register_open(self, entry, stale_after) == 0) {
        task = register_start(self, entry, coro, context);
    }
    else {
        al_coro_close_unstarted(self->st, coro);
    }
    if (task == NULL) {
        Py_CLEAR(ready);
    }
    else {
        PyTuple_SET_ITEM(pair, 0, task);
        Py_DECREF((PyObject *)entry); /* the pair's */
    }
    Py_XDECREF((PyObject *)entry);
    Py_XDECREF(id);
    return ready;
}

const char al_register_register_doc[] =
    "register($self, /, coro, task_id=None, *, stale_after=None, context=None)\n"
    "--\n\n"
    "Start a coroutine as a Task and keep it under an id.\n\n"
    "coro: a coroutine that has not been started.  task_id: a non-empty str that\n"
    "no living task has; without one \"task_0\", \"task_1\", ..., never again the\n"
    "same.  stale_after: seconds of silence after which it is stale; None: the\n"
    "registry's threshold, math.inf: never.  context: as for create_task().\n\n"
    "Returns a Ready of (task, id).  The Task's name is the id.\n"
    "Raises DuplicateTaskError, TypeError, ValueError, RuntimeError (no running\n"
    "loop, another loop or thread); the coroutine is then closed if it has not\n"
    "started, and nothing has changed.\n"
    "While shutdown() runs, a new task is cancelled at once.\n\n"
    "Source: the articles' TaskRegistry.register.";

PyObject *
al_register_register(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                     PyObject *kwnames)
{
    static const al_signature signature = {
        "register", 1, 2, 4, {"coro", "task_id", "stale_after", "context"},
    };
    RegistryObject *self = (RegistryObject *)op;
    PyObject *got[4] = {NULL};
    double stale_after;
    if (al_args_sort(&signature, args, nargs, kwnames, got) < 0) {
        goto refused;
    }
    PyObject *context = got[3] == Py_None ? NULL : got[3];
    if (context != NULL && !PyContext_CheckExact(context)) {
        PyErr_Format(PyExc_TypeError,
                     "context is a contextvars.Context, got %R", context);
        goto refused;
    }
    if (register_check_coro(self, got[0]) < 0
        || register_threshold(self, got[2], &stale_after) < 0
        || al_register_bind(self, "TaskRegistry.register()") < 0)
    {
        goto refused;
    }
    return register_start_coro(self, got[0], got[1], stale_after, context);
refused:
    if (nargs > 0 || got[0] != NULL) {
        al_coro_close_unstarted(self->st, nargs > 0 ? args[0] : got[0]);
    }
    return NULL;
}

/* ----------------------------------------------------------------- track */

/* The id for a Task that is not known: its own name if that is free (new). */
static PyObject *
register_track_id(RegistryObject *self, PyObject *task, PyObject *given)
{
    self->ids_given = true;
    if (given != NULL && given != Py_None) {
        return al_args_id(given);
    }
    PyObject *name = al_task_name(self->st, task);
    if (name == NULL) {
        return NULL;
    }
    PyObject *id = PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) > 0
                       ? al_args_id(name)
                       : NULL;
    Py_DECREF(name);
    if (id == NULL && PyErr_Occurred()) {
        return NULL;
    }
    EntryObject *known = id == NULL ? NULL : al_registry_find(self, id);
    if (id == NULL || (known != NULL && !known->ended)) {
        Py_XDECREF(id);
        return register_new_id(self, NULL);
    }
    return id;
}

/* The id of a Task that is known already (new): another one is refused. */
static PyObject *
register_known_id(RegistryObject *self, EntryObject *entry, PyObject *given)
{
    if (given != NULL && given != Py_None) {
        PyObject *id = al_args_id(given);
        int same = id == NULL ? -1 : PyUnicode_Compare(id, entry->id) == 0;
        Py_XDECREF(id);
        if (same == 0) {
            PyErr_Format(self->st->DuplicateTaskError,
                         "the task is known as %R already, not as %R",
                         entry->id, given);
        }
        if (same <= 0) {
            return NULL;
        }
    }
    return Py_NewRef(entry->id);
}

/* Put an unknown Task into the books; steals the id, which it answers. */
static PyObject *
register_adopt(RegistryObject *self, PyObject *task, PyObject *id,
               double stale_after)
{
    EntryObject *entry = al_entry_new(self->st, (PyObject *)self, id);
    int done = entry == NULL ? -1 : al_task_done(self->st, task);
    if (done < 0 || register_open(self, entry, stale_after) < 0) {
        goto failed;
    }
    if (register_attach(self, entry, task) < 0) {
        register_revoke(self, entry);
        goto failed;
    }
    self->registered++;
    if (done && al_registry_close(entry) < 0) {
        goto failed; /* SystemExit or KeyboardInterrupt of somebody told */
    }
    if (!done
        && (al_entry_started(entry) < 0 || al_register_drain(self, entry) < 0))
    {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "cancelling a new task failed", task);
    }
    Py_DECREF((PyObject *)entry);
    return id;
failed:
    Py_XDECREF((PyObject *)entry);
    Py_DECREF(id);
    return NULL;
}

const char al_register_track_doc[] =
    "track($self, /, task, task_id=None, *, stale_after=math.inf)\n--\n\n"
    "Keep a Task that somebody else has made.\n\n"
    "task: a Task of the running loop.  task_id: its id; without one the Task's\n"
    "name if it is free, else a new id.  stale_after: as for register(), but\n"
    "never by default.\n\n"
    "Returns the id.  A Task that is done goes to the history at once; one that\n"
    "is known keeps its id.\n"
    "Raises DuplicateTaskError, TypeError, ValueError, RuntimeError.";

PyObject *
al_register_track(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const al_signature signature = {
        "track", 1, 2, 3, {"task", "task_id", "stale_after"},
    };
    RegistryObject *self = (RegistryObject *)op;
    PyObject *got[3];
    double stale_after = Py_HUGE_VAL;
    if (al_args_sort(&signature, args, nargs, kwnames, got) < 0
        || (got[2] != NULL
            && register_threshold(self, got[2], &stale_after) < 0)
        || al_register_bind(self, "TaskRegistry.track()") < 0
        || al_task_check(self->st, &self->bound, got[0]) < 0)
    {
        return NULL;
    }
    al_ptr_link *link = al_ptr_table_find(&self->beats.tasks, got[0]);
    if (link != NULL) {
        return register_known_id(self, AL_CONTAINER_OF(link, EntryObject, key),
                                 got[1]);
    }
    PyObject *id = register_track_id(self, got[0], got[1]);
    return id == NULL ? NULL : register_adopt(self, got[0], id, stale_after);
}
