/* One loop timer for a queue of deadlines. */
#ifndef AL_DEADLINE_H
#define AL_DEADLINE_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"

/* A deadline, embedded in the thing that is due then. */
typedef struct {
    al_link link;
    double when; /* loop time */
} al_deadline;

typedef struct al_deadlines al_deadlines;

/* Called for each deadline that is due, after it was taken out of the queue.
   `deadline` is NULL, with an exception set that the callee handles, if the
   clock or the timer failed: nothing in the queue will fall due any more.
   Runs Python. */
typedef void (*al_due)(al_deadlines *all, al_deadline *deadline);

/* A queue of deadlines, embedded in its owner. */
struct al_deadlines {
    al_link queue;        /* of deadlines, by time */
    PyObject *owner;      /* borrowed: embeds this */
    const al_loop *bound; /* borrowed: the owner's */
    PyObject **context;   /* borrowed: the owner's, copied for each timer */
    al_state *st;
    al_due due;
    PyObject *timer; /* owned: the TimerHandle; NULL: none is armed */
    double armed;    /* the loop time that the timer is armed for */
};

/* Initialize an empty queue, embedded in `owner` as `bound` and `context` are.
   There need not be a context yet, nor ever if memory fails.  Pure C. */
void al_deadline_init(al_deadlines *all, al_state *st, PyObject *owner,
                      const al_loop *bound, PyObject **context, al_due due);

/* Add a deadline that is in no queue.  Returns 0; -1 with an exception, the
   deadline not added.  Runs Python. */
int al_deadline_add(al_deadlines *all, al_deadline *deadline, double when);

/* Cancel the timer and empty the queue.  Errors are reported to the loop.
   Runs Python. */
void al_deadline_disarm(al_deadlines *all);

/* Make the type of the timer's callback.  Returns 0; -1 with an exception.
   Runs Python. */
int al_deadline_setup(PyObject *module, al_state *st);

/* Remove a deadline from its queue, if it is in one.  Pure C. */
static inline void
al_deadline_drop(al_deadline *deadline)
{
    al_link_unlink(&deadline->link);
}

#endif
