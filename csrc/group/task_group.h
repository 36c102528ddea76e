/* TaskGroup: the door. */
#ifndef AL_TASK_GROUP_H
#define AL_TASK_GROUP_H

#include "base/compat.h"
#include "base/state.h"

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_task_group_setup(PyObject *module, al_state *st);

#endif
