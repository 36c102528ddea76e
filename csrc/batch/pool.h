/* PoolCore: the native half of a TaskPool. */
#ifndef AL_POOL_H
#define AL_POOL_H

#include "base/compat.h"
#include "base/state.h"

/* Make the type, after that of a batch.  Returns 0; -1 with an exception.
   Runs Python. */
int al_pool_setup(PyObject *module, al_state *st);

#endif
