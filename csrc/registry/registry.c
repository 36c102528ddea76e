/* A TaskRegistry's books, without argument parsing.
 *
 * Ids are exact str in a dict, so a lookup runs nobody's code.  What does run
 * foreign code is asking a Task how it ended, an exception's str(), logging,
 * on_finish and every decref of a result; so an end is asked for first, then
 * booked without a break, then told.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/capture.h"
#include "base/ptr_table.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"

Py_ssize_t
al_registry_count(const RegistryObject *self)
{
    const Py_ssize_t *count = self->heartbeats.count;
    return count[AL_PENDING] + count[AL_NEVER_BEAT] + count[AL_BEATING]
           + count[AL_STALE];
}

EntryObject *
al_registry_find(RegistryObject *self, PyObject *id)
{
    assert(PyUnicode_CheckExact(id));
    if (self->ids == NULL) { /* the collector has been here */
        return NULL;
    }
    return (EntryObject *)PyDict_GetItemWithError(self->ids, id);
}

void
al_registry_unlink(RegistryObject *self, EntryObject *entry)
{
    if (al_link_is_in(&entry->heartbeat_link)) {
        al_link_unlink(&entry->heartbeat_link);
        self->errors_count--;
    }
    if (al_link_is_in(&entry->registry_link)) {
        al_link_unlink(&entry->registry_link);
        self->history_count--;
    }
}

void
al_registry_forget(RegistryObject *self, EntryObject *entry)
{
    if (al_registry_find(self, entry->id) == entry
        && PyDict_DelItem(self->ids, entry->id) < 0)
    {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "forgetting a task failed", NULL);
    }
}

/* Drop the oldest exceptions, then the oldest entries, over their limits. */
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
        EntryObject *entry =
            AL_CONTAINER_OF(self->history.next, EntryObject, registry_link);
        Py_INCREF((PyObject *)entry);
        al_registry_unlink(self, entry);
        al_registry_forget(self, entry);
        Py_DECREF((PyObject *)entry);
    }
}

/* "ValueError: no price", whatever the exception's own str() does (new); NULL
   with MemoryError, or an exception that ends the loop. */
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

/* Decide what an entry will say; the value and the text are stolen.  Returns
   what is not kept, to be dropped when the books are in order. */
static PyObject *
registry_decide(RegistryObject *self, EntryObject *entry, al_outcome outcome,
                PyObject *value, PyObject *text)
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

/* Everything that changes when a Task has ended; nothing runs in between.
   Returns the Task, to be dropped at the end. */
static PyObject *
registry_end(RegistryObject *self, EntryObject *entry, double now)
{
    al_heartbeats_remove(entry);
    al_link_unlink(&entry->registry_link);
    entry->ended = true;
    entry->ended_at = now;
    self->ended[entry->outcome]++;
    al_list_append(&self->history, &entry->registry_link);
    self->history_count++;
    if (entry->outcome == AL_FAILED && entry->value != NULL) {
        al_list_append(&self->errors, &entry->heartbeat_link);
        self->errors_count++;
    }
    PyObject *task = entry->task;
    entry->task = NULL;
    return task;
}

/* Log a failure, with the traceback that the history will forget. */
static void
registry_log(RegistryObject *self, EntryObject *entry, PyObject *error,
             PyObject **fatal)
{
    PyObject *format = AL_ALLOC(
        PyUnicode_FromString(error != entry->value && entry->completed
                                 ? "task %s failed after it was completed: %s"
                                 : "task %s failed: %s"));
    PyObject *text = format == NULL ? NULL : registry_error_text(error);
    PyObject *none = NULL;
    if (text != NULL) {
        PyObject *stack[] = {self->st->logger, format, entry->id, text, error};
        none = PyObject_VectorcallMethod(self->st->s_error, stack, 4,
                                         self->st->kw_exc_info);
    }
    if (none == NULL) {
        al_loop_handle_error_keep_exit(self->st, self->bound.loop,
                                       "logging a failed task failed", NULL,
                                       fatal);
    }
    Py_XDECREF(none);
    Py_XDECREF(text);
    Py_XDECREF(format);
}

/* Tell of an end: a shutdown that waits, those in wait(), the log, the user.
   `error` is the Task's, which complete() may have known or not. */
