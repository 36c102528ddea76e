/* Whether an event loop keeps time, for a thread that looks on. */
#ifndef AL_LOOP_PULSE_H
#define AL_LOOP_PULSE_H

#include "base/compat.h"
#include "base/state.h"

/* Make the type LoopPulse.  Returns 0; -1 with an exception.  Runs Python. */
int al_loop_pulse_setup(PyObject *module, al_state *st);

#endif
