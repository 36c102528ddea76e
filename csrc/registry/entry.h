/* One tracked task, and the heartbeat order of a registry.
 *
 * Every alive entry stands in one list: `pending` until its first step, then,
 * per distinct threshold, `quiet` (never beaten), `beating` or `stale`.  Each
 * list is in the order of `last`, oldest first, so what is overdue is at the
 * heads and a sweep touches nothing else.
 */
#ifndef AL_ENTRY_H
#define AL_ENTRY_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "base/ptr_table.h"

typedef enum {
    AL_PENDING = 0,
    AL_NEVER_BEAT = 1,
    AL_BEATING = 2,
    AL_STALE = 3,
    AL_NOWHERE = 4, /* in no list: ended, or its registry is gone */
} al_place;

struct al_heartbeats;

/* The alive entries of one threshold. */
typedef struct al_threshold {
    struct al_threshold
        *next; /* owned by the order, which this points back to */
    struct al_heartbeats *beats;
    double stale_after;
    Py_ssize_t members;
    al_link quiet;
    al_link beating;
    al_link stale;
} al_threshold;

typedef struct EntryObject {
    PyObject_HEAD
    /* What a heartbeat touches comes first and together: with many tasks it
       waits for memory, not for the processor. */
    al_threshold *ring; /* borrowed; NULL: in no heartbeat order */
    al_link beat;       /* a list of the order; ended: kept errors */
    al_ptr_link name;   /* in the order's table of ids, while alive */
    double last;        /* loop time, as are birth and end */
    unsigned long long beats;
    uint8_t place;   /* al_place */
    uint8_t outcome; /* al_outcome, once `ended` or `fixed` */
    bool ended;
    bool fixed;  /* complete() has spoken */
    bool told;   /* on_stale has been called for this silence */
    bool spared; /* it calls shutdown() itself, while its Task is made */
    vectorcallfunc vectorcall; /* an entry is its Task's done callback */
    PyObject *id;              /* owned: an exact str */
    PyObject *task;            /* owned; NULL before it is made, and ended */
    PyObject *coro;            /* borrowed while its Task is being made */
    PyObject *value;           /* owned: result or exception, or NULL */
    PyObject *text;            /* owned: error_text, or NULL */
    PyObject *owner;           /* owned while alive: the registry */
    PyObject *node;            /* owned: its place in a drain, or NULL */
    al_ptr_link key;           /* in the order's table of Tasks */
    al_link order;             /* alive or history, in the registry */
    double created;            /* wall clock */
    double birth;
    double end;
    double stale_after;
} EntryObject;

/* The heartbeat order of one registry. */
typedef struct al_heartbeats {
    al_state *st;
    al_loop *bound;                  /* borrowed: the registry's */
    int (*ended)(EntryObject *self); /* called when the Task has ended */
    al_threshold *rings;             /* owned; the first is the default */
    al_ptr_table tasks;              /* the entries by their Task */
    al_ptr_table names;              /* and by their id, the very object */
    al_link pending;
    Py_ssize_t count[4]; /* by al_place */
} al_heartbeats;

/* Make an order with its default threshold.  Returns 0; -1 with MemoryError.
   Pure C. */
int al_heartbeats_init(al_heartbeats *beats, al_state *st, al_loop *bound,
                       int (*ended)(EntryObject *), double stale_after);

/* Free what is no object; no entry may be in the order.  Pure C. */
void al_heartbeats_clear(al_heartbeats *beats);

/* Put a new entry in, by its `last`, as pending.  Returns 0; -1 with
   MemoryError, nothing changed.  Pure C. */
int al_heartbeats_join(al_heartbeats *beats, EntryObject *entry);

/* Take an entry out, and its Task and id; nothing if it is in no order.
   Pure C. */
void al_heartbeats_leave(EntryObject *entry);

/* Record a heartbeat at `now`.  Returns 1; 0 if the entry has left the order;
   -1 with an exception, recorded unless it has left.  Runs Python. */
int al_heartbeats_beat(al_heartbeats *beats, EntryObject *entry, double now);

/* Bring pending entries and overdue ones to where they belong at `now`.
   Returns 0; -1 with an exception.  Runs Python. */
int al_heartbeats_sweep(al_heartbeats *beats, double now);

/* The stale entries, longest silence first (a new list); with `untold` only
   those not told of, which are marked.  Sweep first.  Runs Python. */
PyObject *al_heartbeats_stale(al_heartbeats *beats, bool untold);

/* A new entry, in no list (new).  Pure C. */
EntryObject *al_entry_new(al_state *st, PyObject *owner, PyObject *id);

/* Tell whether an alive entry has run its first step, and note it: 1 or 0;
   -1 with an exception.  Runs Python. */
int al_entry_started(EntryObject *entry);

/* Make the type TaskMetadata.  Runs Python. */
int al_entry_setup(PyObject *module, al_state *st);

#endif
