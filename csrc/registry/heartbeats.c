/* The heartbeat lists of a registry.
 *
 * Every alive entry is in exactly one list, and each list is in the order of
 * last_heartbeat, oldest first:
 *
 *     pending                    of the registry: not started yet
 *        |  first step
 *        v
 *     never_beat --------+       one trio of lists for every distinct
 *        |  heartbeat    |       stale_after (a threshold)
 *        v               |
 *     beating  <------+  |       a heartbeat moves the entry to the tail
 *        |  overdue   |  |
 *        v            |  |
 *     stale ----------+  |       back after a heartbeat
 *        ^   overdue     |
 *        +---------------+
 *
 * A pending entry may have heartbeats too, by its id; it goes to `beating`
 * with its first step.  At its end an entry leaves its list.
 *
 * All entries of one trio wait for the same number of seconds, so those that
 * are overdue are at the heads.  A sweep looks at the heads, moves the overdue
 * entries and stops at the first entry that is not overdue.  So the cost of
 * get_stale_tasks() depends on the number of stale tasks, not of all tasks.
 * asyncio does not say when a Task runs its first step, so a sweep asks the
 * first pending Tasks, and a heartbeat asks its own.
 *
 * Every move puts an entry at, or next to, the end of a list where it belongs:
 * a move to the middle would search for the place.  So reading `state` or
 * `health` moves nothing, for tasks may be read in any order; both compute
 * their answer from the coroutine and the clock.  An entry may be in `pending`
 * although its Task has started, or in `beating` although it is stale.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"

/* Make a threshold without entries.  NULL with MemoryError. */
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

/* Find or make the threshold of a stale_after.  The list is short: most
   programs use one or two values.  NULL with MemoryError. */
static al_threshold *
threshold_get(al_heartbeats *heartbeats, double stale_after)
{
    al_threshold *last = heartbeats->thresholds;
    if (stale_after == AL_STALE_AFTER_DEFAULT) {
        return last;
    }
    for (; last->next != NULL; last = last->next) {
        if (last->next->stale_after == stale_after) {
            return last->next;
        }
    }
    last->next = threshold_new(heartbeats, stale_after);
    return last->next;
}

/* Drop one member.  A threshold without members is freed, unless it is the
   default. */
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

/* Return the list of a place to which an entry belongs. */
static al_link *
heartbeats_list(EntryObject *entry, al_place place)
{
    return place == AL_PENDING      ? &entry->threshold->heartbeats->pending
           : place == AL_NEVER_BEAT ? &entry->threshold->never_beat
           : place == AL_BEATING    ? &entry->threshold->beating
                                    : &entry->threshold->stale;
}

/* The last_heartbeat of the entry of a link. */
static double
heartbeats_last(const al_link *link)
{
    return AL_CONTAINER_OF(link, EntryObject, heartbeat_link)->last_heartbeat;
}

/* Put an entry behind a link of the list of a place. */
static void
heartbeats_put_after(EntryObject *entry, al_place place, al_link *before)
{
    al_link_after(&entry->heartbeat_link, before);
    entry->place = (uint8_t)place;
    entry->threshold->heartbeats->count[place]++;
}

/* Put an entry into the list of a place, in the order of last_heartbeat.  The
   walk begins at the tail, where a heartbeat or a registration belongs. */
static void
heartbeats_put(EntryObject *entry, al_place place)
{
    al_link *head = heartbeats_list(entry, place);
    al_link *at = head->prev;
    while (at != head && heartbeats_last(at) > entry->last_heartbeat) {
        AL_COUNT_STEP();
        at = at->prev;
    }
    heartbeats_put_after(entry, place, at);
}

/* heartbeats_put() for an entry that belongs to the head of the list. */
static void
heartbeats_put_first(EntryObject *entry, al_place place)
{
    al_link *head = heartbeats_list(entry, place);
    al_link *at = head;
    while (at->next != head
           && heartbeats_last(at->next) < entry->last_heartbeat)
    {
        AL_COUNT_STEP();
        at = at->next;
    }
    heartbeats_put_after(entry, place, at);
}

/* Take an entry out of its list. */
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
    heartbeats->by_task = (al_ptr_table){NULL, 0, 0};
}

void
al_heartbeats_set_default(al_heartbeats *heartbeats, double stale_after)
{
    al_threshold *threshold = heartbeats->thresholds;
    threshold->stale_after = stale_after;
    /* The next sweep moves those back that are still overdue. */
    while (!al_list_is_empty(&threshold->stale)) {
        EntryObject *entry = AL_CONTAINER_OF(threshold->stale.prev,
                                             EntryObject, heartbeat_link);
        heartbeats_take(entry);
        heartbeats_put_first(entry, entry->heartbeats > 0 ? AL_BEATING
                                                          : AL_NEVER_BEAT);
    }
}

/* Return the threshold of a supervised entry in whose lists it is not now.  It
   is there, for the entry is a member of both. */
static al_threshold *
heartbeats_other(EntryObject *entry)
{
    return threshold_get(entry->threshold->heartbeats,
                         entry->resting ? entry->stale_after : Py_HUGE_VAL);
}

