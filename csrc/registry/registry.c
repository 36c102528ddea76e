/* A TaskRegistry's data and verbs, without argument parsing.
 *
 * Who owns whom:
 *
 *     Registry --by_id (table)---> entry, alive or ended
 *     Registry --waiters (list)--> the futures of wait()
 *     Registry --joiners (dict)--> entry, and the futures of join()
 *     Registry --join_set--------> JoinSet of the running shutdown()
 *     Task ----done callback-----> entry
 *     entry, while alive --------> Registry, Task, JoinSetMember
 *     entry, once ended ---------> result or exception, error_text
 *
 * `alive`, `history`, `errors`, `unfailed` and the heartbeat lists own
 * nothing: their links are members of the entries, which leave them before
 * they are freed.
 * An alive entry and its Registry own each other, on purpose: a Task keeps its
 * registry alive until it ends, even if nobody else does.  The cycle is cut by
 * al_ending_close(), or by the collector once the Task is garbage too.
 *
 * Re-entrancy.  The ids are exact str objects, so a lookup calls no code of
 * the user.  Each decref of a result may; ending.c says what else.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/object.h"
#include "base/ptr_table.h"
#include "base/str_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/capture.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/owner.h"
#include "registry/supervise.h"

/* --------------------------------------------------------- the event loop */

/* Bind to another loop than before, if the old one is closed and no Task is
   left on it.  Returns 0; -1 with RuntimeError. */
static int
registry_rebind(RegistryObject *self, PyObject *loop, const char *what)
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
al_registry_bind(RegistryObject *self, const char *what, const char *call)
{
    /* The usual case costs one comparison: the registry is bound already. */
    PyObject *loop = al_loop_running(self->st, what);
    if (loop == NULL && call != NULL
        && PyErr_ExceptionMatches(PyExc_RuntimeError))
    {
        PyErr_Format(PyExc_RuntimeError,
                     "%s needs a running event loop: call it from a coroutine "
                     "or a callback of the loop; in another thread, write "
                     "loop.call_soon_threadsafe(%s) or, to get its result, "
                     "await it in a coroutine that "
                     "asyncio.run_coroutine_threadsafe() runs",
                     what, call);
    }
    int bound = -1;
    if (loop != NULL && self->bound.loop == loop) {
        bound = al_loop_check_thread(self->st, &self->bound, what);
    }
    else if (loop != NULL) {
        bound = self->bound.loop == NULL
                    ? al_loop_bind(self->st, &self->bound, loop)
                    : registry_rebind(self, loop, what);
    }
    Py_XDECREF(loop);
    return bound;
}

/* -------------------------------------------------------- open and revoke */

void
al_registry_unlink(RegistryObject *self, EntryObject *entry)
{
    if (al_link_is_in(&entry->heartbeat_link)) {
        al_link_unlink(&entry->heartbeat_link);
        self->errors_count -= entry->outcome == AL_FAILED;
    }
    if (al_link_is_in(&entry->registry_link)) {
        al_link_unlink(&entry->registry_link);
        self->history_count--;
    }
}

void
al_registry_forget(RegistryObject *self, EntryObject *entry)
{
    assert(al_registry_find(self, entry->id.text) == entry);
    al_str_table_remove(&self->by_id, &entry->id);
    Py_DECREF((PyObject *)entry);
}

