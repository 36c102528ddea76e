/* Cancel many, wait for all, know what became of each. */
#ifndef AL_JOIN_SET_H
#define AL_JOIN_SET_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* An empty drain of a bound loop (new).  Pure C. */
PyObject *al_drain_new(al_state *st, const al_loop *bound);

/* Put a Task in, whose end the caller will tell by al_node_end.  `meta` is its
   entry or None.  Returns the node (new); NULL with an exception.
   Runs Python. */
PyObject *al_drain_add(PyObject *drain, PyObject *task, PyObject *meta);

/* Cancel a node's Task, if nobody has through this drain; an error goes to
   the loop's exception handler.  Runs Python. */
void al_node_cancel(PyObject *node);

/* Note that a node's Task has ended.  `error` is its exception, or NULL.
   Runs Python. */
void al_node_end(PyObject *node, al_outcome outcome, PyObject *error);

/* Make the types Drain and DrainNode.  Runs Python. */
int al_drain_setup(PyObject *module, al_state *st);

#endif
