/* One loop timer for a queue of deadlines. */
#ifndef AL_DEADLINE_H
#define AL_DEADLINE_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"

/* A deadline lives in what is due then. */
typedef struct {
    al_link link;
    double when; /* loop time */
} al_deadline;

typedef struct al_deadlines al_deadlines;

/* What is due, already out of the queue; or NULL, with an exception set, which
   is to be taken: the timer has failed, and nothing will fall due any more.
   Runs Python. */
typedef void (*al_due)(al_deadlines *all, al_deadline *deadline);

/* A queue of deadlines, embedded in its owner. */
struct al_deadlines {
    al_link queue;   /* by time */
    PyObject *owner; /* borrowed: embeds this */
    const al_loop *bound;
    al_state *st;
    al_due due;
    PyObject *timer; /* owned: the loop's handle; NULL: none is armed */
    double armed;    /* what the timer is armed for */
};

/* Make an empty queue of an owner that embeds it and its loop.  Pure C. */
void al_deadline_init(al_deadlines *all, al_state *st, PyObject *owner,
                      const al_loop *bound, al_due due);

/* Queue a deadline that is in no queue.  Returns 0; -1 with an exception, and
   it is in none.  Runs Python. */
int al_deadline_add(al_deadlines *all, al_deadline *deadline, double when);

/* Cancel the timer and forget the queue.  Errors go to the loop's exception
   handler.  Runs Python. */
void al_deadline_disarm(al_deadlines *all);

/* Make the type of the timer's callback.  Runs Python. */
int al_deadline_setup(PyObject *module, al_state *st);

/* Take a deadline out of its queue, if it is in one.  Pure C. */
static inline void
al_deadline_drop(al_deadline *deadline)
{
    al_link_unlink(&deadline->link);
}

#endif
