/* The Python API of a job, and its await.
 *
 * The structure and its ownership are explained in job.c.  Reading a job works
 * in any thread; what changes it or waits for it refuses other threads than
 * the loop's.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/args.h"
#include "base/list.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/awaitable.h"
#include "aio/deadline.h"
#include "batch/result.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/job.h"
#include "batch/pump.h"
#include "batch/worker.h"
#include "batch/admission.h"
#include "batch/job_type.h"

/* A Task that waits for a job. */
typedef struct {
    PyObject_HEAD
    al_job_waiter wait;
    JobObject *job; /* owned */
} JobWaitObject;

/* ------------------------------------------------------------- asking it */

/* Tell whether the job has ended. */
static bool
job_type_is_done(const JobObject *self)
{
    return self->pump == NULL;
}

/* The outcome (borrowed), which counts as received.  NULL with an exception if
   there is none. */
static ResultObject *
job_type_receive(JobObject *self)
{
    if (self->pump != NULL) {
        PyErr_Format(self->st->InvalidStateError,
                     "%R has not ended: await it first", self);
        return NULL;
    }
    if (self->result == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this job has no outcome: its batch was dropped, or "
                        "there was no memory for it");
        return NULL;
    }
    ((ResultObject *)self->result)->received = true;
    return (ResultObject *)self->result;
}

/* Tell whether its outcome is a cancellation. */
static bool
job_type_was_cancelled(const JobObject *self)
{
    const ResultObject *result = (const ResultObject *)self->result;
    return result != NULL && !al_result_succeeded(result)
           && result->error != NULL
           && PyErr_GivenExceptionMatches(result->error,
                                          self->st->CancelledError);
}

PyDoc_STRVAR(job_type_done_doc,
"done($self, /)\n--\n\n"
"Return True if the job has ended.");

static PyObject *
job_type_done(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_type_is_done((JobObject *)op));
}

PyDoc_STRVAR(job_type_cancelled_doc,
"cancelled($self, /)\n--\n\n"
"Return True if the job has ended by a cancellation, or was never started.");

static PyObject *
job_type_cancelled(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(job_type_was_cancelled((JobObject *)op));
}

PyDoc_STRVAR(job_type_result_doc,
"result($self, /)\n--\n\n"
"Return the value of a job that has ended, or raise its error.\n\n"
"Raises:\n"
"    asyncio.InvalidStateError: The job has not ended.\n"
"    BaseException: The error of the job.");

static PyObject *
job_type_result(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    ResultObject *result = job_type_receive((JobObject *)op);
    return result == NULL ? NULL : al_result_unwrap((PyObject *)result);
}

PyDoc_STRVAR(job_type_exception_doc,
"exception($self, /)\n--\n\n"
"Return the error of a job that has ended, or None.\n\n"
"Raises:\n"
"    asyncio.InvalidStateError: The job has not ended.\n"
"    asyncio.CancelledError: The job was cancelled.");

static PyObject *
job_type_exception(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    JobObject *self = (JobObject *)op;
    ResultObject *result = job_type_receive(self);
    if (result == NULL) {
        return NULL;
    }
    if (al_result_succeeded(result)) {
        Py_RETURN_NONE;
    }
    PyObject *value = al_result_unwrap((PyObject *)result);
    assert(value == NULL);
    Py_XDECREF(value);
    return job_type_was_cancelled(self) ? NULL : PyErr_GetRaisedException();
}

/* ----------------------------------------------------------- cancelling */

/* Cancel the item that the job's worker runs.  If there is a grace, the item
   is abandoned after it. */
static void
job_type_cancel_running(JobObject *self, PyObject *msg)
{
    WorkerObject *worker = (WorkerObject *)Py_NewRef((PyObject *)self->worker);
    al_pump *p = worker->pump;
    worker->item.refused |= worker->item.job == self;
    al_worker_cancel(worker, AL_STOP_CANCEL, msg, true);
    if (worker->item.job == self && worker->begun && p->grace != Py_HUGE_VAL
        && !worker->item.timeout_sent)
    {
        double now = al_pump_time(p);
        if (worker->item.job == self) {
            worker->item.timeout_sent = true;
            al_deadline_drop(&worker->item.deadline);
            if (al_deadline_add(&p->deadlines, &worker->item.deadline,
                                now + p->grace)
                < 0)
            {
                al_pump_fail(p);
            }
        }
    }
    Py_DECREF(worker);
}

