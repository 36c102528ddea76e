/* PoolCore: the native half of a TaskPool, a batch without a source.
 *
 * A pool is a batch whose items are calls.  Each is a job with a function,
 * arguments and context of its own, and waits in the queue of added items
 * until a worker takes it.  No result is kept: a job has its outcome for as
 * long as somebody holds it, and on_result receives it.
 *
 *     submit -> job in the queue -> a worker takes it -> fn(*args) in its
 * context
 *
 * limit_by is asked by submit(), which raises its errors, and the job keeps
 * its key until a worker takes it.  Then it may be set aside, or wait for
 * another attempt, as an item of a batch: see admission.c.
 *
 * The queue has room while no more than max_pending jobs would wait without a
 * free slot.  put() waits for room; join() until nothing runs or waits.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/args.h"
#include "base/list.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/job.h"
#include "batch/limits.h"
#include "batch/pump.h"
#include "batch/worker.h"
#include "batch/batch.h"
#include "batch/batch_wait.h"
#include "batch/batch_type.h"
#include "batch/pool.h"

/* Refuse a submission if the pool takes no more.  Returns 0; -1 with
   ClosedError. */
static int
pool_check_open(BatchObject *self)
{
    const char *why = al_pump_refusal(&self->pump);
    if (why == NULL) {
        return 0;
    }
    PyErr_Format(self->pump.st->ClosedError,
                 "this pool %s: it takes no more jobs", why);
    return -1;
}

/* Begin, if that has not been done.  Returns 0; -1 with an exception. */
static int
pool_begin(BatchObject *self)
{
    if (self->pump.begun) {
        return 0;
    }
    self->mode = AL_MODE_OPEN;
    self->pump.room = PY_SSIZE_T_MAX;
    return al_pump_begin(&self->pump);
}

/* Tell whether an item that was set aside, or waits for its next attempt, has
   an id. */
