/* The pump: takes items from a source and has workers run them. */
#ifndef AL_PUMP_H
#define AL_PUMP_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/deadline.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/limits.h"

/* How long a pump pulls and starts items before the loop gets an iteration, in
   seconds. */
#define AL_PUMP_SLICE 0.010

/* How many workers may wait for their first step, and how many between two
   items for the next slice.  It is about what a slice can start: with more of
   them, each slice would cost a step of every one, and a large limit would
   cost the square of it. */
#define AL_PUMP_WAITING_MAX 512

/* How a pump notifies its owner. */
typedef struct {
    /* An item has ended, or was pulled and never started (PENDING); its
       TaskResult is borrowed.  Sets no exception.  Runs Python. */
    void (*item_ended)(PyObject *owner, PyObject *result);
    /* The item that the reader had ready was taken.  Runs Python. */
    void (*item_taken)(PyObject *owner);
    /* The pump is over.  Called once.  Runs Python. */
    void (*over)(PyObject *owner);
    /* Nothing runs and nothing is left to pull.  Tell whether the pump is
       over, or whether items may still be added.  Pure C. */
    bool (*may_be_over)(PyObject *owner);
} al_pump_calls;

typedef struct WorkerObject WorkerObject;

/* A pump, embedded in its owner. */
typedef struct al_pump {
    al_state *st;
    PyObject *owner; /* borrowed: embeds this */
    const al_pump_calls *calls;
    al_loop bound;
    al_source source;
    al_deadlines deadlines;
    al_deadline budget_end;
    al_deadline grace_end;
    al_link workers;         /* owns a reference to each */
    WorkerObject *yielding;  /* borrowed: has yielded to the loop */
    PyObject *fn;            /* owned */
    PyObject *name;          /* owned: of the workers' Tasks */
    PyObject *fn_name;       /* owned: of their coroutines */
    PyObject *reader;        /* owned: Task of an asynchronous source */
    PyObject *fatal;         /* owned: the exception that stopped the pump */
    PyObject *registry;      /* owned: registers the items' Tasks, or NULL */
    PyObject *held;          /* owned: list of futures of held items */
    al_limits *limits;       /* owned, or NULL */
    Py_ssize_t head;         /* index that an ordered consumer waits for; -1 */
    Py_ssize_t limit;        /* of workers */
    Py_ssize_t alive;        /* workers */
    Py_ssize_t unstarted;    /* of these, not begun yet */
    Py_ssize_t resting;      /* of these, waiting for the next slice */
    Py_ssize_t room;         /* how many more items may be pulled now */
    bool room_of_source;     /* that does not count, or bound, added ones */
    int cancelled_unstarted; /* workers, in a row */
    double timeout;          /* of an item; inf: none */
    double budget;           /* of the whole batch; inf: none */
    double grace;            /* of cancelled items; inf: none */
    double begun_at;         /* loop time */
    double yielded_at;       /* system clock, of the last yield to the loop */
    double pulled_for;       /* seconds that pulling took since then */
    al_stop stopping;
    bool task_per_item;
    bool task_per_item_unset; /* the loop's task factory decides */
    bool reader_cancelled;    /* by us, at least once */
    bool reader_gets;         /* it waits for the next item of a queue */
    bool reader_closing; /* and was cancelled, to look whether it is empty */
    bool queue_failed;   /* its task_done() has, and that was reported */
    bool begun;
    bool over;
    bool driving;  /* a worker of this pump is on the C stack */
    bool spawning; /* workers are being made */
    bool paused;
    bool closed;           /* nothing can be added any more */
    bool items_cancelled;  /* all that ran, by a stop */
    bool left_to_registry; /* which shuts down, and cancels the items */
    bool registry_failed;  /* it did not tell whether it shuts down */
} al_pump;

/* Make an idle pump.  The caller then fills in fn, name, source, limit, room,
   timeout, budget, grace, task_per_item, limits and registry.  Pure C. */
void al_pump_init(al_pump *pump, al_state *st, PyObject *owner,
                  const al_pump_calls *calls);

/* Begin in the running loop.  Returns 0, also if the source or the first
   worker failed: that stops the pump with AL_STOP_FATAL.  -1 with an exception
   if no loop runs; then nothing has begun.  Runs Python. */
int al_pump_begin(al_pump *pump);

/* The state has changed: make a worker if an item may be pulled, let held
   items begin, and notify the owner if the pump is over.  A failure stops the
   pump.  Runs Python. */
void al_pump_update(al_pump *pump);

/* Make up to `n` more workers, as far as the limit allows and there is
   something to pull.  A failure stops the pump.  Runs Python. */
void al_pump_spawn(al_pump *pump, Py_ssize_t n);

/* An item has suspended, or the limit was raised: double the workers if there
   are more items than workers.  If a list, tuple or range has no item left,
   end the source.  Runs Python. */
void al_pump_grow(al_pump *pump);

/* The limit has changed, or the pump was paused, resumed or closed: begin to
   make as many workers as may run now.  Runs Python. */
void al_pump_limit_changed(al_pump *pump);

/* Start nothing new, and cancel what runs: if `again`, as Batch.cancel() does,
   also what we have cancelled already.  The first `why` counts; `msg` may be
   NULL.  With AL_STOP_REGISTRY the items are left to the registry, which has
   cancelled them.  With AL_STOP_DRAIN what runs goes on, and only an item
   whose Task has not begun is never started.  Runs Python. */
