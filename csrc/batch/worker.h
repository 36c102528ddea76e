/* The workers of a pump: real Tasks that drive items, one after the other. */
#ifndef AL_WORKER_H
#define AL_WORKER_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/awaitable.h"
#include "aio/deadline.h"
#include "batch/source.h"
#include "batch/item.h"

/* What the owner of a pump is told. */
typedef struct {
    /* One item's TaskResult (borrowed); PENDING: pulled and not started.
       Sets no exception.  Runs Python. */
    void (*finished)(PyObject *owner, PyObject *result);
    /* The item that the reader had ahead was taken.  Runs Python. */
    void (*taken)(PyObject *owner);
    /* Nothing runs and nothing comes any more.  Once.  Runs Python. */
    void (*over)(PyObject *owner);
    /* Nothing runs and nothing comes, unless it is added: tells whether that
       is the end.  Pure C. */
    bool (*may_end)(PyObject *owner);
} al_pump_calls;

typedef struct WorkerObject WorkerObject;

/* A pump, embedded in its owner. */
typedef struct al_pump {
    al_state *st;
    PyObject *owner; /* borrowed: embeds this */
    const al_pump_calls *calls;
    al_step step;                  /* of each worker */
    void (*left)(PyObject *);      /* the Task of a worker has ended */
    int (*solo)(struct al_pump *); /* a Task for one item; NULL: for many */
    al_loop bound;
    al_source source;
    al_deadlines deadlines;
    al_deadline budget_end;
    al_deadline grace_end;
    al_link workers;         /* owns a reference to each */
    WorkerObject *yielding;  /* borrowed: gives the loop a turn */
    PyObject *fn;            /* owned */
    PyObject *name;          /* owned: of the workers */
    PyObject *reader;        /* owned: Task of an asynchronous source */
    PyObject *fatal;         /* owned: what ends the batch, bare */
    PyObject *registry;      /* owned: of solo Tasks, or NULL */
    PyObject *gates;         /* owned: list of futures, while held */
    Py_ssize_t limit;        /* of workers */
    Py_ssize_t alive;        /* workers */
    Py_ssize_t unstarted;    /* of them */
    Py_ssize_t room;         /* how many more may be started now */
    int cancelled_unstarted; /* since one began: all ended unstarted */
    double timeout;          /* of an item; inf: none */
    double budget;           /* of all; inf: none */
    double grace;            /* of what is cancelled; inf: none */
    double began;            /* loop time */
    double turn_at;          /* system clock, of the last turn given */
    al_stop stopping;
    bool begun;
    bool over;
    bool driving;  /* a worker of this pump is on the C stack */
    bool spawning; /* workers are being made */
    bool paused;
    bool closed; /* nothing will be added */
} al_pump;

/* One worker. */
struct WorkerObject {
    PyObject_HEAD
    al_link link;    /* in the pump's workers */
    PyObject *owner; /* owned: what embeds the pump; NULL once ended */
    al_pump *pump;   /* inside the owner */
    al_state *st;
    PyObject *task;    /* owned; NULL while it is being made */
    PyObject *counter; /* owned: the Task's bound cancelling */
    PyObject *refused; /* owned: what stands for the item's call, or NULL */
    al_item item;
    double now; /* end of the item before, if it is still the time; or 0 */
    bool begun;
    bool stepping;
};

/* A worker without a Task yet, in the pump's list (borrowed).  Runs Python. */
WorkerObject *al_worker_new(al_pump *pump);

/* Give a worker its Task (borrowed), whose end it will be told of.  Returns 0;
   -1 with an exception: the worker is to be detached.  Runs Python. */
int al_worker_own(WorkerObject *worker, PyObject *task);

/* Tell whether an item may be pulled now.  Pure C. */
bool al_pump_may_pull(const al_pump *pump);

/* Tell whether an item that has its Task must wait: the batch is paused, or
   its limit was lowered.  Pure C. */
static inline bool
al_pump_holds_items(const al_pump *p)
{
    return p->paused
           || (p->alive - p->unstarted >= p->limit && p->fatal == NULL);
}

/* Up to n more workers, as far as the limit allows and there is something to
   pull; a failure ends the pump.  Runs Python. */
void al_pump_spawn(al_pump *pump, Py_ssize_t n);

/* Let go of a worker: it has ended, for the pump.  Runs Python. */
void al_worker_detach(WorkerObject *worker);

/* There may be room, or an item: see that a worker comes; or that the owner
   is told that all is over.  Runs Python. */
void al_pump_update(al_pump *pump);

/* Start nothing new, and cancel what runs; each call cancels once more.
   `msg` may be NULL.  Runs Python. */
void al_pump_stop(al_pump *pump, al_stop why, PyObject *msg);

/* Stop for the exception that is set, and take it: the first, or the first
   that ends the loop's run, is what the batch raises.  Runs Python. */
void al_pump_fail(al_pump *pump);

/* Cancel the item of one worker, once more; `msg` may be NULL.
   Runs Python. */
void al_worker_cancel(WorkerObject *worker, al_stop why, PyObject *msg);

/* Make the worker's type.  Runs Python. */
int al_worker_setup(PyObject *module, al_state *st);

#endif
