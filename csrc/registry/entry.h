/* One registered task: the object that users see as TaskMetadata.
 *
 * This header holds the data; the verbs that move an alive entry through the
 * heartbeat lists are in heartbeats.h.
 */
#ifndef AL_ENTRY_H
#define AL_ENTRY_H

#include "base/compat.h"
#include "base/list.h"
#include "base/ptr_table.h"
#include "base/str_table.h"
#include "base/state.h"
#include "aio/task.h"

/* The heartbeat list that an entry is in. */
typedef enum {
    AL_PENDING = 0, /* its Task has not run its first step */
    AL_NEVER_BEAT = 1,
    AL_BEATING = 2,
    AL_STALE = 3,
    AL_NOWHERE = 4, /* in no list: ended, or its registry is gone */
} al_place;

struct al_threshold;

/* What few entries have, made when the first of it is set. */
typedef struct {
    PyObject *supervision;   /* owned: its Supervision, while alive, or NULL */
    PyObject *info;          /* owned: the user's, or NULL */
    PyObject *cancel_reason; /* owned: a str, or NULL */
    PyObject *error_text;    /* owned, or NULL */
    unsigned long long restarts;
} al_entry_extras;

typedef struct EntryObject {
    PyObject_HEAD
    /* The members that a heartbeat touches come first and together: with many
       tasks a heartbeat waits for memory, not for the processor. */
    struct al_threshold *threshold; /* borrowed; NULL: in no heartbeat list */
    al_link heartbeat_link; /* in a heartbeat list; ended: in the registry's
                               `errors` or `unfailed`, or in neither */
    al_str_link id;         /* owned: an exact str; in the table of ids, while
                               alive and in the history */
    double last_heartbeat;  /* loop time, as are registered_at, ended_at */
    unsigned long long heartbeats;
    uint8_t place;   /* al_place */
    uint8_t outcome; /* al_outcome, once `ended` or `completed` */
    bool ended : 1;
    bool completed : 1;      /* complete() has fixed the outcome */
    bool stale_reported : 1; /* on_stale was called for this silence */
    bool calls_shutdown : 1; /* its Task calls shutdown(), which spares it */
    bool shut_down : 1;      /* a shutdown has cancelled its Task */
    bool reported_stuck : 1; /* a shutdown's report has listed it as stuck */
    bool cancel_noted : 1;   /* cancel_reason is that of the first cancel */
    bool may_rest : 1;       /* supervised: it has two thresholds, its own and
                                one of infinity */
    bool resting : 1;        /* it waits for its next run, at the latter */
    vectorcallfunc vectorcall; /* an entry is its Task's done callback */
    PyObject *task;            /* owned; NULL before it is made, and ended */
    PyObject *coro;            /* borrowed while its Task is being made */
    PyObject *value;           /* owned: result or exception, or NULL */
    PyObject *registry;        /* owned while alive; NULL once ended */
    PyObject *member;          /* owned: its JoinSetMember, or NULL */
    PyObject *owner;           /* owned: stands for it in contexts, or NULL */
    al_entry_extras *extras;   /* owned, or NULL */
    al_ptr_link task_link;     /* in the table of Tasks, while alive */
    al_link registry_link;     /* alive or history, in the registry */
    double created_at;         /* wall clock */
    double registered_at;
    double ended_at;
    double stale_after; /* as given, or AL_STALE_AFTER_DEFAULT; once ended:
                           what it was */
} EntryObject;

/* Make an entry of an id, which is in no list yet (new).  NULL with
   MemoryError.  Pure C. */
EntryObject *al_entry_new(al_state *st, PyObject *registry, PyObject *id);

/* Return the extras of an entry, made at the first call (borrowed).  NULL with
   MemoryError.  Pure C. */
al_entry_extras *al_entry_extend(EntryObject *entry);

/* Return the Supervision of an entry (borrowed), or NULL.  Pure C. */
static inline PyObject *
al_entry_supervision(const EntryObject *entry)
{
    return entry->extras == NULL ? NULL : entry->extras->supervision;
}

/* Make the type TaskMetadata.  Returns 0; -1 with an exception.
   Runs Python. */
int al_entry_setup(PyObject *module, al_state *st);

#endif
