/* A hash table by the address of a Task: what heartbeat() without an id asks.
 *
 * Intrusive, chained: the link lives in the object it finds.  A Task's own
 * hash and equality are never called, and nothing here owns anything.
 */
#ifndef AL_TASKTABLE_H
#define AL_TASKTABLE_H

#include "compat.h"
#include "fault.h"

typedef struct al_tasklink {
    struct al_tasklink *next; /* borrowed */
    const void *task;         /* borrowed; NULL: in no table */
} al_tasklink;

typedef struct {
    al_tasklink **buckets;
    size_t size; /* a power of two, or 0 */
    size_t used;
} al_tasktable;

static inline al_tasklink **
tasktable_bucket(const al_tasktable *table, const void *task)
{
    size_t hash = (size_t)task >> 4;
    hash ^= hash >> 15;
    return &table->buckets[hash & (table->size - 1)];
}

/* The link of a Task, or NULL.  Pure C. */
static inline al_tasklink *
al_tasktable_find(const al_tasktable *table, const void *task)
{
    if (table->size == 0) {
        return NULL;
    }
    al_tasklink *link = *tasktable_bucket(table, task);
    while (link != NULL && link->task != task) {
        link = link->next;
    }
    return link;
}

/* Make room for one more.  Returns 0; -1 with MemoryError, and only where
   there is no table at all: a crowded one still works.  Pure C. */
static inline int
al_tasktable_reserve(al_tasktable *table)
{
    if (table->used < table->size) {
        return 0;
    }
    al_tasktable next = {NULL, table->size == 0 ? 16 : table->size * 2, 0};
    next.buckets = AL_ALLOC(PyMem_Calloc(next.size, sizeof(al_tasklink *)));
    if (next.buckets == NULL) {
        if (table->size != 0) {
            PyErr_Clear(); /* the MemoryError of a test build */
            return 0;
        }
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < table->size; i++) {
        al_tasklink *link = table->buckets[i];
        while (link != NULL) {
            al_tasklink *after = link->next;
            al_tasklink **bucket = tasktable_bucket(&next, link->task);
            link->next = *bucket;
            *bucket = link;
            link = after;
        }
    }
    PyMem_Free(table->buckets);
    table->buckets = next.buckets;
    table->size = next.size;
    return 0;
}

/* Put a link that is in no table in; there is room.  Pure C. */
static inline void
al_tasktable_add(al_tasktable *table, al_tasklink *link, const void *task)
{
    assert(table->size != 0 && link->task == NULL);
    al_tasklink **bucket = tasktable_bucket(table, task);
    link->task = task;
    link->next = *bucket;
    *bucket = link;
    table->used++;
}

/* Take a link out; nothing if it is in no table.  Pure C. */
static inline void
al_tasktable_remove(al_tasktable *table, al_tasklink *link)
{
    if (link->task == NULL) {
        return;
    }
    al_tasklink **at = tasktable_bucket(table, link->task);
    while (*at != link) {
        at = &(*at)->next;
    }
    *at = link->next;
    link->next = NULL;
    link->task = NULL;
    table->used--;
}

#endif
