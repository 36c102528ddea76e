/* Which item of a pump may start next, and when.
 *
 * An item that was pulled and may not start waits here, without a slot, a
 * Task or a coroutine:
 *
 *     pulled --key is full--> fresh list of the key --+
 *                                                     +--> a place: it starts
 *     failed --delay--> heap --> retries of the key --+
 *
 * The keys with room and waiting items form two rings, and each item that
 * starts comes from the next key of its ring: so the oldest item of a key is
 * first, and no key waits for another.  Retries come before fresh items, for
 * they are older.  A key is there while an item refers to it, so the memory is
 * that of the items that run and wait.
 *
 * __hash__ and __eq__ of a key are called once, when its item is read; they
 * run any code, which may change the table, so a search begins again then.
 * Everything that an item's end needs follows pointers, and runs no Python.
 *
 * The rate has no clock of its own: each start closes the pump until the next
 * one is due, and the pump's timer opens it again.  The starts lie on a grid,
 * so a timer that fires late does not lower the rate, as long as it is no
 * later than 10 ms.  After idle time the grid begins anew.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "batch/item.h"
#include "batch/job.h"
#include "batch/limits.h"

/* --------------------------------------------------------------- keys */

static al_limit_key **
limits_bucket(const al_limits *limits, Py_hash_t hash)
{
    size_t mixed = (size_t)hash;
    mixed ^= mixed >> 15;
    return &limits->buckets[mixed & (limits->size - 1)];
}

/* Find the key that equals `key`.  Returns 1; 0 if there is none; -1 with the
   exception of an __eq__. */
static int
limits_find(al_limits *limits, PyObject *key, Py_hash_t hash,
            al_limit_key **found)
{
    *found = limits->size == 0 ? NULL : *limits_bucket(limits, hash);
    while (*found != NULL) {
        if ((*found)->hash != hash) {
            *found = (*found)->next;
            continue;
        }
        size_t version = limits->version;
        PyObject *other = Py_NewRef((*found)->key);
        int same = PyObject_RichCompareBool(other, key, Py_EQ);
        Py_DECREF(other);
        if (same < 0) {
            return -1;
        }
        if (version != limits->version) { /* by that call: begin again */
            *found = limits->size == 0 ? NULL : *limits_bucket(limits, hash);
        }
        else if (same) {
            return 1;
        }
        else {
            *found = (*found)->next;
        }
    }
    return 0;
}

/* Make room for one more key.  Returns 0; -1 with MemoryError, but only if
   there are no buckets at all. */
static int
limits_reserve(al_limits *limits)
{
    if (limits->used < limits->size) {
        return 0;
    }
    size_t size = limits->size == 0 ? 16 : limits->size * 2;
    al_limit_key **buckets =
        AL_ALLOC(PyMem_Calloc(size, sizeof(al_limit_key *)));
    if (buckets == NULL) {
        if (limits->size != 0) {
            PyErr_Clear(); /* set in test builds only */
            return 0;
        }
        PyErr_NoMemory();
        return -1;
    }
    al_limit_key **before = limits->buckets;
    size_t count = limits->size;
    limits->buckets = buckets;
    limits->size = size;
    for (size_t i = 0; i < count; i++) {
        al_limit_key *key = before[i];
        while (key != NULL) {
            al_limit_key *next = key->next;
            al_limit_key **bucket = limits_bucket(limits, key->hash);
            key->next = *bucket;
            *bucket = key;
            key = next;
        }
    }
    PyMem_Free(before);
    return 0;
}

