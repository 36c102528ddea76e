/* The core of TaskRegistry.register() and track(), without argument parsing.
 *
 * The order of events of register():
 *
 *     refuse the coroutine while a shutdown() runs
 *     make the entry, the pair (task, id) and its Ready
 *     al_registry_open(): the entry has its id and is pending
 *     push an al_pending_start
 *     create_task()
 *      |    An eager Task runs its first step here.  The step may call
 *      |    heartbeat(), cancel(), shutdown() or another register();
 *      |    the registry finds its entry by the coroutine.
 *     pop the al_pending_start
 *     give the entry its Task, whose done callback the entry is
 *     cancel the Task if cancel() came too early, or the step above began
 *      a shutdown()
 *
 * Everything that can fail for want of memory comes before create_task(),
 * where nothing has happened that the user could see.
 *
 * A heartbeat() without an id in the eager first step gives the entry its Task
 * in the middle of create_task(), and code of the user may even end the entry.
 * Therefore register_start() looks at the entry again afterwards.  The done
 * callback is added there in any case: what on_finish sees is the context of
 * register()'s caller, with the entry as its owner, not what the Task has set
 * meanwhile.
 *
 * track() is simpler, for the Task exists: open, attach, and close at once if
 * the Task is done.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/args.h"
#include "base/ptr_table.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/create_task.h"
#include "aio/awaitable.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/ending.h"
#include "registry/owner.h"
#include "registry/register.h"
#include "registry/shutdown.h"

/* ------------------------------------------------------------------- ids */

PyObject *
al_register_check_id(RegistryObject *self, PyObject *id)
{
    PyObject *exact = al_args_id(id);
    if (exact == NULL) {
        al_coro_close_unstarted(self->st, id);
    }
    return exact;
}

/* Make "task_<number>" (new).  By hand: PyUnicode_FromFormat() takes longer
   than all the rest of opening an entry. */
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

/* Make an exact str of a given id, or the next free "task_<n>" (new).  While
   no id was given, each of these is free. */
static PyObject *
register_new_id(RegistryObject *self, PyObject *given)
{
    if (given != NULL && given != Py_None) {
        self->ids_given = true;
        return al_register_check_id(self, given);
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

/* -------------------------------------------------------------- register */

/* Make the Task of an open entry, which is its done callback, called in
   done_context or, if that is NULL, a copy of the current one (new).  NULL
   with an exception, with *failed set if there was a Task, which could not be
   attached (new). */
static PyObject *
register_create(RegistryObject *self, EntryObject *entry, PyObject *coro,
                PyObject *context, PyObject *done_context, PyObject **failed)
{
    al_created how;
    al_on_done on_done = {(PyObject *)entry, done_context};
    PyObject *name = al_object_cut(entry->id.text);
    PyObject *task = name == NULL
                         ? NULL
                         : al_create_task_named(self->st, &self->bound, coro,
                                                name, context, on_done, &how);
    Py_XDECREF(name);
    bool alive = entry->threshold != NULL;
    if (task != NULL && alive && how == AL_CREATED_WATCHED) {
        al_registry_set_task(self, entry, task);
    }
    else if (task != NULL && alive
             && al_registry_attach(self, entry, task, done_context) < 0)
    {
        *failed = task;
        return NULL;
    }
    return task;
}

/* register_create() in a context that has the entry as its owner.  The Task
   copies the current context: a task factory shall see the keywords that
   asyncio would show it, so no context is passed that the caller has not.  The
   context that is copied serves for the done callback. */
static PyObject *
register_create_owned(RegistryObject *self, EntryObject *entry, PyObject *coro,
                      PyObject *context, PyObject **failed)
{
    PyObject *copy = NULL;
    if (context == NULL) {
        copy = AL_ALLOC(PyContext_CopyCurrent());
        if (copy == NULL || al_owner_set(self, entry, copy, true) < 0) {
            Py_XDECREF(copy);
            return NULL;
        }
    }
    else if (al_owner_set(self, entry, context, false) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_RuntimeError)) {
            return NULL;
        }
        PyErr_Clear(); /* it runs code now, and keeps the owner of that */
    }
    PyObject *task = register_create(self, entry, coro, context, copy, failed);
    if (copy != NULL) {
        al_owner_exit(self, copy);
        Py_DECREF(copy);
    }
    return task;
}