int
al_registry_open(RegistryObject *self, EntryObject *entry, double stale_after)
{
    /* Room in both tables now: al_registry_set_task() must not fail once there
       is a Task. */
    if (al_ptr_table_reserve(&self->heartbeats.by_task) < 0
        || al_str_table_reserve(&self->by_id) < 0)
    {
        return -1;
    }
    double now = al_loop_time(self->st, &self->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (self->gone) {
        PyErr_SetString(PyExc_RuntimeError, "this TaskRegistry is gone");
        return -1;
    }
    /* From here until the entry is everywhere, no code of the user runs:
       nobody sees it in one list and misses it in another. */
    EntryObject *old = al_registry_find(self, entry->id.text);
    if (old != NULL && !old->ended) {
        al_object_raise_about(self->st->DuplicateTaskError,
                              "a task %U is alive already: wait for it, "
                              "cancel it, or choose another id",
                              entry->id.text);
        return -1;
    }
    entry->created_at = al_wall_clock();
    entry->registered_at = entry->last_heartbeat = now;
    entry->stale_after = stale_after;
    if (al_heartbeats_add(&self->heartbeats, entry) < 0) {
        return -1;
    }
    al_list_append(&self->alive, &entry->registry_link);
    if (old != NULL) {
        al_registry_unlink(self, old);
        al_str_table_remove(&self->by_id, &old->id);
    }
    Py_INCREF((PyObject *)entry);
    al_str_table_add(&self->by_id, &entry->id);
    Py_XDECREF((PyObject *)old); /* may run code of the user, and may now */
    return 0;
}

void
al_registry_revoke(RegistryObject *self, EntryObject *entry)
{
    PyObject *error = PyErr_GetRaisedException();
    if (entry->ended) { /* in the call that failed afterwards */
        al_registry_unlink(self, entry);
        self->ended[entry->outcome]--;
        al_registry_count_duration(self, entry, -1);
    }
    al_heartbeats_remove(entry);
    al_owner_end(entry);
    al_link_unlink(&entry->registry_link);
    if (al_registry_find(self, entry->id.text)
        == entry) { /* not another one */
        al_registry_forget(self, entry);
    }
    Py_CLEAR(entry->registry);
    PyObject *member = entry->member;
    entry->member = NULL;
    if (member != NULL) { /* a shutdown began in the Task's eager first step */
        al_exit_origin origin = {entry->id.text, 0.0, 0.0};
        al_member_end(member, AL_CANCELLED, NULL, &origin);
        Py_DECREF(member);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* ----------------------------------------------------- attach and current */

int
al_registry_attach(RegistryObject *self, EntryObject *entry, PyObject *task,
                   PyObject *context)
{
    if (entry->task == NULL) {
        al_registry_set_task(self, entry, task);
    }
    if (al_task_add_done_callback(self->st, task, (PyObject *)entry, context)
        < 0)
    {
        al_ptr_table_remove(&self->heartbeats.by_task, &entry->task_link);
        Py_CLEAR(entry->task);
        return -1;
    }
    return 0;
}

/* Find the pending start of a running Task that no entry has yet, by its
   coroutine, and give the entry its Task.  register() attaches it later, in
   the context of its caller.  Returns the entry (borrowed); NULL if there is
   none, or with an exception. */
static EntryObject *
registry_find_start(RegistryObject *self, PyObject *task)
{
    PyObject *coro = al_task_coro(self->st, task);
    if (coro == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear(); /* not an asyncio Task, so not ours */
        }
        return NULL;
    }
    /* With nested calls of register() there are several; coroutines differ. */
    EntryObject *found = NULL;
    for (al_pending_start *at = self->pending_starts; at != NULL;
         at = at->outer)
    {
        if (at->entry->coro == coro && at->entry->task == NULL) {
            found = at->entry;
        }
    }
    Py_DECREF(coro);
    if (found != NULL) {
        al_registry_set_task(self, found, task);
    }
    return found;
}

EntryObject *
al_registry_current(RegistryObject *self)
{
    PyObject *task = al_loop_current_task(self->st, &self->bound);
    if (task == NULL) {
        return NULL;
    }
    al_ptr_link *link = al_ptr_table_find(&self->heartbeats.by_task, task);
    EntryObject *entry =
        link == NULL ? NULL : AL_CONTAINER_OF(link, EntryObject, task_link);
    if (entry == NULL && task != Py_None && self->pending_starts != NULL) {
        entry = registry_find_start(self, task);
    }
    Py_DECREF(task);
    return entry;
}

/* Have register() cancel the Task of an entry as soon as it has one: the Task
   is in its eager first step.  Returns whether register() is at work. */
static bool
registry_cancel_start(RegistryObject *self, EntryObject *entry, PyObject *msg)
{
    if (!al_registry_is_starting(self, entry)) {
        return false;
    }
    al_pending_start *start = self->pending_starts;
    while (start->entry != entry) {
        start = start->outer;
    }
    start->cancelled = true;
    Py_XSETREF(start->msg, Py_XNewRef(msg));
    return true;
}

/* Keep the msg of a request if it is the first that reaches the entry. */
static void
registry_note_cancel(EntryObject *entry, PyObject *msg)
{
    if (!entry->cancel_noted) {
        entry->cancel_noted = true;
        if (msg == NULL || !PyUnicode_Check(msg)) {
            return;
        }
        if (al_entry_extend(entry) == NULL) {
            PyErr_Clear(); /* the Task has been cancelled all the same */
            return;
        }
        entry->extras->cancel_reason = Py_NewRef(msg);
    }
}

int
al_registry_cancel(RegistryObject *self, EntryObject *entry, PyObject *msg)
{
    al_supervise_stop(entry);
    if (entry->task == NULL) {
        bool rests = al_supervise_is_resting(self, entry);
        if (!rests && !registry_cancel_start(self, entry, msg)) {
            return 0;
        }
        registry_note_cancel(entry, msg);
        return rests && al_supervise_end_resting(self, entry) < 0 ? -1 : 1;
    }
    /* The entry is passed on, so that the Task's end is delivered from the
       same handle as the cancellation where that is possible. */
    Py_INCREF((PyObject *)entry);
    PyObject *task = Py_NewRef(entry->task);
    int requested = al_capture_cancel(self->st, &self->bound, task, msg,
                                      (PyObject *)entry);
    if (requested > 0) {
        registry_note_cancel(entry, msg);
    }
    else if (requested == 0) {
        al_supervise_miss(entry);
    }
    Py_DECREF(task);
    Py_DECREF((PyObject *)entry);
    return requested;
}

PyObject *
al_registry_list(RegistryObject *self, bool finished)
{
    /* Making the list may run the collector, and that may run anything: the
       first link is read afterwards.  PyList_Append() runs nothing. */
    PyObject *list = AL_ALLOC(PyList_New(0));
    al_link *head = finished ? &self->history : &self->alive;
    for (al_link *at = head->next; list != NULL && at != head; at = at->next) {
        EntryObject *entry = AL_CONTAINER_OF(at, EntryObject, registry_link);
        if (AL_ALLOC_INT(PyList_Append(list, (PyObject *)entry)) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

void
al_registry_clear(RegistryObject *self)
{
    al_str_table by_id = self->by_id;
    self->by_id = (al_str_table){NULL, 0, 0};
    self->gone = true;
    /* Entries may outlive their registry, and must not point into it. */
    while (!al_list_is_empty(&self->alive)) {
        EntryObject *entry =
            AL_CONTAINER_OF(self->alive.next, EntryObject, registry_link);
        al_heartbeats_remove(entry);
        al_link_unlink(&entry->registry_link);
    }
    while (!al_list_is_empty(&self->history)) {
        al_registry_unlink(self, AL_CONTAINER_OF(self->history.next,
                                                 EntryObject, registry_link));
    }
    for (size_t i = 0; i < by_id.size; i++) {
        while (by_id.buckets[i] != NULL) {
            al_str_link *link = by_id.buckets[i];
            by_id.buckets[i] = link->next;
            Py_DECREF((PyObject *)AL_CONTAINER_OF(link, EntryObject, id));
        }
    }
    PyMem_Free(by_id.buckets);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->joiners);
    Py_CLEAR(self->on_finish);
    Py_CLEAR(self->join_set);
    al_loop_clear(&self->bound);
}
