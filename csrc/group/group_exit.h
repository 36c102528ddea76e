/* The exit of a TaskGroup: the awaitable that __aexit__ returns. */
#ifndef AL_GROUP_EXIT_H
#define AL_GROUP_EXIT_H

#include "base/compat.h"
#include "base/state.h"
#include "group/group.h"

/* Make the awaitable of a group's exit; `body` is the exception that the body
   has raised, or NULL (new).  On error the group is unchanged.  Nothing begins
   before the first step.  Pure C. */
PyObject *al_group_exit_new(GroupObject *group, PyObject *body);

/* Make the type of an exit's state.  Returns 0; -1 with an exception.
   Runs Python. */
int al_group_exit_setup(PyObject *module, al_state *st);

#endif
