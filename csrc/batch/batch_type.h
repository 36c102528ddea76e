/* Books: the door to a batch, for pyasynclife/_batch.py. */
#ifndef AL_BATCH_TYPE_H
#define AL_BATCH_TYPE_H

#include "base/compat.h"
#include "base/state.h"

/* Make the type.  Runs Python. */
int al_batch_type_setup(PyObject *module, al_state *st);

#endif
