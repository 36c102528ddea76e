/* A job: one item that was added to a batch.
 *
 * Like a Future it can be awaited, asked and cancelled, and it costs little
 * more than a place in a list: it is that place.
 *
 *     source.added --owns--> job     while it waits
 *     worker.item  --owns--> job     from the moment when it is pulled
 *     job ..> pump                   until it ends
 *     job ..> worker, or aside       from the moment when it may start
 *     job --owns--> result           from then on, if somebody holds the job
 *
 * In between, while its key() or limit_by runs, it still waits: who cancels it
 * ends it, and whoever has pulled it finds that it has no pump.
 *
 * A waiter is in the job's list while its Task is suspended, each on a future
 * of its own.  So a cancelled await leaves nothing behind and cancels nothing.
 *
 * A failure is received by whoever asks the job for it, or through the batch.
 * `received` in the result says that it was.  Where the batch lets go of a
 * failure that nobody has received, the job may still be asked, so it answers
 * for the failure (`left`), and reports it when it is dropped.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "batch/result.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/job.h"
#include "batch/pump.h"

JobObject *
al_job_new(al_pump *pump, PyObject *item)
{
    JobObject *self =
        AL_ALLOC(PyObject_GC_New(JobObject, (PyTypeObject *)pump->st->Job));
    if (self == NULL) {
        return NULL;
    }
    self->link = self->waiters = (al_link){NULL, NULL};
    self->pump = pump;
    self->worker = NULL;
    self->aside = NULL;
    self->item = Py_NewRef(item);
    self->task_id = self->result = self->loop = NULL;
    self->report = self->callbacks = self->weakrefs = NULL;
    self->st = pump->st;
    self->fn = self->context = self->key = NULL;
    self->number = 0;
    self->is_call = false;
    self->asks_key = self->logged = false;
    if (PyObject_IS_GC(item)) {
        PyObject_GC_Track(self);
    }
    return self;
}

/* ------------------------------------------------------------- the end */

/* The loop that calls the callbacks (new); NULL with an exception. */
static PyObject *
job_loop(JobObject *self)
{
    return self->loop != NULL ? Py_NewRef(self->loop)
                              : al_loop_running(self->st, "a job's callback");
}

