/* Makes a Task of a coroutine, as the loop's create_task would. */
#ifndef AL_CREATE_TASK_H
#define AL_CREATE_TASK_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"

/* How much is known of a Task that was just made. */
typedef enum {
    AL_CREATED = 0,     /* nothing: a task factory may have run it */
    AL_CREATED_LAZY,    /* it has not run yet */
    AL_CREATED_WATCHED, /* it has not, and on_done will be called at its end */
} al_created;

/* Make a Task of the coroutine args[0], as the loop's create_task would with
   the keywords `kwnames`, whose values follow in `args`.  With eager_start
   the Task type is called directly, unless a task factory or a patched
   create_task must see the call.  If *how is AL_CREATED_WATCHED, `on_done` is
   called with the Task when it ends; else the caller adds it as a done
   callback.  Returns the Task (new); NULL with an exception, the
   coroutine left alone.  Runs Python. */
PyObject *al_create_task(al_state *st, al_loop *bound, PyObject *const *args,
                         PyObject *kwnames, PyObject *on_done,
                         al_created *how);

/* al_create_task() with a name and a context (may be NULL), for a loop that
   runs in this thread.  Returns the Task (new); NULL with an exception, the
   coroutine left alone.  Runs Python. */
PyObject *al_create_task_named(al_state *st, const al_loop *bound,
                               PyObject *coro, PyObject *name,
                               PyObject *context, al_on_done on_done,
                               al_created *how);

/* The same without a done callback, and with a handle of its own (new).
   Returns NULL with an exception, the coroutine left alone.  Runs Python. */
PyObject *al_create_task_plain(al_state *st, const al_loop *bound,
                               PyObject *coro, PyObject *name,
                               PyObject *context);

#endif
