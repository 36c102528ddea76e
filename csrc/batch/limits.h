/* Which item of a pump may start next, and when: limit_by, max_per_second and
   the waiting of retries. */
#ifndef AL_LIMITS_H
#define AL_LIMITS_H

#include "base/compat.h"
#include "base/list.h"
#include "aio/deadline.h"
#include "batch/item.h"

/* How many items may wait for their next attempt before the source is read no
   further, unless `lookahead` is more. */
#define AL_LIMITS_RETRIES 1000

/* A key of limit_by, while an item refers to it. */
typedef struct al_limit_key {
    struct al_limit_key *next; /* borrowed: in the same bucket */
    PyObject *key;             /* owned; NULL: of items without a limit */
    Py_hash_t hash;
    Py_ssize_t users;   /* items that refer to it */
    Py_ssize_t running; /* of these, those that have a place */
    al_link retries;    /* waiting for a place, after a failed attempt */
    al_link fresh;      /* waiting for a place, never started */
    al_link in_retries; /* in the ring of keys with room for a retry */
    al_link in_fresh;   /* in the ring of keys with room for a fresh item */
} al_limit_key;

/* An item that waits, without a slot, a place or a Task. */
typedef struct al_waiting {
    al_link link; /* in its key's list, or in that of the asked */
    al_link all;  /* in the limits' list of fresh items, or of retries */
    al_item item;
    PyObject *error;            /* owned: of the last attempt; NULL: fresh */
    struct al_waiting **parked; /* borrowed: the `again` of the worker whose
                                   Task has not ended; or NULL */
    double due;                 /* loop time: the delay is over */
    double ends;                /* loop time: the item's timeout */
    Py_ssize_t place;           /* in the heap; -1: not in it */
    bool ready;                 /* its delay is over */
    bool refused;               /* while the Retry was asked: by its job */
} al_waiting;

typedef struct al_limits {
    PyObject *limit_by; /* owned, or NULL */
    PyObject *decide;   /* owned: of the Retry; NULL: nothing is retried */
    Py_ssize_t per_key;
    Py_ssize_t lookahead;
    Py_ssize_t attempts;    /* in all, of an item */
    double attempt_timeout; /* inf: none */
    double interval;        /* between two starts; 0: none */

    al_limit_key **buckets; /* owned: the keys, by hash */
    al_limit_key *spare;    /* owned: for the next new key; or NULL */
    size_t size;            /* of buckets: a power of two, or 0 */
    size_t used;
    size_t version;     /* changes with each key that comes or goes */
    al_limit_key none;  /* of waiting items without a key */
    al_link retry_keys; /* ring of keys with room and retries */
    al_link fresh_keys; /* ring of keys with room and fresh items */
    Py_ssize_t n_fresh_keys;

    al_link fresh;   /* all that were never started, in input order */
    al_link retries; /* all others that wait */
    al_link asked;   /* of which a Retry decides now, by `link` */
    Py_ssize_t n_fresh;
    Py_ssize_t n_retries; /* with those that are being decided about */
    Py_ssize_t n_ready;   /* retries whose delay is over */
    al_waiting **heap;    /* owned: the other retries, the next one first */
    Py_ssize_t heap_size;
    Py_ssize_t heap_room;
    al_deadline wake; /* of the first one in the heap */

    al_deadline opens; /* until then nothing is started */
    double next_start; /* loop time of the next start, by the rate */
    bool closed;       /* `opens` is in a queue */
    al_deadline rests; /* until then the source is not read */
    bool resting;      /* `rests` is in a queue */
    bool late;         /* starts wait, and the timer has fired late */
} al_limits;

/* Take a place of the key, which is new if no item refers to it.  Without one,
   or if `aside`, set the item aside, and empty *item.  Returns 1; 0 if the
   item waits; -1 with an exception, nothing changed: an unhashable key, for
   example.  Runs Python. */
int al_limits_enter(al_state *st, al_limits *limits, PyObject *key, bool aside,
                    al_item *item);

/* Move the waiting item that is next to *item of `worker`, with a place of its
   key: a retry; or, if `fresh`, one that was never started, or the one of
   index `head`.  Returns whether there is one.  Runs Python. */
bool al_limits_take(al_limits *limits, bool fresh, Py_ssize_t head,
                    struct WorkerObject *worker, al_item *item);

/* Give the item's place back.  Returns the key (new) if no item refers to it
   any more, for the caller to drop; otherwise NULL.  Pure C. */
PyObject *al_limits_leave(al_limits *limits, al_item *item);

