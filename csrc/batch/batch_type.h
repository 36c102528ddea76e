/* The Python API of a batch: BatchCore, for pyasynclife/_batch.py. */
#ifndef AL_BATCH_TYPE_H
#define AL_BATCH_TYPE_H

#include "base/compat.h"
#include "base/state.h"
#include "batch/batch.h"

/* Refuse a call from another thread than the loop's, or while another loop
   than the batch's runs in this thread, unless the batch is over.  Returns 0;
   -1 with RuntimeError.  Runs Python. */
int al_batch_type_check_loop(BatchObject *batch);

/* Make the type, and the constants of the enums that Python code shares.
   Returns 0; -1 with an exception.  Runs Python. */
int al_batch_type_setup(PyObject *module, al_state *st);

#endif
