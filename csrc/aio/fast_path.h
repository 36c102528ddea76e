/* What may be done in a loop's place, for the loop is as it was made. */
#ifndef AL_FAST_PATH_H
#define AL_FAST_PATH_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

typedef enum {
    AL_FAST_PATH_ERROR = -1, /* an exception is set */
    AL_FAST_PATH_NOTHING = 0,
    AL_FAST_PATH_TASKS, /* calling the Task type is what create_task would do
                         */
    AL_FAST_PATH_CALLS, /* that, and several calls may share one handle */
} al_fast_path;

/* Ask what may be done in the place of the bound loop, here and now; more than
   `most` is not asked for.  Runs Python. */
al_fast_path al_fast_path_ask(al_state *st, const al_loop *bound,
                              al_fast_path most);

/* Tell whether several calls may share one handle of the bound loop, here and
   now, for who makes no Task: 1 or 0; -1 with an exception.  Runs Python. */
int al_fast_path_shares(al_state *st, const al_loop *bound);

/* Tell whether a loop is of uvloop's making: it cannot be run from inside a
   call, and names a Task after it was made.  Pure C. */
bool al_fast_path_is_native(al_state *st, PyObject *loop);

/* Tell whether a loop that is AL_FAST_PATH_TASKS is open, as its create_task
   asks: 1 or 0; -1 with an exception.  Runs Python. */
int al_fast_path_is_open(al_state *st, PyObject *loop);

/* The first object of that very type that `object` refers to, as the collector
   sees it through `type`, the object's or a base of that (new); NULL without
   an exception if there is none.  uvloop has no names for what it holds. Pure
   C. */
PyObject *al_fast_path_held(PyObject *object, PyTypeObject *type,
                            PyObject *wanted);

/* The queue of what the loop will call next, if it is what asyncio's and
   uvloop's loops have (new); else NULL, without an exception.  Fetched each
   time: somebody may replace it.  Pure C. */
PyObject *al_fast_path_queue(al_state *st, PyObject *loop);

/* Make the type and what is remembered.  Returns 0; -1 with an exception.
   Runs Python. */
int al_fast_path_setup(PyObject *module, al_state *st);

#endif
