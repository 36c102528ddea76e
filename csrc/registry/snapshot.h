/* What TaskRegistry answers about all of its tasks. */
#ifndef AL_SNAPSHOT_H
#define AL_SNAPSHOT_H

#include "base/compat.h"

/* Replace the entries of a list by their ids.  Steals the list and returns it;
   NULL passes an exception on.  Pure C. */
PyObject *al_snapshot_ids(PyObject *list);

/* Registry.get_status().  Runs Python. */
PyObject *al_snapshot_status(PyObject *registry, PyObject *ignored);

/* Registry.get_stale_tasks().  Runs Python. */
PyObject *al_snapshot_stale(PyObject *registry, PyObject *ignored);

/* Registry._newly_stale(): the metadata of the stale tasks not reported in
   this silence yet.  Runs Python. */
PyObject *al_snapshot_newly_stale(PyObject *registry, PyObject *ignored);

/* Registry._counts(): the fields of RegistryStats.  Runs Python. */
PyObject *al_snapshot_counts(PyObject *registry, PyObject *ignored);

#endif
