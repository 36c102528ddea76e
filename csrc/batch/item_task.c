/* Items that have Tasks of their own (task_per_item).
 *
 * Here a worker drives nothing.  Its Task runs a coroutine of Python, which
 * asks the worker's handle when the item may begin, awaits what the function
 * returned, and says how that ended:
 *
 *     pump      spawn: pull an item, make its worker, handle and Task
 *     run_item    handle.pause()     until the item may begin
 *                 handle.begin()     calls fn(item), whose awaitable it awaits
 *                 handle.returned()  or handle.raised(): makes the result
 *     pump      the next item takes the place
 *
 * So everything that looks at Tasks sees the item: a registry, a tracer,
 * `python -m asyncio pstree`.  An end is judged in the Task's last step, as in
 * a worker of many items, and the Task itself ends in the same way.
 *
 * The item is pulled and named, and its Task made, before it begins.  So the
 * Task may be cancelled before its first step; then its callback judges the
 * end.
 *
 * A registry that shuts down cancels the Tasks, and refuses new ones.  It is
 * asked when an item is cancelled, and before one is pulled.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/fast_path.h"
#include "aio/create_task.h"
#include "aio/awaitable.h"
#include "aio/deadline.h"
#include "batch/drive.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/pump.h"
#include "batch/worker.h"
#include "batch/item_task.h"
#include "batch/admission.h"

/* The handle that the coroutine of such a Task is given. */
typedef struct {
    PyObject_HEAD
    WorkerObject *worker; /* owned */
    PyObject *held_by;    /* owned: the future it waits for; None: one
                             iteration; NULL: nothing */
} ItemHandleObject;

