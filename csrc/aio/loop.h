/* Wrappers around the public API of event loops. */
#ifndef AL_LOOP_H
#define AL_LOOP_H

#include "base/compat.h"
#include "base/state.h"

/* The clock of a loop, numbered as by loop_clock() in Python. */
typedef enum {
    AL_CLOCK_ITS_OWN = 0, /* call loop.time() */
    AL_CLOCK_SYSTEM = 1,  /* time.monotonic(): while it is not patched, C
                             reads the system's clock itself */
    AL_CLOCK_COARSE = 2,  /* the same, read by the loop once an iteration */
} al_clock_kind;

/* A loop that an object of ours is bound to. */
typedef struct {
    PyObject *loop;       /* owned; NULL: not bound */
    unsigned long thread; /* the thread in which we last saw it run */
    al_clock_kind clock;
} al_loop;

/* Return the running loop (new); NULL with RuntimeError, which says that
   `what` needs one.  Runs Python. */
PyObject *al_loop_running(al_state *st, const char *what);

/* Bind to a loop that runs in this thread, and find out its clock.  Returns 0;
   -1 with an exception, nothing bound.  Runs Python. */
int al_loop_bind(al_state *st, al_loop *bound, PyObject *loop);

/* al_loop_bind for an object that never asks for the time.  Runs Python. */
void al_loop_bind_tasks(al_loop *bound, PyObject *loop);

/* Tell whether a loop is closed: 1 or 0; -1 with an exception.
   Runs Python. */
int al_loop_is_closed(al_state *st, PyObject *loop);

/* Return the task that runs in the bound loop, or None (new); NULL with an
   exception.  Runs Python. */
PyObject *al_loop_current_task(al_state *st, const al_loop *bound);

/* Check that this is the bound loop's thread; an unbound `bound` passes.
   Returns 0; -1 with RuntimeError, which names `what`.  Runs Python. */
int al_loop_check_thread(al_state *st, al_loop *bound, const char *what);

/* al_loop_time() where it takes more than to read the clock.  Runs Python. */
double al_loop_ask_time(al_state *st, const al_loop *bound);

/* Return a number that grows with each change of the two modules where
   loop.time() finds time.monotonic; 0 where dicts have no versions.
   Pure C. */
static inline uint64_t
al_loop_clock_version(const al_state *st)
{
    return al_dict_version(st->time_dict)
           + al_dict_version(st->base_events_dict);
}

/* Return the bound loop's time in seconds; -1.0 with an exception.
   Runs Python.  (Unless al_loop_has_system_clock() afterwards.) */
static inline double
al_loop_time(al_state *st, const al_loop *bound)
{
    bool is_known = bound->clock == AL_CLOCK_SYSTEM && AL_DICT_HAS_VERSION
                    && st->clock_version == al_loop_clock_version(st);
    return is_known ? al_clock() : al_loop_ask_time(st, bound);
}

/* Tell whether the last al_loop_time() has read the system's clock.
   Pure C. */
static inline bool
al_loop_has_system_clock(const al_state *st, const al_loop *bound)
{
    return bound->clock != AL_CLOCK_ITS_OWN
           && !(st->clock_is_patched && bound->clock == AL_CLOCK_SYSTEM);
}

/* Schedule `callback()` at loop time `when`, in a copy of a context, so that
   it can be entered when the time comes; NULL: of the current one.  Returns
   the TimerHandle (new); NULL with an exception.  Runs Python. */
PyObject *al_loop_call_at(al_state *st, const al_loop *bound, double when,
                          PyObject *callback, PyObject *context);

/* al_loop_call_at() for `delay` seconds after the loop's own time.
   Runs Python. */
PyObject *al_loop_call_later(al_state *st, const al_loop *bound, double delay,
                             PyObject *callback, PyObject *context);