PyDoc_STRVAR(job_type_cancel_doc,
"cancel($self, /, msg=None)\n--\n\n"
"Cancel the item; if it has not started, it never starts.\n\n"
"Args:\n"
"    msg: The message of the item's CancelledError, as in Task.cancel().\n\n"
"Returns:\n"
"    False if the job has ended, otherwise True.\n\n"
"Raises:\n"
"    RuntimeError: This is not the thread of the job's loop.");

static PyObject *
job_type_cancel(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const al_signature signature = {
        .function = "cancel", .positional = 1, .count = 1, .names = {"msg"}};
    JobObject *self = (JobObject *)op;
    PyObject *msg;
    if (al_args_sort(&signature, args, nargs, kwnames, &msg) < 0) {
        return NULL;
    }
    if (job_type_is_done(self)) {
        Py_RETURN_FALSE;
    }
    if (al_loop_check_thread(self->st, &self->pump->bound, "a job") < 0) {
        return NULL;
    }
    if (self->pump == NULL) {
        Py_RETURN_FALSE; /* it has ended meanwhile */
    }
    PyObject *owner = Py_NewRef(self->pump->owner); /* embeds the pump */
    Py_INCREF(self);
    if (self->worker != NULL) {
        job_type_cancel_running(self, msg);
    }
    else if (self->aside != NULL) {
        al_admission_refuse(self->pump, self->aside, msg);
    }
    else {
        al_job_refuse(self, msg);
    }
    Py_DECREF(self);
    Py_DECREF(owner);
    Py_RETURN_TRUE;
}

/* ------------------------------------------------------------ callbacks */

PyDoc_STRVAR(job_type_add_done_callback_doc,
"add_done_callback($self, /, fn)\n--\n\n"
"Call a function with the job when the job has ended.\n\n"
"The loop calls it, as it calls a Future's callbacks, in a copy of the\n"
"current context; soon, if the job has ended already.  Its exceptions go to\n"
"the loop's exception handler.\n\n"
"Args:\n"
"    fn: A function of one argument, the job.");