static PyObject *
item_handle_new(WorkerObject *worker)
{
    ItemHandleObject *self = AL_ALLOC(PyObject_GC_New(
        ItemHandleObject, (PyTypeObject *)worker->st->ItemHandle));
    if (self == NULL) {
        return NULL;
    }
    self->worker = (WorkerObject *)Py_NewRef((PyObject *)worker);
    self->held_by = NULL;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* ----------------------------------------------------- making the Task */

/* The Task that registry.register(coro, id, context=context) makes (new).
   NULL without an exception if a living task has the id; the worker then has
   the error.  register() closes a coroutine that it refuses. */
static PyObject *
item_task_register(WorkerObject *self, PyObject *coro, PyObject *id,
                   PyObject *context)
{
    al_state *st = self->st;
    PyObject *stack[5] = {NULL, self->pump->registry, coro, id, context};
    PyObject *ready = PyObject_VectorcallMethod(
        st->s_register, stack + 1, 3 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        st->kw_context);
    if (ready == NULL) {
        if (PyErr_ExceptionMatches(st->DuplicateTaskError)) {
            self->register_error = PyErr_GetRaisedException();
        }
        return NULL;
    }
    PyObject *pair = PyObject_CallMethodNoArgs(ready, st->s_result);
    PyObject *task = NULL;
    if (pair != NULL && PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2) {
        task = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
    }
    else if (pair != NULL) {
        PyErr_Format(PyExc_TypeError,
                     "register() of %.200R gave %.200R, not a task "
                     "and its id",
                     self->pump->registry, pair);
    }
    Py_XDECREF(pair);
    Py_DECREF(ready);
    return task;
}

/* Name the coroutine after the function, in a pool that of the job. */
static void
item_task_name_coro(WorkerObject *self, PyObject *coro)
{
    JobObject *job = self->item.job;
    PyObject *fn = job == NULL ? NULL : job->fn;
    if (fn != NULL && PyMethod_Check(fn)) {
        fn = PyMethod_GET_FUNCTION(fn);
    }
    al_pump_name_coro(self->pump, coro,
                      fn != NULL && PyFunction_Check(fn)
                          ? ((PyFunctionObject *)fn)->func_qualname
                          : self->pump->fn_name);
}

/* Make the Task of a worker (new).  NULL without an exception if a living task
   has the id: the next try makes a Task that is not registered, and whose
   item fails with the error. */
static PyObject *
item_task_make_task(WorkerObject *self, PyObject *id, PyObject *context)
{
    al_state *st = self->st;
    al_pump *p = self->pump;
    PyObject *handle = item_handle_new(self);
    PyObject *coro = handle == NULL
                         ? NULL
                         : AL_ALLOC(PyObject_CallOneArg(st->run_item, handle));
    PyObject *task = NULL;
    if (coro != NULL) {
        item_task_name_coro(self, coro);
    }
    if (coro != NULL && p->registry != NULL && self->register_error == NULL) {
        task = item_task_register(self, coro, id, context);
    }
    else if (coro != NULL) {
        PyObject *name = al_object_cut(id);
        if (name != NULL) {
            task = al_create_task_plain(st, &p->bound, coro, name, context);
            Py_DECREF(name);
        }
        if (task == NULL) {
            al_coro_close_unstarted(st, coro);
        }
    }
    Py_XDECREF(coro);
    Py_XDECREF(handle);
    return task;
}

int
al_item_task_choose(al_pump *p)
{
    al_state *st = p->st;
    /* Where calling the Task type is safe, there is no task factory. */
    al_fast_path path = al_fast_path_find(st, &p->bound, AL_FAST_PATH_TASK);
    int foreign = path == AL_FAST_PATH_ERROR ? -1 : 0;
    if (path == AL_FAST_PATH_NONE) {
        foreign = al_object_truth(
            PyObject_CallOneArg(st->has_foreign_factory, p->bound.loop));
    }
    p->task_per_item = foreign > 0;
    return foreign < 0 ? -1 : 0;
}

/* Make the Task of a worker that has its item.  Returns 0; -1 with an
   exception. */
static int
item_task_start(WorkerObject *self)
{
    al_pump *p = self->pump;
    JobObject *job = self->item.job;
    PyObject *context = job != NULL && job->context != NULL
                            ? al_job_context(job, al_pump_retries(p))
                            : AL_ALLOC(PyContext_Copy(p->source.context));
    PyObject *id = context == NULL ? NULL : al_item_id(&self->item);
    PyObject *task = NULL;
    int failed = -1;
    while (id != NULL && task == NULL && !PyErr_Occurred()) {
        task = item_task_make_task(self, id, context);
    }
    if (task != NULL) {
        failed = al_worker_attach(self, task);
    }
    if (!failed && self->item.cancels_sent > 0) { /* before there was a Task */
        self->item.cancels_sent = 1;
        failed = al_task_cancel(self->st, task, NULL) < 0 ? -1 : 0;
    }
    Py_XDECREF(task);
    Py_XDECREF(id);
    Py_XDECREF(context);
    return failed;
}

bool
al_item_task_check_registry(al_pump *p)
{
    if (p->registry == NULL || p->registry_failed) {
        return false;
    }
    int closing =
        al_object_truth(PyObject_GetAttr(p->registry, p->st->s_closing));
    if (closing < 0) {
        p->registry_failed = true; /* asked again, it would fail again */
        al_pump_fail(p);
    }
    else if (closing > 0 && al_pump_lets_run(p)) {
        al_pump_stop(p, AL_STOP_REGISTRY, NULL, false);
    }
    return closing > 0;
}

int
al_item_task_spawn(al_pump *p)
{
    WorkerObject *self = al_worker_new(p);
    if (self == NULL) {
        return -1;
    }
    Py_INCREF(self);
    al_pull pulled = al_admission_next(self);
    if (pulled == AL_PULL_ERROR && p->unstarted > 1 && p->fatal == NULL) {
        /* The source has failed, but the items that were pulled before begin
           first: al_pump_update() stops the pump when they have. */
        p->fatal = PyErr_GetRaisedException();
        pulled = AL_PULL_NOTHING;
    }
    int failed = pulled == AL_PULL_ITEM    ? item_task_start(self)
                 : pulled == AL_PULL_ERROR ? -1
                                           : 0;
    if (pulled != AL_PULL_ITEM || failed) {
        PyObject *error = PyErr_GetRaisedException();
        if (pulled == AL_PULL_ITEM) {
            /* A registry that began to shut down meanwhile refuses it. */
            if (error != NULL
                && PyErr_GivenExceptionMatches(error, PyExc_Exception)
                && al_item_task_check_registry(p))
            {
                Py_CLEAR(error);
                failed = 0;
            }
            al_worker_end_unstarted(self);
        }
        al_worker_detach(self); /* its Task, if there is one, ends at once */
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    Py_DECREF(self);
    return failed;
}

/* ---------------------------------------------------- the Task's end */

/* End an item that was cancelled before it began.  If the pump was stopped, or
   its job cancelled, it was never started; otherwise somebody else has
   cancelled its Task. */
static void
item_task_end_unbegun(WorkerObject *self)
{
    al_pump *p = self->pump;
    (void)al_item_task_check_registry(p);
    bool fresh = self->item.attempts == 0;
    if (p->stopping != AL_STOP_NONE || (fresh && self->item.refused)) {
        al_pump_return_room(p);
        al_worker_end_unstarted(self);
        return;
    }
    if (fresh) { /* it took no time */
        self->item.started = al_pump_time(p);
    }
    al_worker_end_cancelled(self);
}

void
al_item_task_ended(WorkerObject *self)
{
    al_pump *p = self->pump;
    PyObject *error = NULL;
    if (self->item.value != NULL) {
        if (self->begun) {
            al_worker_end_cancelled(self);
        }
        else {
            item_task_end_unbegun(self);
        }
    }
    /* Marks the Task's exception as retrieved: the item's result has it. */
    if (self->task != NULL && al_task_error(p->st, self->task, &error) < 0) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "the task of an item failed", self->task);
    }
    Py_XDECREF(error);
    al_admission_task_ended(self);
    al_worker_detach(self);
    al_pump_spawn(p, 1);
}

