/* The registered task in whose context code runs. */
#ifndef AL_OWNER_H
#define AL_OWNER_H

#include "base/compat.h"
#include "base/state.h"
#include "registry/entry.h"
#include "registry/registry.h"

/* Put the id of an open entry into a context, which must not be entered by
   anybody: code that runs in it, or in a copy of it, is the entry's.  If
   `enter` is set, leave it entered.  Returns 0; -1 with MemoryError, the
   context not entered.  Runs Python. */
int al_owner_set(RegistryObject *self, EntryObject *entry, PyObject *context,
                 bool enter);

/* Leave a context that al_owner_set() has entered.  Keeps the raised
   exception.  Runs Python. */
void al_owner_exit(RegistryObject *self, PyObject *context);

/* Let an ended entry own no code any more.  Pure C. */
void al_owner_end(EntryObject *entry);

/* Find the alive entry of the running Task or, if that is not registered, the
   entry whose context this is, in any thread.  Returns it (borrowed); NULL,
   without an exception, if there is none; NULL with an exception: if `thread`
   is set, with RuntimeError if there is none and this is another thread than
   the loop's.  Runs Python. */
EntryObject *al_owner_current(RegistryObject *self, bool thread);

/* Method of the type Registry: current_id().  Runs Python. */
PyObject *al_owner_current_id(PyObject *registry, PyObject *ignored);

/* Make the type, and the context variable.  Returns 0; -1 with an exception.
   Runs Python. */
int al_owner_setup(PyObject *module, al_state *st);

#endif
