/* Decides which fast paths are safe on a loop of asyncio or uvloop. */
#ifndef AL_FAST_PATH_H
#define AL_FAST_PATH_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* The shortcuts that no code can tell from the loop's own create_task. */
typedef enum {
    AL_FAST_PATH_ERROR = -1, /* an exception is set */
    AL_FAST_PATH_NONE = 0,   /* nothing: call the loop's create_task */
    AL_FAST_PATH_TASK,       /* calling the Task type */
    AL_FAST_PATH_HANDLE,     /* that, and sharing a handle between calls */
} al_fast_path;

/* Return the widest fast path that is safe on the bound loop at this moment,
   but none wider than `most`.  AL_FAST_PATH_ERROR with an exception.
   Runs Python. */
al_fast_path al_fast_path_find(al_state *st, const al_loop *bound,
                               al_fast_path most);

/* Tell whether several calls may share one handle of the bound loop at this
   moment, whatever its create_task is: 1 or 0; -1 with an exception.
   Runs Python. */
int al_fast_path_can_share(al_state *st, const al_loop *bound);

/* Tell whether a loop is uvloop's: it cannot be run from inside a call, and
   names a Task after it was made.  Pure C. */
bool al_fast_path_is_uvloop(al_state *st, PyObject *loop);

/* Tell whether a loop on AL_FAST_PATH_TASK is open, which its create_task
   checks: 1 or 0; -1 with an exception.  Runs Python. */
int al_fast_path_is_open(al_state *st, PyObject *loop);

/* Return the first object of exactly type `wanted` that `object` refers to, as
   the collector sees it through `type`, the object's or a base of that (new);
   NULL without an exception if there is none.  What uvloop's objects hold has
   no names.  Pure C. */
PyObject *al_fast_path_find_referent(PyObject *object, PyTypeObject *type,
                                     PyObject *wanted);

/* Return the deque of handles that the loop calls next, asyncio's or uvloop's
   (new); NULL without an exception if there is none to be seen.  It is fetched
   each time, for somebody may replace it (R1).  Pure C. */
PyObject *al_fast_path_ready_queue(al_state *st, PyObject *loop);

/* Make the type and the module's one object of it.  Returns 0; -1 with an
   exception.  Runs Python. */
int al_fast_path_setup(PyObject *module, al_state *st);

#endif