/* Make the Task of an open entry, by register_create_owned() or, if `owned` is
   set, in the context that is current (new).  NULL with an exception, with
   *failed as there.  The latter is for a supervised entry, which is registered
   already. */
static PyObject *
register_start(RegistryObject *self, EntryObject *entry, PyObject *coro,
               PyObject *context, bool owned, PyObject **failed)
{
    al_pending_start start = {self->pending_starts, entry, NULL, false};
    self->pending_starts = &start;
    entry->coro = coro;
    PyObject *task =
        owned ? register_create(self, entry, coro, NULL, context, failed)
              : register_create_owned(self, entry, coro, context, failed);
    self->pending_starts = start.outer;
    entry->coro = NULL;
    self->registered += task != NULL && !owned;
    /* Once the Task exists, an error must not be raised: the caller would
       never get the Task. */
    if (task != NULL
        && ((start.cancelled && al_registry_cancel(self, entry, start.msg) < 0)
            || (self->join_set != NULL && !entry->calls_shutdown
                && al_shutdown_add(self, entry) < 0)))
    {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "cancelling a new task failed", task);
    }
    Py_XDECREF(start.msg);
    return task;
}

/* Cancel a Task that could not be attached (stolen), or if there is none close
   the coroutine. */
static void
register_drop(RegistryObject *self, PyObject *coro, PyObject *task)
{
    if (task != NULL) {
        PyObject *error = PyErr_GetRaisedException();
        if (al_task_cancel(self->st, task, NULL) < 0) {
            PyErr_Clear(); /* a task factory may return something else */
            Py_CLEAR(task);
        }
        PyErr_SetRaisedException(error);
    }
    if (task == NULL) {
        al_coro_close_unstarted(self->st, coro);
    }
    Py_XDECREF(task);
}

PyObject *
al_register_run(RegistryObject *self, EntryObject *entry, PyObject *coro,
                PyObject *context)
{
    PyObject *failed = NULL;
    PyObject *task = register_start(self, entry, coro, context, true, &failed);
    if (task == NULL) {
        register_drop(self, coro, failed);
    }
    return task;
}

/* Make the pair (task, id) before there is a Task (new).  The entry holds its
   place: a pair without an object that the collector tracks would be untracked
   at its first collection, and stay so. */
static PyObject *
register_pair(PyObject *entry, PyObject *id)
{
    PyObject *pair = AL_ALLOC(PyTuple_New(2));
    if (pair != NULL) {
        PyTuple_SET_ITEM(pair, 0, Py_NewRef(entry));
        PyTuple_SET_ITEM(pair, 1, Py_NewRef(id));
    }
    return pair;
}

/* Give a new entry the user's info, which may be NULL.  -1 with MemoryError.
 */
static int
register_set_info(EntryObject *entry, PyObject *info)
{
    if (info == NULL || info == Py_None) {
        return 0;
    }
    al_entry_extras *extras = al_entry_extend(entry);
    if (extras == NULL) {
        return -1;
    }
    extras->info = Py_NewRef(info);
    return 0;
}

int
al_register_check_open(RegistryObject *self, PyObject *given)
{
    if (!al_registry_is_closing(self)) {
        return 0;
    }
    if (given == NULL || given == Py_None) {
        PyErr_SetString(self->st->ClosedError,
                        "no task can be registered while the registry shuts "
                        "down: ask registry.closing first");
    }
    else {
        PyErr_Format(self->st->ClosedError,
                     "task %.100R cannot be registered while the registry "
                     "shuts down: ask registry.closing first",
                     given);
    }
    return -1;
}

