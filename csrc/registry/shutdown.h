/* TaskRegistry.shutdown(): the native half. */
#ifndef AL_SHUTDOWN_H
#define AL_SHUTDOWN_H

#include "base/compat.h"
#include "registry/entry.h"
#include "registry/registry.h"

/* Begin a shutdown, or join the running one, and cancel every alive Task but
   `caller`.  Returns the JoinSet of the Tasks (new), which an
   al_shutdown_end() must follow; NULL with an exception, no shutdown begun,
   though some Tasks may be cancelled.  Runs Python. */
PyObject *al_shutdown_begin(RegistryObject *self, PyObject *caller);

/* End a shutdown.  After the last one, register() works again, and the next
   shutdown cancels those that are still alive once more.  Runs Python. */
void al_shutdown_end(RegistryObject *self);

/* If a shutdown runs: cancel an alive entry's Task, unless that shutdown has
   done so before.  Returns 0; -1 with an exception.  Runs Python. */
int al_shutdown_add(RegistryObject *self, EntryObject *entry);

#endif
