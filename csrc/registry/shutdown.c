/* TaskRegistry.shutdown(): the native half.
 *
 * All calls of shutdown() that run at the same time wait on one JoinSet, which
 * the registry owns until the last of them returns.  Each entry that was
 * cancelled owns its member of the set, so that no Task is cancelled twice,
 * and its end reaches the set.  The waiting is Python, in
 * _registry_shutdown.py, and so is cancelling the Tasks, which are queued
 * here: many of them are cancelled in slices, one in each loop iteration.
 *
 * An entry remembers that a shutdown has cancelled its Task, and that a report
 * has listed it as stuck.  So a coordinator and a registry, in whatever order
 * their blocks are nested, cancel, await and report each Task once.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/registry.h"
#include "registry/supervise.h"
#include "registry/shutdown.h"

/* What a shutdown does to a Task that an earlier one has cancelled. */
typedef enum {
    SHUTDOWN_AGAIN = 0,  /* cancel it again, and wait for it */
    SHUTDOWN_ONCE,       /* wait for it */
    SHUTDOWN_UNREPORTED, /* wait for it, unless it was reported as stuck */
} shutdown_whom;

/* Add an alive entry to the running shutdown, and queue its Task to be
   cancelled: again, if `again` is set, or only if no shutdown has cancelled
   it.  Returns 1 if it was queued, else 0; -1 with an exception.  Runs
   Python. */
static int
shutdown_add(RegistryObject *self, EntryObject *entry, bool again)
{
    PyObject *join_set = self->join_set;
    bool rests = al_supervise_is_resting(self, entry);
    if (join_set == NULL || entry->member != NULL
        || (entry->task == NULL && !rests))
    {
        return 0;
    }
    Py_INCREF(join_set); /* the call below may run code that ends it */
    PyObject *member = al_join_set_add(join_set, rests ? Py_None : entry->task,
                                       (PyObject *)entry);
    Py_DECREF(join_set);
    if (member == NULL) {
        return -1;
    }
    al_supervise_stop(entry);
    if (rests) {
        entry->shut_down = entry->cancel_noted = true;
        double now = al_loop_time(self->st, &self->bound);
        if (now == -1.0 && PyErr_Occurred()) {
            PyErr_Clear(); /* the end of the entry reports it */
            now = entry->last_heartbeat;
        }
        al_exit_origin origin = {entry->id.text, now - entry->registered_at,
                                 now - entry->last_heartbeat};
        al_member_end(member, AL_CANCELLED, NULL, &origin);
        Py_DECREF(member);
        return al_supervise_end_resting(self, entry) < 0 ? -1 : 1;
    }
    entry->member = Py_NewRef(member);
    bool cancel = again || !entry->shut_down;
    entry->shut_down = true;
    if (cancel) {
        entry->reported_stuck = false; /* its next report has news */
        entry->cancel_noted = true;
        al_member_queue(member);
    }
    else {
        al_member_was_cancelled(member);
    }
    Py_DECREF(member);
    return cancel;
}

int
al_shutdown_add(RegistryObject *self, EntryObject *entry)
{
    int added = shutdown_add(self, entry, true);
    if (added > 0 && entry->member != NULL) {
        PyObject *member = Py_NewRef(entry->member);
        al_member_cancel(member);
        Py_DECREF(member);
    }
    return added < 0 ? -1 : 0;
}

/* Once no shutdown runs, forget which Tasks the last one cancelled: those that
   did not stop may be cancelled by the next.  Allocates nothing, for it must
   not fail. */
static void
shutdown_forget(RegistryObject *self)
{
    if (self->shutdowns > 0 || self->join_set == NULL) {
        return;
    }
    al_link *at = self->alive.next;
    while (at != &self->alive) {
        EntryObject *entry = (EntryObject *)Py_NewRef(
            (PyObject *)AL_CONTAINER_OF(at, EntryObject, registry_link));
        Py_CLEAR(entry->member);
        /* The decref may have run code that ended the entry: start again. */
        at = entry->ended || !al_link_is_in(at) ? self->alive.next : at->next;
        Py_DECREF((PyObject *)entry);
    }
    self->closed_reported = false;
    Py_CLEAR(self->join_set);
}

/* Cancel all that is still queued.  If the loop is closed nothing can be. */
static void
shutdown_cancel_rest(RegistryObject *self)
{
    PyObject *join_set = Py_XNewRef(self->join_set);
    if (join_set == NULL || al_join_set_cancel(join_set, 0) == 0) {
        Py_XDECREF(join_set);
        return;
    }
    int closed = al_loop_is_closed(self->st, self->bound.loop);
    if (closed < 0) {
        PyErr_Clear(); /* the calls below report what is wrong */
    }
    if (closed <= 0) {
        (void)al_join_set_cancel(join_set, PY_SSIZE_T_MAX);
    }
    Py_DECREF(join_set);
}

/* End a shutdown.  Returns how many failures were not logged, if it was the
   last; else 0. */
static Py_ssize_t
shutdown_end(RegistryObject *self)
{
    if (self->shutdowns == 1) {
        shutdown_cancel_rest(self);
    }
    self->shutdowns--;
    shutdown_forget(self);
    if (self->shutdowns > 0) {
        return 0;
    }
    Py_ssize_t unlogged = self->shutdown_failures - AL_SHUTDOWN_LOGGED;
    self->shutdown_failures = 0;
    return unlogged > 0 ? unlogged : 0;
}

