/* A TaskRegistry's data and verbs, without argument parsing. */
#ifndef AL_REGISTRY_H
#define AL_REGISTRY_H

#include "base/compat.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/ptr_table.h"
#include "base/str_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"

/* So many failures during a shutdown are logged one by one. */
#define AL_SHUTDOWN_LOGGED 20

/* A register() that is making its Task, on the C stack.  An eager Task runs
   its first step, which may call the registry, before anybody has the Task. */
typedef struct al_pending_start {
    struct al_pending_start *outer; /* borrowed: the call around this one */
    EntryObject *entry;             /* borrowed from the call */
    PyObject *msg;                  /* owned: of the cancellation, or NULL */
    bool cancelled;                 /* before the Task was known */
} al_pending_start;

typedef struct {
    PyObject_HEAD
    al_state *st;
    al_loop bound;
    al_heartbeats heartbeats;         /* of the alive entries */
    al_pending_start *pending_starts; /* borrowed: the innermost, or NULL */
    al_link alive;                    /* entries by registration */
    al_link history;                  /* ended entries by their end */
    al_link errors;       /* those that keep their exception, by their end */
    al_link unfailed;     /* those that did not fail, by their end */
    al_str_table by_id;   /* owns the entries, alive and ended */
    PyObject *waiters;    /* owned: list of futures */
    PyObject *joiners;    /* owned: dict of entry to list of futures */
    PyObject *on_finish;  /* owned, or NULL */
    PyObject *join_set;   /* owned: of the running shutdown, or NULL */
    Py_ssize_t shutdowns; /* calls of shutdown() that wait on join_set */
    Py_ssize_t shutdown_failures; /* tasks that failed meanwhile */
    Py_ssize_t history_count, history_limit;
    Py_ssize_t errors_count, errors_limit;
    bool gone; /* the collector has cleared it */
    bool keep_results;
    bool closed_reported; /* a ClosedError of on_finish, in this shutdown */
    bool ids_given;       /* some id was chosen: "task_<n>" may be taken */
    unsigned long long next_id, registered;
    unsigned long long heartbeats_recorded, heartbeats_unknown, restarts;
    unsigned long long ended[3]; /* by al_outcome */
    al_histogram durations;      /* of what has ended */
} RegistryObject;

/* Count the alive entries.  Pure C. */
static inline Py_ssize_t
al_registry_count(const RegistryObject *self)
{
    const Py_ssize_t *count = self->heartbeats.count;
    return count[AL_PENDING] + count[AL_NEVER_BEAT] + count[AL_BEATING]
           + count[AL_STALE];
}

/* Count how long an entry has lived, which has ended; or take that back, if
   `times` is -1.  Pure C. */
static inline void
al_registry_count_duration(RegistryObject *self, const EntryObject *entry,
                           int times)
{
    al_histogram_count(&self->durations,
                       entry->ended_at - entry->registered_at, times);
}

/* Tell whether the Task of an entry is being made, perhaps in its eager first
   step.  Pure C. */
static inline bool
al_registry_is_starting(const RegistryObject *self, const EntryObject *entry)
{
    const al_pending_start *start = self->pending_starts;
    while (start != NULL && start->entry != entry) {
        start = start->outer;
    }
    return start != NULL;
}

/* Tell whether a shutdown() is under way.  Pure C. */
static inline bool
al_registry_is_closing(const RegistryObject *self)
{
    return self->shutdowns > 0;
}

/* Find the alive or ended entry of an id, an exact str.  Returns it
   (borrowed); NULL, without an exception, if there is none.  Pure C. */
static inline EntryObject *
al_registry_find(const RegistryObject *self, PyObject *id)
{
    assert(PyUnicode_CheckExact(id));
    al_str_link *link = al_str_table_find(&self->by_id, id);
    return link == NULL ? NULL : AL_CONTAINER_OF(link, EntryObject, id);
}

/* Give an alive entry its Task.  There is room for it in the table since
   al_registry_open().  Pure C. */
static inline void
al_registry_set_task(RegistryObject *self, EntryObject *entry, PyObject *task)
{
    entry->task = Py_NewRef(task);
    al_ptr_table_add(&self->heartbeats.by_task, &entry->task_link, task);
}

/* The visit of a list of entries that the registry owns.  Pure C. */
static inline int
al_registry_visit_list(const al_link *head, visitproc visit, void *arg)
{
    for (const al_link *at = head->next; at != head; at = at->next) {
        Py_VISIT(AL_CONTAINER_OF(at, EntryObject, registry_link));
    }
    return 0;
}

/* The visit of the members.  Pure C. */
static inline int
al_registry_visit(RegistryObject *self, visitproc visit, void *arg)
{
    int stopped = al_registry_visit_list(&self->alive, visit, arg);
    if (stopped == 0) {
        stopped = al_registry_visit_list(&self->history, visit, arg);
    }
    if (stopped != 0) {
        return stopped;
    }
    Py_VISIT(self->waiters);
    Py_VISIT(self->joiners);
    Py_VISIT(self->on_finish);
    Py_VISIT(self->join_set);
    return al_loop_visit(&self->bound, visit, arg);
}

/* Bind to the running loop, or check that it is the bound one.  A registry
   without alive entries whose loop is closed binds again.  Returns 0; -1 with
   RuntimeError, which names `what` and, unless it is NULL, `call`: the
   arguments with which another thread calls loop.call_soon_threadsafe().
   Runs Python. */
int al_registry_bind(RegistryObject *self, const char *what, const char *call);

/* Register an alive entry: under its id, in the heartbeat lists and in
   `alive`.  An ended entry of that id is dropped.  Returns 0; -1 with
   DuplicateTaskError or another exception, nothing changed.  Runs Python. */
int al_registry_open(RegistryObject *self, EntryObject *entry,
                     double stale_after);

/* Take an ended entry out of its lists, but not out of the table.  Pure C. */
void al_registry_unlink(RegistryObject *self, EntryObject *entry);

/* Take an entry out of the table, which has it.  Runs Python. */
void al_registry_forget(RegistryObject *self, EntryObject *entry);

/* Undo al_registry_open(), as if the entry had never been registered, whether
   it has ended meanwhile or not.  Keeps the raised exception.  Runs Python. */
void al_registry_revoke(RegistryObject *self, EntryObject *entry);

/* Give an alive entry its Task, unless it has one, and have the entry called
   at the Task's end, in `context`, or if that is NULL in a copy of the current
   one.  Returns 0; -1 with an
   exception, the entry without a Task.  Runs Python. */
int al_registry_attach(RegistryObject *self, EntryObject *entry,
                       PyObject *task, PyObject *context);

/* Find the alive entry of the Task that runs in the bound loop, in the loop's
   thread.  This may be the Task's eager first step.  Returns it (borrowed);
   NULL, without an exception, if there is none; NULL with an exception.  Runs
   Python. */
EntryObject *al_registry_current(RegistryObject *self);

/* Request the cancellation of an alive entry's Task.  Returns 1 if it was
   requested, else 0; -1 with an exception.  Runs Python. */
int al_registry_cancel(RegistryObject *self, EntryObject *entry,
                       PyObject *msg);

/* List the alive entries, or the history, oldest first (a new list).  NULL
   with MemoryError.  Runs Python. */
PyObject *al_registry_list(RegistryObject *self, bool finished);

/* Drop every entry and every reference.  Runs Python. */
void al_registry_clear(RegistryObject *self);

#endif