static PyObject *
job_type_add_done_callback(PyObject *op, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames)
{
    static const al_signature signature = {
        "add_done_callback", 1, 1, 1, {"fn"}};
    JobObject *self = (JobObject *)op;
    PyObject *fn;
    if (al_args_sort(&signature, args, nargs, kwnames, &fn) < 0) {
        return NULL;
    }
    PyObject *context = NULL, *pair = NULL;
    if (!PyCallable_Check(fn)) {
        return PyErr_Format(PyExc_TypeError,
                            "a done callback must be a function of one "
                            "argument, the job, got %.200R",
                            fn);
    }
    if (self->pump != NULL
        && al_loop_check_thread(self->st, &self->pump->bound, "a job") < 0)
    {
        return NULL;
    }
    int failed = -1;
    context = AL_ALLOC(PyContext_CopyCurrent());
    if (context == NULL) {
        return NULL;
    }
    if (self->pump == NULL) {
        failed = al_job_call_soon(self, fn, context);
    }
    else {
        if (self->callbacks == NULL) {
            self->callbacks = AL_ALLOC(PyList_New(0));
        }
        if (self->callbacks != NULL) {
            pair = AL_ALLOC(PyTuple_Pack(2, fn, context));
        }
        if (pair != NULL) {
            al_job_track(self);
            failed = AL_ALLOC_INT(PyList_Append(self->callbacks, pair));
        }
    }
    Py_XDECREF(pair);
    Py_DECREF(context);
    if (failed < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(job_type_remove_done_callback_doc,
"remove_done_callback($self, /, fn)\n--\n\n"
"Remove a function that add_done_callback() was given.\n\n"
"Returns:\n"
"    How many times it was removed: all functions that are equal to it, and\n"
"    0 if the job has ended.");

static PyObject *
job_type_remove_done_callback(PyObject *op, PyObject *const *args,
                              Py_ssize_t nargs, PyObject *kwnames)
{
    static const al_signature signature = {
        "remove_done_callback", 1, 1, 1, {"fn"}};
    JobObject *self = (JobObject *)op;
    PyObject *fn;
    if (al_args_sort(&signature, args, nargs, kwnames, &fn) < 0) {
        return NULL;
    }
    if (self->pump != NULL
        && al_loop_check_thread(self->st, &self->pump->bound, "a job") < 0)
    {
        return NULL;
    }
    PyObject *callbacks = Py_XNewRef(self->callbacks);
    Py_ssize_t i = 0, removed = 0;
    int same = 0;
    /* Comparing may end the job, which takes the list, or change it. */
    while (same >= 0 && callbacks != NULL && callbacks == self->callbacks
           && i < PyList_GET_SIZE(callbacks))
    {
        PyObject *pair = Py_NewRef(PyList_GET_ITEM(callbacks, i));
        same = PyObject_RichCompareBool(PyTuple_GET_ITEM(pair, 0), fn, Py_EQ);
        if (same > 0 && callbacks == self->callbacks
            && i < PyList_GET_SIZE(callbacks)
            && PyList_GET_ITEM(callbacks, i) == pair)
        {
            same = PyList_SetSlice(callbacks, i, i + 1, NULL);
            removed += same == 0;
        }
        else {
            i++;
        }
        Py_DECREF(pair);
    }
    if (callbacks != NULL && callbacks == self->callbacks
        && PyList_GET_SIZE(callbacks) == 0)
    {
        Py_CLEAR(self->callbacks); /* nobody waits for the job any more */
    }
    Py_XDECREF(callbacks);
    return same < 0 ? NULL : AL_ALLOC(PyLong_FromSsize_t(removed));
}

/* ------------------------------------------------------------- awaiting */

/* The value of a job that has ended, or its error. */
static PySendResult
job_type_deliver(JobObject *self, PyObject **result)
{
    ResultObject *outcome = job_type_receive(self);
    *result = outcome == NULL ? NULL : al_result_unwrap((PyObject *)outcome);
    return *result == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

/* Refuse an await that can never end.  Returns 0; -1 with RuntimeError. */
static int
job_type_check_await(JobObject *self)
{
    al_pump *p = self->pump;
    if (!p->begun) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the batch of this job has not begun: await, iterate "
                        "or enter the batch before the job is awaited");
        return -1;
    }
    if (al_loop_check_thread(p->st, &p->bound, "a job") < 0) {
        return -1;
    }
    WorkerObject *worker = self->worker;
    if (worker == NULL || worker->task == NULL) {
        return 0;
    }
    PyObject *current = al_loop_current_task(p->st, &p->bound);
    if (current == NULL) {
        return -1;
    }
    bool itself = current == worker->task;
    Py_DECREF(current);
    if (itself) {
        PyErr_Format(PyExc_RuntimeError,
                     "%R cannot be awaited by its own item, which would never "
                     "end",
                     self);
        return -1;
    }
    return 0;
}

/* The al_begin of an await: a job that has ended is not waited for. */
static PySendResult
job_type_begin(PyObject *op, PyObject **result)
{
    JobObject *self = (JobObject *)op;
    *result = NULL;
    if (job_type_is_done(self)) {
        return job_type_deliver(self, result);
    }
    JobWaitObject *wait = AL_ALLOC(
        PyObject_GC_New(JobWaitObject, (PyTypeObject *)self->st->JobWait));
    if (wait == NULL) {
        return PYGEN_ERROR;
    }
    wait->wait = (al_job_waiter){{NULL, NULL}, NULL};
    wait->job = (JobObject *)Py_NewRef(op);
    PyObject_GC_Track(wait);
    *result = (PyObject *)wait;
    return PYGEN_NEXT;
}

/* The al_step of an await. */
static PySendResult
job_wait_step(PyObject *op, PyObject *thrown, PyObject **result)
{
    JobWaitObject *self = (JobWaitObject *)op;
    JobObject *job = self->job;
    *result = NULL;
    al_link_unlink(&self->wait.link);
    Py_CLEAR(self->wait.future);
    if (thrown != NULL) {
        PyErr_SetRaisedException(Py_NewRef(thrown));
        return PYGEN_ERROR;
    }
    if (job == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this job is being collected");
        return PYGEN_ERROR;
    }
    if (job_type_is_done(job)) {
        return job_type_deliver(job, result);
    }
    if (job_type_check_await(job) < 0) {
        return PYGEN_ERROR;
    }
    PyObject *future = job->pump == NULL
                           ? NULL
                           : al_loop_create_waiter(job->st, &job->pump->bound);
    if (future == NULL) {
        return PyErr_Occurred() ? PYGEN_ERROR : job_type_deliver(job, result);
    }
    if (job->pump == NULL) { /* it has ended meanwhile */
        Py_DECREF(future);
        return job_type_deliver(job, result);
    }
    if (!al_link_is_in(&job->waiters)) {
        al_list_init(&job->waiters);
    }
    al_list_append(&job->waiters, &self->wait.link);
    self->wait.future = Py_NewRef(future);
    *result = future;
    return PYGEN_NEXT;
}

static PyObject *
job_type_await(PyObject *op)
{
    return al_awaitable_lazy(((JobObject *)op)->st, op, job_type_begin,
                             job_wait_step);
}

/* For the await chain of a Task that waits for the job: a list of the worker
   that runs it. */
static PyObject *
job_wait_get_waits_for(PyObject *op, void *Py_UNUSED(closure))
{
    JobObject *job = ((JobWaitObject *)op)->job;
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list != NULL && job != NULL && job->worker != NULL
        && AL_ALLOC_INT(PyList_Append(list, (PyObject *)job->worker)) < 0)
    {
        Py_CLEAR(list);
    }
    return list;
}

