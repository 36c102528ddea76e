/* The signal handlers that SignalCoordinator installs. */
#ifndef AL_SIGNAL_HANDLER_H
#define AL_SIGNAL_HANDLER_H

#include "base/compat.h"
#include "base/state.h"

/* Make the type SignalHandler.  Returns 0; -1 with an exception.
   Runs Python. */
int al_signal_handler_setup(PyObject *module, al_state *st);

#endif