/* The Task is about to end, and its callback has nothing left to do: remove
   it, and let the next item take the place at once.  Not with a registry: it
   has the id until the Task has ended, so the next item waits for that. */
static void
item_task_leave(WorkerObject *self)
{
    al_pump *p = self->pump;
    if (p->registry != NULL || self->owner == NULL) {
        return;
    }
    if (al_task_remove_done_callback(p->st, self->task, (PyObject *)self) > 0)
    {
        al_worker_detach(self);
        al_pump_spawn(p, 1);
        al_pump_update(p);
    }
    else if (PyErr_Occurred()) {
        al_loop_report_or_exit_later(
            p->st, p->bound.loop, "leaving an item's task failed", self->task);
    }
}

/* --------------------------------------------- the handle's Python API */

/* The al_step of pause(): wait for one loop iteration or, if items are held,
   until the pump admits this one. */
static PySendResult
item_handle_wait(PyObject *op, PyObject *thrown, PyObject **result)
{
    ItemHandleObject *self = (ItemHandleObject *)op;
    WorkerObject *worker = self->worker;
    if (thrown != NULL) {
        Py_CLEAR(self->held_by);
        PyErr_SetRaisedException(Py_NewRef(thrown));
        return PYGEN_ERROR;
    }
    /* The second step ends the wait, whatever woke it: run_item() asks again.
     */
    if (self->held_by != NULL || worker == NULL || worker->owner == NULL) {
        Py_CLEAR(self->held_by);
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    al_pump *p = worker->pump;
    PyObject *held_by = Py_NewRef(Py_None);
    if (worker->task != NULL && al_pump_holds_items(p)) {
        Py_SETREF(held_by, al_loop_create_waiter(p->st, &p->bound));
        if (held_by != NULL && p->held == NULL) {
            p->held = AL_ALLOC(PyList_New(0));
        }
        if (held_by == NULL || p->held == NULL
            || AL_ALLOC_INT(PyList_Append(p->held, held_by)) < 0)
        {
            Py_XDECREF(held_by);
            return PYGEN_ERROR;
        }
    }
    self->held_by = held_by;
    *result = Py_NewRef(held_by);
    return PYGEN_NEXT;
}

/* Tell whether an item may begin in this loop iteration. */
static bool
item_handle_is_ready(WorkerObject *worker)
{
    al_pump *p = worker->pump;
    double now = al_clock();
    if (p->yielding == worker) {
        p->yielding = NULL; /* even if it is held: the others go on */
        p->yielded_at = now;
        p->pulled_for = 0.0;
    }
    if (worker->task == NULL || al_pump_holds_items(p)) {
        return false; /* without a Task: an eager factory is making it */
    }
    if (p->yielding != NULL || now - p->yielded_at > AL_PUMP_SLICE) {
        if (p->yielding == NULL) {
            p->yielding = worker;
        }
        return false;
    }
    return true;
}

PyDoc_STRVAR(item_handle_pause_doc,
"pause($self, /)\n--\n\n"
"Return None if the item may begin, or an awaitable to await before asking\n"
"again.");

static PyObject *
item_handle_pause(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *worker = ((ItemHandleObject *)op)->worker;
    if (worker == NULL || worker->owner == NULL
        || worker->pump->stopping != AL_STOP_NONE
        || item_handle_is_ready(worker))
    {
        Py_RETURN_NONE;
    }
    return al_awaitable_new(worker->st, op, item_handle_wait);
}

/* fn(item) (new), or the error of a registration that failed. */
static PyObject *
item_handle_call(WorkerObject *worker)
{
    al_pump *p = worker->pump;
    if (worker->register_error != NULL) {
        worker->item.refused = true;
        PyErr_SetRaisedException(worker->register_error);
        worker->register_error = NULL;
        return NULL;
    }
    JobObject *job = worker->item.job;
    if (job != NULL) {
        job->logged = false; /* by an attempt before */
    }
    PyObject *fn = Py_NewRef(p->fn != NULL ? p->fn : job->fn);
    PyObject *item = Py_NewRef(worker->item.value);
    worker->item.attempts++;
    PyObject *awaitable =
        p->fn != NULL
            ? al_drive_open(worker->st, fn, &item, 1)
            : al_drive_open(worker->st, fn, &PyTuple_GET_ITEM(item, 0),
                            (size_t)PyTuple_GET_SIZE(item));
    Py_DECREF(item);
    Py_DECREF(fn);
    return awaitable;
}

PyDoc_STRVAR(item_handle_begin_doc,
"begin($self, /)\n--\n\n"
"Call the function and return its awaitable.\n\n"
"Raises CancelledError if the batch was stopped.");

static PyObject *
item_handle_begin(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    WorkerObject *worker = ((ItemHandleObject *)op)->worker;
    if (worker != NULL && worker->owner != NULL) {
        /* Each item that begins makes two more, so the Tasks double, up to the
           limit, as long as they are waiting to begin. */
        al_pump_spawn(worker->pump, 2);
    }
    if (worker == NULL || worker->owner == NULL || worker->begun
        || worker->pump->stopping != AL_STOP_NONE)
    {
        PyErr_SetString(worker == NULL ? PyExc_RuntimeError
                                       : worker->st->CancelledError,
                        "the batch of this item has been stopped");
        return NULL;
    }
    al_pump *p = worker->pump;
    double now = al_pump_time(p);
    worker->begun = true;
    p->unstarted--;
    al_admission_begin(p, &worker->item, now);
    if (p->fatal != NULL) {
        al_pump_update(p);
    }
    double when = al_admission_deadline(p, &worker->item);
    if (when != Py_HUGE_VAL && !worker->item.timeout_sent
        && al_deadline_add(&p->deadlines, &worker->item.deadline, when) < 0)
    {
        al_pump_fail(p);
    }
    return item_handle_call(worker);
}

/* Drop the abandoned item of a worker: it has ended, and has its result. */
static void
item_handle_drop_item(WorkerObject *worker)
{
    if (worker->item.value != NULL) {
        al_item_parts_drop(al_item_detach(&worker->item, NULL));
    }
}

PyDoc_STRVAR(item_handle_returned_doc,
"returned($self, value, /)\n--\n\n"
"Record the value that the item returned, and return it.");

static PyObject *
item_handle_returned(PyObject *op, PyObject *value)
{
    WorkerObject *worker = ((ItemHandleObject *)op)->worker;
    if (worker != NULL && worker->owner == NULL) {
        item_handle_drop_item(worker);
    }
    else if (worker != NULL && worker->item.value != NULL) {
        PyObject *owner = Py_NewRef(worker->owner);
        (void)al_worker_end_item(worker, PYGEN_RETURN, Py_NewRef(value), NULL);
        item_task_leave(worker);
        Py_DECREF(owner);
    }
    return Py_NewRef(value);
}

/* Tell whether the Task is being closed.  Otherwise the item itself has raised
   GeneratorExit, which is an exception like any other. */
static bool
item_handle_is_closing(WorkerObject *worker, PyObject *error)
{
    if (!PyErr_GivenExceptionMatches(error, PyExc_GeneratorExit)) {
        return false;
    }
    PyObject *running = al_loop_current_task(worker->st, &worker->pump->bound);
    bool closing = running != worker->task;
    if (running == NULL) {
        PyErr_Clear(); /* there is no loop any more */
    }
    Py_XDECREF(running);
    return closing;
}

/* Record an exit in the registry.  It does not leave the Task, where it would
   end the loop's run at once: the batch raises it.  Returns 0; -1 with an
   exception. */
static int
item_handle_record_exit(WorkerObject *worker, PyObject *name, PyObject *error)
{
    al_pump *p = worker->pump;
    if (p->registry == NULL) {
        return 0;
    }
    PyObject *stack[5] = {NULL, p->registry, name, Py_None, error};
    PyObject *ready =
        PyObject_VectorcallMethod(worker->st->s_complete, stack + 1,
                                  4 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_XDECREF(ready);
    return ready == NULL ? -1 : 0;
}

/* End an item that has raised `error`.  Returns 1 if the Task is to return
   None; 0 if it is to raise `error`; -1 if it is to raise the exception that
   is set. */
static int
item_handle_judge(WorkerObject *worker, PyObject *error)
{
    bool exits = al_loop_is_exit(error);
    if (worker->pump->registry != NULL && al_item_is_call(&worker->item)) {
        worker->item.job->logged = !worker->item.refused;
    }
    /* Taken now: al_worker_end_item() resets the item. */
    PyObject *name = exits ? al_item_id(&worker->item) : NULL;
    PyObject *verdict = NULL;
    if (exits
        && (name == NULL || item_handle_record_exit(worker, name, error) < 0))
    {
        al_loop_report_or_exit_later(worker->st, worker->pump->bound.loop,
                                     "telling a registry of an exit failed",
                                     worker->task);
    }
    Py_XDECREF(name);
    (void)al_worker_end_item(worker, PYGEN_ERROR, Py_NewRef(error), &verdict);
    if (exits || verdict == error) {
        Py_DECREF(verdict);
        return exits;
    }
    PyErr_SetRaisedException(verdict);
    return -1;
}

PyDoc_STRVAR(item_handle_raised_doc,
"raised($self, error, /)\n--\n\n"
"Record the exception that the item raised.\n\n"
"Returns True if the task must not raise it again.  Raises the exception\n"
"that takes its place, if there is one: the TimeoutError of a timeout.");

static PyObject *
item_handle_raised(PyObject *op, PyObject *error)
{
    WorkerObject *worker = ((ItemHandleObject *)op)->worker;
    int swallow = 0;
    if (worker != NULL && worker->owner == NULL) {
        item_handle_drop_item(worker);
    }
    else if (worker != NULL && worker->item.value != NULL) {
        PyObject *owner = Py_NewRef(worker->owner);
        bool closing = item_handle_is_closing(worker, error);
        bool cancelled =
            PyErr_GivenExceptionMatches(error, worker->st->CancelledError);
        if (cancelled) {
            (void)al_item_task_check_registry(worker->pump);
        }
        if (!worker->begun && (closing || cancelled)) {
            item_task_end_unbegun(worker);
        }
        else if (closing) {
            al_worker_end_cancelled(worker);
        }
        else {
            if (!worker->begun && worker->item.attempts == 0) {
                worker->item.started = al_pump_time(worker->pump);
            }
            swallow = item_handle_judge(worker, error);
        }
        Py_DECREF(owner);
    }
    return swallow < 0 ? NULL : PyBool_FromLong(swallow);
}

static PyMethodDef item_handle_methods[] = {
    {"pause", item_handle_pause, METH_NOARGS, item_handle_pause_doc},
    {"begin", item_handle_begin, METH_NOARGS, item_handle_begin_doc},
    {"returned", item_handle_returned, METH_O, item_handle_returned_doc},
    {"raised", item_handle_raised, METH_O, item_handle_raised_doc},
    {NULL, NULL, 0, NULL},
};

static int
item_handle_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)((ItemHandleObject *)op)->worker);
    Py_VISIT(((ItemHandleObject *)op)->held_by);
    return 0;
}

static int
item_handle_clear(PyObject *op)
{
    Py_CLEAR(((ItemHandleObject *)op)->worker);
    Py_CLEAR(((ItemHandleObject *)op)->held_by);
    return 0;
}

static PyType_Slot item_handle_slots[] = {
    {Py_tp_methods, item_handle_methods},
    {Py_tp_traverse, item_handle_traverse},
    {Py_tp_clear, item_handle_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec item_handle_spec = {
    .name = "pyasynclife._core.ItemHandle",
    .basicsize = sizeof(ItemHandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = item_handle_slots,
};

int
al_item_task_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->ItemHandle, &item_handle_spec,
                             false);
}