/* A new key in the table, without users; NULL with MemoryError. */
static al_limit_key *
limits_add_key(al_limits *limits, PyObject *key, Py_hash_t hash)
{
    if (limits_reserve(limits) < 0) {
        return NULL;
    }
    al_limit_key *self = limits->spare;
    limits->spare = NULL;
    if (self == NULL) {
        self = AL_ALLOC(PyMem_Calloc(1, sizeof(al_limit_key)));
        if (self == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        al_list_init(&self->retries);
        al_list_init(&self->fresh);
    }
    self->key = Py_NewRef(key);
    self->hash = hash;
    al_limit_key **bucket = limits_bucket(limits, hash);
    self->next = *bucket;
    *bucket = self;
    limits->used++;
    limits->version++;
    return self;
}

/* One item less refers to a key.  If that was the last one, take the key out
   of the table and return it (new). */
static PyObject *
limits_release(al_limits *limits, al_limit_key *key)
{
    if (--key->users > 0 || key == &limits->none) {
        return NULL;
    }
    assert(key->running == 0 && !al_link_is_in(&key->in_retries)
           && !al_link_is_in(&key->in_fresh));
    al_limit_key **at = limits_bucket(limits, key->hash);
    while (*at != key) {
        at = &(*at)->next;
    }
    *at = key->next;
    limits->used--;
    limits->version++;
    PyObject *object = key->key;
    PyMem_Free(limits->spare);
    limits->spare = key; /* it is as a new one, but for its key */
    return object;
}

/* Put a key into the rings that it belongs in, and out of the others. */
static void
limits_sort_key(al_limits *limits, al_limit_key *key)
{
    bool room = al_limits_has_room(limits, key);
    bool retries = room && !al_list_is_empty(&key->retries);
    bool fresh = room && !al_list_is_empty(&key->fresh);
    if (retries && !al_link_is_in(&key->in_retries)) {
        al_list_append(&limits->retry_keys, &key->in_retries);
    }
    else if (!retries) {
        al_link_unlink(&key->in_retries);
    }
    if (fresh != al_link_is_in(&key->in_fresh)) {
        limits->n_fresh_keys += fresh ? 1 : -1;
        if (fresh) {
            al_list_append(&limits->fresh_keys, &key->in_fresh);
        }
        else {
            al_link_unlink(&key->in_fresh);
        }
    }
}

/* -------------------------------------------------------- waiting items */

/* A waiting item (zeroed, in no list); NULL with MemoryError. */
static al_waiting *
waiting_new(void)
{
    al_waiting *self = AL_ALLOC(PyMem_Calloc(1, sizeof(al_waiting)));
    if (self == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    self->place = -1;
    return self;
}

static int
waiting_traverse(al_waiting *self, visitproc visit, void *arg)
{
    Py_VISIT(self->error);
    return al_item_visit(&self->item, visit, arg);
}

/* The job of the item, if it has one, waits here. */
static void
waiting_own_job(al_waiting *self)
{
    if (self->item.job != NULL) {
        self->item.job->worker = NULL;
        self->item.job->aside = self;
    }
}

/* The key that an item waits for: that of items without a limit, perhaps. */
static al_limit_key *
waiting_key(al_limits *limits, const al_waiting *self)
{
    return self->item.key == NULL ? &limits->none : self->item.key;
}

/* The key of an object, which is added if it is not there; NULL with an
   exception. */
static al_limit_key *
limits_key_of(al_state *st, al_limits *limits, PyObject *object)
{
    al_limit_key *key;
    if (object == Py_None) {
        return &limits->none;
    }
    Py_hash_t hash = al_limits_hash(st, object);
    if (hash == -1) {
        return NULL;
    }
    int found = limits_find(limits, object, hash, &key);
    return found < 0 ? NULL
           : found   ? key
                     : limits_add_key(limits, object, hash);
}

int
al_limits_enter(al_state *st, al_limits *limits, PyObject *object, bool aside,
                al_item *item)
{
    al_limit_key *key = limits_key_of(st, limits, object);
    if (key == NULL) {
        return -1;
    }
    bool limited = key != &limits->none;
    /* The caller ends a job that was cancelled meanwhile. */
    bool over = item->job != NULL && item->job->pump == NULL;
    /* If there is room, and items wait for it, then these are older. */
    if (over
        || (!aside
            && (!limited
                || (al_limits_has_room(limits, key)
                    && al_list_is_empty(&key->retries)
                    && al_list_is_empty(&key->fresh)))))
    {
        if (limited) {
            key->users++;
            key->running++;
            item->key = key;
        }
        return 1;
    }
    al_waiting *waiting = waiting_new();
    key->users++;
    if (waiting == NULL) {
        PyObject *error = PyErr_GetRaisedException();
        Py_XDECREF(limits_release(limits, key));
        PyErr_SetRaisedException(error);
        return -1;
    }
    waiting->item = *item;
    waiting->item.key = limited ? key : NULL;
    *item = (al_item){0};
    waiting_own_job(waiting);
    al_list_append(&key->fresh, &waiting->link);
    al_list_append(&limits->fresh, &waiting->all);
    limits->n_fresh++;
    limits_sort_key(limits, key);
    return 0;
}

al_waiting *
al_limits_hold(al_limits *limits, al_item *item, PyObject *error)
{
    al_waiting *self = waiting_new();
    if (self == NULL) {
        return NULL;
    }
    self->item.value = Py_NewRef(item->value);
    self->item.task_id = Py_XNewRef(item->task_id);
    self->item.index = item->index;
    self->item.started = item->started;
    self->item.attempts = item->attempts;
    self->item.key = item->key;
    self->item.job = item->job;
    self->item.of_queue = item->of_queue;
    item->job = NULL;
    item->of_queue = false;
    waiting_own_job(self);
    self->error = Py_NewRef(error);
    waiting_key(limits, self)->users++;
    limits->n_retries++;
    return self;
}

bool
al_limits_take(al_limits *limits, bool fresh, Py_ssize_t head,
               struct WorkerObject *worker, al_item *item)
{
    al_waiting *next = NULL;
    if (!al_list_is_empty(&limits->retry_keys)) {
        al_limit_key *key =
            AL_CONTAINER_OF(limits->retry_keys.next, al_limit_key, in_retries);
        next = AL_CONTAINER_OF(key->retries.next, al_waiting, link);
        al_link_unlink(&key->in_retries);
        limits->n_ready--;
        limits->n_retries--;
    }
    else if (fresh && !al_list_is_empty(&limits->fresh_keys)) {
        al_limit_key *key =
            AL_CONTAINER_OF(limits->fresh_keys.next, al_limit_key, in_fresh);
        next = AL_CONTAINER_OF(key->fresh.next, al_waiting, link);
        /* To the end of the ring, if it stays. */
        al_link_unlink(&key->in_fresh);
        al_list_append(&limits->fresh_keys, &key->in_fresh);
    }
    else if (!fresh) {
        next = al_limits_head(limits, head);
    }
    if (next == NULL) {
        return false;
    }
    al_limit_key *key = waiting_key(limits, next);
    limits->n_fresh -= next->error == NULL;
    al_link_unlink(&next->link);
    al_link_unlink(&next->all);
    if (key == &limits->none) {
        key->users--;
    }
    else {
        key->running++;
    }
    limits_sort_key(limits, key);
    PyObject *error = next->error;
    *item = next->item;
    if (item->job != NULL) {
        item->job->aside = NULL;
        item->job->worker = worker;
    }
    PyMem_Free(next);
    Py_XDECREF(error);
    return true;
}

PyObject *
al_limits_leave(al_limits *limits, al_item *item)
{
    al_limit_key *key = item->key;
    if (key == NULL) {
        return NULL;
    }
    item->key = NULL;
    key->running--;
    limits_sort_key(limits, key);
    return limits_release(limits, key);
}

/* ----------------------------------------------------- the heap of delays */

static void
limits_heap_set(al_limits *limits, Py_ssize_t place, al_waiting *waiting)
{
    limits->heap[place] = waiting;
    waiting->place = place;
}

/* Move an item to the place that its time belongs at, from `place` on. */
static void
limits_heap_sift(al_limits *limits, Py_ssize_t place, al_waiting *waiting)
{
    al_waiting **heap = limits->heap;
    while (place > 0 && heap[(place - 1) / 2]->due > waiting->due) {
        limits_heap_set(limits, place, heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        Py_ssize_t below = 2 * place + 1;
        if (below + 1 < limits->heap_size
            && heap[below + 1]->due < heap[below]->due)
        {
            below++;
        }
        if (below >= limits->heap_size || heap[below]->due >= waiting->due) {
            break;
        }
        limits_heap_set(limits, place, heap[below]);
        place = below;
    }
    limits_heap_set(limits, place, waiting);
}

/* Take an item out of the heap. */
static void
limits_heap_remove(al_limits *limits, al_waiting *waiting)
{
    Py_ssize_t place = waiting->place;
    al_waiting *last = limits->heap[--limits->heap_size];
    waiting->place = -1;
    if (last != waiting) {
        limits_heap_sift(limits, place, last);
    }
}

int
al_limits_delay(al_limits *limits, al_waiting *waiting)
{
    if (limits->heap_size == limits->heap_room) {
        Py_ssize_t room = limits->heap_room == 0 ? 16 : limits->heap_room * 2;
        al_waiting **heap = AL_ALLOC(
            PyMem_Realloc(limits->heap, (size_t)room * sizeof(al_waiting *)));
        if (heap == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        limits->heap = heap;
        limits->heap_room = room;
    }
    if (!al_link_is_in(&waiting->all)) {
        al_list_append(&limits->retries, &waiting->all);
    }
    limits_heap_sift(limits, limits->heap_size++, waiting);
    return 0;
}

/* The delay of an item is over: it waits for a place now, and its timeout
   stands still until the attempt begins. */
static void
waiting_set_ready(al_limits *limits, al_waiting *self, double now)
{
    al_limit_key *key = waiting_key(limits, self);
    self->item.left = self->ends - now;
    self->ready = true;
    limits->n_ready++;
    al_list_append(&key->retries, &self->link);
    limits_sort_key(limits, key);
}

al_waiting *
al_limits_due(al_limits *limits, double now)
{
    while (limits->heap_size > 0 && limits->heap[0]->due <= now) {
        al_waiting *first = limits->heap[0];
        limits_heap_remove(limits, first);
        if (first->ends <= now) {
            return first;
        }
        waiting_set_ready(limits, first, now);
    }
    return NULL;
}

PyObject *
al_limits_remove(al_limits *limits, al_waiting *waiting, al_item *item,
                 PyObject **error)
{
    al_limit_key *key = waiting_key(limits, waiting);
    if (waiting->error == NULL) {
        limits->n_fresh--;
    }
    else {
        limits->n_retries--;
        limits->n_ready -= waiting->ready;
    }
    if (waiting->place >= 0) {
        limits_heap_remove(limits, waiting);
    }
    if (waiting->parked != NULL) {
        *waiting->parked = NULL;
    }
    al_link_unlink(&waiting->link);
    al_link_unlink(&waiting->all);
    limits_sort_key(limits, key);
    *item = waiting->item;
    *error = waiting->error;
    item->key = NULL;
    if (item->job != NULL) {
        item->job->aside = NULL;
    }
    PyMem_Free(waiting);
    return limits_release(limits, key);
}

/* ------------------------------------------------------------- collecting */

int
al_limits_visit(al_limits *limits, visitproc visit, void *arg)
{
    Py_VISIT(limits->limit_by);
    Py_VISIT(limits->decide);
    for (size_t i = 0; i < limits->size; i++) {
        for (al_limit_key *at = limits->buckets[i]; at != NULL; at = at->next)
        {
            Py_VISIT(at->key);
        }
    }
    const al_link *lists[] = {&limits->fresh, &limits->retries};
    for (int i = 0; i < 2; i++) {
        for (al_link *at = lists[i]->next; at != lists[i]; at = at->next) {
            int stop = waiting_traverse(AL_CONTAINER_OF(at, al_waiting, all),
                                        visit, arg);
            if (stop != 0) {
                return stop;
            }
        }
    }
    return 0;
}

void
al_limits_clear(al_limits *limits)
{
    al_link *lists[] = {&limits->fresh, &limits->retries};
    for (int i = 0; i < 2; i++) {
        while (!al_list_is_empty(lists[i])) {
            al_item item;
            PyObject *error;
            PyObject *key = al_limits_remove(
                limits, AL_CONTAINER_OF(lists[i]->next, al_waiting, all),
                &item, &error);
            if (item.job != NULL) {
                al_job_detach(item.job);
            }
            al_item_clear(&item);
            Py_XDECREF(error);
            Py_XDECREF(key);
        }
    }
    al_deadline_drop(&limits->wake);
    al_deadline_drop(&limits->opens);
    al_deadline_drop(&limits->rests);
    PyMem_Free(limits->heap);
    PyMem_Free(limits->spare);
    PyMem_Free(limits->buckets);
    limits->heap = NULL;
    limits->spare = NULL;
    limits->buckets = NULL;
    limits->size = 0;
    Py_CLEAR(limits->limit_by);
    Py_CLEAR(limits->decide);
}
