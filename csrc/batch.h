/* The books of a batch: who takes the results, counts, status. */
#ifndef AL_BATCH_H
#define AL_BATCH_H

#include "compat.h"
#include "state.h"

/* Make the types.  Runs Python. */
int al_batch_setup(PyObject *module, al_state *st);

#endif
