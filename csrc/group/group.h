/* A group's core: its children, their errors, and how they are cancelled. */
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
    PyObject *parent;     /* owned: the task inside the group, or NULL */
    PyObject *children;   /* owned: dict of Tasks, in order; NULL: none yet */
    PyObject *on_done;    /* owned: the children's callback; NULL: none yet */
    PyObject *errors;     /* owned: list; NULL: none yet */
    PyObject *base_error; /* owned: a KeyboardInterrupt or SystemExit */
    PyObject *waiter;     /* owned: the future of the exit that waits */
    long asked;           /* the parent's count with our cancellation */
    bool entered;
    bool exiting;
    bool aborting;
    bool requested; /* the parent was cancelled by us */
    bool cancel_on_enter;
    bool over; /* left: nobody takes errors any more */
} GroupObject;

/* Tell whether no child is left.  Pure C. */
static inline bool
al_group_is_empty(const GroupObject *self)
{
    return self->children == NULL || PyDict_GET_SIZE(self->children) == 0;
}

/* Start a child of args[0] and the values of `kwnames` (new).  On error there
   is none, and the coroutine is closed if it has not started.
   Runs Python. */
PyObject *al_group_spawn(GroupObject *self, PyObject *const *args,
                         PyObject *kwnames);

/* Cancel the children, in the order they were made, and take no more.  Errors
   go to the loop's exception handler.  Returns 0; -1 with a KeyboardInterrupt
   or SystemExit that came meanwhile, all being cancelled.  Runs Python. */
int al_group_abort(GroupObject *self);

/* Cancel children and parent, or note it for the entry.  Returns 0; -1 with
   an exception, all being asked that could be.  Runs Python. */
int al_group_cancel(GroupObject *self);

/* Keep what must leave the group bare, the first of its kind: a
   KeyboardInterrupt or SystemExit.  Any other is left alone.  Pure C. */
void al_group_note_base_error(GroupObject *self, PyObject *error);

/* Keep an error for the end.  Returns 0; -1 with an exception.  Pure C. */
int al_group_add_error(GroupObject *self, PyObject *error);

/* Tell the loop's exception handler of the errors kept, but for one, and keep
   them no longer.  No exception may be set.  Runs Python. */
void al_group_report_errors(GroupObject *self, PyObject *but);

/* The slots of the type, which taskgroup.c makes.  Traverse: Pure C.; the
   others: Runs Python. */
int al_group_traverse(PyObject *op, visitproc visit, void *arg);

/* See al_group_traverse.  Runs Python. */
int al_group_clear(PyObject *op);

/* See al_group_traverse.  Runs Python. */
void al_group_dealloc(PyObject *op);

#endif