static bool
pool_waits_aside(al_limits *limits, PyObject *task_id)
{
    al_link *lists[] = {&limits->fresh, &limits->retries};
    for (int i = 0; i < 2; i++) {
        for (al_link *at = lists[i]->next; at != lists[i]; at = at->next) {
            PyObject *id = AL_CONTAINER_OF(at, al_waiting, all)->item.task_id;
            if (id != NULL && PyUnicode_Compare(id, task_id) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* Refuse an id that a living task of the registry has, or a job that waits.
   Returns 0; -1 with an exception. */
static int
pool_check_id(BatchObject *self, PyObject *task_id)
{
    al_pump *p = &self->pump;
    int known = PySequence_Contains(p->registry, task_id);
    for (al_link *at = p->source.added.next;
         known == 0 && at != &p->source.added; at = at->next)
    {
        PyObject *other = AL_CONTAINER_OF(at, JobObject, link)->task_id;
        known = other != NULL && PyUnicode_Compare(other, task_id) == 0;
    }
    if (known == 0 && p->limits != NULL) {
        known = pool_waits_aside(p->limits, task_id);
    }
    if (known > 0) {
        al_object_raise_about(p->st->DuplicateTaskError,
                              "a task %U is alive or waits already: pass "
                              "another task_id",
                              task_id);
    }
    return known == 0 ? 0 : -1;
}

/* The id of a new job (new), or NULL without an exception: made of its number,
   when it is asked for.  In a registry, which other pools may share, the
   number is one of its own. */
static PyObject *
pool_make_id(BatchObject *self, PyObject *task_id)
{
    if (task_id != Py_None) {
        PyObject *id = al_args_id(task_id);
        if (id != NULL && self->pump.registry != NULL
            && pool_check_id(self, id) < 0)
        {
            Py_CLEAR(id);
        }
        return id;
    }
    if (self->numbers == NULL) {
        return NULL;
    }
    PyObject *id = NULL;
    int known = 1;
    while (known > 0) {
        PyObject *number = PyIter_Next(self->numbers);
        Py_XSETREF(id, number == NULL
                           ? NULL
                           : AL_ALLOC(PyUnicode_FromFormat("job_%S", number)));
        Py_XDECREF(number);
        known = id == NULL ? -1 : PySequence_Contains(self->pump.registry, id);
    }
    if (known < 0) {
        Py_CLEAR(id);
    }
    return id;
}

/* The key of a job (new), which can be hashed; NULL with an exception, or
   without one if there is no limit_by. */
static PyObject *
pool_make_key(BatchObject *self, PyObject *args)
{
    al_pump *p = &self->pump;
    if (p->limits == NULL || p->limits->limit_by == NULL) {
        return NULL;
    }
    PyObject *limit_by = Py_NewRef(p->limits->limit_by);
    PyObject *key = al_coro_check_answer(p->st, "limit_by",
                                         PyObject_CallObject(limit_by, args));
    Py_DECREF(limit_by);
    if (key != NULL && al_limits_hash(p->st, key) == -1) {
        Py_CLEAR(key);
    }
    return key;
}

/* Make a job that is in no queue yet (new).  NULL with an exception. */
static JobObject *
pool_make_job(BatchObject *self, PyObject *fn, PyObject *args, PyObject *id)
{
    PyObject *context = AL_ALLOC(PyContext_CopyCurrent());
    JobObject *job = context == NULL ? NULL : al_job_new(&self->pump, args);
    if (job == NULL) {
        Py_XDECREF(context);
        return NULL;
    }
    job->is_call = true;
    job->task_id = Py_XNewRef(id);
    job->fn = Py_NewRef(fn);
    job->context = context;
    al_job_track(job);
    return job;
}

/* Refuse a submission if no more jobs may wait.  Returns 0; -1 with
   PoolFullError. */
static int
pool_check_room(BatchObject *self)
{
    al_pump *p = &self->pump;
    if (al_batch_room(self) > 0) {
        return 0;
    }
    Py_ssize_t waiting = p->source.waiting + al_limits_waiting(p->limits);
    PyErr_Format(
        p->st->PoolFullError,
        "%zd %s, and max_pending is %zd: await put(), which waits for "
        "room, or submit less",
        waiting, waiting == 1 ? "job waits" : "jobs wait", self->max_pending);
    return -1;
}

PyDoc_STRVAR(pool_submit_doc,
"submit($self, fn, args, task_id, /)\n--\n\n"
"Queue a call of fn(*args) in a copy of the context; return its Job.");

static PyObject *
pool_submit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    BatchObject *self = (BatchObject *)op;
    al_pump *p = &self->pump;
    if (nargs != 3 || !PyTuple_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "submit() takes fn, args, task_id");
        return NULL;
    }
    if (al_batch_type_check_loop(self) < 0 || pool_check_open(self) < 0
        || pool_begin(self) < 0)
    {
        return NULL;
    }
    PyObject *id = NULL;
    JobObject *job = NULL;
    PyObject *key = pool_make_key(self, args[1]);
    if (!PyErr_Occurred() && pool_check_room(self) == 0) {
        id = pool_make_id(self, args[2]);
    }
    if (!PyErr_Occurred()) {
        job = pool_make_job(self, args[0], args[1], id);
    }
    Py_XDECREF(id);
    /* limit_by, and the search for an id, run code, which may have ended the
       pool. */
    if (job != NULL && pool_check_open(self) < 0) {
        al_job_detach(job);
        Py_CLEAR(job);
    }
    if (job == NULL) {
        Py_XDECREF(key);
        return NULL;
    }
    job->key = key;
    al_source_add(&p->source, (JobObject *)Py_NewRef((PyObject *)job));
    al_pump_update(p);
    return (PyObject *)job;
}

/* An awaitable that leaves the pool alone, whatever is thrown into it. */
static PyObject *
pool_wait(PyObject *op, al_waiter_kind kind)
{
    BatchObject *self = (BatchObject *)op;
    /* One that was paused before its first job may have no room. */
    if (al_batch_type_check_loop(self) < 0
        || (kind == AL_WAIT_ROOM && pool_begin(self) < 0))
    {
        return NULL;
    }
    return al_batch_wait_awaitable(self, kind, false, true);
}

PyDoc_STRVAR(pool_wait_idle_doc,
"wait_idle($self, /)\n--\n\n"
"Return an awaitable of the moment when nothing runs and nothing waits.");

static PyObject *
pool_wait_idle(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pool_wait(op, AL_WAIT_IDLE);
}

PyDoc_STRVAR(pool_wait_room_doc,
"wait_room($self, /)\n--\n\n"
"Return an awaitable of room for one more job, or of the pool's end.");

static PyObject *
pool_wait_room(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return pool_wait(op, AL_WAIT_ROOM);
}

PyDoc_STRVAR(pool_running_doc,
"running($self, /)\n--\n\n"
"Return a list of the workers that have a job, and its Job.");

static PyObject *
pool_running(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_pump *p = &((BatchObject *)op)->pump;
    PyObject *list = AL_ALLOC(PyList_New(0));
    for (al_link *at = p->workers.next; list != NULL && at != &p->workers;
         at = at->next)
    {
        WorkerObject *worker = AL_CONTAINER_OF(at, WorkerObject, link);
        if (worker->item.job == NULL) {
            continue;
        }
        PyObject *pair = AL_ALLOC(
            PyTuple_Pack(2, (PyObject *)worker, (PyObject *)worker->item.job));
        if (pair == NULL || AL_ALLOC_INT(PyList_Append(list, pair)) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(pair);
    }
    return list;
}

static PyObject *
pool_get_is_full(PyObject *op, void *Py_UNUSED(closure))
{
    BatchObject *self = (BatchObject *)op;
    return PyBool_FromLong(al_pump_refusal(&self->pump) == NULL
                           && al_batch_room(self) <= 0);
}

static PyMethodDef pool_methods[] = {
    {"submit", AL_METHOD(pool_submit), METH_FASTCALL, pool_submit_doc},
    {"wait_idle", pool_wait_idle, METH_NOARGS, pool_wait_idle_doc},
    {"wait_room", pool_wait_room, METH_NOARGS, pool_wait_room_doc},
    {"running", pool_running, METH_NOARGS, pool_running_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef pool_getset[] = {
    {"is_full", pool_get_is_full, NULL,
     "Whether the pool is open, and has no room for one more job.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *
pool_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Py_ssize_t limit, max_pending;
    double timeout, grace;
    PyObject *on_result, *registry, *numbers, *limits;
    int task_per_item; /* -1: the task factory decides */
    if (!PyArg_ParseTuple(args, "nddnOiOOO:PoolCore", &limit, &timeout, &grace,
                          &max_pending, &on_result, &task_per_item, &registry,
                          &numbers, &limits))
    {
        return NULL;
    }
    al_state *st = al_state_of_type(type);
    PyObject *all =
        st == NULL
            ? NULL
            : AL_ALLOC(Py_BuildValue(
                  "O()isndddnOnOOiOO", Py_None, 0, "TaskPool", limit, timeout,
                  Py_HUGE_VAL, grace, (Py_ssize_t)-1, Py_True, (Py_ssize_t)-1,
                  Py_None, on_result, task_per_item, registry, limits));
    if (all == NULL) {
        return NULL;
    }
    BatchObject *self =
        (BatchObject *)((PyTypeObject *)st->Batch)->tp_new(type, all, NULL);
    Py_DECREF(all);
    if (self != NULL) {
        Py_CLEAR(self->pump.fn); /* each job has its own */
        self->handled = true;    /* nothing is kept */
        self->max_pending = max_pending;
        self->numbers = numbers == Py_None ? NULL : Py_NewRef(numbers);
    }
    return (PyObject *)self;
}

PyDoc_STRVAR(pool_doc,
"The native half of a TaskPool: see pyasynclife/_pool.py.");

static PyType_Slot pool_slots[] = {
    {Py_tp_doc, (void *)pool_doc},
    {Py_tp_new, pool_new},
    {Py_tp_methods, pool_methods},
    {Py_tp_getset, pool_getset},
    {Py_tp_traverse, al_batch_traverse},
    {Py_tp_clear, al_batch_clear},
    {0, NULL},
};

static PyType_Spec pool_spec = {
    .name = "pyasynclife._core.PoolCore",
    .basicsize = sizeof(BatchObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pool_slots,
};

int
al_pool_setup(PyObject *module, al_state *st)
{
    PyObject *type =
        AL_ALLOC(PyType_FromModuleAndSpec(module, &pool_spec, st->Batch));
    int failed =
        type == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)type);
    Py_XDECREF(type);
    return failed;
}
