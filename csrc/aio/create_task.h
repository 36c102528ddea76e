/* Making a Task of a coroutine, as the loop's create_task would. */
#ifndef AL_CREATE_TASK_H
#define AL_CREATE_TASK_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

/* What is known of a Task that was just made. */
typedef enum {
    AL_CREATED = 0,     /* a task factory may have run it */
    AL_CREATED_LAZY,    /* it has certainly not run yet */
    AL_CREATED_WATCHED, /* nor that, and its watcher will be called */
} al_created;

/* Make a Task of the coroutine args[0] as the loop's create_task would with
   the keywords `kwnames`, whose values follow (new).  With eager_start it is
   made directly where nobody else would have it.  Where `*how` says so,
   `watcher` will be called with it in the bound context at its end.  On error
   the coroutine is left alone.  Runs Python. */
PyObject *al_create_task(al_state *st, al_loop *bound, PyObject *const *args,
                         PyObject *kwnames, PyObject *watcher,
                         al_created *how);

/* al_create_task() of a coroutine with a name and a context (may be NULL), in
   the bound loop, which runs in this thread (new).  Runs Python. */
PyObject *al_create_task_named(al_state *st, const al_loop *bound,
                               PyObject *coro, PyObject *name,
                               PyObject *context, PyObject *watcher,
                               al_created *how);

/* The same without a watcher, from a handle of its own (new).  Runs Python. */
PyObject *al_create_task_plain(al_state *st, const al_loop *bound,
                               PyObject *coro, PyObject *name,
                               PyObject *context);

#endif
