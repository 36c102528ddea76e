/* How an entry ends, and who is notified.
 *
 * Re-entrancy.  These calls may run code of the user: asking a Task for its
 * outcome, str() of an exception, logging, on_finish, and each decref of a
 * result.  Therefore al_ending_close() works in three steps: it asks the Task;
 * then it changes everything, and nothing runs in between; then it notifies.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/owner.h"
#include "registry/ending.h"
#include "registry/supervise.h"

/* ------------------------------------------------------------------ close */

/* Choose the entry of a full history that goes next: the oldest that did not
   fail, so that a thousand good jobs do not hide the failure that matters; if
   all but the newest have failed, the oldest. */
static EntryObject *
ending_least_wanted(RegistryObject *self)
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
   history's limit.  The table has each entry of the history: one that takes
   its id unlinks it.  A decref may run code that registers or ends tasks; each
   round looks at the lists again. */
static void
ending_evict(RegistryObject *self)
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
        EntryObject *entry = ending_least_wanted(self);
        Py_INCREF((PyObject *)entry);
        al_registry_unlink(self, entry);
        al_registry_forget(self, entry);
        Py_DECREF((PyObject *)entry);
    }
}

/* Make "ValueError: no price" of an exception (new), even if its own str()
   raises.  NULL with MemoryError, or with SystemExit or KeyboardInterrupt. */
static PyObject *
ending_error_text(PyObject *error)
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
ending_set_outcome(RegistryObject *self, EntryObject *entry,
                   al_outcome outcome, PyObject *value, PyObject *text)
{
    PyObject *kept =
        outcome == AL_FAILED || (outcome == AL_DONE && self->keep_results)
            ? value
            : NULL;
    entry->outcome = (uint8_t)outcome;
    entry->value = kept;
    if (text != NULL) { /* else a supervised entry keeps that of a run */
        Py_XSETREF(entry->extras->error_text, text);
    }
    return kept == NULL ? value : NULL;
}

/* Change everything that changes at a Task's end; no other code runs in
   between.  Returns the entry's Task (new), which the caller drops last. */
static PyObject *
ending_move_to_history(RegistryObject *self, EntryObject *entry, double now)
{
    al_heartbeats_remove(entry);
    al_owner_end(entry);
    al_link_unlink(&entry->registry_link);
    entry->ended = true;
    entry->ended_at = now;
    self->ended[entry->outcome]++;
    al_registry_count_duration(self, entry, 1);
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
ending_log(RegistryObject *self, EntryObject *entry, PyObject *error,
           PyObject **fatal)
{
    if (al_registry_is_closing(self)
        && ++self->shutdown_failures > AL_SHUTDOWN_LOGGED)
    {
        return; /* they are counted in one record, at the end */
    }
    PyObject *format = AL_ALLOC(PyUnicode_FromString(
        error != entry->value && entry->completed
            ? "task %s failed after it was completed: %s"
        : al_entry_supervision(entry) != NULL
            ? "task %s failed and is not started again: %s"
            : "task %s failed: %s"));
    PyObject *text = format == NULL ? NULL : ending_error_text(error);
    PyObject *id = text == NULL ? NULL : al_object_cut(entry->id.text);
    PyObject *extra =
        id == NULL
            ? NULL
            : AL_ALLOC(Py_BuildValue("{s:O}", "task_id", entry->id.text));
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
ending_call_on_finish(RegistryObject *self, EntryObject *entry,
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
ending_wake_joiners(RegistryObject *self, EntryObject *entry)
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
ending_notify(RegistryObject *self, EntryObject *entry, al_outcome outcome,
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
            entry->id.text,
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
    ending_wake_joiners(self, entry);
    if (known != NULL) {
        ending_log(self, entry, known, fatal);
    }
    if (error != NULL && error != known) {
        ending_log(self, entry, error, fatal);
    }
    Py_XDECREF(known);
    ending_call_on_finish(self, entry, fatal);
}

al_outcome
al_ending_ask(RegistryObject *self, PyObject *task, PyObject **value)
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

PyObject *
al_ending_error_text(RegistryObject *self, PyObject *error)
{
    PyObject *text = ending_error_text(error);
    if (text == NULL) {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "str() of a task's error failed", NULL);
    }
    return text;
}

int
al_ending_finish(RegistryObject *self, EntryObject *entry, al_outcome outcome,
                 PyObject *value)
{
    /* First ask.  Any of these calls may run code of the user, which may close
       this very entry; so they come before the first change. */
    PyObject *text = NULL, *error = NULL, *task = NULL, *fatal = NULL;
    Py_INCREF((PyObject *)self);
    Py_INCREF((PyObject *)entry);
    if (outcome == AL_FAILED) {
        error = Py_NewRef(value);
        text = ending_error_text(error);
        if (text != NULL && al_entry_extend(entry) == NULL) {
            Py_CLEAR(text);
        }
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
            value = ending_set_outcome(self, entry, outcome, value, text);
            text = NULL;
        }
        task = ending_move_to_history(self, entry, now);
        /* Then notify, and evict the entries over the limits. */
        ending_notify(self, entry, outcome, error, &fatal);
        ending_evict(self);
        Py_CLEAR(entry->registry); /* `self` keeps it until the end */
    }
    Py_XDECREF(value);
    Py_XDECREF(text);
    Py_XDECREF(error);
    Py_XDECREF(task);
    Py_DECREF((PyObject *)entry);
    Py_DECREF((PyObject *)self);
    return al_loop_raise_exit(fatal);
}

int
al_ending_close(EntryObject *entry)
{
    RegistryObject *self = (RegistryObject *)Py_XNewRef(entry->registry);
    if (self == NULL) {
        return 0;
    }
    PyObject *value = NULL;
    Py_INCREF((PyObject *)entry);
    PyObject *task = Py_NewRef(entry->task);
    al_outcome outcome = al_ending_ask(self, task, &value);
    int closed = outcome == AL_ERROR
                     ? -1
                     : al_ending_finish(self, entry, outcome, value);
    Py_DECREF(task);
    Py_DECREF((PyObject *)entry);
    Py_DECREF((PyObject *)self);
    return closed;
}

/* -------------------------------------------------------------- complete */

/* al_ending_complete() for an entry without an outcome, to which the caller
   has a reference. */
static int
ending_complete(RegistryObject *self, EntryObject *entry, PyObject *result,
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
    PyObject *text = outcome == AL_FAILED ? ending_error_text(error) : NULL;
    if (text != NULL && al_entry_extend(entry) == NULL) {
        Py_CLEAR(text);
    }
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
        ending_set_outcome(self, entry, outcome, Py_XNewRef(value), text));
    return 0;
}

int
al_ending_complete(RegistryObject *self, EntryObject *entry, PyObject *result,
                   PyObject *error)
{
    if (entry->ended || entry->completed) {
        return 0;
    }
    Py_INCREF((PyObject *)entry);
    int set = ending_complete(self, entry, result, error);
    if (set == 0 && entry->completed && al_supervise_is_resting(self, entry)) {
        set = al_supervise_end_resting(self, entry);
    }
    Py_DECREF((PyObject *)entry);
    return set;
}