PyObject *
al_register_coro(RegistryObject *self, PyObject *coro, PyObject *given,
                 double stale_after, PyObject *context, PyObject *info)
{
    if (al_register_check_open(self, given) < 0) {
        al_coro_close_unstarted(self->st, coro);
        return NULL;
    }
    PyObject *id = register_new_id(self, given);
    PyObject *pair = NULL;
    PyObject *ready = NULL;
    PyObject *task = NULL;
    EntryObject *entry =
        id == NULL ? NULL : al_entry_new(self->st, (PyObject *)self, id);
    if (entry != NULL && register_set_info(entry, info) == 0) {
        pair = register_pair((PyObject *)entry, id);
        ready = al_ready_new(self->st, pair);
    }
    if (ready != NULL && al_registry_open(self, entry, stale_after) == 0) {
        PyObject *failed = NULL;
        task = register_start(self, entry, coro, context, false, &failed);
        if (task == NULL) {
            al_registry_revoke(self, entry);
            register_drop(self, coro, failed);
        }
    }
    else {
        al_coro_close_unstarted(self->st, coro);
    }
    if (task == NULL) {
        Py_CLEAR(ready);
    }
    else {
        PyTuple_SET_ITEM(pair, 0, task);
        Py_DECREF((PyObject *)entry); /* the pair's reference */
    }
    Py_XDECREF((PyObject *)entry);
    Py_XDECREF(id);
    return ready;
}

/* ----------------------------------------------------------------- track */

/* Choose the id of an unregistered Task (new): its own name, if that is free.
   NULL with an exception. */
static PyObject *
register_track_id(RegistryObject *self, PyObject *task, PyObject *given)
{
    /* The Task's name may be "task_7" too. */
    self->ids_given = true;
    if (given != NULL && given != Py_None) {
        return al_register_check_id(self, given);
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

/* Return the id of a registered Task (new).  Another id is refused. */
static PyObject *
register_known_id(RegistryObject *self, EntryObject *entry, PyObject *given)
{
    if (given != NULL && given != Py_None) {
        PyObject *id = al_register_check_id(self, given);
        int same =
            id == NULL ? -1 : PyUnicode_Compare(id, entry->id.text) == 0;
        Py_XDECREF(id);
        if (same == 0) {
            PyErr_Format(self->st->DuplicateTaskError,
                         "the task is known as %.120R already, not as %.120R",
                         entry->id.text, given);
        }
        if (same <= 0) {
            return NULL;
        }
    }
    return Py_NewRef(entry->id.text);
}

/* Register an unregistered Task.  Steals the id, and returns it. */
static PyObject *
register_adopt(RegistryObject *self, PyObject *task, PyObject *id,
               double stale_after)
{
    EntryObject *entry = al_entry_new(self->st, (PyObject *)self, id);
    int done = entry == NULL ? -1 : al_task_done(self->st, task);
    if (done < 0 || al_registry_open(self, entry, stale_after) < 0) {
        goto failed;
    }
    if (al_registry_attach(self, entry, task, NULL) < 0) {
        al_registry_revoke(self, entry);
        goto failed;
    }
    self->registered++;
    if (done && al_ending_close(entry) < 0) {
        goto failed; /* SystemExit or KeyboardInterrupt of on_finish */
    }
    if (!done
        && (al_heartbeats_started(entry, true) < 0
            || al_shutdown_add(self, entry) < 0))
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

PyObject *
al_register_task(RegistryObject *self, PyObject *task, PyObject *given,
                 double stale_after)
{
    al_ptr_link *link = al_ptr_table_find(&self->heartbeats.by_task, task);
    if (link != NULL) {
        return register_known_id(
            self, AL_CONTAINER_OF(link, EntryObject, task_link), given);
    }
    PyObject *id = register_track_id(self, task, given);
    return id == NULL ? NULL : register_adopt(self, task, id, stale_after);
}
