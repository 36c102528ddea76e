/* How a group is left: what __aexit__ awaits. */
#ifndef AL_LEAVE_H
#define AL_LEAVE_H

#include "compat.h"
#include "state.h"
#include "group.h"

/* An awaitable of the group's end, `body` (may be NULL) being what its body
   raised (new).  Pure C. */
PyObject *al_leave_awaitable(GroupObject *group, PyObject *body);

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_leave_setup(PyObject *module, al_state *st);

#endif
