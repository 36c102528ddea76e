/* Starting and cancelling many Tasks from one handle of the loop. */
#ifndef AL_CAPTURE_H
#define AL_CAPTURE_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"

/* Make a Task of `coro`, with the keywords `kwnames` and their `values`, whose
   first step runs from a call queue; `on_done` (may be NULL) is called with
   the Task when it has ended, in a copy of the current context, in the place
   of a done callback.  Only for a loop that is AL_FAST_PATH_HANDLE at this
   moment. Returns 1 with *task (new); 0 if the capture is off: make the Task
   without it; -1 with an exception, the coroutine left alone.  Runs Python. */
int al_capture_start(al_state *st, const al_loop *bound, PyObject *coro,
                     PyObject *kwnames, PyObject *const *values,
                     al_on_done on_done, PyObject **task);

/* al_task_cancel, with the Task's wake-up from a call queue where that is
   possible.  `on_done` is the done callback to call from there as well, or
   NULL.  Returns and raises what al_task_cancel does; -1 too with what a
   signal handler raised meanwhile, the Task being cancelled all the same.
   Runs Python. */
int al_capture_cancel(al_state *st, const al_loop *bound, PyObject *task,
                      PyObject *msg, PyObject *on_done);

/* Allow the capture or turn it off, for tests and benchmarks; if its self-test
   has failed it stays off.  Returns whether it was allowed.  Pure C. */
bool al_capture_allow(al_state *st, bool allowed);

/* Make the types and the module's one Capture.  Returns 0; -1 with an
   exception.  Runs Python. */
int al_capture_setup(PyObject *module, al_state *st);

#endif
