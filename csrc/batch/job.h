/* A job: one item that was added to a batch. */
#ifndef AL_JOB_H
#define AL_JOB_H

#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "batch/drive.h"

/* A Task that waits for a job, in its list while it is suspended. */
typedef struct {
    al_link link;
    PyObject *future; /* owned, while suspended */
} al_job_waiter;

/* A job.  It waits in the list of a source, which owns it; then it runs, and
   the worker's item owns it.  What the user holds does not matter for that. */
typedef struct {
    PyObject_HEAD
    al_link link;                /* while it waits, in the source's list */
    al_link waiters;             /* of al_job_waiter; unlinked: none ever */
    struct al_pump *pump;        /* borrowed; NULL: it has ended */
    struct WorkerObject *worker; /* borrowed: has taken it, or NULL */
    struct al_waiting *aside;    /* borrowed: waits for its key, or for its
                                    next attempt; or NULL */
    PyObject *item;              /* owned */
    PyObject *task_id;           /* owned, or NULL: not known yet */
    PyObject *fn;                /* owned: of a call that waits, or may be
                                    tried again; or NULL */
    PyObject *context;           /* owned: the same */
    PyObject *key;               /* owned: of a call, until it is admitted;
                                    NULL: no limit_by */
    PyObject *result;            /* owned: its outcome, or NULL */
    PyObject *loop;              /* owned: of its outcome, or NULL */
    PyObject *report;            /* owned: called if nobody receives its
                                    failure; NULL unless it has failed */
    PyObject *callbacks;         /* owned: list of pairs, or NULL */
    PyObject *weakrefs;          /* borrowed: the interpreter's own list */
    al_state *st;
    Py_ssize_t number; /* how many were added before it */
    bool is_call;      /* of a pool: the item is a tuple of arguments */
    bool asks_key;     /* key() is being called for its id */
    bool logged;       /* of a pool: a registry logs that its last attempt, a
                          task of its own, has failed */
} JobObject;

/* A job that waits (new).  NULL with MemoryError.  Pure C. */
JobObject *al_job_new(struct al_pump *pump, PyObject *item);

/* The job has ended with a result, or NULL if there is no memory for one: wake
   the waiters and call the callbacks, both by the loop.  The caller owns one
   reference; if that is the only one, nobody would notice.  Sets no exception.
   Runs Python. */
void al_job_end(JobObject *job, struct al_pump *pump, PyObject *result);

/* End a job that waits, as never started; `msg` is that of its CancelledError,
   or NULL.  The caller owns a reference.  Keeps the raised exception.
   Runs Python. */
void al_job_refuse(JobObject *job, PyObject *msg);

/* The pump starts nothing new: end the jobs that wait, as never started.  In a
   batch they stay in their list, for its result.  Sets no exception.
   Runs Python. */
void al_job_end_waiting(struct al_pump *pump);

/* The context of an attempt of a pool's job (new): its own or, if `again`, as
   it may be tried again, a copy; NULL with MemoryError.  Pure C. */
static inline PyObject *
al_job_context(const JobObject *job, bool again)
{
    return again ? AL_ALLOC(PyContext_Copy(job->context))
                 : Py_NewRef(job->context);
}

/* The job is in no pump any more, whatever becomes of it.  Pure C. */
static inline void
al_job_detach(JobObject *job)
{
    job->pump = NULL;
    job->worker = NULL;
    job->aside = NULL;
}

/* Call the function of a pool's job, in its context, and take the first step.
   Answers as al_drive_begin().  Runs Python. */
PySendResult al_job_begin(JobObject *job, al_drive *drive, PyObject *args,
                          PyObject **result);

/* Try to ask key() for the id of a job that waits.  Returns 0, also if there
   is no key; -1 with an exception.  Runs Python. */
int al_job_ask_key(JobObject *job);

/* loop.call_soon(fn, job, context=context).  Returns 0; -1 with an exception.
   Runs Python. */
int al_job_call_soon(JobObject *job, PyObject *fn, PyObject *context);

/* The tp_traverse of the type, which job_type.c makes.  Pure C. */
int al_job_traverse(PyObject *op, visitproc visit, void *arg);

/* The tp_clear of the type.  Runs Python. */
int al_job_clear(PyObject *op);

/* Have the collector visit a job, which it need not while the job holds
   nothing but an item that is in no cycle.  Pure C. */
static inline void
al_job_track(JobObject *job)
{
    if (!PyObject_GC_IsTracked((PyObject *)job)) {
        PyObject_GC_Track(job);
    }
}

#endif
