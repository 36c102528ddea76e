/* How an entry ends. */
#ifndef AL_ENDING_H
#define AL_ENDING_H

#include "base/compat.h"
#include "aio/task.h"
#include "registry/entry.h"
#include "registry/registry.h"

/* Ask a Task for its outcome, as al_task_outcome() does.  A Task whose
   result() raises something odd has failed with that exception.  Returns
   AL_ERROR with TypeError if the Task has not ended.  Runs Python. */
al_outcome al_ending_ask(RegistryObject *self, PyObject *task,
                         PyObject **value);

/* Make "ValueError: no price" of an exception (new), even if its own str()
   raises.  NULL without an exception if that cannot be done: what was raised
   goes to the loop.  Runs Python. */
PyObject *al_ending_error_text(RegistryObject *self, PyObject *error);

/* Move an alive entry to the history, with an outcome that complete() has not
   fixed already, and notify everybody.  Steals the value.  Returns 0; -1 with
   SystemExit or KeyboardInterrupt of on_finish, of logging or of the error's
   str(), the entry being in the history.  Runs Python. */
int al_ending_finish(RegistryObject *self, EntryObject *entry,
                     al_outcome outcome, PyObject *value);

/* Move an entry whose Task has ended to the history, and notify everybody:
   the Task's done callback.  Returns 0; -1 with TypeError if the Task has not
   ended; -1 with SystemExit or KeyboardInterrupt of on_finish, of logging or
   of the error's str(), the entry being in the history.  Runs Python. */
int al_ending_close(EntryObject *entry);

/* Fix the outcome of an alive entry, unless complete() has done so before:
   `error`, or `result` if that is NULL.  Returns 0; -1 with an exception,
   nothing changed.  Runs Python. */
int al_ending_complete(RegistryObject *self, EntryObject *entry,
                       PyObject *result, PyObject *error);

#endif
