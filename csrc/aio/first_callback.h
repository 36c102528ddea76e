/* A Task's watcher: the callback of ours that is told first of its end. */
#ifndef AL_FIRST_CALLBACK_H
#define AL_FIRST_CALLBACK_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* Before a step: if the watcher is the Task's only callback take it off.
   Tells whether it did.  For asyncio's own Task alone.  Pure C. */
bool al_first_callback_take(al_state *st, PyObject *task, PyObject *watcher);

/* After a step: put the watcher on the Task, to be called in `context`, before
   the callbacks that it has already.  What fails is told to the loop, and
   loses nobody's callback.  Returns 0; -1 with an exception that ends the
   loop's run, all else done.  For asyncio's own Task alone.  Runs Python. */
int al_first_callback_put(al_state *st, PyObject *loop, PyObject *task,
                          PyObject *watcher, PyObject *context);

#endif
