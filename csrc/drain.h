/* Cancel many, wait for all, know what became of each. */
#ifndef AL_DRAIN_H
#define AL_DRAIN_H

#include "compat.h"
#include "state.h"
#include "loop.h"

/* An empty drain of a bound loop (new).  Pure C. */
PyObject *al_drain_new(al_state *st, const al_loop *bound);

/* Put a Task in and cancel it, or note how it ended if it has.  `meta` is its
   entry or None.  With `watch` the node hears of the end by itself, else by
   al_node_end.  Returns the node (new); NULL with an exception, the Task not
   cancelled.  Runs Python. */
PyObject *al_drain_add(PyObject *drain, PyObject *task, PyObject *meta,
                       bool watch);

/* Cancel a node's Task, if nobody has through this drain.  Returns 0; -1
   with an exception.  Runs Python. */
int al_node_cancel(PyObject *node);

/* Note that a node's Task has ended.  `error` is its exception, or NULL.
   Runs Python. */
void al_node_end(PyObject *node, al_outcome outcome, PyObject *error);

/* Make the types Drain and DrainNode.  Runs Python. */
int al_drain_setup(PyObject *module, al_state *st);

#endif
