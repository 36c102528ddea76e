/* TaskGroup: its children, their errors, and how they are cancelled. */
#ifndef AL_GROUP_H
#define AL_GROUP_H

#include "base/compat.h"
#include "base/state.h"
#include "aio/loop.h"

typedef struct {
    PyObject_HEAD
    al_state *st;
    PyObject *weakrefs; /* borrowed: the interpreter's own list */
    al_loop bound;
    PyObject *parent;     /* owned: the Task that entered, or NULL */
    PyObject *children;   /* owned: dict of Tasks in order of creation, the
                             values None; NULL until there is one */
    PyObject *on_done;    /* owned: the children's done callback, a bound
                             method; NULL until there is a child */
    PyObject *errors;     /* owned: list of the exceptions to raise, or NULL */
    PyObject *base_error; /* owned: the first KeyboardInterrupt or SystemExit,
                             or NULL */
    PyObject *waiter;     /* owned: the future that the exit waits for, or
                             NULL */
    long parent_cancelling; /* parent.cancelling() after our cancel() */
    bool entered;
    bool exiting;  /* __aexit__ has begun */
    bool exited;   /* __aexit__ has ended: nobody will raise errors any more */
    bool aborting; /* the children are cancelled, no more are taken */
    bool parent_cancel_requested; /* by us, once */
    bool cancel_on_enter;         /* cancel() came before the entry */
} GroupObject;

/* Tell whether no child is alive.  Pure C. */
static inline bool
al_group_is_empty(const GroupObject *self)
{
    return self->children == NULL || PyDict_GET_SIZE(self->children) == 0;
}

/* Cancel the children in the order of their creation, but not those in
   `spared`, unless that is NULL, and refuse new ones from now on: asyncio's
   _abort().  An error of a child's cancel() goes to the loop's exception
   handler.  Returns 0; -1 with a KeyboardInterrupt or SystemExit that was
   raised meanwhile, after all have been cancelled.  Runs Python. */
int al_group_abort(GroupObject *self, PyObject *spared);

/* Remember an exception that must leave the group by itself, not inside an
   ExceptionGroup: the first KeyboardInterrupt or SystemExit.  Any other
   exception is ignored.  Pure C. */
void al_group_note_base_error(GroupObject *self, PyObject *error);

/* Add an error to those that the exit will raise.  Returns 0; -1 with
   MemoryError, the list unchanged.  Pure C. */
int al_group_add_error(GroupObject *self, PyObject *error);

/* Report the collected errors to the loop's exception handler, except for
   `but` (may be NULL), and drop them all.  No exception may be set.  Never
   fails.  Runs Python. */
void al_group_report_errors(GroupObject *self, PyObject *but);

/* Make the type TaskGroup and add it to the module.  Returns 0; -1 with an
   exception.  Runs Python. */
int al_group_setup(PyObject *module, al_state *st);

#endif