int
al_heartbeats_add(al_heartbeats *heartbeats, EntryObject *entry)
{
    al_threshold *threshold = threshold_get(heartbeats, entry->stale_after);
    if (threshold == NULL) {
        return -1;
    }
    entry->may_rest = al_entry_supervision(entry) != NULL;
    if (entry->may_rest) {
        /* It is a member of both at all times, so a change cannot fail. */
        al_threshold *other = threshold_get(heartbeats, Py_HUGE_VAL);
        if (other == NULL) {
            threshold->members++;
            threshold_release(threshold);
            return -1;
        }
        other->members++;
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
        al_threshold *now = entry->threshold;
        al_threshold *other = entry->may_rest ? heartbeats_other(entry) : NULL;
        entry->stale_after =
            entry->resting ? other->stale_after : now->stale_after;
        entry->resting = false;
        entry->threshold = NULL;
        threshold_release(now);
        if (other != NULL) {
            threshold_release(other);
        }
    }
}

void
al_heartbeats_set_resting(EntryObject *entry, bool resting, double now)
{
    assert(entry->may_rest);
    if (entry->resting == resting) {
        return;
    }
    heartbeats_take(entry);
    entry->threshold = heartbeats_other(entry);
    entry->resting = resting;
    al_place place = entry->heartbeats > 0 ? AL_BEATING : AL_NEVER_BEAT;
    if (resting) {
        /* Nothing becomes stale there, so the order does not matter, and a
           search for the place would be in vain. */
        heartbeats_put_after(entry, place,
                             heartbeats_list(entry, place)->prev);
        return;
    }
    entry->last_heartbeat = now;
    entry->stale_reported = false;
    heartbeats_put(entry, place);
}

/* Ask the coroutine of a pending entry.  Returns as al_heartbeats_started().
 */
static int
heartbeats_ask_started(EntryObject *entry)
{
    al_state *st = entry->threshold->heartbeats->st;
    if (entry->task == NULL && entry->coro == NULL) {
        return 0; /* supervised, and its first coroutine is being made */
    }
    PyObject *coro = entry->task != NULL
                         ? al_task_coro(st, entry->task)
                         : Py_XNewRef(entry->coro); /* an eager first step */
    int started = coro == NULL ? -1 : al_coro_started(st, coro);
    Py_XDECREF(coro);
    return started;
}

int
al_heartbeats_started(EntryObject *entry, bool move)
{
    if (entry->place != AL_PENDING) {
        return 1;
    }
    int started = heartbeats_ask_started(entry);
    if (move && started > 0 && entry->place == AL_PENDING) {
        heartbeats_take(entry);
        heartbeats_put(entry,
                       entry->heartbeats > 0 ? AL_BEATING : AL_NEVER_BEAT);
    }
    return started;
}

/* Move the started entries out of pending.  A loop starts Tasks in the order
   in which they were made, so the first one that has not started ends the
   walk.  Asking a Task may run code that ends any entry: only the head is
   looked at, and it is fetched anew each time. */
static int
heartbeats_sweep_pending(al_heartbeats *heartbeats)
{
    int started = 1;
    while (started > 0 && !al_list_is_empty(&heartbeats->pending)) {
        EntryObject *entry = AL_CONTAINER_OF(heartbeats->pending.next,
                                             EntryObject, heartbeat_link);
        Py_INCREF(entry);
        started = al_heartbeats_started(entry, true);
        Py_DECREF(entry);
    }
    return started < 0 ? -1 : 0;
}

int
al_heartbeats_record(al_heartbeats *heartbeats, EntryObject *entry, double now)
{
    int started = 1;
    if (entry->place == AL_PENDING) {
        started = al_heartbeats_started(entry, false);
    }
    if (entry->threshold == NULL) {
        return started < 0 ? -1 : 0; /* it ended while its Task was asked */
    }
    assert(entry->threshold->heartbeats == heartbeats);
    al_place place =
        entry->place == AL_PENDING && started <= 0 ? AL_PENDING : AL_BEATING;
    /* heartbeats_take() would reset the place for nothing: this is the hot
       path, and the entry is put back below. */
    al_link_unlink(&entry->heartbeat_link);
    heartbeats->count[entry->place]--;
    entry->last_heartbeat = now;
    entry->heartbeats++;
    entry->stale_reported = false;
    heartbeats_put(entry, place);
    return started < 0 ? -1 : 1;
}

/* The first entry of a list, if it is overdue at `now`; else NULL. */
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
    int answer = heartbeats_sweep_pending(heartbeats);
    for (al_threshold *threshold = heartbeats->thresholds; threshold != NULL;
         threshold = threshold->next)
    {
        for (;;) {
            EntryObject *silent =
                threshold_overdue(threshold, &threshold->never_beat, now);
            EntryObject *beating =
                threshold_overdue(threshold, &threshold->beating, now);
            /* The older one goes first, so that `stale` keeps its order
               without a search. */
            EntryObject *first = silent == NULL
                                         || (beating != NULL
                                             && beating->last_heartbeat
                                                    < silent->last_heartbeat)
                                     ? beating
                                     : silent;
            if (first == NULL) {
                break;
            }
            heartbeats_take(first);
            heartbeats_put(first, AL_STALE);
        }
    }
    return answer;
}

/* The qsort() order of the result: by last_heartbeat. */
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
        AL_ALLOC(PyMem_Malloc(((size_t)most + 1) * sizeof(EntryObject *)));
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
    /* Making the list may run the collector, and that may run anything: from
       here on only the references in `found` are used. */
    PyObject *list = AL_ALLOC(PyList_New(n));
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        if (report) {
            found[i]->stale_reported = true;
        }
        PyList_SET_ITEM(list, i, (PyObject *)found[i]);
    }
    while (list == NULL && n > 0) {
        Py_DECREF(found[--n]);
    }
    PyMem_Free(found);
    return list;
}
