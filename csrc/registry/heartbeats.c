/* The heartbeat lists of a registry. */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"

static al_threshold *
threshold_new(al_heartbeats *heartbeats, double stale_after)
{
    al_threshold *threshold = AL_ALLOC(PyMem_Malloc(sizeof(al_threshold)));
    if (threshold == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    threshold->next = NULL;
    threshold->heartbeats = heartbeats;
    threshold->stale_after = stale_after;
    threshold->members = 0;
    al_list_init(&threshold->never_beat);
    al_list_init(&threshold->beating);
    al_list_init(&threshold->stale);
    return threshold;
}

/* The threshold of a threshold, made where there is none. */
static al_threshold *
threshold_get(al_heartbeats *heartbeats, double stale_after)
{
    al_threshold *last = heartbeats->thresholds;
    for (al_threshold *threshold = last; threshold != NULL;
         threshold = threshold->next)
    {
        if (threshold->stale_after == stale_after) {
            return threshold;
        }
        last = threshold;
    }
    last->next = threshold_new(heartbeats, stale_after);
    return last->next;
}

/* One member less; a threshold without any is freed, but for the default. */
static void
threshold_release(al_threshold *threshold)
{
    al_heartbeats *heartbeats = threshold->heartbeats;
    if (--threshold->members > 0 || threshold == heartbeats->thresholds) {
        return;
    }
    al_threshold *before = heartbeats->thresholds;
    while (before->next != threshold) {
        before = before->next;
    }
    before->next = threshold->next;
    PyMem_Free(threshold);
}

/* Put an entry into the list of a place, by its `last`; new ones belong at
   the tail, so the walk is short. */
static void
heartbeats_put(EntryObject *entry, al_place place)
{
    al_heartbeats *heartbeats = entry->threshold->heartbeats;
    al_link *head = place == AL_PENDING      ? &heartbeats->pending
                    : place == AL_NEVER_BEAT ? &entry->threshold->never_beat
                    : place == AL_BEATING    ? &entry->threshold->beating
                                             : &entry->threshold->stale;
    al_link *at = head->prev;
    while (at != head
           && AL_CONTAINER_OF(at, EntryObject, heartbeat_link)->last_heartbeat
                  > entry->last_heartbeat)
    {
        at = at->prev;
    }
    al_link_after(&entry->heartbeat_link, at);
    entry->place = (uint8_t)place;
    heartbeats->count[place]++;
}

static void
heartbeats_take(EntryObject *entry)
{
    al_link_unlink(&entry->heartbeat_link);
    entry->threshold->heartbeats->count[entry->place]--;
    entry->place = AL_NOWHERE;
}

int
al_heartbeats_init(al_heartbeats *heartbeats, al_state *st, al_loop *bound,
                   double stale_after)
{
    heartbeats->st = st;
    heartbeats->bound = bound;
    al_list_init(&heartbeats->pending);
    heartbeats->thresholds = threshold_new(heartbeats, stale_after);
    return heartbeats->thresholds == NULL ? -1 : 0;
}

void
al_heartbeats_clear(al_heartbeats *heartbeats)
{
    while (heartbeats->thresholds != NULL) {
        al_threshold *threshold = heartbeats->thresholds;
        heartbeats->thresholds = threshold->next;
        PyMem_Free(threshold);
    }
    PyMem_Free(heartbeats->by_task.buckets);
    PyMem_Free(heartbeats->by_id.buckets);
    heartbeats->by_task = heartbeats->by_id = (al_ptr_table){NULL, 0, 0};
}

int
al_heartbeats_add(al_heartbeats *heartbeats, EntryObject *entry)
{
    al_threshold *threshold = threshold_get(heartbeats, entry->stale_after);
    if (threshold == NULL) {
        return -1;
    }
    entry->threshold = threshold;
    threshold->members++;
    heartbeats_put(entry, AL_PENDING);
    return 0;
}

void
al_heartbeats_remove(EntryObject *entry)
{
    if (entry->threshold != NULL) {
        heartbeats_take(entry);
        al_ptr_table_remove(&entry->threshold->heartbeats->by_task,
                            &entry->task_link);
        al_ptr_table_remove(&entry->threshold->heartbeats->by_id,
                            &entry->id_link);
        threshold_release(entry->threshold);
        entry->threshold = NULL;
    }
}

int
al_heartbeats_started(EntryObject *entry)
{
    if (entry->place != AL_PENDING) {
        return 1;
    }
    al_state *st = entry->threshold->heartbeats->st;
    PyObject *coro = entry->task != NULL
                         ? al_task_coro(st, entry->task)
                         : Py_XNewRef(entry->coro); /* an eager first step */
    int started = coro == NULL ? -1 : al_coro_started(st, coro);
    Py_XDECREF(coro);
    if (started > 0 && entry->place == AL_PENDING) {
        heartbeats_take(entry);
        heartbeats_put(entry,
                       entry->heartbeats > 0 ? AL_BEATING : AL_NEVER_BEAT);
    }
    return started;
}

/* Tasks start in the order they were made, so the first that has not started
   ends the walk; each is passed once. */
static int
heartbeats_move_started(al_heartbeats *heartbeats)
{
    int started = 1;
    while (started > 0 && !al_list_is_empty(&heartbeats->pending)) {
        EntryObject *entry = AL_CONTAINER_OF(heartbeats->pending.next,
                                             EntryObject, heartbeat_link);
        Py_INCREF(entry);
        started = al_heartbeats_started(entry);
        Py_DECREF(entry);
    }
    return started < 0 ? -1 : 0;
}

int
al_heartbeats_record(al_heartbeats *heartbeats, EntryObject *entry, double now)
{
    int started = 1;
    if (entry->place == AL_PENDING) {
        started = al_heartbeats_started(entry);
    }
    if (entry->threshold == NULL) {
        return started < 0 ? -1 : 0; /* ended while we asked */
    }
    assert(entry->threshold->heartbeats == heartbeats);
    al_place place = entry->place == AL_PENDING ? AL_PENDING : AL_BEATING;
    al_link_unlink(&entry->heartbeat_link);
    heartbeats->count[entry->place]--;
    entry->last_heartbeat = now;
    entry->heartbeats++;
    entry->stale_reported = false;
    heartbeats_put(entry, place);
    return started < 0 ? -1 : 1;
}

/* The overdue head of a list; NULL if its first is fresh. */
static EntryObject *
threshold_overdue(al_threshold *threshold, al_link *head, double now)
{
    if (al_list_is_empty(head)) {
        return NULL;
    }
    EntryObject *entry =
        AL_CONTAINER_OF(head->next, EntryObject, heartbeat_link);
    return now - entry->last_heartbeat > threshold->stale_after ? entry : NULL;
}

int
al_heartbeats_sweep(al_heartbeats *heartbeats, double now)
{
    int answer = heartbeats_move_started(heartbeats);
    for (al_threshold *threshold = heartbeats->thresholds; threshold != NULL;
         threshold = threshold->next)
    {
        for (;;) {
            EntryObject *quiet =
                threshold_overdue(threshold, &threshold->never_beat, now);
            EntryObject *beating =
                threshold_overdue(threshold, &threshold->beating, now);
            EntryObject *first =
                quiet == NULL
                        || (beating != NULL
                            && beating->last_heartbeat < quiet->last_heartbeat)
                    ? beating
                    : quiet;
            if (first == NULL) {
                break;
            }
            heartbeats_take(first);
            heartbeats_put(first, AL_STALE);
        }
    }
    return answer;
}

static int
heartbeats_compare(const void *left, const void *right)
{
    double a = (*(EntryObject *const *)left)->last_heartbeat;
    double b = (*(EntryObject *const *)right)->last_heartbeat;
    return (a > b) - (a < b);
}

PyObject *
al_heartbeats_stale(al_heartbeats *heartbeats, bool report)
{
    Py_ssize_t most = heartbeats->count[AL_STALE];
    EntryObject **found =
        AL_ALLOC(PyMem_Calloc((size_t)most + 1, sizeof(EntryObject *)));
    if (found == NULL) {
        return PyErr_NoMemory();
    }
    Py_ssize_t n = 0;
    int lists = 0;
    for (al_threshold *threshold = heartbeats->thresholds; threshold != NULL;
         threshold = threshold->next)
    {
        lists += !al_list_is_empty(&threshold->stale);
        for (al_link *at = threshold->stale.next; at != &threshold->stale;
             at = at->next)
        {
            EntryObject *entry =
                AL_CONTAINER_OF(at, EntryObject, heartbeat_link);
            if (!report || !entry->stale_reported) {
                found[n++] = (EntryObject *)Py_NewRef((PyObject *)entry);
            }
        }
    }
    if (lists > 1) {
        qsort(found, (size_t)n, sizeof(found[0]), heartbeats_compare);
    }
    PyObject *list = AL_ALLOC(PyList_New(n));
    for (Py_ssize_t i = 0; i < n; i++) {
        if (list == NULL) {
            Py_DECREF(found[i]);
        }
        else {
            found[i]->stale_reported = found[i]->stale_reported || report;
            PyList_SET_ITEM(list, i, (PyObject *)found[i]);
        }
    }
    PyMem_Free(found);
    return list;
}
