/* Starting and cancelling many Tasks from one handle of the loop. */
#ifndef AL_CAPTURE_H
#define AL_CAPTURE_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* Start a Task of `coro` with the keywords `kwnames` and their `values` from a
   handle of ours, and have `watcher` (may be NULL) called with it in the bound
   context when it has ended, in the place of a done callback.  For a loop and
   a moment that are AL_FAST_PATH_CALLS.  Returns 1 with *task (new); 0: not
   here, take the plain way; -1 with an exception, the coroutine left alone.
   Runs Python. */
int al_capture_start(al_state *st, const al_loop *bound, PyObject *coro,
                     PyObject *kwnames, PyObject *const *values,
                     PyObject *watcher, PyObject **task);

/* al_task_cancel, its wake-up from a handle of ours where that can be.
   `watcher` is the done callback that is to be called from there as well, or
   NULL.  Returns and raises what al_task_cancel does; -1 too with what a
   signal raised meanwhile, the cancellation being asked for.  Runs Python. */
int al_capture_cancel(al_state *st, const al_loop *bound, PyObject *task,
                      PyObject *msg, PyObject *watcher);

/* Allow the capture or turn it off, for tests and benchmarks; a self-test that
   has failed stays so.  Returns whether it was allowed.  Pure C. */
bool al_capture_allow(al_state *st, bool allowed);

/* Make the types and the capture's own state.  Returns 0; -1 with an
   exception.  Runs Python. */
int al_capture_setup(PyObject *module, al_state *st);

#endif
