/* A TaskRegistry's data and verbs, without argument parsing.
 *
 * Who owns whom:
 *
 *     Registry --entries (dict)--> entry, alive or ended
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
 * al_registry_close(), or by the collector once the Task is garbage too.
 *
 * Re-entrancy.  The ids are exact str objects in a dict, so a lookup calls no
 * code of the user.  These calls may: asking a Task for its outcome, str() of
 * an exception, logging, on_finish, and each decref of a result.  Therefore
 * al_registry_close() works in three steps: it asks the Task; then it changes
 * everything, and nothing runs in between; then it notifies.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/object.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/capture.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/owner.h"

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

/* Count how long an entry has lived, which has ended, or take that back. */
static void
registry_count_duration(RegistryObject *self, const EntryObject *entry,
                        int times)
{
    al_histogram_count(&self->durations,
                       entry->ended_at - entry->registered_at, times);
}

/* Take an ended entry out of its lists, but not out of the dict. */
static void
registry_unlink(RegistryObject *self, EntryObject *entry)
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

/* Take an entry out of the dict, which has it. */
static void
registry_forget(RegistryObject *self, EntryObject *entry)
{
    assert(al_registry_find(self, entry->id) == entry);
    if (PyDict_DelItem(self->entries, entry->id) < 0) {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "forgetting a task failed", NULL);
    }
}

/* Put a new entry into the dict, with one lookup in the usual case of a new
   id.  An ended entry of that id is replaced, and *old is set to it (new).
   Returns 1; 0 if an alive entry has the id; -1 with MemoryError; nothing has
   changed then. */
static int
registry_place(RegistryObject *self, EntryObject *entry, EntryObject **old)
{
    EntryObject *there = (EntryObject *)AL_ALLOC(
        PyDict_SetDefault(self->entries, entry->id, (PyObject *)entry));
    if (there == NULL || there == entry) {
        return there == NULL ? -1 : 1;
    }
    if (!there->ended) {
        return 0;
    }
    *old = (EntryObject *)Py_NewRef((PyObject *)there);
    int set = AL_ALLOC_INT(
        PyDict_SetItem(self->entries, entry->id, (PyObject *)entry));
    return set < 0 ? -1 : 1;
}

