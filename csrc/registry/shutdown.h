/* TaskRegistry.shutdown(): the native half. */
#ifndef AL_SHUTDOWN_H
#define AL_SHUTDOWN_H

#include "base/compat.h"
#include "registry/entry.h"
#include "registry/registry.h"

/* Registry._begin_shutdown(caller, whom): begin a shutdown, or join the
   running one, and queue every alive Task but `caller` in its JoinSet, whose
   cancel() cancels them.  Runs Python. */
PyObject *al_shutdown_begin(PyObject *registry, PyObject *args);

/* Registry._list_alive(): the entries that are alive, as a list.
   Runs Python. */
PyObject *al_shutdown_list(PyObject *registry, PyObject *ignored);

/* Registry._note_shutdown(meta, stuck): remember that a shutdown has cancelled
   a task or, if stuck is true, has reported it as stuck; return whether that
   was noted before.  Runs Python. */
PyObject *al_shutdown_note(PyObject *registry, PyObject *args);

/* Registry._end_shutdown().  The last one cancels what is still queued; then
   register() works again, and the next shutdown cancels those that are still
   alive once more.  Returns how many failures were not logged.  Runs
   Python. */
PyObject *al_shutdown_end(PyObject *registry, PyObject *ignored);

/* If a shutdown runs: cancel an alive entry's Task, unless that shutdown has
   done so before.  Returns 0; -1 with an exception.  Runs Python. */
int al_shutdown_add(RegistryObject *self, EntryObject *entry);

/* Add the constants SHUTDOWN_*.  Returns 0; -1 with an exception.
   Runs Python. */
int al_shutdown_setup(PyObject *module);

#endif
