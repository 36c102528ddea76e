/* Where a batch's items come from. */
#ifndef AL_SOURCE_H
#define AL_SOURCE_H

#include "compat.h"
#include "state.h"

/* A source of items: an iterable, or an asynchronous one, whose reader puts
   one item ahead. */
typedef struct {
    PyObject *items;    /* owned: as the user gave them */
    PyObject *key;      /* owned; NULL: none */
    PyObject *context;  /* owned: what the user's code here runs in */
    PyObject *iterator; /* owned; NULL: not begun, done or asynchronous */
    PyObject *ahead;    /* owned: what the reader has ready, or NULL */
    Py_ssize_t pulled;
    Py_ssize_t length; /* -1: not known */
    bool async;
    bool quiet; /* pulling runs none of the user's code */
    bool done;  /* nothing comes any more, but for what is ahead */
    bool exhausted; /* done because it was read to its end */
} al_source;

/* The length of an exact list, tuple or range; -1 for all else.  Pure C. */
Py_ssize_t al_source_length(const al_source *source);

/* Begin in the current context, which is copied.  Returns 0; -1 with an
   exception, which may be the source's own.  Runs Python. */
int al_source_begin(al_source *source);

/* Tell whether a pull may give an item.  Pure C. */
bool al_source_may_give(const al_source *source);

/* Pull one item and the key's answer, NULL without a key (both new).  Returns
   1; 0 if there is none now; -1 with an exception.  Runs Python. */
int al_source_pull(al_state *st, al_source *source, PyObject **item,
                   PyObject **task_id);

/* The visit of an embedded source.  Pure C. */
int al_source_visit(al_source *source, visitproc visit, void *arg);

/* The clear of an embedded source.  Runs Python. */
void al_source_clear(al_source *source);

#endif
