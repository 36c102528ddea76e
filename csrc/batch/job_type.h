/* The Python API of a job, and its await. */
#ifndef AL_JOB_TYPE_H
#define AL_JOB_TYPE_H

#include "base/compat.h"
#include "base/state.h"

/* Make the types.  Returns 0; -1 with an exception.  Runs Python. */
int al_job_type_setup(PyObject *module, al_state *st);

#endif