int
al_registry_open(RegistryObject *self, EntryObject *entry, double stale_after)
{
    /* Room in both tables now: al_registry_set_task() must not fail once there
       is a Task. */
    if (al_ptr_table_reserve(&self->heartbeats.by_task) < 0
        || al_ptr_table_reserve(&self->heartbeats.by_id) < 0)
    {
        return -1;
    }
    double now = al_loop_time(self->st, &self->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (self->entries == NULL) { /* the collector has cleared it */
        PyErr_SetString(PyExc_RuntimeError, "this TaskRegistry is gone");
        return -1;
    }
    entry->created_at = al_wall_clock();
    entry->registered_at = entry->last_heartbeat = now;
    entry->stale_after = stale_after;
    if (al_heartbeats_add(&self->heartbeats, entry) < 0) {
        return -1;
    }
    /* From here until the entry is everywhere, no code of the user runs:
       nobody sees it in one list and misses it in another. */
    EntryObject *old = NULL;
    int placed = registry_place(self, entry, &old);
    if (placed <= 0) {
        al_heartbeats_remove(entry);
    }
    else {
        al_list_append(&self->alive, &entry->registry_link);
        al_ptr_table_add(&self->heartbeats.by_id, &entry->id_link, entry->id);
        if (old != NULL) {
            registry_unlink(self, old);
        }
    }
    Py_XDECREF((PyObject *)old); /* may run code of the user, and may now */
    if (placed == 0) {
        al_object_raise_about(self->st->DuplicateTaskError,
                              "a task %U is alive already: wait for it, "
                              "cancel it, or choose another id",
                              entry->id);
    }
    return placed > 0 ? 0 : -1;
}

void
al_registry_revoke(RegistryObject *self, EntryObject *entry)
{
    PyObject *error = PyErr_GetRaisedException();
    if (entry->ended) { /* in the call that failed afterwards */
        registry_unlink(self, entry);
        self->ended[entry->outcome]--;
        registry_count_duration(self, entry, -1);
    }
    al_heartbeats_remove(entry);
    al_owner_end(entry);
    al_link_unlink(&entry->registry_link);
    if (al_registry_find(self, entry->id) == entry) { /* not another one */
        registry_forget(self, entry);
    }
    Py_CLEAR(entry->registry);
    PyObject *member = entry->member;
    entry->member = NULL;
    if (member != NULL) { /* a shutdown began in the Task's eager first step */
        al_exit_origin origin = {entry->id, 0.0, 0.0};
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

/* ------------------------------------------------------------------ close */

/* Choose the entry of a full history that goes next: the oldest that did not
   fail, so that a thousand good jobs do not hide the failure that matters; if
   all but the newest have failed, the oldest. */
static EntryObject *
registry_least_wanted(RegistryObject *self)
{
    al_link *oldest = self->history.next;
    EntryObject *entry = AL_CONTAINER_OF(oldest, EntryObject, registry_link);
    if (!al_list_is_empty(&self->unfailed)) {
        EntryObject *unfailed =
            AL_CONTAINER_OF(self->unfailed.next, EntryObject, heartbeat_link);
        bool newest = self->history.prev == &unfailed->registry_link;
        entry = newest ? entry : unfailed;
    }
    return entry;
}

/* Drop the oldest exceptions above keep_errors, then entries above the
   history's limit.  The dict has each entry of the history: one that takes its
   id unlinks it.  A decref may run code that registers or ends tasks; each
   round looks at the lists again. */
static void
registry_evict(RegistryObject *self)
{
    while (self->errors_count > self->errors_limit) {
        EntryObject *entry =
            AL_CONTAINER_OF(self->errors.next, EntryObject, heartbeat_link);
        Py_INCREF((PyObject *)entry);
        al_link_unlink(&entry->heartbeat_link);
        self->errors_count--;
        Py_CLEAR(entry->value);
        Py_DECREF((PyObject *)entry);
    }
    while (self->history_count > self->history_limit) {
        EntryObject *entry = registry_least_wanted(self);
        Py_INCREF((PyObject *)entry);
        registry_unlink(self, entry);
        registry_forget(self, entry);
        Py_DECREF((PyObject *)entry);
    }
}

/* Make "ValueError: no price" of an exception (new), even if its own str()
   raises.  NULL with MemoryError, or with SystemExit or KeyboardInterrupt. */
static PyObject *
registry_error_text(PyObject *error)
{
    const char *name = Py_TYPE(error)->tp_name;
    const char *dot = strrchr(name, '.');
    name = dot == NULL ? name : dot + 1;
    PyObject *said = AL_ALLOC(PyObject_Str(error));
    PyObject *text = NULL;
    if (said != NULL) {
        text = AL_ALLOC(PyUnicode_GET_LENGTH(said) == 0
                            ? PyUnicode_FromString(name)
                            : PyUnicode_FromFormat("%s: %U", name, said));
        Py_DECREF(said);
    }
    if (text == NULL && !al_loop_is_exit(PyErr_Occurred())) {
        PyErr_Clear();
        text = AL_ALLOC(PyUnicode_FromFormat("%s: <str() failed>", name));
    }
    return text;
}

/* Set an entry's outcome.  Steals the value and the text.  Returns the value
   if it is not kept (new, or NULL): the caller drops it when no list is half
   changed, for the decref may run anything. */
static PyObject *
registry_set_outcome(RegistryObject *self, EntryObject *entry,
                     al_outcome outcome, PyObject *value, PyObject *text)
{
    PyObject *kept =
        outcome == AL_FAILED || (outcome == AL_DONE && self->keep_results)
            ? value
            : NULL;
    entry->outcome = (uint8_t)outcome;
    entry->value = kept;
    entry->error_text = text;
    return kept == NULL ? value : NULL;
}

/* Change everything that changes at a Task's end; no other code runs in
   between.  Returns the entry's Task (new), which the caller drops last. */
static PyObject *
registry_move_to_history(RegistryObject *self, EntryObject *entry, double now)
{
    al_heartbeats_remove(entry);
    al_owner_end(entry);
    al_link_unlink(&entry->registry_link);
    entry->ended = true;
    entry->ended_at = now;
    self->ended[entry->outcome]++;
    registry_count_duration(self, entry, 1);
    al_list_append(&self->history, &entry->registry_link);
    self->history_count++;
    if (entry->outcome != AL_FAILED) {
        al_list_append(&self->unfailed, &entry->heartbeat_link);
    }
    else if (entry->value != NULL) {
        al_list_append(&self->errors, &entry->heartbeat_link);
        self->errors_count++;
    }
    PyObject *task = entry->task;
    entry->task = NULL;
    return task;
}

/* Log a failure with its traceback, which the history will not keep for long.
   SystemExit and KeyboardInterrupt of a logging handler go to *fatal. */
static void
registry_log(RegistryObject *self, EntryObject *entry, PyObject *error,
             PyObject **fatal)
{
    if (al_registry_is_closing(self)
        && ++self->shutdown_failures > AL_SHUTDOWN_LOGGED)
    {
        return; /* they are counted in one record, at the end */
    }
    PyObject *format = AL_ALLOC(
        PyUnicode_FromString(error != entry->value && entry->completed
                                 ? "task %s failed after it was completed: %s"
                                 : "task %s failed: %s"));
    PyObject *text = format == NULL ? NULL : registry_error_text(error);
    PyObject *id = text == NULL ? NULL : al_object_cut(entry->id);
    PyObject *extra =
        id == NULL ? NULL
                   : AL_ALLOC(Py_BuildValue("{s:O}", "task_id", entry->id));
    PyObject *none = NULL;
    if (extra != NULL) {
        PyObject *stack[] = {self->st->logger, format, id, text, error, extra};
        none = PyObject_VectorcallMethod(self->st->s_error, stack, 4,
                                         self->st->kw_exc_info_extra);
    }
    if (none == NULL) {
        al_loop_handle_error_keep_exit(self->st, self->bound.loop,
                                       "logging a failed task failed", NULL,
                                       fatal);
    }
    Py_XDECREF(none);
    Py_XDECREF(extra);
    Py_XDECREF(id);
    Py_XDECREF(text);
    Py_XDECREF(format);
}

/* Call on_finish.  Its errors go to the loop's exception handler; but an
   on_finish that registers tasks again does so for each task that a shutdown
   cancels, and of these ClosedErrors only the first is reported. */
static void
registry_call_on_finish(RegistryObject *self, EntryObject *entry,
                        PyObject **fatal)
{
    PyObject *on_finish = Py_XNewRef(self->on_finish);
    if (on_finish == NULL) {
        return;
    }
    PyObject *none = al_coro_check_answer(
        self->st, "on_finish",
        PyObject_CallOneArg(on_finish, (PyObject *)entry));
    Py_DECREF(on_finish);
    if (none != NULL) {
        Py_DECREF(none);
        return;
    }
    bool closed = al_registry_is_closing(self)
                  && PyErr_ExceptionMatches(self->st->ClosedError);
    if (closed && self->closed_reported) {
        PyErr_Clear();
        return;
    }
    self->closed_reported = self->closed_reported || closed;
    al_loop_handle_error_keep_exit(
        self->st, self->bound.loop,
        closed ? "on_finish of a TaskRegistry failed (reported once for each "
                 "shutdown)"
               : "on_finish of a TaskRegistry failed",
        NULL, fatal);
}

/* Wake the callers of join() that wait for an entry. */
static void
registry_wake_joiners(RegistryObject *self, EntryObject *entry)
{
    if (self->joiners == NULL || PyDict_GET_SIZE(self->joiners) == 0) {
        return;
    }
    PyObject *futures =
        Py_XNewRef(PyDict_GetItemWithError(self->joiners, (PyObject *)entry));
    if (futures != NULL) {
        if (PyDict_DelItem(self->joiners, (PyObject *)entry) < 0) {
            PyErr_Clear(); /* by the last of them */
        }
        al_loop_wake_waiters(self->st, &self->bound, futures);
        Py_DECREF(futures);
    }
}

/* Notify everybody of an end, in this order: the running shutdown, the waiters
   of wait() and join(), the log, on_finish.  `error` is the Task's own
   exception; the entry may have another one, from complete(), and then both
   are logged. */
static void
registry_notify(RegistryObject *self, EntryObject *entry, al_outcome outcome,
                PyObject *error, PyObject **fatal)
{
    /* A call below may evict the entry's exception. */
    PyObject *known =
        Py_XNewRef(entry->outcome == AL_FAILED ? entry->value : NULL);
    /* The shutdown first: its report is right even if a call below raises. */
    if (entry->member != NULL) {
        PyObject *member = entry->member;
        entry->member = NULL;
        al_exit_origin origin = {
            entry->id,
            entry->ended_at - entry->registered_at,
            entry->ended_at - entry->last_heartbeat,
        };
        al_member_end(member, outcome, error, &origin);
        Py_DECREF(member);
    }
    PyObject *waiters = Py_XNewRef(self->waiters);
    /* One left wakes them too: it may be the waiter itself. */
    if (waiters != NULL && al_registry_count(self) <= 1) {
        al_loop_wake_waiters(self->st, &self->bound, waiters);
    }
    Py_XDECREF(waiters);
    registry_wake_joiners(self, entry);
    if (known != NULL) {
        registry_log(self, entry, known, fatal);
    }
    if (error != NULL && error != known) {
        registry_log(self, entry, error, fatal);
    }
    Py_XDECREF(known);
    registry_call_on_finish(self, entry, fatal);
}

/* Ask a Task for its outcome, as al_task_outcome() does.  A Task whose
   result() raises something odd has failed with that exception.  Returns
   AL_ERROR with TypeError if the Task has not ended. */
static al_outcome
registry_ask_outcome(RegistryObject *self, PyObject *task, PyObject **value)
{
    al_outcome outcome = al_task_outcome(self->st, task, value);
    if (outcome != AL_ERROR) {
        return outcome;
    }
    *value = PyErr_GetRaisedException();
    int done = al_task_done(self->st, task);
    if (done == 0) {
        Py_CLEAR(*value);
        PyErr_SetString(PyExc_TypeError, "TaskMetadata is not for calling");
        return AL_ERROR;
    }
    if (done < 0) {
        PyErr_Clear(); /* it called its done callback, so it has ended */
    }
    return AL_FAILED;
}

int
al_registry_close(EntryObject *entry)
{
    RegistryObject *self = (RegistryObject *)Py_XNewRef(entry->registry);
    PyObject *value = NULL, *text = NULL, *error = NULL, *fatal = NULL;
    if (self == NULL) {
        return 0;
    }
    /* First ask.  Any of these calls may run code of the user, which may close
       this very entry; so they come before the first change. */
    Py_INCREF((PyObject *)entry);
    PyObject *task = Py_NewRef(entry->task);
    al_outcome outcome = registry_ask_outcome(self, task, &value);
    if (outcome == AL_ERROR) {
        fatal = PyErr_GetRaisedException();
        goto done;
    }
    if (outcome == AL_FAILED) {
        error = Py_NewRef(value);
        text = registry_error_text(error);
        if (text == NULL) {
            al_loop_handle_error_keep_exit(self->st, self->bound.loop,
                                           "str() of a task's error failed",
                                           NULL, &fatal);
        }
    }
    double now = al_loop_time(self->st, &self->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "loop.time() failed", NULL);
        now = entry->last_heartbeat;
    }
    /* Then change, unless one of the calls has closed the entry. */
    if (entry->threshold != NULL) {
        if (!entry->completed) {
            value = registry_set_outcome(self, entry, outcome, value, text);
            text = NULL;
        }
        Py_DECREF(task); /* ours; the entry's own keeps it alive */
        task = registry_move_to_history(self, entry, now);
        /* Then notify, and evict the entries over the limits. */
        registry_notify(self, entry, outcome, error, &fatal);
        registry_evict(self);
        Py_CLEAR(entry->registry); /* `self` keeps it until the end */
    }
done:
    Py_XDECREF(value);
    Py_XDECREF(text);
    Py_XDECREF(error);
    Py_XDECREF(task);
    Py_DECREF((PyObject *)entry);
    Py_DECREF((PyObject *)self);
    if (fatal != NULL) {
        PyErr_SetRaisedException(fatal);
        return -1;
    }
    return 0;
}

/* ------------------------------------------- complete, cancel and list */

/* al_registry_complete() for an entry without an outcome, to which the caller
   has a reference. */
static int
registry_complete(RegistryObject *self, EntryObject *entry, PyObject *result,
                  PyObject *error)
{
    int is_cancel = error == NULL
                        ? 0
                        : PyObject_IsInstance(error, self->st->CancelledError);
    if (is_cancel < 0) {
        return -1;
    }
    al_outcome outcome = is_cancel       ? AL_CANCELLED
                         : error != NULL ? AL_FAILED
                                         : AL_DONE;
    PyObject *text = outcome == AL_FAILED ? registry_error_text(error) : NULL;
    if (text == NULL && PyErr_Occurred()) {
        return -1;
    }
    if (entry->ended || entry->completed) { /* by str() of the error */
        Py_XDECREF(text);
        return 0;
    }
    PyObject *value = outcome == AL_DONE ? result : error;
    entry->completed = true;
    Py_XDECREF(
        registry_set_outcome(self, entry, outcome, Py_XNewRef(value), text));
    return 0;
}

int
al_registry_complete(RegistryObject *self, EntryObject *entry,
                     PyObject *result, PyObject *error)
{
    if (entry->ended || entry->completed) {
        return 0;
    }
    Py_INCREF((PyObject *)entry);
    int set = registry_complete(self, entry, result, error);
    Py_DECREF((PyObject *)entry);
    return set;
}

/* Have register() cancel the Task of an entry as soon as it has one: the Task
   is in its eager first step.  Returns whether register() is at work. */
static bool
registry_cancel_start(RegistryObject *self, EntryObject *entry, PyObject *msg)
{
    al_pending_start *start = self->pending_starts;
    while (start != NULL && start->entry != entry) {
        start = start->outer;
    }
    if (start == NULL) {
        return false;
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
        if (msg != NULL && PyUnicode_Check(msg)) {
            entry->cancel_reason = Py_NewRef(msg);
        }
    }
}

int
al_registry_cancel(RegistryObject *self, EntryObject *entry, PyObject *msg)
{
    if (entry->task == NULL) {
        bool starts = registry_cancel_start(self, entry, msg);
        if (starts) {
            registry_note_cancel(entry, msg);
        }
        return starts;
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
    /* Entries may outlive their registry, and must not point into it. */
    while (!al_list_is_empty(&self->alive)) {
        EntryObject *entry =
            AL_CONTAINER_OF(self->alive.next, EntryObject, registry_link);
        al_heartbeats_remove(entry);
        al_link_unlink(&entry->registry_link);
    }
    while (!al_list_is_empty(&self->history)) {
        registry_unlink(self, AL_CONTAINER_OF(self->history.next, EntryObject,
                                              registry_link));
    }
    Py_CLEAR(self->entries);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->joiners);
    Py_CLEAR(self->on_finish);
    Py_CLEAR(self->join_set);
    al_loop_clear(&self->bound);
}
