/* A TaskRegistry's books, without argument parsing.
 *
 * The table of ids owns the entries, alive and in the history; the lists only
 * order them.
 */
#ifndef AL_REGISTRY_H
#define AL_REGISTRY_H

#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"

/* A Task that is being made: an eager one runs before we hold it. */
typedef struct al_birth {
    struct al_birth *outer;
    EntryObject *entry; /* borrowed from the call that makes it */
    PyObject *msg;      /* owned: of its cancellation, or NULL */
    bool cancelled;     /* before its Task was there */
} al_birth;

typedef struct {
    PyObject_HEAD
    al_state *st;
    al_loop bound;
    al_heartbeats heartbeats;
    al_birth *births;
    Py_ssize_t unborn;   /* how many births */
    al_link alive;       /* by registration */
    al_link history;     /* by end */
    al_link errors;      /* those that keep their exception, by end */
    PyObject *ids;       /* owned: dict of id to entry */
    PyObject *waiters;   /* owned: list of futures */
    PyObject *on_finish; /* owned, or NULL */
    PyObject *drain;     /* owned: of the shutdown that runs, or NULL */
    Py_ssize_t drainers; /* shutdowns that wait on it */
    Py_ssize_t history_count, history_limit;
    Py_ssize_t errors_count, errors_limit;
    bool keep_results;
    bool ids_given; /* somebody chose one: "task_<n>" may be taken */
    unsigned long long next_id, registered, beats_count, beats_unknown;
    unsigned long long ended[3]; /* by al_outcome */
} RegistryObject;

/* How many are alive.  Pure C. */
Py_ssize_t al_registry_count(const RegistryObject *self);

/* What an entry's Task calls at its end: to the history with it, and tell
   whoever asked.  Returns 0; -1 with TypeError if the Task has not ended, or
   with the SystemExit or KeyboardInterrupt of somebody who was told.
   Runs Python. */
int al_registry_close(EntryObject *entry);

/* Fix the outcome of an alive entry that has none yet: `error`, or `result`
   where that is NULL.  Returns 0; -1 with an exception.  Runs Python. */
int al_registry_fix(RegistryObject *self, EntryObject *entry, PyObject *result,
                    PyObject *error);

/* Ask an alive entry's Task to end.  Returns 1 if asked, else 0; -1 with an
   exception.  Runs Python. */
int al_registry_cancel(RegistryObject *self, EntryObject *entry,
                       PyObject *msg);

/* The alive entries, or the finished ones, oldest first (a new list).
   Runs Python. */
PyObject *al_registry_list(RegistryObject *self, bool finished);

/* The alive or finished entry of an id (borrowed); NULL if there is none.
   Pure C. */
EntryObject *al_registry_find(RegistryObject *self, PyObject *id);

/* Take an ended entry out of the history's lists, not out of the ids.
   Pure C. */
void al_registry_unlink(RegistryObject *self, EntryObject *entry);

/* Drop an entry's id, if it is still its own.  Runs Python. */
void al_registry_forget(RegistryObject *self, EntryObject *entry);

/* The visit of the books.  Pure C. */
int al_registry_visit(RegistryObject *self, visitproc visit, void *arg);

/* Forget everybody and everything.  Runs Python. */
void al_registry_clear(RegistryObject *self);

#endif
