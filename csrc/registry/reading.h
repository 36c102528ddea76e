/* The methods of TaskRegistry that read; their docstrings say what. */
#ifndef AL_READING_H
#define AL_READING_H

#include "base/compat.h"

/* Replace the entries of a list by their ids.  Steals the list and returns it;
   NULL passes an exception on.  Pure C. */
PyObject *al_reading_ids(PyObject *list);

/* Method of the type Registry: get_status().  Runs Python. */
PyObject *al_reading_get_status(PyObject *registry, PyObject *ignored);

/* Method of the type Registry: get_stale_tasks().  Runs Python. */
PyObject *al_reading_get_stale_tasks(PyObject *registry, PyObject *ignored);

/* Method of the type Registry: _newly_stale().  Runs Python. */
PyObject *al_reading_newly_stale(PyObject *registry, PyObject *ignored);

/* Method of the type Registry: _counts().  Runs Python. */
PyObject *al_reading_counts(PyObject *registry, PyObject *ignored);

#endif
