/* How a group is left: what __aexit__ awaits. */
#ifndef AL_GROUP_EXIT_H
#define AL_GROUP_EXIT_H

#include "base/compat.h"
#include "base/state.h"
#include "group/group.h"

/* An awaitable of the group's end, `body` (may be NULL) being what its body
   raised (new).  Pure C. */
PyObject *al_group_exit_new(GroupObject *group, PyObject *body);

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_group_exit_setup(PyObject *module, al_state *st);

#endif
