/* Wrappers around the public API of Tasks, and the coroutines in them. */
#ifndef AL_TASK_H
#define AL_TASK_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* What cancellations have left with a Task that runs. */
typedef enum {
    AL_CANCEL_ERROR = -1, /* an exception is set */
    AL_CANCEL_NONE = 0,
    AL_CANCEL_COUNTED = 1, /* delivered, and not taken back */
    AL_CANCEL_PENDING = 2, /* not delivered yet */
} al_cancel_state;

/* How a Task ended. */
typedef enum {
    AL_ERROR = -1, /* the Task would not tell: an exception is set */
    AL_DONE = 0,
    AL_CANCELLED = 1,
    AL_FAILED = 2,
} al_outcome;

/* As many keywords as a Task can be made with. */
#define AL_TASK_KEYWORDS 8

/* type(coro, **keywords, loop=loop) (new); on error the coroutine is left
   alone.  Runs Python. */
PyObject *al_task_make(al_state *st, PyObject *type, PyObject *loop,
                       PyObject *coro, PyObject *kwnames,
                       PyObject *const *values);

/* What one of asyncio's own Tasks or Futures holds, by the descriptor of its
   type (new): a third of what it costs by its name.  NULL if that CPython has
   no such descriptor, or with an exception.  Pure C. */
PyObject *al_future_get(PyObject *descriptor, PyObject *future);

/* Tell whether the Task has ended: 1 or 0; -1 with an exception.
   Runs Python. */
int al_task_done(al_state *st, PyObject *task);

/* Ask for the Task's cancellation.  Returns 1 if asked, 0 if it had ended,
   -1 with an exception.  Runs Python. */
int al_task_cancel(al_state *st, PyObject *task, PyObject *msg);

/* Have `callback(task)` called in the bound context once it has ended.
   Returns 0; -1 with an exception.  Runs Python. */
int al_task_add_done_callback(al_state *st, const al_loop *bound,
                              PyObject *task, PyObject *callback);

/* How a Task that is done has ended; *value is its result, its exception or,
   cancelled, NULL (new).  Marks an exception as retrieved.  Runs Python. */
al_outcome al_task_outcome(al_state *st, PyObject *task, PyObject **value);

/* Whether a Task that is done has failed: 1 with *error (new), which counts
   as retrieved; 0: it has not; -1 with an exception.  Runs Python. */
int al_task_error(al_state *st, PyObject *task, PyObject **error);

/* Draw the edge of the await graph from a Task to who waits for it, where
   there is a graph.  Returns 0; -1 with an exception.  Runs Python. */
int al_task_link(al_state *st, PyObject *task, PyObject *waiter);

/* Take that edge away.  Returns 0; -1 with an exception.  Runs Python. */
int al_task_unlink(al_state *st, PyObject *task, PyObject *waiter);

/* The Task's count of cancellations not taken back; -1 with an exception.
   Runs Python. */
long al_task_cancelling(al_state *st, PyObject *task);

/* Refuse what is no Task, or one of another loop than the bound.  Returns 0;
   -1 with TypeError or RuntimeError.  Runs Python. */
int al_task_check(al_state *st, const al_loop *bound, PyObject *task);

/* The Task's name (new).  Runs Python. */
PyObject *al_task_name(al_state *st, PyObject *task);

/* The Task's coroutine, or None (new).  Runs Python. */
PyObject *al_task_coro(al_state *st, PyObject *task);

/* Let a cancellation that a running Task has had come once more, at its next
   await.  Returns 0; -1 with an exception.  Runs Python. */
int al_task_cancel_again(al_state *st, const al_loop *bound, PyObject *task);

/* Take one cancellation of ours back.  Returns how many are left; -1 with an
   exception.  Runs Python. */
long al_task_uncancel(al_state *st, PyObject *task);

/* The Task's bound `cancelling`, for al_task_cancel_state (new).  Runs Python.
 */
PyObject *al_task_cancelling_method(al_state *st, PyObject *task);

/* What cancellations have left with the current Task.  `cancelling` is its
   bound method, from al_task_cancelling_method().  Runs Python. */
al_cancel_state al_task_cancel_state(al_state *st, PyObject *task,
                                     PyObject *cancelling);

/* Take al_task_add_done_callback's callback off again.  Returns how many were;
   -1 with an exception.  Runs Python. */
long al_task_remove_done_callback(al_state *st, PyObject *task,
                                  PyObject *callback);

/* Tell whether the coroutine has run its first step, or was closed before it:
   1 or 0; where it cannot be told, 1.  -1 with an exception.  Runs Python. */
int al_coro_started(al_state *st, PyObject *coro);

/* Close a coroutine that has never started; leave any other alone.  Keeps
   the raised exception.  Runs Python. */
void al_coro_close_unstarted(al_state *st, PyObject *coro);

/* Close whatever was passed for a coroutine, if it can be closed.  Returns 0;
   -1 with what close() raised.  Runs Python. */
int al_coro_close(al_state *st, PyObject *coro);

#endif
