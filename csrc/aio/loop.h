/* The only room that speaks to an event loop or a Task. */
#ifndef AL_LOOP_H
#define AL_LOOP_H

#include "base/compat.h"
#include "base/state.h"

/* What clock a loop has, as pyasynclife._loop numbers it. */
typedef enum {
    AL_CLOCK_ITS_OWN = 0,
    AL_CLOCK_SYSTEM = 1, /* time.monotonic(), which C reads itself */
    AL_CLOCK_COARSE = 2, /* that too, but looked at once a turn */
} al_clock_kind;

/* A loop that an object of ours is bound to. */
typedef struct {
    PyObject *loop;       /* owned; NULL: not bound */
    PyObject *context;    /* owned: what callbacks of ours run in */
    unsigned long thread; /* of the loop's last run that we saw */
    al_clock_kind clock;
} al_loop;

/* How a Task ended. */
typedef enum {
    AL_ERROR = -1, /* the Task would not tell: an exception is set */
    AL_DONE = 0,
    AL_CANCELLED = 1,
    AL_FAILED = 2,
} al_outcome;

/* The running loop (new); NULL with RuntimeError saying what `what` needs.
   Runs Python. */
PyObject *al_loop_running(al_state *st, const char *what);

/* Bind to a loop that runs in this thread: its clock, and a context for
   callbacks.  Returns 0; -1 with an exception, nothing
   bound.  Runs Python. */
int al_loop_bind(al_state *st, al_loop *bound, PyObject *loop);

/* Bind to a loop that runs in this thread, whose clock will not be asked for.
   Returns 0; -1 with an exception, nothing bound.
   Pure C. */
int al_loop_bind_tasks(al_loop *bound, PyObject *loop);

/* Tell whether a loop is closed: 1 or 0; -1 with an exception.
   Runs Python. */
int al_loop_is_closed(al_state *st, PyObject *loop);

/* The task that runs in the bound loop, or None (new); NULL with an
   exception.  Runs Python. */
PyObject *al_loop_current_task(al_state *st, const al_loop *bound);

/* Make sure that this is the bound loop's thread.  `bound` may be unbound.
   Returns 0; -1 with RuntimeError naming `what`.  Runs Python. */
int al_loop_check_thread(al_state *st, al_loop *bound, const char *what);

/* The bound loop's time, in seconds; -1.0 with an exception.  Runs Python,
   but Pure C. where the clock is the system's. */
double al_loop_time(al_state *st, const al_loop *bound);

/* As many keywords as a Task can be made with. */
#define AL_TASK_KEYWORDS 8

/* type(coro, **keywords, loop=loop) (new); on error the coroutine is left
   alone.  Runs Python. */
PyObject *al_loop_make_task(al_state *st, PyObject *type, PyObject *loop,
                            PyObject *coro, PyObject *kwnames,
                            PyObject *const *values);

/* Call `callback()` at loop time `when`, in the bound context.  Returns the
   TimerHandle (new); NULL with an exception.  Runs Python. */
PyObject *al_loop_call_at(al_state *st, const al_loop *bound, double when,
                          PyObject *callback);

/* Tell whether an exception is one that ends the loop's run.  Pure C. */
bool al_loop_is_exit(PyObject *error);

/* What a Handle does with the raised exception: one that ends the loop's run
   stays raised, -1; of any other the loop's exception handler is told, and it
   is cleared; `message` says what failed, `source` (may be NULL) is named with
   it as its task.  Returns 0; -1 with that exception or one that the handler
   raised to end the run.  Runs Python. */
int al_loop_handle_error(al_state *st, PyObject *loop, const char *message,
                         PyObject *source);

/* al_loop_handle_error, for who has more to do: what ends the loop's run is
   kept in *exit (owned, or NULL), the first.  Never fails.  Runs Python. */
void al_loop_handle_error_keep_exit(al_state *st, PyObject *loop,
                                    const char *message, PyObject *source,
                                    PyObject **exit);

/* Keep one of two exceptions, the raised one and `earlier` (may be NULL),
   which is stolen: one that ends the loop's run, or else the earlier.  One
   must be. Returns -1 with it raised.  Runs Python. */
int al_loop_raise_more_severe(PyObject *earlier);

/* al_loop_handle_error, for who cannot raise: what ends the loop's run does so
   a turn later, from a callback of its own.  Never fails.  Runs Python. */
void al_loop_report_or_exit_later(al_state *st, PyObject *loop,
                                  const char *message, PyObject *source);

/* Tell the loop's exception handler of an error, whatever it is, that is
   raised where it belongs but will not be received, or gives way to a graver
   one. Never fails.  Runs Python. */
void al_loop_report_exception(al_state *st, PyObject *loop,
                              const char *message, PyObject *source,
                              PyObject *error);

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

/* Give None to every future of a list that still waits, and empty the list.
   Errors go to the loop's exception handler.  Runs Python. */
void al_futures_wake(al_state *st, const al_loop *bound, PyObject *futures);
/* Let a cancellation that a running Task has had come once more, at its next
   await.  Returns 0; -1 with an exception.  Runs Python. */
int al_task_cancel_again(al_state *st, const al_loop *bound, PyObject *task);

/* Take one cancellation of ours back.  Returns how many are left; -1 with an
   exception.  Runs Python. */
long al_task_uncancel(al_state *st, PyObject *task);

/* The Task's bound `cancelling`, for al_task_cancel_state (new).  Runs Python.
 */
PyObject *al_task_cancelling_method(al_state *st, PyObject *task);

/* What cancellations have left with the current Task: 0 nothing, 1 a count, 2
   one that was not delivered.  -1 with an exception.  Runs Python. */
int al_task_cancel_state(al_state *st, PyObject *task, PyObject *counter);

/* Take al_task_add_done_callback's callback off again.  Returns how many were;
   -1 with an exception.  Runs Python. */
long al_task_remove_done_callback(al_state *st, PyObject *task,
                                  PyObject *callback);

/* A new Future of the bound loop, ready to be yielded to a Task, which then
   waits for it (new).  Runs Python. */
PyObject *al_loop_create_waiter(al_state *st, const al_loop *bound);

/* Give None to a future unless it is done.  Errors go to the loop's exception
   handler.  Runs Python. */
void al_future_wake(al_state *st, const al_loop *bound, PyObject *future);

/* The visit of an embedded al_loop.  Pure C. */
static inline int
al_loop_visit(al_loop *bound, visitproc visit, void *arg)
{
    Py_VISIT(bound->loop);
    Py_VISIT(bound->context);
    return 0;
}

/* The clear of an embedded al_loop: unbound.  Runs Python. */
static inline void
al_loop_clear(al_loop *bound)
{
    Py_CLEAR(bound->context);
    Py_CLEAR(bound->loop);
}

#endif