/* A copy of an item whose attempt has failed with `error`, which counts as
   waiting and is in no list; NULL with MemoryError.  It takes the item's job
   and its debt to a queue.  Pure C. */
al_waiting *al_limits_hold(al_limits *limits, al_item *item, PyObject *error);

/* Let an item that is held wait until its `due`.  Returns 0; -1 with
   MemoryError, nothing changed.  Pure C. */
int al_limits_delay(al_limits *limits, al_waiting *waiting);

/* Let all items go on whose delay is over by `now`.  Returns the first one
   whose timeout has come instead, for the caller to end it (borrowed); NULL:
   there is none left.  Pure C. */
al_waiting *al_limits_due(al_limits *limits, double now);

/* Move an item that waits, wherever it is, to *item, without its key, and the
   error of its last attempt to *error (owned, or NULL).  Returns what
   al_limits_leave() does.  Its job is nowhere then.  Pure C. */
PyObject *al_limits_remove(al_limits *limits, al_waiting *waiting,
                           al_item *item, PyObject **error);

/* Visit what limits own.  Pure C. */
int al_limits_visit(al_limits *limits, visitproc visit, void *arg);

/* Drop everything.  No item that runs may refer to a key.  Runs Python. */
void al_limits_clear(al_limits *limits);

/* Initialize limits that were zeroed.  Pure C. */
static inline void
al_limits_init(al_limits *limits)
{
    al_list_init(&limits->retry_keys);
    al_list_init(&limits->fresh_keys);
    al_list_init(&limits->fresh);
    al_list_init(&limits->retries);
    al_list_init(&limits->asked);
    al_list_init(&limits->none.retries);
    al_list_init(&limits->none.fresh);
    limits->next_start = -Py_HUGE_VAL;
}

/* Return the hash of what limit_by has returned; -1 with an exception: if it
   is unhashable, a TypeError that names limit_by.  Runs Python. */
static inline Py_hash_t
al_limits_hash(al_state *st, PyObject *key)
{
    Py_hash_t hash = PyObject_Hash(key);
    if (hash == -1 && PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyObject *error = PyErr_GetRaisedException();
        Py_XDECREF(PyObject_CallFunctionObjArgs(st->refuse_key, key, error,
                                                NULL)); /* raises */
        Py_DECREF(error);
    }
    return hash;
}

/* Tell whether an item without a place may take one.  Pure C. */
static inline bool
al_limits_has_room(const al_limits *limits, const al_limit_key *key)
{
    return key == &limits->none || key->running < limits->per_key;
}

/* The item of index `head`, if it was never started and has room (borrowed);
   otherwise NULL.  Pure C. */
static inline al_waiting *
al_limits_head(const al_limits *limits, Py_ssize_t head)
{
    if (head < 0 || al_list_is_empty(&limits->fresh)) {
        return NULL;
    }
    al_waiting *first = AL_CONTAINER_OF(limits->fresh.next, al_waiting, all);
    const al_limit_key *key = first->item.key;
    return first->item.index == head
                   && (key == NULL || al_limits_has_room(limits, key))
               ? first
               : NULL;
}

/* Tell whether a waiting item may start: a retry; or, if `fresh`, any other;
   or the one of index `head`.  Pure C. */
static inline bool
al_limits_may_start(const al_limits *limits, bool fresh, Py_ssize_t head)
{
    return !al_list_is_empty(&limits->retry_keys)
           || (fresh ? !al_list_is_empty(&limits->fresh_keys)
                     : al_limits_head(limits, head) != NULL);
}

/* Tell whether the source may be read further.  Pure C. */
static inline bool
al_limits_may_read(const al_limits *limits)
{
    return limits->n_fresh < limits->lookahead
           && limits->n_retries < Py_MAX(limits->lookahead, AL_LIMITS_RETRIES);
}

/* Tell whether an item may start, or the source may be read.  `fresh` and
   `head`: as for al_limits_take(); `reads`: the source may give an item.
   Pure C. */
static inline bool
al_limits_may_pull(const al_limits *limits, bool fresh, Py_ssize_t head,
                   bool reads)
{
    bool starts = al_limits_may_start(limits, fresh, head);
    reads = reads && !limits->resting && al_limits_may_read(limits);
    /* While the rate allows no start, one item is read ahead: there may be
       none, and then the pump need not wait for its start. */
    return limits->closed ? reads && !starts : starts || reads;
}

/* How many items wait.  Pure C. */
static inline Py_ssize_t
al_limits_waiting(const al_limits *limits)
{
    return limits == NULL ? 0 : limits->n_fresh + limits->n_retries;
}

#endif
