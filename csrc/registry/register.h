/* TaskRegistry's two ways in: register() and track(). */
#ifndef AL_REGISTER_H
#define AL_REGISTER_H

#include "base/compat.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"

extern const char al_register_register_doc[];
extern const char al_register_track_doc[];

/* TaskRegistry.register(), a FASTCALL method with keywords.  Runs Python. */
PyObject *al_register_register(PyObject *op, PyObject *const *args,
                               Py_ssize_t nargs, PyObject *kwnames);

/* TaskRegistry.track(), likewise.  Runs Python. */
PyObject *al_register_track(PyObject *op, PyObject *const *args,
                            Py_ssize_t nargs, PyObject *kwnames);

/* While the registry shuts down: cancel an alive entry's Task, unless that
   shutdown has.  Returns 0; -1 with an exception.  Runs Python. */
int al_register_drain(RegistryObject *self, EntryObject *entry);

/* Where no shutdown waits any more, forget what the last one cancelled: stuck
   ones may be cancelled again by the next.  Allocates nothing, for it must
   not fail.  Runs Python. */
void al_register_drained(RegistryObject *self);

/* Bind to the running loop, or see that it is the one.  Returns 0; -1 with
   RuntimeError naming `what`.  Runs Python. */
int al_register_bind(RegistryObject *self, const char *what);

/* The alive entry of the running task (borrowed); NULL without an exception
   if it has none.  Runs Python. */
EntryObject *al_register_current(RegistryObject *self);

#endif
