/* Making a Task of a coroutine, as the loop's create_task would. */
#ifndef AL_SPAWN_H
#define AL_SPAWN_H

#include "compat.h"
#include "state.h"
#include "loop.h"

/* Make a Task of the coroutine args[0] as the loop's create_task would with
   the keywords `kwnames`, whose values follow (new).  *lazy: it has certainly
   not run yet.  With eager_start it is made directly where nobody else would
   have it.  On error the coroutine is left alone.  Runs Python. */
PyObject *al_spawn(al_state *st, al_loop *bound, PyObject *const *args,
                   PyObject *kwnames, bool *lazy);

#endif
