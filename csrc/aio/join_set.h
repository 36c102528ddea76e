/* Cancel many, wait for all, know what became of each. */
#ifndef AL_JOIN_SET_H
#define AL_JOIN_SET_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"

/* An empty set of a bound loop (new).  Pure C. */
PyObject *al_join_set_new(al_state *st, const al_loop *bound);

/* Put a Task in, whose end the caller will tell by al_member_end.  `meta` is
   its entry or None.  Returns the member (new); NULL with an exception. Runs
   Python. */
PyObject *al_join_set_add(PyObject *set, PyObject *task, PyObject *meta);

/* Cancel a member's Task, if nobody has through this set; an error goes to
   the loop's exception handler.  Runs Python. */
void al_member_cancel(PyObject *member);

/* Note that a member's Task has ended.  `error` is its exception, or NULL.
   Runs Python. */
void al_member_end(PyObject *member, al_outcome outcome, PyObject *error);

/* Make the types JoinSet and JoinSetMember.  Runs Python. */
int al_join_set_setup(PyObject *module, al_state *st);

#endif
