/* Cancel many Tasks, wait for all, know the outcome of each. */
#ifndef AL_JOIN_SET_H
#define AL_JOIN_SET_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/exit_log.h"

/* Make an empty set of a bound loop (new).  NULL with MemoryError.  Pure C. */
PyObject *al_join_set_new(al_state *st, const al_loop *bound);

/* Count the members whose Task has not ended.  Pure C. */
Py_ssize_t al_join_set_pending(PyObject *set);

/* Add a Task; the caller calls al_member_end when it has ended.  None stands
   for a supervised entry that has no Task now.  `meta` is the
   Task's registry entry or None.  Returns the member (new); NULL with an
   exception, the set unchanged.  Runs Python. */
PyObject *al_join_set_add(PyObject *set, PyObject *task, PyObject *meta);

/* Cancel a member's Task, unless this set has cancelled it before.  Errors go
   to the loop's exception handler.  Runs Python. */
void al_member_cancel(PyObject *member);

/* Queue a member's Task for al_join_set_cancel, unless this set has cancelled
   it before.  Pure C. */
void al_member_queue(PyObject *member);

/* Cancel at most so many of the queued Tasks, in the order in which they were
   queued.  Returns how many are left.  Errors go to the loop's exception
   handler.  Runs Python. */
Py_ssize_t al_join_set_cancel(PyObject *set, Py_ssize_t most);

/* Record that a member's Task was cancelled before it joined this set, which
   does not cancel it again.  Pure C. */
void al_member_was_cancelled(PyObject *member);

/* Tell whether a cancellation has reached a member's Task.  Pure C. */
bool al_member_is_cancelled(PyObject *member);

/* Record that a member's Task has ended; later calls do nothing.  `error` is
   its exception, or NULL; `origin` is what its registry knows of it.  Wakes
   the callers that have nothing left to wait for.  Runs Python. */
void al_member_end(PyObject *member, al_outcome outcome, PyObject *error,
                   const al_exit_origin *origin);

/* Make the types JoinSet and JoinSetMember.  Returns 0; -1 with an exception.
   Runs Python. */
int al_join_set_setup(PyObject *module, al_state *st);

#endif