static void
registry_tell(RegistryObject *self, EntryObject *entry, al_outcome outcome,
              PyObject *error, PyObject **fatal)
{
    PyObject *known =
        Py_XNewRef(entry->outcome == AL_FAILED ? entry->value : NULL);
    if (entry->member != NULL) {
        PyObject *member = entry->member;
        entry->member = NULL;
        al_member_end(member, outcome, error);
        Py_DECREF(member);
    }
    PyObject *waiters = Py_XNewRef(self->waiters);
    if (waiters != NULL && al_registry_count(self) <= 1) {
        al_loop_wake_waiters(self->st, &self->bound, waiters);
    }
    Py_XDECREF(waiters);
    if (known != NULL) {
        registry_log(self, entry, known, fatal);
    }
    if (error != NULL && error != known) {
        registry_log(self, entry, error, fatal);
    }
    Py_XDECREF(known);
    PyObject *on_finish = Py_XNewRef(self->on_finish);
    if (on_finish != NULL) {
        PyObject *none = PyObject_CallOneArg(on_finish, (PyObject *)entry);
        if (none == NULL) {
            al_loop_handle_error_keep_exit(
                self->st, self->bound.loop,
                "on_finish of a TaskRegistry failed", NULL, fatal);
        }
        Py_XDECREF(none);
        Py_DECREF(on_finish);
    }
}

/* Fix what is not ended nor fixed; the caller holds the entry. */
static int
registry_fix(RegistryObject *self, EntryObject *entry, PyObject *result,
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
    if (entry->ended || entry->completed) { /* str() of the error did it */
        Py_XDECREF(text);
        return 0;
    }
    PyObject *value = outcome == AL_DONE ? result : error;
    entry->completed = true;
    Py_XDECREF(registry_decide(self, entry, outcome, Py_XNewRef(value), text));
    return 0;
}

int
al_registry_fix(RegistryObject *self, EntryObject *entry, PyObject *result,
                PyObject *error)
{
    if (entry->ended || entry->completed) {
        return 0;
    }
    Py_INCREF((PyObject *)entry);
    int fixed = registry_fix(self, entry, result, error);
    Py_DECREF((PyObject *)entry);
    return fixed;
}

/* Have a Task cancelled as soon as it is there: it is in its eager first
   step.  Tells whether there is such a one. */
static bool
registry_cancel_birth(RegistryObject *self, EntryObject *entry, PyObject *msg)
{
    al_birth *birth = self->births;
    while (birth != NULL && birth->entry != entry) {
        birth = birth->outer;
    }
    if (birth == NULL) {
        return false;
    }
    birth->cancelled = true;
    Py_XSETREF(birth->msg, Py_XNewRef(msg));
    return true;
}

int
al_registry_cancel(RegistryObject *self, EntryObject *entry, PyObject *msg)
{
    if (entry->task == NULL) {
        return registry_cancel_birth(self, entry, msg);
    }
    Py_INCREF((PyObject *)entry);
    PyObject *task = Py_NewRef(entry->task);
    int asked = al_capture_cancel(self->st, &self->bound, task, msg,
                                  (PyObject *)entry);
    Py_DECREF(task);
    Py_DECREF((PyObject *)entry);
    return asked;
}

PyObject *
al_registry_list(RegistryObject *self, bool finished)
{
    /* Making the list may run the collector, and that may run anything. */
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

/* How an entry's Task has ended, as al_task_outcome says it; one that would
   not tell has failed.  AL_ERROR with TypeError if it has not ended. */
static al_outcome
registry_outcome(RegistryObject *self, PyObject *task, PyObject **value)
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
        PyErr_Clear(); /* it has told of its end, and tells nothing more */
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
    Py_INCREF((PyObject *)entry);
    PyObject *task = Py_NewRef(entry->task);
    al_outcome outcome = registry_outcome(self, task, &value);
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
    if (PyErr_Occurred()) {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "loop.time() failed", NULL);
        now = entry->last_heartbeat;
    }
    if (entry->threshold != NULL) { /* else somebody ended it meanwhile */
        if (!entry->completed) {
            value = registry_decide(self, entry, outcome, value, text);
            text = NULL;
        }
        Py_DECREF(task); /* the entry's own, which is not the last */
        task = registry_end(self, entry, now);
        registry_tell(self, entry, outcome, error, &fatal);
        registry_evict(self);
        Py_CLEAR(entry->registry);
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

int
al_registry_visit(RegistryObject *self, visitproc visit, void *arg)
{
    Py_VISIT(self->ids);
    Py_VISIT(self->waiters);
    Py_VISIT(self->on_finish);
    Py_VISIT(self->drain);
    return al_loop_visit(&self->bound, visit, arg);
}

void
al_registry_clear(RegistryObject *self)
{
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
    Py_CLEAR(self->ids);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->on_finish);
    Py_CLEAR(self->drain);
    al_loop_clear(&self->bound);
}
