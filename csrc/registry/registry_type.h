/* TaskRegistry, the type. */
#ifndef AL_REGISTRY_TYPE_H
#define AL_REGISTRY_TYPE_H

#include "base/compat.h"
#include "base/state.h"

/* Make the type Registry, which TaskRegistry stands on.  Runs Python. */
int al_registry_type_setup(PyObject *module, al_state *st);

#endif