static int
job_wait_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)((JobWaitObject *)op)->job);
    Py_VISIT(((JobWaitObject *)op)->wait.future);
    return 0;
}

static int
job_wait_clear(PyObject *op)
{
    al_link_unlink(&((JobWaitObject *)op)->wait.link);
    Py_CLEAR(((JobWaitObject *)op)->job);
    Py_CLEAR(((JobWaitObject *)op)->wait.future);
    return 0;
}

/* ----------------------------------------------------------- attributes */

static PyObject *
job_type_get_task_id(PyObject *op, void *Py_UNUSED(closure))
{
    JobObject *self = (JobObject *)op;
    if (self->worker != NULL && self->worker->item.job == self) {
        return al_item_id(&self->worker->item);
    }
    if (self->aside != NULL) {
        return al_item_id(&self->aside->item);
    }
    if (self->pump != NULL && al_job_ask_key(self) < 0) {
        return NULL;
    }
    if (self->task_id != NULL) {
        return Py_NewRef(self->task_id);
    }
    if (self->pump != NULL) {
        al_item item = {.value = self->item,
                        .job = self,
                        .index = al_source_index(&self->pump->source, self)};
        return al_item_id(&item);
    }
    if (self->result != NULL) {
        return PyObject_GetAttr(self->result, self->st->s_task_id);
    }
    PyErr_SetString(PyExc_RuntimeError,
                    "this job has no outcome, and no id any more");
    return NULL;
}

static PyObject *
job_type_get_state(PyObject *op, void *Py_UNUSED(closure))
{
    JobObject *self = (JobObject *)op;
    if (self->result != NULL) {
        return al_result_task_state(self->st, (ResultObject *)self->result);
    }
    bool runs = (self->worker != NULL && self->worker->begun)
                || (self->aside != NULL && self->aside->error != NULL);
    return Py_NewRef(runs ? self->st->running : self->st->pending);
}

static PyObject *
job_type_get_outcome(PyObject *op, void *Py_UNUSED(closure))
{
    JobObject *self = (JobObject *)op;
    if (self->result == NULL) {
        Py_RETURN_NONE;
    }
    ((ResultObject *)self->result)->received = true;
    return Py_NewRef(self->result);
}

static PyObject *
job_type_repr(PyObject *op)
{
    PyObject *state = job_type_get_state(op, NULL);
    PyObject *task_id = state == NULL ? NULL : job_type_get_task_id(op, NULL);
    PyObject *name = NULL, *text = NULL;
    if (task_id != NULL) {
        name = al_object_short(task_id);
    }
    else if (state != NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* a key that fails */
        name = AL_ALLOC(PyUnicode_FromString("?"));
    }
    if (name != NULL) {
        text = AL_ALLOC(PyUnicode_FromFormat("<Job %U %S>", name, state));
    }
    Py_XDECREF(name);
    Py_XDECREF(task_id);
    Py_XDECREF(state);
    return text;
}