int
al_job_call_soon(JobObject *self, PyObject *fn, PyObject *context)
{
    PyObject *loop = job_loop(self);
    if (loop == NULL) {
        return -1;
    }
    PyObject *stack[5] = {NULL, loop, fn, (PyObject *)self, context};
    PyObject *handle = PyObject_VectorcallMethod(
        self->st->s_call_soon, stack + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        self->st->kw_context);
    Py_DECREF(loop);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

/* Have the callbacks called, each once, in the order in which they were added.
 */
static void
job_call_callbacks(JobObject *self)
{
    PyObject *callbacks = self->callbacks;
    self->callbacks = NULL;
    for (Py_ssize_t i = 0; callbacks != NULL && i < PyList_GET_SIZE(callbacks);
         i++)
    {
        PyObject *pair = PyList_GET_ITEM(callbacks, i);
        if (al_job_call_soon(self, PyTuple_GET_ITEM(pair, 0),
                             PyTuple_GET_ITEM(pair, 1))
            < 0)
        {
            if (self->loop == NULL) {
                PyErr_WriteUnraisable((PyObject *)self);
            }
            else {
                al_loop_report_or_exit_later(self->st, self->loop,
                                             "calling a job's callback failed",
                                             NULL);
            }
        }
    }
    Py_XDECREF(callbacks);
}

/* Wake all Tasks that wait. */
static void
job_wake_waiters(JobObject *self, al_pump *p)
{
    while (al_link_is_in(&self->waiters) && !al_list_is_empty(&self->waiters))
    {
        al_job_waiter *wait =
            AL_CONTAINER_OF(self->waiters.next, al_job_waiter, link);
        PyObject *future = Py_XNewRef(wait->future);
        al_link_unlink(&wait->link);
        if (future != NULL) {
            al_loop_wake_waiter(p->st, &p->bound, future);
            Py_DECREF(future);
        }
    }
}

/* Tell whether anybody but the caller, who owns one reference, would notice
   the end of the job. */
static bool
job_is_held(const JobObject *job)
{
    return Py_REFCNT(job) > 1 || job->callbacks != NULL;
}

void
al_job_end(JobObject *self, al_pump *p, PyObject *result)
{
    bool ended = self->pump == NULL;
    if (self->logged && result != NULL) {
        ((ResultObject *)result)->received = true;
    }
    al_job_detach(self);
    if (ended || !job_is_held(self)) {
        return;
    }
    PyObject *fn = self->fn, *context = self->context, *key = self->key;
    self->fn = self->context = self->key = NULL;
    Py_XDECREF(fn);
    Py_XDECREF(context);
    Py_XDECREF(key);
    al_job_track(self);
    Py_INCREF(self);
    self->loop = Py_XNewRef(p->bound.loop);
    self->result = Py_XNewRef(result);
    if (result != NULL) {
        ((ResultObject *)result)->has_job = true;
        if (!al_result_succeeded((ResultObject *)result)) {
            self->report = Py_NewRef(p->st->report_unread_job);
        }
    }
    job_wake_waiters(self, p);
    job_call_callbacks(self);
    Py_DECREF(self);
}

int
al_job_ask_key(JobObject *self)
{
    al_pump *p = self->pump;
    if (self->task_id != NULL || p->source.key == NULL) {
        return 0;
    }
    if (self->asks_key) {
        PyErr_SetString(PyExc_RuntimeError,
                        "key asked for the id of the job that it is called "
                        "for, which is its own answer");
        return -1;
    }
    PyObject *item = Py_NewRef(self->item);
    self->asks_key = true;
    PyObject *task_id = al_source_key(
        p->st, &p->source, item, al_source_index(&self->pump->source, self));
    self->asks_key = false;
    Py_DECREF(item);
    if (task_id == NULL) {
        return -1;
    }
    Py_XSETREF(self->task_id, task_id);
    return 0;
}

/* Take a job out of the queue, which the caller's reference outlives.  The
   pool may have room then, or nothing left to do. */
static void
job_leave_queue(JobObject *self, al_pump *p)
{
    if (al_link_is_in(&self->link)) {
        al_link_unlink(&self->link);
        p->source.waiting--;
        Py_DECREF(self);
    }
    p->calls->item_taken(p->owner);
}

/* al_job_refuse() of a job whose id is known. */
static void
job_end_unstarted(JobObject *self, al_pump *p, PyObject *msg)
{
    al_item item = {.value = self->item,
                    .task_id = self->task_id,
                    .job = self,
                    .index = al_source_index(&self->pump->source, self)};
    PyObject *result = al_item_unstarted(p->st, &item, p->stopping, p->budget);
    if (result == NULL) {
        PyErr_Clear(); /* the job has no outcome then, and says so */
    }
    else if (msg != NULL) {
        al_result_set_message(result, msg);
    }
    if (self->is_call) { /* a pool keeps nothing of it */
        job_leave_queue(self, p);
    }
    al_job_end(self, p, result);
    Py_XDECREF(result);
}

void
al_job_refuse(JobObject *self, PyObject *msg)
{
    al_pump *p = self->pump;
    PyObject *raised = PyErr_GetRaisedException();
    if (al_job_ask_key(self) < 0) {
        PyErr_Clear(); /* it ends in any case, and the id is its index then */
    }
    if (self->pump != NULL) { /* the key may have ended it */
        job_end_unstarted(self, p, msg);
    }
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

void
al_job_end_waiting(al_pump *p)
{
    al_link before;
    al_list_move(&p->source.added, &before);
    while (!al_list_is_empty(&before)) {
        al_link *link = before.next;
        al_link_unlink(link);
        al_list_append(&p->source.added, link);
        JobObject *job = AL_CONTAINER_OF(link, JobObject, link);
        if (link != &p->source.ahead_mark && job->pump != NULL) {
            if (!job->is_call && !job_is_held(job)) {
                al_job_detach(job);
                continue;
            }
            Py_INCREF(job);
            al_job_refuse(job, NULL);
            Py_DECREF(job);
        }
    }
}

/* ------------------------------------------------------- of a pool alone */

PySendResult
al_job_begin(JobObject *self, al_drive *drive, PyObject *args,
             PyObject **result)
{
    bool again = self->pump != NULL && al_pump_retries(self->pump);
    PyObject *fn = Py_NewRef(self->fn);
    PyObject *context = al_job_context(self, again);
    if (!again) {
        Py_CLEAR(self->fn);
        Py_CLEAR(self->context);
    }
    Py_INCREF(args);
    PySendResult answer = al_drive_begin(
        self->st, drive, context, fn, &PyTuple_GET_ITEM(args, 0),
        (size_t)PyTuple_GET_SIZE(args), result);
    Py_DECREF(args);
    Py_DECREF(fn);
    return answer;
}

/* ---------------------------------------------------------- collecting */

int
al_job_traverse(PyObject *op, visitproc visit, void *arg)
{
    JobObject *self = (JobObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->item);
    Py_VISIT(self->task_id);
    Py_VISIT(self->fn);
    Py_VISIT(self->context);
    Py_VISIT(self->key);
    Py_VISIT(self->result);
    Py_VISIT(self->loop);
    Py_VISIT(self->report);
    Py_VISIT(self->callbacks);
    return 0;
}

int
al_job_clear(PyObject *op)
{
    JobObject *self = (JobObject *)op;
    Py_CLEAR(self->item);
    Py_CLEAR(self->task_id);
    Py_CLEAR(self->fn);
    Py_CLEAR(self->context);
    Py_CLEAR(self->key);
    Py_CLEAR(self->result);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->report);
    Py_CLEAR(self->callbacks);
    return 0;
}
