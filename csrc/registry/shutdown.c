/* TaskRegistry.shutdown(): the native half.
 *
 * All calls of shutdown() that run at the same time wait on one JoinSet, which
 * the registry owns until the last of them returns.  Each entry that was
 * cancelled owns its member of the set, so that no Task is cancelled twice,
 * and its end reaches the set.  The waiting is Python, in _registry.py.
 */
#include "base/compat.h"
#include "base/list.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/registry.h"
#include "registry/shutdown.h"

int
al_shutdown_add(RegistryObject *self, EntryObject *entry)
{
    PyObject *join_set = self->join_set;
    if (join_set == NULL || entry->task == NULL || entry->member != NULL) {
        return 0;
    }
    Py_INCREF(join_set); /* the call below may run code that ends it */
    PyObject *member =
        al_join_set_add(join_set, entry->task, (PyObject *)entry);
    Py_DECREF(join_set);
    if (member == NULL) {
        return -1;
    }
    entry->member = Py_NewRef(member);
    al_member_cancel(member);
    Py_DECREF(member);
    return 0;
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

void
al_shutdown_end(RegistryObject *self)
{
    self->shutdowns--;
    shutdown_forget(self);
}

/* Cancel every alive entry but the caller's.  Returns 0; -1 with an
   exception. */
static int
shutdown_add_alive(RegistryObject *self, PyObject *caller,
                   EntryObject *current)
{
    /* Many tasks may call shutdown() because another's call has cancelled
       them: only the first of these walks have anything to do. */
    Py_ssize_t missing =
        al_registry_count(self) - al_join_set_pending(self->join_set);
    bool is_spared = current != NULL && current->member == NULL;
    if (missing <= is_spared) {
        return 0;
    }
    PyObject *alive = al_registry_list(self, false);
    for (Py_ssize_t i = 0; alive != NULL && i < PyList_GET_SIZE(alive); i++) {
        EntryObject *entry = (EntryObject *)PyList_GET_ITEM(alive, i);
        if (entry->task != caller && al_shutdown_add(self, entry) < 0) {
            Py_CLEAR(alive);
        }
    }
    if (alive == NULL) {
        return -1;
    }
    Py_DECREF(alive);
    return 0;
}

PyObject *
al_shutdown_begin(RegistryObject *self, PyObject *caller)
{
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
    if (shutdown_add_alive(self, caller, current) < 0) {
        PyObject *error = PyErr_GetRaisedException();
        al_shutdown_end(self);
        PyErr_SetRaisedException(error);
        Py_CLEAR(join_set);
    }
    return join_set;
}