/* Report a failure that nobody has received and nobody else answers for. */
static void
job_type_finalize(PyObject *op)
{
    JobObject *self = (JobObject *)op;
    ResultObject *result = (ResultObject *)self->result;
    if (result == NULL) {
        return;
    }
    result->has_job = false;
    if (!result->left || result->received || self->report == NULL
        || !al_result_is_failure(result))
    {
        return;
    }
    PyObject *raised = PyErr_GetRaisedException();
    result->received = true;
    PyObject *none = PyObject_CallFunctionObjArgs(
        self->report, self->loop == NULL ? Py_None : self->loop,
        (PyObject *)result, NULL);
    if (none == NULL) {
        PyErr_WriteUnraisable(op);
    }
    Py_XDECREF(none);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
}

static void
job_type_dealloc(PyObject *op)
{
    JobObject *self = (JobObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    if (self->report != NULL && PyObject_CallFinalizerFromDealloc(op) < 0) {
        return; /* it is alive again */
    }
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    assert(!al_link_is_in(&self->link));
    (void)al_job_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef job_type_methods[] = {
    {"done", job_type_done, METH_NOARGS, job_type_done_doc},
    {"cancelled", job_type_cancelled, METH_NOARGS, job_type_cancelled_doc},
    {"result", job_type_result, METH_NOARGS, job_type_result_doc},
    {"exception", job_type_exception, METH_NOARGS, job_type_exception_doc},
    {"cancel", AL_METHOD(job_type_cancel), METH_FASTCALL | METH_KEYWORDS,
     job_type_cancel_doc},
    {"add_done_callback", AL_METHOD(job_type_add_done_callback),
     METH_FASTCALL | METH_KEYWORDS, job_type_add_done_callback_doc},
    {"remove_done_callback", AL_METHOD(job_type_remove_done_callback),
     METH_FASTCALL | METH_KEYWORDS, job_type_remove_done_callback_doc},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL},
    {"__reduce__", al_object_refuse_pickling, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef job_type_getset[] = {
    {"task_id", job_type_get_task_id, NULL,
     "The id of the item: that of its outcome, once there is one.\n\n"
     "While the job waits, an id that is an index is the place that it will\n"
     "have if the length of the source is known.",
     NULL},
    {"state", job_type_get_state, NULL,
     "The TaskState: that of the outcome, once there is one; before that\n"
     "RUNNING, or PENDING if the job has not started.",
     NULL},
    {"outcome", job_type_get_outcome, NULL,
     "The TaskResult; None until the job has ended.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef job_type_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(JobObject, weakrefs), READONLY,
     NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(job_type_doc,
"One item that was added to a batch, or one call of a pool.\n\n"
"Await it for the value of the item, or its error; if that await is\n"
"cancelled, the item continues.  A job may be awaited any number of times,\n"
"and by several tasks.  It may be dropped: its item runs all the same.\n\n"
"A failure that nobody receives is reported to the loop's exception handler,\n"
"once, as that of a Task is.  A failure is received by awaiting the job, by\n"
"result() or exception(), by reading `outcome`, or from the batch: by its\n"
"``on_result``, an iteration or a BatchResult.");

static PyType_Slot job_type_slots[] = {
    {Py_tp_doc, (void *)job_type_doc},
    {Py_am_await, job_type_await},
    {Py_tp_methods, job_type_methods},
    {Py_tp_getset, job_type_getset},
    {Py_tp_members, job_type_members},
    {Py_tp_repr, job_type_repr},
    {Py_tp_traverse, al_job_traverse},
    {Py_tp_clear, al_job_clear},
    {Py_tp_finalize, job_type_finalize},
    {Py_tp_dealloc, job_type_dealloc},
    {0, NULL},
};

static PyType_Spec job_type_spec = {
    .name = "pyasynclife._core.Job",
    .basicsize = sizeof(JobObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = job_type_slots,
};

static PyGetSetDef job_wait_getset[] = {
    {"_waits_for", job_wait_get_waits_for, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot job_wait_slots[] = {
    {Py_tp_getset, job_wait_getset},
    {Py_tp_traverse, job_wait_traverse},
    {Py_tp_clear, job_wait_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec job_wait_spec = {
    .name = "pyasynclife._core.JobWait",
    .basicsize = sizeof(JobWaitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = job_wait_slots,
};

int
al_job_type_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Job, &job_type_spec, true) < 0
                   || al_state_add_type(module, &st->JobWait, &job_wait_spec,
                                        false)
                          < 0
               ? -1
               : 0;
}
