/* A hash table by address, of a Task or of an id: what heartbeat() asks.
 *
 * Intrusive, chained: the link lives in the object it finds.  The key's own
 * hash and equality are never called, and nothing here owns anything: whoever
 * puts a link in keeps its key alive until it is out.
 */
#ifndef AL_PTR_TABLE_H
#define AL_PTR_TABLE_H

#include "base/compat.h"
#include "base/fault.h"

typedef struct al_ptr_link {
    struct al_ptr_link *next; /* borrowed */
    const void *key;          /* borrowed; NULL: in no table */
} al_ptr_link;

typedef struct {
    al_ptr_link **buckets;
    size_t size; /* a power of two, or 0 */
    size_t used;
} al_ptr_table;

static inline al_ptr_link **
ptr_table_bucket(const al_ptr_table *table, const void *key)
{
    size_t hash = (size_t)key >> 4;
    hash ^= hash >> 15;
    return &table->buckets[hash & (table->size - 1)];
}

/* The link of a key, or NULL.  Pure C. */
static inline al_ptr_link *
al_ptr_table_find(const al_ptr_table *table, const void *key)
{
    if (table->size == 0) {
        return NULL;
    }
    al_ptr_link *link = *ptr_table_bucket(table, key);
    while (link != NULL && link->key != key) {
        link = link->next;
    }
    return link;
}

/* Make room for one more.  Returns 0; -1 with MemoryError, and only where
   there is no table at all: a crowded one still works.  Pure C. */
static inline int
al_ptr_table_reserve(al_ptr_table *table)
{
    if (table->used < table->size) {
        return 0;
    }
    al_ptr_table next = {NULL, table->size == 0 ? 16 : table->size * 2, 0};
    next.buckets = AL_ALLOC(PyMem_Calloc(next.size, sizeof(al_ptr_link *)));
    if (next.buckets == NULL) {
        if (table->size != 0) {
            PyErr_Clear(); /* the MemoryError of a test build */
            return 0;
        }
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < table->size; i++) {
        al_ptr_link *link = table->buckets[i];
        while (link != NULL) {
            al_ptr_link *after = link->next;
            al_ptr_link **bucket = ptr_table_bucket(&next, link->key);
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
al_ptr_table_add(al_ptr_table *table, al_ptr_link *link, const void *key)
{
    assert(table->size != 0 && link->key == NULL);
    al_ptr_link **bucket = ptr_table_bucket(table, key);
    link->key = key;
    link->next = *bucket;
    *bucket = link;
    table->used++;
}

/* Take a link out; nothing if it is in no table.  Pure C. */
static inline void
al_ptr_table_remove(al_ptr_table *table, al_ptr_link *link)
{
    if (link->key == NULL) {
        return;
    }
    al_ptr_link **at = ptr_table_bucket(table, link->key);
    while (*at != link) {
        at = &(*at)->next;
    }
    *at = link->next;
    link->next = NULL;
    link->key = NULL;
    table->used--;
}

#endif