void al_pump_stop(al_pump *pump, al_stop why, PyObject *msg, bool again);

/* Stop because of the exception that is set, and take it.  The batch raises
   the first one, or the first that ends the loop's run.  Runs Python. */
void al_pump_fail(al_pump *pump);

/* The visit of an embedded pump.  Pure C. */
int al_pump_visit(al_pump *pump, visitproc visit, void *arg);

/* The clear of an embedded pump.  Runs Python. */
void al_pump_clear(al_pump *pump);

/* Tell whether the items that run may go on.  Pure C. */
static inline bool
al_pump_lets_run(const al_pump *p)
{
    return p->stopping <= AL_STOP_DRAIN;
}

/* Why nothing can be added, for a message; NULL if something can.  Pure C. */
static inline const char *
al_pump_refusal(const al_pump *p)
{
    if (p->over) {
        return "has ended";
    }
    switch (p->stopping) {
    case AL_STOP_DRAIN:
        return "was stopped";
    case AL_STOP_BUDGET:
        return "has used up its budget";
    case AL_STOP_ERRORS:
        return "was ended by the failures of its items";
    case AL_STOP_CANCEL:
    case AL_STOP_REGISTRY: /* is never stored */
        return "was cancelled";
    case AL_STOP_FATAL:
        return "has failed";
    case AL_STOP_NONE:
        break;
    }
    return p->fatal != NULL ? "has failed" : p->closed ? "was closed" : NULL;
}

/* Tell whether a failed item may be tried again.  Pure C. */
static inline bool
al_pump_retries(const al_pump *p)
{
    return p->limits != NULL && p->limits->decide != NULL;
}

/* Tell whether the source may give an item now.  Pure C. */
static inline bool
al_pump_may_read(const al_pump *p)
{
    return p->room > 0 ? al_source_may_give(&p->source)
                       : p->room_of_source && p->source.waiting > 0;
}

/* Tell whether a waiting item that was never started has room.  Pure C. */
static inline bool
al_pump_has_room(const al_pump *p)
{
    return p->room > 0 || p->room_of_source;
}

/* An item that was pulled did not start: the next one has its room.  A mode
   without a bound may have been chosen meanwhile.  Pure C. */
static inline void
al_pump_return_room(al_pump *p)
{
    p->room += !p->room_of_source && p->room < PY_SSIZE_T_MAX;
}

/* Tell whether an item may be pulled now.  Pure C. */
static inline bool
al_pump_may_pull(const al_pump *p)
{
    const al_limits *limits = p->limits;
    if (p->stopping != AL_STOP_NONE || p->fatal != NULL || p->paused) {
        return false;
    }
    if (limits == NULL) {
        return al_pump_may_read(p);
    }
    return al_limits_may_pull(limits, al_pump_has_room(p), p->head,
                              al_pump_may_read(p));
}

/* Tell whether a worker that is free may look into a queue.  Pure C. */
static inline bool
al_pump_may_poll(const al_pump *p)
{
    return p->source.is_queue && !p->source.ended && p->room > 0
           && p->stopping == AL_STOP_NONE && p->fatal == NULL && !p->paused
           && (p->limits == NULL
               || (al_limits_may_read(p->limits) && !p->limits->closed));
}

/* Tell whether the reader may go on: its last item was taken and, as an item
   is to stay in a queue until it can start, there is a free place.  Pure C. */
static inline bool
al_pump_reads_on(const al_pump *p)
{
    return p->source.ahead == NULL
           && (!p->source.is_queue
               || (p->alive < p->limit && al_pump_may_poll(p)));
}

/* Tell whether nothing is left to pull, and nothing waits.  Pure C. */
static inline bool
al_pump_is_empty(const al_pump *p)
{
    return al_source_is_empty(&p->source) && al_limits_waiting(p->limits) == 0;
}

/* Tell whether an item that already has its Task must be held: the pump is
   paused, or the limit was lowered.  Pure C. */
static inline bool
al_pump_holds_items(const al_pump *p)
{
    return p->paused
           || (p->alive - p->unstarted >= p->limit && p->fatal == NULL);
}

/* What the owner is, for a message: a pool's jobs have functions of their own.
   Pure C. */
static inline const char *
al_pump_what(const al_pump *p)
{
    return p->fn == NULL ? "a TaskPool" : "a batch";
}

/* Name a coroutine of ours after the user's function, in the repr of its Task
   and in what asyncio says of slow steps.  Pure C. */
static inline void
al_pump_name_coro(const al_pump *p, PyObject *coro, PyObject *name)
{
    if (PyObject_SetAttr(coro, p->st->s___qualname__, name) < 0) {
        PyErr_Clear(); /* it keeps its own name */
    }
}

/* Hand the result (stolen; NULL: it could not be made) of an item that has
   ended to its job, which may be NULL, and to the owner.  Runs Python. */
static inline void
al_pump_hand_over(al_pump *p, JobObject *job, PyObject *result)
{
    if (job != NULL) {
        al_job_end(job, p, result);
    }
    if (result != NULL) {
        p->calls->item_ended(p->owner, result);
        Py_DECREF(result);
    }
}

/* The loop's time; -1.0 if the clock fails, which stops the pump.
   Runs Python. */
static inline double
al_pump_time(al_pump *p)
{
    double now = al_loop_time(p->st, &p->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        al_pump_fail(p);
    }
    return now;
}

#endif
