/* The heartbeat lists of a registry: which tasks are silent for too long? */
#ifndef AL_HEARTBEATS_H
#define AL_HEARTBEATS_H

#include "base/compat.h"
#include "base/list.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "registry/entry.h"

struct al_heartbeats;

/* The stale_after of an entry that follows the registry's default. */
#define AL_STALE_AFTER_DEFAULT (-1.0)

/* The started entries that share one stale_after. */
typedef struct al_threshold {
    struct al_threshold *next;        /* owned by the heartbeats */
    struct al_heartbeats *heartbeats; /* borrowed: which own this */
    double stale_after;
    Py_ssize_t members; /* entries, the pending ones included */
    al_link never_beat;
    al_link beating;
    al_link stale;
} al_threshold;

typedef struct al_heartbeats {
    al_state *st;
    al_loop *bound;           /* borrowed: the registry's */
    al_threshold *thresholds; /* owned; the first is the default, and has no
                                 entry with a stale_after of its own */
    al_ptr_table by_task;     /* the alive entries by their Task */
    al_link pending;
    Py_ssize_t count[4]; /* by al_place */
} al_heartbeats;

/* Make the lists, with the default threshold.  Returns 0; -1 with MemoryError.
   Pure C. */
int al_heartbeats_init(al_heartbeats *heartbeats, al_state *st, al_loop *bound,
                       double stale_after);

/* Free the thresholds and the table.  No entry may be in a list.  Pure C. */
void al_heartbeats_clear(al_heartbeats *heartbeats);

/* Change the default stale_after, for all entries that follow it, at once.
   Pure C. */
void al_heartbeats_set_default(al_heartbeats *heartbeats, double stale_after);

/* Add a new entry as pending, ordered by its last_heartbeat, with the
   threshold of its stale_after.  If it has a Supervision it may rest.  Returns
   0; -1 with MemoryError, nothing
   changed.  Pure C. */
int al_heartbeats_add(al_heartbeats *heartbeats, EntryObject *entry);

/* Remove an entry from its list, and its Task from the table.  Does nothing if
   the entry is in no list.  Pure C. */
void al_heartbeats_remove(EntryObject *entry);

/* Let an entry rest, which is never stale then, or let it run at loop time
   `now`, from which its silence counts.  Pure C. */
void al_heartbeats_set_resting(EntryObject *entry, bool resting, double now);

/* Tell whether an alive entry's Task has run its first step.  `move`: if so,
   move the entry out of the pending ones.  Returns 1 or 0; -1 with an
   exception.  Runs Python. */
int al_heartbeats_started(EntryObject *entry, bool move);

/* Record a heartbeat at loop time `now`.  Returns 1; 0 if the entry ended
   during the call; -1 with an exception, the heartbeat being recorded unless
   the entry ended.  Runs Python. */
int al_heartbeats_record(al_heartbeats *heartbeats, EntryObject *entry,
                         double now);

/* Move started entries out of pending, and overdue ones to stale, as of loop
   time `now`.  Returns 0; -1 with an exception of a Task that could not be
   asked, the overdue entries being moved.  Runs Python. */
int al_heartbeats_sweep(al_heartbeats *heartbeats, double now);

/* List the stale entries, longest silence first (a new list).  With `report`,
   only those not reported yet, which are marked as reported.  Call sweep
   before.  NULL with MemoryError, nothing marked.  Runs Python. */
PyObject *al_heartbeats_stale(al_heartbeats *heartbeats, bool report);

#endif
