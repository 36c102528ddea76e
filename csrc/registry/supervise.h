/* Entries that have one Task after another: supervise(). */
#ifndef AL_SUPERVISE_H
#define AL_SUPERVISE_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/task.h"
#include "registry/entry.h"
#include "registry/registry.h"

/* The done callback of a supervised entry's Task: begin the next run, or wait
   for it, or end the entry.  Returns and raises what al_ending_close()
   does.  Runs Python. */
int al_supervise_run_ended(EntryObject *entry);

/* Let the present run of a supervised entry be the last, or do nothing for any
   other entry.  Pure C. */
void al_supervise_stop(EntryObject *entry);

/* The cancellation of a supervised entry that was stopped came too late for
   its run, which has ended.  Pure C. */
void al_supervise_miss(EntryObject *entry);

/* End a supervised entry that has no Task, as cancelled unless complete() has
   fixed its outcome.  Returns 0; -1 with SystemExit or KeyboardInterrupt of a
   hook, the entry being in the history.  Runs Python. */
int al_supervise_end_resting(RegistryObject *self, EntryObject *entry);

/* Tell whether an alive entry is supervised and has no Task, nor a Task that
   is being made.  Pure C. */
bool al_supervise_is_resting(const RegistryObject *self,
                             const EntryObject *entry);

/* Method of the type Registry: _supervise().  Runs Python. */
PyObject *al_supervise_open(PyObject *registry, PyObject *args);

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_supervise_setup(PyObject *module, al_state *st);

#endif
