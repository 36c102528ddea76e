/* The core of TaskRegistry.register() and track(). */
#ifndef AL_REGISTER_H
#define AL_REGISTER_H

#include "base/compat.h"
#include "registry/registry.h"

/* Start a fresh coroutine as a Task under an id: `id`, or a new one if that is
   NULL or None.  `context` and `info` may be NULL.  Returns a Ready of (task,
   id) (new); NULL with an exception: the coroutine is closed if it has not
   started, and nothing has changed.  Runs Python. */
PyObject *al_register_coro(RegistryObject *self, PyObject *coro, PyObject *id,
                           double stale_after, PyObject *context,
                           PyObject *info);

/* An id as an exact str (new), by al_args_id(); if it is a coroutine, in the
   place of an id, it is closed.  NULL with TypeError or ValueError.  Runs
   Python. */
PyObject *al_register_check_id(RegistryObject *self, PyObject *id);

/* Refuse an id while shutdown() runs.  Returns 0; -1 with ClosedError.
   Runs Python. */
int al_register_check_open(RegistryObject *self, PyObject *id);

/* Make the Task of a supervised entry's next run, in the current context,
   which has the entry as its owner; `context` is that of the done callback.
   Returns the Task (new); NULL with an exception, the coroutine closed and the
   entry without a Task.  Runs Python. */
PyObject *al_register_run(RegistryObject *self, EntryObject *entry,
                          PyObject *coro, PyObject *context);

/* Register a Task of the bound loop that somebody else has made, under `id`;
   if that is NULL or None under the Task's name, if it is free, or a new id.
   Returns its id (new), the old one of a registered Task; NULL with an
   exception, nothing changed.  Runs Python. */
PyObject *al_register_task(RegistryObject *self, PyObject *task, PyObject *id,
                           double stale_after);

#endif
