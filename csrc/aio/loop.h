/* Wrappers around the public API of event loops. */
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

/* Raise what al_loop_handle_error_keep_exit() has kept, if anything (stolen).
   Returns 0; -1 with it raised.  Pure C. */
static inline int
al_loop_raise_exit(PyObject *exit)
{
    if (exit != NULL) {
        PyErr_SetRaisedException(exit);
    }
    return exit == NULL ? 0 : -1;
}

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

/* Give None to every future of a list that still waits, and empty the list.
   Errors go to the loop's exception handler.  Runs Python. */
void al_loop_wake_waiters(al_state *st, const al_loop *bound,
                          PyObject *futures);

/* A new Future of the bound loop, ready to be yielded to a Task, which then
   waits for it (new).  Runs Python. */
PyObject *al_loop_create_waiter(al_state *st, const al_loop *bound);

/* Give None to a future unless it is done.  Errors go to the loop's exception
   handler.  Runs Python. */
void al_loop_wake_waiter(al_state *st, const al_loop *bound, PyObject *future);

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
