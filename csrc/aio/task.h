/* Wrappers around the public API of Tasks, and the coroutines in them. */
#ifndef AL_TASK_H
#define AL_TASK_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* ------------------------------------------------- making, asking, ending */

/* The most keywords that a Task can be made with. */
#define AL_TASK_KEYWORDS 8

/* How a Task ended. */
typedef enum {
    AL_ERROR = -1, /* unknown: asking it raised, an exception is set */
    AL_DONE = 0,
    AL_CANCELLED = 1,
    AL_FAILED = 2,
} al_outcome;

/* What is to be called with a Task at its end. */
typedef struct {
    PyObject *call;    /* borrowed, or NULL */
    PyObject *context; /* borrowed: to call it in, which nobody else enters;
                          NULL: a copy of the current one */
} al_on_done;

/* Make a Task: type(coro, **keywords, loop=loop) (new).  NULL with an
   exception, the coroutine left alone.  Runs Python. */
PyObject *al_task_make(al_state *st, PyObject *type, PyObject *loop,
                       PyObject *coro, PyObject *kwnames,
                       PyObject *const *values);

/* Check that an object is a Task, and of the bound loop.  Returns 0; -1 with
   TypeError or RuntimeError.  Runs Python. */
int al_task_check(al_state *st, const al_loop *bound, PyObject *task);

/* Return the Task's name (new); NULL with an exception.  Runs Python. */
PyObject *al_task_name(al_state *st, PyObject *task);

/* Name the Task.  Returns None (new); NULL with an exception.  Runs Python. */
PyObject *al_task_set_name(al_state *st, PyObject *task, PyObject *name);

/* Return the Task's coroutine, or None (new); NULL with an exception.
   Runs Python. */
PyObject *al_task_coro(al_state *st, PyObject *task);

/* Return a field of one of asyncio's own Tasks or Futures, read through the
   descriptor of its type at a third of the cost of getattr (new).  NULL with
   an exception, or without one if CPython has no such descriptor.  Pure C. */
PyObject *al_future_get(PyObject *descriptor, PyObject *future);

/* Tell whether the Task has ended: 1 or 0; -1 with an exception.
   Runs Python. */
int al_task_done(al_state *st, PyObject *task);

/* Return how a Task that is done has ended.  *value is its result, its
   exception or, if it was cancelled, NULL (new).  An exception counts as
   retrieved.  AL_ERROR with an exception.  Runs Python. */
al_outcome al_task_outcome(al_state *st, PyObject *task, PyObject **value);

/* Return the exception of a Task that is done: 1 with *error (new), which
   counts as retrieved; 0 if it has not failed; -1 with an exception.
   Runs Python. */
int al_task_error(al_state *st, PyObject *task, PyObject **error);

/* Have `callback(task)` called when the Task has ended, in `context`, or if
   that is NULL in a copy of the current one.  Returns 0; -1 with an exception,
   nothing added.  Runs Python. */
int al_task_add_done_callback(al_state *st, PyObject *task, PyObject *callback,
                              PyObject *context);

/* Remove a done callback.  Returns how often it was there; -1 with an
   exception.  Runs Python. */
long al_task_remove_done_callback(al_state *st, PyObject *task,
                                  PyObject *callback);

/* ------------------------------------------------------------ cancelling */

/* The cancellation requests that a running Task has left. */
typedef enum {
    AL_CANCEL_ERROR = -1, /* an exception is set */
    AL_CANCEL_NONE = 0,
    AL_CANCEL_COUNTED = 1, /* delivered, but not taken back by uncancel() */
    AL_CANCEL_PENDING = 2, /* not delivered yet */
} al_cancel_state;

/* Cancel the Task, with a message unless `msg` is NULL or None.  Returns 1 if
   the request was made, 0 if the Task had ended; -1 with an exception.
   Runs Python. */
int al_task_cancel(al_state *st, PyObject *task, PyObject *msg);

/* Return the Task's cancelling(), the count of requests that were not taken
   back; -1 with an exception.  Runs Python. */
long al_task_cancelling(al_state *st, PyObject *task);

/* Return the Task's bound method `cancelling` (new), for
   al_task_cancel_state(); NULL with an exception.  Runs Python. */
PyObject *al_task_cancelling_method(al_state *st, PyObject *task);

/* Return which requests the current Task has left.  `cancelling` is its bound
   method, which is kept because this runs for each item.  Runs Python. */
al_cancel_state al_task_cancel_state(al_state *st, PyObject *task,
                                     PyObject *cancelling);

/* Take one request of ours back.  Returns how many are left; -1 with an
   exception.  Runs Python. */
long al_task_uncancel(al_state *st, PyObject *task);

/* Deliver a cancellation that the running Task has received once more, at its
   next await.  Returns 0; -1 with an exception.  Runs Python. */
int al_task_cancel_again(al_state *st, const al_loop *bound, PyObject *task);

/* ------------------------------------------------ the await graph (3.14+) */

/* Add the edge from a Task to the Task that waits for it; nothing before 3.14.
   Returns 0; -1 with an exception.  Runs Python. */
int al_task_link(al_state *st, PyObject *task, PyObject *waiter);

/* Remove that edge.  Returns 0; -1 with an exception.  Runs Python. */
int al_task_unlink(al_state *st, PyObject *task, PyObject *waiter);

/* ------------------------------------------------------------ coroutines */

/* Tell whether an awaitable that is no coroutine of CPython's own type is a
   coroutine all the same: Cython and mypyc have types of their own.
   Runs Python. */
bool al_coro_is_foreign(al_state *st, PyObject *object);

/* Tell whether an object is a coroutine.  Costs next to nothing for an object
   that cannot be awaited.  Runs Python. */
static inline bool
al_coro_is(al_state *st, PyObject *object)
{
    const PyAsyncMethods *methods = Py_TYPE(object)->tp_as_async;
    return PyCoro_CheckExact(object)
           || (methods != NULL && methods->am_await != NULL
               && al_coro_is_foreign(st, object));
}

/* Return the answer of a hook (stolen; NULL: the hook has raised); NULL with
   TypeError if it is a coroutine, which is closed: hooks are not awaited.
   Runs Python. */
PyObject *al_coro_check_answer(al_state *st, const char *hook,
                               PyObject *answer);

/* Tell whether the coroutine has run its first step, or was closed before it:
   1 or 0; 1 for any other awaitable, which cannot be asked.  -1 with an
   exception.  Runs Python. */
int al_coro_started(al_state *st, PyObject *coro);

/* Close a coroutine that has never started, so that Python does not warn that
   it was never awaited; leave any other alone.  Keeps the raised exception.
   Runs Python. */
void al_coro_close_unstarted(al_state *st, PyObject *coro);

/* Close whatever was passed for a coroutine, if it has a close().  Returns 0;
   -1 with what close() raised.  Runs Python. */
int al_coro_close(al_state *st, PyObject *coro);

#endif
