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
#include "base/ptr_table.h"

typedef enum {
    AL_PENDING = 0,
    AL_QUIET = 1,
    AL_BEATING = 2,
    AL_STALE = 3,
    AL_NOWHERE = 4, /* in no list: ended, or its registry is gone */
} al_place;

struct al_beats;

/* The alive entries of one threshold. */
typedef struct al_ring {
    struct al_ring *next; /* owned by the order, which this points back to */
    struct al_beats *beats;
    double stale_after;
    Py_ssize_t members;
    al_link quiet;
    al_link beating;
    al_link stale;
} al_ring;

typedef struct al_entry {
    PyObject_HEAD
    /* What a heartbeat touches comes first and together: with many tasks it
       waits for memory, not for the processor. */
    al_ring *ring;    /* borrowed; NULL: in no heartbeat order */
    al_link beat;     /* a list of the order; ended: kept errors */
    al_tasklink name; /* in the order's table of ids, while alive */
    double last;      /* loop time, as are birth and end */
    unsigned long long beats;
    uint8_t place;   /* al_place */
    uint8_t outcome; /* al_outcome, once `ended` or `fixed` */
    bool ended;
    bool fixed; /* complete() has spoken */
    bool told;  /* on_stale has been called for this silence */
    bool spared; /* it calls shutdown() itself, while its Task is made */
    vectorcallfunc vectorcall; /* an entry is its Task's done callback */
    PyObject *id;              /* owned: an exact str */
    PyObject *task;            /* owned; NULL before it is made, and ended */
    PyObject *coro;            /* borrowed while its Task is being made */
    PyObject *value;           /* owned: result or exception, or NULL */
    PyObject *text;            /* owned: error_text, or NULL */
    PyObject *owner;           /* owned while alive: the registry */
    PyObject *node;            /* owned: its place in a drain, or NULL */
    al_tasklink key;           /* in the order's table of Tasks */
    al_link order;             /* alive or history, in the registry */
    double created;            /* wall clock */
    double birth;
    double end;
    double stale_after;
} al_entry;

/* The heartbeat order of one registry. */
typedef struct al_beats {
    al_state *st;
    al_loop *bound;               /* borrowed: the registry's */
    int (*ended)(al_entry *self); /* called when the Task has ended */
    al_ring *rings;               /* owned; the first is the default */
    al_tasktable tasks;           /* the entries by their Task */
    al_tasktable names;           /* and by their id, the very object */
    al_link pending;
    Py_ssize_t count[4]; /* by al_place */
} al_beats;

/* Make an order with its default threshold.  Returns 0; -1 with MemoryError.
   Pure C. */
int al_beats_init(al_beats *beats, al_state *st, al_loop *bound,
                  int (*ended)(al_entry *), double stale_after);

/* Free what is no object; no entry may be in the order.  Pure C. */
void al_beats_clear(al_beats *beats);

/* Put a new entry in, by its `last`, as pending.  Returns 0; -1 with
   MemoryError, nothing changed.  Pure C. */
int al_beats_join(al_beats *beats, al_entry *entry);

/* Take an entry out, and its Task and id; nothing if it is in no order.
   Pure C. */
void al_beats_leave(al_entry *entry);

/* Record a heartbeat at `now`.  Returns 1; 0 if the entry has left the order;
   -1 with an exception, recorded unless it has left.  Runs Python. */
int al_beats_beat(al_beats *beats, al_entry *entry, double now);

/* Bring pending entries and overdue ones to where they belong at `now`.
   Returns 0; -1 with an exception.  Runs Python. */
int al_beats_sweep(al_beats *beats, double now);

/* The stale entries, longest silence first (a new list); with `untold` only
   those not told of, which are marked.  Sweep first.  Runs Python. */
PyObject *al_beats_stale(al_beats *beats, bool untold);

/* A new entry, in no list (new).  Pure C. */
al_entry *al_entry_new(al_state *st, PyObject *owner, PyObject *id);

/* Tell whether an alive entry has run its first step, and note it: 1 or 0;
   -1 with an exception.  Runs Python. */
int al_entry_started(al_entry *entry);

/* Make the type TaskMetadata.  Runs Python. */
int al_entry_setup(PyObject *module, al_state *st);

#endif
