/* A hash table by address: a registry finds its entry of a Task, or of an id,
 * with it, which is most of what heartbeat() costs.
 *
 *     buckets[0] -> link -> link        link.key == address of a Task or str
 *     buckets[1] -> NULL
 *     buckets[2] -> link
 *
 * It is intrusive and chained: the link lives in the object that is found.  No
 * __hash__ or __eq__ is called, so a lookup runs no Python.  Nothing here owns
 * anything: the owner of a link keeps its key alive while it is in the table.
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
    al_ptr_link **buckets; /* owned */
    size_t size;           /* of buckets: a power of two, or 0 */
    size_t used;           /* links in the table */
} al_ptr_table;

/* Return the bucket of a key.  The low four bits of an address are zero. */
static inline al_ptr_link **
ptr_table_bucket(const al_ptr_table *table, const void *key)
{
    size_t hash = (size_t)key >> 4;
    hash ^= hash >> 15;
    return &table->buckets[hash & (table->size - 1)];
}

/* Return the link of a key; NULL if it is not there.  Pure C. */
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

/* Make room for one more link.  Returns 0; -1 with MemoryError, but only if
   there are no buckets at all: a table that cannot grow still works, with
   longer chains.  Pure C. */
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
            PyErr_Clear(); /* set in test builds only */
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

/* Add a link that is in no table, after al_ptr_table_reserve().  Pure C. */
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

/* Remove a link from the table, if it is in it.  Pure C. */
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
