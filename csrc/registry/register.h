/* TaskRegistry's two ways in: register() and track(). */
#ifndef AL_REGISTER_H
#define AL_REGISTER_H

#include "base/compat.h"
#include "registry/entry.h"
#include "registry/registry.h"

extern const char al_registry_register_doc[];
extern const char al_registry_track_doc[];

/* TaskRegistry.register(), a FASTCALL method with keywords.  Runs Python. */
PyObject *al_registry_register(PyObject *op, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *kwnames);

/* TaskRegistry.track(), likewise.  Runs Python. */
PyObject *al_registry_track(PyObject *op, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);

/* While the registry shuts down: cancel an alive entry's Task, unless that
   shutdown has.  Returns 0; -1 with an exception.  Runs Python. */
int al_admit_drain(RegistryObject *self, al_entry *entry);

/* Where no shutdown waits any more, forget what the last one cancelled: stuck
   ones may be cancelled again by the next.  Allocates nothing, for it must
   not fail.  Runs Python. */
void al_admit_drained(RegistryObject *self);

/* Bind to the running loop, or see that it is the one.  Returns 0; -1 with
   RuntimeError naming `what`.  Runs Python. */
int al_admit_bind(RegistryObject *self, const char *what);

/* The alive entry of the running task (borrowed); NULL without an exception
   if it has none.  Runs Python. */
al_entry *al_admit_current(RegistryObject *self);

#endif
