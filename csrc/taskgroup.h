/* TaskGroup: the door. */
#ifndef AL_TASKGROUP_H
#define AL_TASKGROUP_H

#include "compat.h"
#include "state.h"

/* Make the type.  Returns 0; -1 with an exception.  Runs Python. */
int al_taskgroup_setup(PyObject *module, al_state *st);

#endif
