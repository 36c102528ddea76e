/* The awaitables of a batch, and the iterator of its results. */
#ifndef AL_BATCH_WAIT_H
#define AL_BATCH_WAIT_H

#include "base/compat.h"
#include "base/state.h"
#include "batch/batch.h"

/* An awaitable of the end, or of the reader's item being taken (new).  If
   `absorbs`, every CancelledError that is thrown into it is absorbed: the one
   that is to propagate is raised elsewhere.  If it `observes`, its Task may be
   cancelled without effect on the batch.  Pure C. */
PyObject *al_batch_wait_awaitable(BatchObject *batch, al_waiter_kind kind,
                                  bool absorbs, bool observes);

/* An asynchronous iterator of the results, which owns `handle`, the Batch
   (new).  Pure C. */
PyObject *al_batch_wait_stream(BatchObject *batch, PyObject *handle);

/* Make the types.  Returns 0; -1 with an exception.  Runs Python. */
int al_batch_wait_setup(PyObject *module, al_state *st);

#endif