/* Tell whether a shutdown leaves an entry alone. */
static bool
shutdown_spares(const EntryObject *entry, const PyObject *caller,
                shutdown_whom whom)
{
    return entry->task == caller
           || (whom == SHUTDOWN_UNREPORTED && entry->reported_stuck);
}

/* Follow every alive entry but those that are spared, and queue its Task.
   Returns how many were queued; -1 with an exception. */
static Py_ssize_t
shutdown_add_alive(RegistryObject *self, PyObject *caller,
                   EntryObject *current, shutdown_whom whom)
{
    /* Many tasks may call shutdown() because another's call has cancelled
       them: only the first of these walks have anything to do. */
    Py_ssize_t cancelled = 0;
    Py_ssize_t missing =
        al_registry_count(self) - al_join_set_pending(self->join_set);
    bool is_spared = current != NULL && current->member == NULL;
    if (missing <= is_spared) {
        return 0;
    }
    PyObject *alive = al_registry_list(self, false);
    for (Py_ssize_t i = 0; alive != NULL && i < PyList_GET_SIZE(alive); i++) {
        EntryObject *entry = (EntryObject *)PyList_GET_ITEM(alive, i);
        if (shutdown_spares(entry, caller, whom)) {
            continue;
        }
        int added = shutdown_add(self, entry, whom == SHUTDOWN_AGAIN);
        if (added < 0) {
            Py_CLEAR(alive);
        }
        cancelled += added > 0;
    }
    if (alive == NULL) {
        return -1;
    }
    Py_DECREF(alive);
    return cancelled;
}

/* Begin a shutdown, or join the running one, and queue every alive Task but
   `caller` to be cancelled; `*cancelled` is how many.  Returns the JoinSet of
   the Tasks (new); NULL with an exception, no shutdown begun, though some
   Tasks may be cancelled. */
static PyObject *
shutdown_begin(RegistryObject *self, PyObject *caller, shutdown_whom whom,
               Py_ssize_t *cancelled)
{
    *cancelled = 0;
    if (al_registry_bind(self, "TaskRegistry.shutdown()", NULL) < 0) {
        return NULL;
    }
    EntryObject *current = al_registry_current(self);
    if (current == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (current != NULL) {
        /* In its eager first step the caller's Task is not in the entry yet:
           register() has to know when it gets the Task. */
        current->calls_shutdown = true;
        al_supervise_stop(current);
    }
    if (self->join_set == NULL) {
        self->join_set = al_join_set_new(self->st, &self->bound);
    }
    PyObject *join_set = Py_XNewRef(self->join_set);
    if (join_set == NULL) {
        return NULL;
    }
    /* Counted before the list is made, for that may run the collector, and a
       shutdown that it closes must not end this one. */
    self->shutdowns++;
    *cancelled = shutdown_add_alive(self, caller, current, whom);
    if (*cancelled < 0) {
        PyObject *error = PyErr_GetRaisedException();
        (void)shutdown_end(self);
        PyErr_SetRaisedException(error);
        Py_CLEAR(join_set);
    }
    return join_set;
}

/* ---------------------------------------- methods of the type Registry */

PyObject *
al_shutdown_begin(PyObject *op, PyObject *args)
{
    PyObject *caller;
    int whom;
    Py_ssize_t cancelled;
    if (!PyArg_ParseTuple(args, "Oi:_begin_shutdown", &caller, &whom)) {
        return NULL;
    }
    RegistryObject *self = (RegistryObject *)op;
    PyObject *join_set =
        shutdown_begin(self, caller, (shutdown_whom)whom, &cancelled);
    if (join_set == NULL) {
        return NULL;
    }
    PyObject *answer = AL_ALLOC(Py_BuildValue("On", join_set, cancelled));
    Py_DECREF(join_set);
    if (answer == NULL) {
        PyObject *error = PyErr_GetRaisedException();
        (void)shutdown_end(self);
        PyErr_SetRaisedException(error);
    }
    return answer;
}

PyObject *
al_shutdown_list(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_registry_list((RegistryObject *)op, false);
}

PyObject *
al_shutdown_note(PyObject *op, PyObject *args)
{
    EntryObject *entry;
    int stuck;
    if (!PyArg_ParseTuple(args, "O!p:_note_shutdown",
                          ((RegistryObject *)op)->st->Entry, &entry, &stuck))
    {
        return NULL;
    }
    bool before = stuck ? entry->reported_stuck : entry->shut_down;
    entry->shut_down = true;
    entry->reported_stuck = entry->reported_stuck || stuck;
    return PyBool_FromLong(before);
}

PyObject *
al_shutdown_end(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Py_ssize_t unlogged = shutdown_end((RegistryObject *)op);
    return AL_ALLOC(PyLong_FromSsize_t(unlogged));
}

int
al_shutdown_setup(PyObject *module)
{
    return PyModule_AddIntConstant(module, "SHUTDOWN_AGAIN", SHUTDOWN_AGAIN)
                       < 0
                   || PyModule_AddIntConstant(module, "SHUTDOWN_ONCE",
                                              SHUTDOWN_ONCE)
                          < 0
                   || PyModule_AddIntConstant(module, "SHUTDOWN_UNREPORTED",
                                              SHUTDOWN_UNREPORTED)
                          < 0
               ? -1
               : 0;
}
