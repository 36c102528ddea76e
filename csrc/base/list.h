/* An intrusive doubly linked list: the link lives in the object it links.
 *
 *     head <--> a.link <--> b.link <--> head        both ways, a ring
 *     an empty list: head <--> head                 no list: {NULL, NULL}
 *
 * Nothing here owns anything: the object removes itself before it dies.
 */
#ifndef AL_LIST_H
#define AL_LIST_H

#include "base/compat.h"

typedef struct al_link {
    struct al_link *next; /* borrowed */
    struct al_link *prev; /* borrowed */
} al_link;

/* The object of type `type` whose member `member` is the link. */
#define AL_CONTAINER_OF(link, type, member)                                   \
    ((type *)((char *)(link) - offsetof(type, member)))

/* Make an empty list.  Pure C. */
static inline void
al_list_init(al_link *head)
{
    head->next = head->prev = head;
}

/* Tell whether a list is empty.  Pure C. */
static inline bool
al_list_is_empty(const al_link *head)
{
    return head->next == head;
}

/* Move all links of `from` to `to`, which may be uninitialized.  Pure C. */
static inline void
al_list_move(al_link *from, al_link *to)
{
    al_list_init(to);
    if (!al_list_is_empty(from)) {
        *to = *from;
        to->next->prev = to->prev->next = to;
        al_list_init(from);
    }
}

/* Tell whether a link is in a list.  Pure C. */
static inline bool
al_link_is_in(const al_link *link)
{
    return link->next != NULL;
}

/* Insert a link that is in no list after `before`.  Pure C. */
static inline void
al_link_after(al_link *link, al_link *before)
{
    assert(!al_link_is_in(link));
    link->prev = before;
    link->next = before->next;
    before->next->prev = link;
    before->next = link;
}

/* Append a link that is in no list to the end of a list.  Pure C. */
static inline void
al_list_append(al_link *head, al_link *link)
{
    al_link_after(link, head->prev);
}

/* Remove a link from its list, if it is in one.  Pure C. */
static inline void
al_link_unlink(al_link *link)
{
    if (al_link_is_in(link)) {
        link->prev->next = link->next;
        link->next->prev = link->prev;
        link->next = link->prev = NULL;
    }
}

#endif
