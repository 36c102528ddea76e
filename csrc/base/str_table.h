/* A hash table by text: a registry finds its entry of an id with it.
 *
 *     buckets[0] -> link -> link        link.text: an exact str
 *     buckets[1] -> NULL
 *     buckets[2] -> link
 *
 * It is intrusive and chained, as the table by address: the link lives in the
 * object that is found, and nothing here owns anything.  An exact str caches
 * its hash and compares in C, so a lookup runs no Python.  Usually a text is
 * looked up by the very object that the link has, and then only links are
 * read.
 */
#ifndef AL_STR_TABLE_H
#define AL_STR_TABLE_H

#include "base/compat.h"
#include "base/fault.h"

typedef struct al_str_link {
    struct al_str_link *next; /* borrowed */
    PyObject *text;           /* owned by the object that has the link */
} al_str_link;

typedef struct {
    al_str_link **buckets; /* owned */
    size_t size;           /* of buckets: a power of two, or 0 */
    size_t used;           /* links in the table */
} al_str_table;

/* Return the hash of an exact str, which cannot fail. */
static inline size_t
str_table_hash(PyObject *text)
{
    assert(PyUnicode_CheckExact(text));
    Py_hash_t known = ((PyASCIIObject *)text)->hash;
    return (size_t)(known != -1 ? known : PyObject_Hash(text));
}

/* Return the link of a text; NULL if it is not there.  Pure C. */
static inline al_str_link *
al_str_table_find(const al_str_table *table, PyObject *text)
{
    if (table->size == 0) {
        return NULL;
    }
    size_t hash = str_table_hash(text);
    al_str_link *first = table->buckets[hash & (table->size - 1)];
    al_str_link *link = first;
    while (link != NULL && link->text != text) {
        link = link->next;
    }
    if (link == NULL) {
        link = first;
        while (link != NULL
               && (str_table_hash(link->text) != hash
                   || PyUnicode_Compare(link->text, text) != 0))
        {
            link = link->next;
        }
    }
    return link;
}

/* Make room for one more link.  Returns 0; -1 with MemoryError, but only if
   there are no buckets at all: a table that cannot grow still works, with
   longer chains.  Pure C. */
static inline int
al_str_table_reserve(al_str_table *table)
{
    if (table->used < table->size) {
        return 0;
    }
    al_str_table next = {NULL, table->size == 0 ? 16 : table->size * 2, 0};
    next.buckets = AL_ALLOC(PyMem_Calloc(next.size, sizeof(al_str_link *)));
    if (next.buckets == NULL) {
        if (table->size != 0) {
            PyErr_Clear(); /* set in test builds only */
            return 0;
        }
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < table->size; i++) {
        al_str_link *link = table->buckets[i];
        while (link != NULL) {
            al_str_link *after = link->next;
            size_t at = str_table_hash(link->text) & (next.size - 1);
            link->next = next.buckets[at];
            next.buckets[at] = link;
            link = after;
        }
    }
    PyMem_Free(table->buckets);
    table->buckets = next.buckets;
    table->size = next.size;
    return 0;
}

/* Add a link that is in no table, and whose text no link in it has, after
   al_str_table_reserve().  Pure C. */
static inline void
al_str_table_add(al_str_table *table, al_str_link *link)
{
    assert(table->size != 0);
    size_t at = str_table_hash(link->text) & (table->size - 1);
    link->next = table->buckets[at];
    table->buckets[at] = link;
    table->used++;
}

/* Remove a link from the table that it is in.  Pure C. */
static inline void
al_str_table_remove(al_str_table *table, al_str_link *link)
{
    size_t bucket = str_table_hash(link->text) & (table->size - 1);
    al_str_link **at = &table->buckets[bucket];
    while (*at != link) {
        at = &(*at)->next;
    }
    *at = link->next;
    link->next = NULL;
    table->used--;
}

#endif