/* ------------------------------------------------------------- errors
 *
 * What we call may raise where no caller can receive the exception.  An
 * ordinary exception is then reported to the loop's exception handler.  An
 * exit (KeyboardInterrupt, SystemExit) must end the loop's run instead, as it
 * does when a callback of asyncio raises it.  These functions take the raised
 * exception (report_exception: an argument), and do with
 *
 *                            an ordinary exception    an exit
 *   handle_error             report it, return 0      leave it raised, -1
 *   handle_error_keep_exit   report it                keep it in *exit
 *   report_or_exit_later     report it                raise it in the next
 *                                                     loop iteration
 *   report_exception         report it                report it too
 *
 *   raise_exit               raises what handle_error_keep_exit has kept
 *   raise_more_severe        of two exceptions, raises an exit before an
 *                            ordinary one, else the earlier; drops the other
 *
 * Use handle_error in a callback of the loop; keep_exit, with raise_exit at
 * the end, in one that must finish its work first; report_or_exit_later where
 * nothing can be raised; report_exception for an exception that is raised or
 * recorded elsewhere and never received.
 *
 * If the loop's exception handler raises an exit, that exit goes the way of
 * the right column (report_exception: the next loop iteration).  Anything else
 * that the handler raises goes to sys.unraisablehook.
 */

/* Tell whether an exception is an exit: it ends the loop's run.  Pure C. */
bool al_loop_is_exit(PyObject *error);

/* Do with the raised exception what a Handle does: leave an exit raised, and
   report any other with `message`, which says what failed, and `source` (may
   be NULL) as its task.  Returns 0, no exception being set; -1 with the exit,
   or one that the exception handler raised.  Runs Python. */
int al_loop_handle_error(al_state *st, PyObject *loop, const char *message,
                         PyObject *source);

/* al_loop_handle_error for a caller with more to do: an exit is moved to *exit
   (owned, or NULL), unless one is there.  No exception is set afterwards.
   Runs Python. */
void al_loop_handle_error_keep_exit(al_state *st, PyObject *loop,
                                    const char *message, PyObject *source,
                                    PyObject **exit);

/* Raise the exit that al_loop_handle_error_keep_exit() has kept (stolen), if
   any.  Returns 0; -1 with it set.  Pure C. */
static inline int
al_loop_raise_exit(PyObject *exit)
{
    if (exit != NULL) {
        PyErr_SetRaisedException(exit);
    }
    return exit == NULL ? 0 : -1;
}

/* Of the raised exception and `earlier` (stolen; either may be NULL, not
   both), raise an exit before an ordinary one, else the earlier, and drop the
   other.  Returns -1 with it set.  Runs Python. */
int al_loop_raise_more_severe(PyObject *earlier);

/* al_loop_handle_error for a caller that cannot raise: an exit is raised by a
   callback of its own in the loop's next iteration.  No exception is set
   afterwards.  Runs Python. */
void al_loop_report_or_exit_later(al_state *st, PyObject *loop,
                                  const char *message, PyObject *source);

/* Report an exception that will not be received, an exit too.  No exception
   is set afterwards.  Runs Python. */
void al_loop_report_exception(al_state *st, PyObject *loop,
                              const char *message, PyObject *source,
                              PyObject *error);

/* ------------------------------------------------------------- waiters */

/* Make a Future of the bound loop (new), marked so that a Task to which it is
   yielded waits for it.  NULL with an exception.  Runs Python. */
PyObject *al_loop_create_waiter(al_state *st, const al_loop *bound);

/* Set the result None on a future unless it is done.  Errors are reported.
   Runs Python. */
void al_loop_wake_waiter(al_state *st, const al_loop *bound, PyObject *future);

/* Set the result None on every future of a list that is not done, and empty
   the list.  Errors are reported.  Runs Python. */
void al_loop_wake_waiters(al_state *st, const al_loop *bound,
                          PyObject *futures);

/* The traverse of an embedded al_loop.  Pure C. */
static inline int
al_loop_visit(al_loop *bound, visitproc visit, void *arg)
{
    Py_VISIT(bound->loop);
    return 0;
}

/* The clear of an embedded al_loop, which is unbound afterwards.
   Runs Python. */
static inline void
al_loop_clear(al_loop *bound)
{
    Py_CLEAR(bound->loop);
}

#endif
