/* Where a batch's items come from. */
#ifndef AL_SOURCE_H
#define AL_SOURCE_H

#include "base/compat.h"
#include "base/state.h"

/* A source of items: an iterable, or an asynchronous one, whose reader puts
   one item ahead; and what is added to it.  Added items come after those of an
   iterable, and among those of a reader as they arrive. */
typedef struct {
    PyObject *items;        /* owned: as the user gave them */
    PyObject *key;          /* owned; NULL: none */
    PyObject *context;      /* owned: what the user's code here runs in */
    PyObject *iterator;     /* owned; NULL: not begun, done or asynchronous */
    PyObject *ahead;        /* owned: what the reader has ready, or NULL */
    PyObject *added;        /* owned: list; NULL: nothing was ever added */
    Py_ssize_t added_front; /* place in it of what is pulled next */
    Py_ssize_t added_count; /* ever */
    Py_ssize_t added_first; /* how many of them come before what is ahead */
    Py_ssize_t from_items;  /* pulled from the items themselves */
    Py_ssize_t pulled;      /* with those that were added */
    Py_ssize_t length;      /* -1: not known */
    bool async;
    bool runs_no_python; /* pulling runs none of the user's code */
    bool ended;          /* nothing comes any more, but for what is ahead */
    bool exhausted;      /* done because it was read to its end */
} al_source;

/* The length of an exact list, tuple or range; -1 for all else.  Pure C. */
Py_ssize_t al_source_length(const al_source *source);

/* Begin in the current context, which is copied.  Returns 0; -1 with an
   exception, which may be the source's own.  Runs Python. */
int al_source_begin(al_source *source);

/* A coroutine where an item belongs: raise TypeError with the right call, and
   close it if it has not started.  Runs Python. */
void al_source_refuse(al_state *st, PyObject *coro);

/* Put an item behind all others.  Returns 0; -1 with an exception, nothing
   changed.  Pure C. */
int al_source_add(al_source *source, PyObject *item);

/* What was added and not yet pulled (a new list).  Pure C. */
PyObject *al_source_queued(const al_source *source);

/* Pull one item and the key's answer, NULL without a key (both new).  Returns
   1; 0 if there is none now; -1 with an exception.  Runs Python. */
int al_source_pull(al_state *st, al_source *source, PyObject **item,
                   PyObject **task_id);

/* How many were added and not yet pulled.  Pure C. */
static inline Py_ssize_t
al_source_waiting(const al_source *source)
{
    return source->added == NULL
               ? 0
               : PyList_GET_SIZE(source->added) - source->added_front;
}

/* Tell whether a pull may give an item.  Pure C. */
static inline bool
al_source_may_give(const al_source *source)
{
    return (source->async ? source->ahead != NULL : !source->ended)
           || al_source_waiting(source) > 0;
}

/* Tell whether nothing comes any more, unless it is added.  Pure C. */
static inline bool
al_source_is_empty(const al_source *source)
{
    return source->ended && source->ahead == NULL
           && al_source_waiting(source) == 0;
}

/* How many are to come; -1: not known.  Pure C. */
static inline Py_ssize_t
al_source_left(const al_source *source)
{
    if (!source->ended && source->length < 0) {
        return -1;
    }
    return (source->ended ? 0 : source->length - source->from_items)
           + al_source_waiting(source);
}

/* The visit of an embedded source.  Pure C. */
int al_source_visit(al_source *source, visitproc visit, void *arg);

/* The clear of an embedded source.  Runs Python. */
void al_source_clear(al_source *source);

#endif
