/* Where a batch's items come from. */
#ifndef AL_SOURCE_H
#define AL_SOURCE_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "batch/job.h"

/* A source of items: an iterable, or an asynchronous one, whose reader has one
   item ready; and the items that are added.  Added items come after those of
   an iterable, and among those of a reader in the order of arrival. */
typedef struct {
    PyObject *items;        /* owned: as the user passed them */
    PyObject *key;          /* owned, or NULL */
    PyObject *context;      /* owned: next(), key() and on_result run in it */
    PyObject *iterator;     /* owned; NULL: not begun, ended or asynchronous */
    PyObject *ahead;        /* owned: the item that the reader has ready */
    al_link added;          /* of jobs, owned; and of the mark */
    al_link ahead_mark;     /* the place of `ahead` among the added ones */
    Py_ssize_t waiting;     /* how many were added and not yet pulled */
    Py_ssize_t added_count; /* how many were ever added */
    Py_ssize_t from_items;  /* how many were pulled from the items */
    Py_ssize_t pulled;      /* with the added ones */
    Py_ssize_t length;      /* of the items; -1: not known */
    Py_ssize_t backlog;     /* of a queue: how many it had ready, last seen */
    bool async;             /* there is a reader */
    bool is_queue;          /* async, and the items are an asyncio.Queue */
    bool refused;           /* an item of it, by the last pull */
    bool runs_no_python;    /* pulling runs none of the user's code */
    bool ended;             /* the items give nothing more, except `ahead` */
    bool exhausted;         /* ended because they were read to their end */
} al_source;

/* The length of an exact list, tuple or range; -1 for any other items.
   Pure C. */
Py_ssize_t al_source_length(const al_source *source);

/* Take a copy of the current context and the items' iterator.  Returns 0; -1
   with an exception, which may be the items' own.  Runs Python. */
int al_source_begin(al_source *source);

/* Refuse a coroutine that was passed as an item: raise TypeError, which shows
   the right call, and close it if it has not started.  Runs Python. */
void al_source_refuse_coroutine(al_state *st, PyObject *coro);

/* Drop the iterator of items that were not read to their end, and close it in
   the source's context, if it is ours or a generator.  Returns 0; -1 with an
   exception.  Runs Python. */
int al_source_close(al_state *st, al_source *source);

/* Call the key of an item, for an error with that index, and return its answer
   as an exact str (new); NULL with an exception.  Runs Python. */
PyObject *al_source_key(al_state *st, al_source *source, PyObject *item,
                        Py_ssize_t index);

/* A list of the items that were added and not yet pulled (new).  Pure C. */
PyObject *al_source_queued(const al_source *source);

/* Pull one item, its task id, which is NULL without a key, and its job, which
   is NULL unless it was added (all new).
   `only_added`: pass over the items, which are held back.  Returns 1; 0 if
   there is none now; -1 with an exception, which ends the source.
   Runs Python. */
int al_source_pull(al_state *st, al_source *source, bool only_added,
                   PyObject **item, PyObject **task_id, JobObject **job);

/* Initialize a source that is all zero.  Pure C. */
static inline void
al_source_init(al_source *source)
{
    al_list_init(&source->added);
}

/* Add a job (stolen) behind all others.  Pure C. */
static inline void
al_source_add(al_source *source, JobObject *job)
{
    job->number = source->added_count++;
    source->waiting++;
    al_list_append(&source->added, &job->link);
}

/* A sum of two counts, or the largest count: a range may be as long as that.
   Pure C. */
static inline Py_ssize_t
al_source_sum(Py_ssize_t one, Py_ssize_t other)
{
    return one > PY_SSIZE_T_MAX - other ? PY_SSIZE_T_MAX : one + other;
}

/* The index of a job that waits, as far as it can be foreseen: items of an
   iterator or of a reader, which come first, are not known.  Pure C. */
static inline Py_ssize_t
al_source_index(const al_source *source, const JobObject *job)
{
    return al_source_sum(
        source->length < 0 ? source->from_items : source->length, job->number);
}

/* Tell whether a pull may give an item.  Pure C. */
static inline bool
al_source_may_give(const al_source *source)
{
    return (source->async ? source->ahead != NULL
                                || (source->backlog > 0 && !source->ended)
                          : !source->ended)
           || source->waiting > 0;
}

/* Tell whether nothing is left to pull, unless something is added.  Pure C. */
static inline bool
al_source_is_empty(const al_source *source)
{
    return source->ended && source->ahead == NULL && source->waiting == 0;
}

/* How many items are left to pull; -1: not known.  A list is asked again, for
   it may have grown or shrunk since the source began.  Pure C. */
static inline Py_ssize_t
al_source_left(const al_source *source)
{
    Py_ssize_t left = 0;
    if (!source->ended) {
        bool is_list = source->iterator != NULL && source->items != NULL
                       && PyList_CheckExact(source->items);
        Py_ssize_t length =
            is_list ? PyList_GET_SIZE(source->items) : source->length;
        if (length < 0) {
            return -1;
        }
        left = length > source->from_items ? length - source->from_items : 0;
    }
    return al_source_sum(left, source->waiting);
}

/* End a source of which nothing is left, as the next pull would.  Pure C. */
static inline void
al_source_end(al_source *source)
{
    assert(!source->async && al_source_left(source) == 0);
    source->ended = source->exhausted = true;
    Py_CLEAR(source->iterator);
}

/* The visit of an embedded source.  Pure C. */
int al_source_visit(al_source *source, visitproc visit, void *arg);

/* The clear of an embedded source.  Runs Python. */
void al_source_clear(al_source *source);

#endif
