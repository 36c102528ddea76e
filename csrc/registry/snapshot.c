/* What TaskRegistry answers about all of its tasks: status, counts.
 *
 * Each answer is a snapshot.  Those that depend on the time first move every
 * entry to the list where it belongs by now; that costs as much as there are
 * tasks that have become stale since the last time.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/histogram.h"
#include "base/state.h"
#include "aio/awaitable.h"
#include "aio/loop.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/snapshot.h"

/* Move every alive entry to the list where it belongs now.  Returns 0; -1 with
   an exception. */
static int
snapshot_sweep(RegistryObject *self)
{
    double now = al_loop_time(self->st, &self->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    return al_heartbeats_sweep(&self->heartbeats, now);
}

PyObject *
al_snapshot_ids(PyObject *list)
{
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *entry = PyList_GET_ITEM(list, i);
        PyList_SET_ITEM(list, i, Py_NewRef(((EntryObject *)entry)->id));
        Py_DECREF(entry);
    }
    return list;
}

PyObject *
al_snapshot_status(PyObject *registry, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)registry;
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

PyObject *
al_snapshot_stale(PyObject *registry, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)registry;
    if (snapshot_sweep(self) < 0) {
        return NULL;
    }
    return al_ready_new(self->st, al_snapshot_ids(al_heartbeats_stale(
                                      &self->heartbeats, false)));
}

PyObject *
al_snapshot_newly_stale(PyObject *registry, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)registry;
    return snapshot_sweep(self) < 0
               ? NULL
               : al_heartbeats_stale(&self->heartbeats, true);
}

PyObject *
al_snapshot_counts(PyObject *registry, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)registry;
    if (snapshot_sweep(self) < 0) {
        return NULL;
    }
    const Py_ssize_t *count = self->heartbeats.count;
    PyObject *durations = al_histogram_new(self->st, &self->durations);
    if (durations == NULL) {
        return NULL;
    }
    PyObject *counts = AL_ALLOC(Py_BuildValue(
        "(nnnnnKKKKKKKO)", al_registry_count(self), count[AL_PENDING],
        count[AL_BEATING], count[AL_STALE], count[AL_NEVER_BEAT],
        self->ended[AL_DONE], self->ended[AL_FAILED],
        self->ended[AL_CANCELLED], self->registered, self->heartbeats_recorded,
        self->heartbeats_unknown, self->restarts, durations));
    Py_DECREF(durations);
    return counts;
}
