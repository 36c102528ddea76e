/* TaskRegistry.shutdown(): the native half. */
#ifndef AL_SHUTDOWN_H
#define AL_SHUTDOWN_H

#include "base/compat.h"
#include "registry/entry.h"
#include "registry/registry.h"

/* What a shutdown does to a Task that an earlier one has cancelled. */
typedef enum {
    AL_SHUTDOWN_AGAIN = 0,  /* cancel it again, and wait for it */
    AL_SHUTDOWN_ONCE,       /* wait for it */
    AL_SHUTDOWN_UNREPORTED, /* wait for it, unless it was reported as stuck */
} al_shutdown_whom;

/* Begin a shutdown, or join the running one, and cancel every alive Task but
   `caller`; `*cancelled` is how many.  Returns the JoinSet of the Tasks (new),
   which an al_shutdown_end() must follow; NULL with an exception, no shutdown
   begun, though some Tasks may be cancelled.  Runs Python. */
PyObject *al_shutdown_begin(RegistryObject *self, PyObject *caller,
                            al_shutdown_whom whom, Py_ssize_t *cancelled);

/* End a shutdown.  After the last one, new Tasks run again, and the next
   shutdown cancels those that are still alive once more.  Runs Python. */
void al_shutdown_end(RegistryObject *self);

/* If a shutdown runs: cancel an alive entry's Task, unless that shutdown has
   done so before.  Returns 0; -1 with an exception.  Runs Python. */
int al_shutdown_add(RegistryObject *self, EntryObject *entry);

#endif
