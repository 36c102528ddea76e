/* The methods of TaskRegistry that read. */
#include "base/compat.h"
#include "base/fault.h"
#include "base/histogram.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/awaitable.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/reading.h"

/* Move every alive entry to the list where it belongs now.  Returns 0; -1 with
   an exception. */
static int
reading_sweep(RegistryObject *self)
{
    double now = al_loop_time(self->st, &self->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    return al_heartbeats_sweep(&self->heartbeats, now);
}

PyObject *
al_reading_ids(PyObject *list)
{
    for (Py_ssize_t i = 0; list != NULL && i < PyList_GET_SIZE(list); i++) {
        PyObject *entry = PyList_GET_ITEM(list, i);
        PyList_SET_ITEM(list, i, Py_NewRef(((EntryObject *)entry)->id.text));
        Py_DECREF(entry);
    }
    return list;
}

PyObject *
al_reading_get_status(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    PyObject *status = AL_ALLOC(PyDict_New());
    for (int finished = 1; status != NULL && finished >= 0; finished--) {
        PyObject *list = al_registry_list(self, finished);
        Py_ssize_t n = list == NULL ? -1 : PyList_GET_SIZE(list);
        for (Py_ssize_t i = 0; status != NULL && i < n; i++) {
            PyObject *entry = PyList_GET_ITEM(list, i);
            if (AL_ALLOC_INT(PyDict_SetItem(
                    status, ((EntryObject *)entry)->id.text, entry))
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
al_reading_get_stale_tasks(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    if (reading_sweep(self) < 0) {
        return NULL;
    }
    return al_ready_new(self->st, al_reading_ids(al_heartbeats_stale(
                                      &self->heartbeats, false)));
}

PyObject *
al_reading_newly_stale(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    return reading_sweep(self) < 0
               ? NULL
               : al_heartbeats_stale(&self->heartbeats, true);
}

PyObject *
al_reading_counts(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    RegistryObject *self = (RegistryObject *)op;
    if (reading_sweep(self) < 0) {
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
