/* Entries that have one Task after another: supervise().
 *
 * A supervised entry is registered and finished once.  Its Supervision makes
 * the runs; when a run has ended, _supervise.py decides what follows:
 *
 *     _supervise()          the entry is open
 *        |
 *        v
 *     supervise_run()       fn() makes a coroutine, that a Task
 *        |       ^
 *        v       |          _run_ended() has called _run(), at once or from a
 *     the Task ends         timer; until then the entry rests: it has no Task,
 *        |                  and is in the lists of a threshold of infinity, so
 *        v                  nobody finds it stale
 *     al_ending_finish()     stopped, or _run_ended() returned False
 *        |
 *        v
 *     _ended()              hooks, and the shutdown of a vital task
 *
 * An error of fn(), or of the making of the Task, is a run that has failed.
 *
 * Who owns whom: an alive entry and its Supervision own each other.  A timer
 * of the loop owns the Supervision of a resting entry, and thereby the
 * registry, as a Task does.
 *
 * cancel(), cancel_all() and shutdown() stop a Supervision: the run that they
 * cancel is the last, however it ends.  If there is none the entry ends in
 * that call, as cancelled.  So it does if its run has ended, but its done
 * callback has not been called, and another run would have followed.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/args.h"
#include "base/object.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/awaitable.h"
#include "aio/capture.h"
#include "aio/join_set.h"
#include "registry/entry.h"
#include "registry/heartbeats.h"
#include "registry/registry.h"
#include "registry/ending.h"
#include "registry/owner.h"
#include "registry/register.h"
#include "registry/supervise.h"

typedef struct {
    PyObject_HEAD
    EntryObject *entry;    /* owned; NULL before it is open, and ended */
    PyObject *fn;          /* owned: makes a coroutine for each run */
    PyObject *context;     /* owned: each run gets a copy */
    PyObject *stale_error; /* owned: why the run was cancelled, or NULL */
    bool stopping;         /* the present run is the last */
    bool missed;           /* it had ended when it was to be cancelled */
} SupervisionObject;

bool
al_supervise_is_resting(const RegistryObject *self, const EntryObject *entry)
{
    return al_entry_supervision(entry) != NULL && entry->threshold != NULL
           && entry->task == NULL && !al_registry_is_starting(self, entry);
}

void
al_supervise_stop(EntryObject *entry)
{
    if (al_entry_supervision(entry) != NULL) {
        ((SupervisionObject *)al_entry_supervision(entry))->stopping = true;
    }
}

void
al_supervise_miss(EntryObject *entry)
{
    if (al_entry_supervision(entry) != NULL && !entry->cancel_noted) {
        ((SupervisionObject *)al_entry_supervision(entry))->missed = true;
    }
}

/* --------------------------------------------------------- the end for good
 */

/* Tell the policy that its entry has ended.  Its errors go to the loop's
   exception handler. */
static void
supervise_tell_end(RegistryObject *self, PyObject *supervision,
                   EntryObject *entry, bool by_itself, PyObject **fatal)
{
    PyObject *stack[] = {supervision, (PyObject *)entry,
                         by_itself ? Py_True : Py_False};
    PyObject *none =
        PyObject_VectorcallMethod(self->st->s__ended, stack, 3, NULL);
    if (none == NULL) {
        al_loop_handle_error_keep_exit(self->st, self->bound.loop,
                                       "ending a supervised task failed", NULL,
                                       fatal);
    }
    Py_XDECREF(none);
}

/* End an alive supervised entry without a Task.  Steals the value. */
static int
supervise_end(RegistryObject *self, EntryObject *entry, al_outcome outcome,
              PyObject *value)
{
    SupervisionObject *supervision =
        (SupervisionObject *)Py_NewRef(al_entry_supervision(entry));
    bool by_itself = !supervision->stopping && !entry->shut_down
                     && !al_registry_is_closing(self);
    PyObject *fatal = NULL;
    Py_INCREF((PyObject *)entry);
    supervision->stopping = true;
    if (al_ending_finish(self, entry, outcome, value) < 0) {
        fatal = PyErr_GetRaisedException();
    }
    if (supervision->entry != NULL) {
        Py_CLEAR(supervision->entry);
        supervise_tell_end(self, (PyObject *)supervision, entry, by_itself,
                           &fatal);
        Py_CLEAR(entry->extras->supervision);
    }
    Py_DECREF((PyObject *)entry);
    Py_DECREF((PyObject *)supervision);
    return al_loop_raise_exit(fatal);
}

int
al_supervise_end_resting(RegistryObject *self, EntryObject *entry)
{
    /* What the caller has called meanwhile may have ended it. */
    return al_supervise_is_resting(self, entry)
               ? supervise_end(self, entry, AL_CANCELLED, NULL)
               : 0;
}

/* ------------------------------------------------------- the end of a run */

/* Ask the policy about a run that has ended.  Returns whether another run has
   begun or will begin; `stops`: whether one would have begun. */
static bool
supervise_ask(RegistryObject *self, SupervisionObject *supervision,
              al_outcome outcome, PyObject *error, bool stops)
{
    PyObject *number = AL_ALLOC(PyLong_FromLong(outcome));
    PyObject *stack[] = {(PyObject *)supervision, number,
                         outcome == AL_FAILED ? error : Py_None,
                         stops ? Py_True : Py_False};
    PyObject *answer = number == NULL
                           ? NULL
                           : PyObject_VectorcallMethod(self->st->s__run_ended,
                                                       stack, 4, NULL);
    Py_XDECREF(number);
    if (answer == NULL) {
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "restarting a supervised task failed",
                                     NULL);
    }
    bool goes_on = answer == Py_True;
    Py_XDECREF(answer);
    return goes_on;
}

/* Tell whether the last run had ended before anybody cancelled it. */
static bool
supervise_was_missed(const SupervisionObject *self, const EntryObject *entry)
{
    return self->missed
           || (entry->member != NULL
               && !al_member_is_cancelled(entry->member));
}

/* Decide about an alive entry whose run has ended, and which has no Task now.
   Steals the value and the text of the error. */
static int
supervise_settle(RegistryObject *self, EntryObject *entry, al_outcome outcome,
                 PyObject *value, PyObject *text)
{
    SupervisionObject *supervision =
        (SupervisionObject *)al_entry_supervision(entry);
    bool stops = supervision->stopping || entry->shut_down
                 || al_registry_is_closing(self);
    bool is_last =
        entry->completed
        || (stops && !supervise_was_missed(supervision, entry))
        || (outcome == AL_FAILED
            && !PyObject_TypeCheck(value, (PyTypeObject *)PyExc_Exception));
    if (text != NULL) {
        Py_XSETREF(entry->extras->error_text, text);
    }
    al_heartbeats_set_resting(entry, true, 0.0);
    Py_INCREF((PyObject *)supervision);
    bool goes_on =
        !is_last && supervise_ask(self, supervision, outcome, value, stops);
    if (goes_on && stops) { /* it ends as one that waits for its next run */
        outcome = AL_CANCELLED;
        Py_CLEAR(value);
        goes_on = false;
    }
    /* The policy may have run anything: an end, too. */
    bool ends = !goes_on && al_supervise_is_resting(self, entry)
                && al_entry_supervision(entry) == (PyObject *)supervision;
    Py_DECREF((PyObject *)supervision);
    if (!ends) {
        Py_XDECREF(value);
        return 0;
    }
    return supervise_end(self, entry, outcome, value);
}

/* Take the error of a stale run, unless the run has failed by itself, or was
   cancelled for good meanwhile. */
static void
supervise_take_stale_error(SupervisionObject *supervision, al_outcome *outcome,
                           PyObject **value)
{
    PyObject *error = supervision->stale_error;
    supervision->stale_error = NULL;
    if (error != NULL && *outcome != AL_FAILED && !supervision->stopping) {
        *outcome = AL_FAILED;
        Py_XSETREF(*value, Py_NewRef(error));
    }
    Py_XDECREF(error);
}

int
al_supervise_run_ended(EntryObject *entry)
{
    RegistryObject *self = (RegistryObject *)Py_XNewRef(entry->registry);
    PyObject *value = NULL, *text = NULL;
    int ended = 0;
    if (self == NULL) {
        return 0;
    }
    /* First ask, as al_ending_close() does. */
    Py_INCREF((PyObject *)entry);
    PyObject *task = Py_NewRef(entry->task);
    al_outcome outcome = al_ending_ask(self, task, &value);
    if (outcome == AL_ERROR) {
        ended = -1;
        goto done;
    }
    if (al_entry_supervision(entry) != NULL) {
        supervise_take_stale_error(
            (SupervisionObject *)al_entry_supervision(entry), &outcome,
            &value);
    }
    if (outcome == AL_FAILED) {
        text = al_ending_error_text(self, value);
    }
    if (entry->threshold != NULL && entry->task == task
        && al_entry_supervision(entry) != NULL)
    {
        al_ptr_table_remove(&self->heartbeats.by_task, &entry->task_link);
        Py_CLEAR(entry->task); /* `task` is alive */
        entry->calls_shutdown = false;
        ended = supervise_settle(self, entry, outcome, value, text);
        value = text = NULL;
    }
done:
    Py_XDECREF(value);
    Py_XDECREF(text);
    Py_DECREF(task);
    Py_DECREF((PyObject *)entry);
    Py_DECREF((PyObject *)self);
    return ended;
}

/* ------------------------------------------------------------- a run */

/* Refuse what is no coroutine, or one that has been started.  Returns 0; -1
   with TypeError or RuntimeError. */
static int
supervise_check_coro(RegistryObject *self, EntryObject *entry, PyObject *coro)
{
    int is = PyCoro_CheckExact(coro) ? 1
                                     : al_object_truth(PyObject_CallOneArg(
                                           self->st->iscoroutine, coro));
    int started = is > 0 ? al_coro_started(self->st, coro) : 0;
    if (is == 0) {
        PyErr_Format(PyExc_TypeError,
                     "the function of supervised task %.100R must return a "
                     "coroutine, got %.200R: pass an async def function, or a "
                     "lambda that calls one",
                     entry->id.text, coro);
    }
    else if (started > 0) {
        PyErr_Format(PyExc_RuntimeError,
                     "the function of supervised task %.100R returned %.200R, "
                     "which has been started already: each run needs a fresh "
                     "coroutine",
                     entry->id.text, coro);
    }
    return is > 0 && started == 0 ? 0 : -1;
}

/* Make a coroutine and its Task, in a context of the run.  Returns 0; -1 with
   the exception of a run that has failed; *refused: for fn() returned no fresh
   coroutine. */
static int
supervise_make_task(RegistryObject *self, EntryObject *entry,
                    SupervisionObject *supervision, PyObject *context,
                    bool *refused)
{
    PyObject *coro = PyObject_CallNoArgs(supervision->fn);
    if (coro == NULL) {
        return -1;
    }
    if (supervise_check_coro(self, entry, coro) < 0) {
        Py_DECREF(coro);
        *refused = true;
        return -1;
    }
    double now = al_loop_time(self->st, &self->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        now = entry->last_heartbeat;
        PyErr_Clear();
    }
    PyObject *task = NULL;
    if (supervision->stopping || !al_supervise_is_resting(self, entry)) {
        al_coro_close_unstarted(self->st, coro); /* cancelled by fn() */
    }
    else if (al_ptr_table_reserve(&self->heartbeats.by_task) == 0) {
        if (entry->resting) {
            al_heartbeats_set_resting(entry, false, now);
        }
        task = al_register_run(self, entry, coro, context);
    }
    Py_DECREF(coro);
    Py_XDECREF(task);
    return PyErr_Occurred() ? -1 : 0;
}

/* Decide about a run that has failed before it had a Task.  Returns as
   supervise_run(). */
static int
supervise_fail(RegistryObject *self, EntryObject *entry, PyObject *error)
{
    bool is_exit = al_loop_is_exit(error);
    bool cancelled =
        PyErr_GivenExceptionMatches(error, self->st->CancelledError);
    PyObject *text = cancelled ? NULL : al_ending_error_text(self, error);
    int settled =
        supervise_settle(self, entry, cancelled ? AL_CANCELLED : AL_FAILED,
                         cancelled ? NULL : Py_NewRef(error), text);
    if (is_exit && settled == 0) {
        PyErr_SetRaisedException(Py_NewRef(error));
        settled = -1;
    }
    return settled;
}

/* Begin a run of an entry that has no Task.  Returns 0; -1 with SystemExit or
   KeyboardInterrupt; if it is the first, -1 also with TypeError or
   RuntimeError if fn() returned no fresh coroutine, nothing being decided. */
static int
supervise_run(RegistryObject *self, EntryObject *entry)
{
    bool is_first = !entry->resting, refused = false;
    if (!is_first) {
        entry->extras->restarts++;
        self->restarts++;
    }
    SupervisionObject *supervision =
        (SupervisionObject *)Py_NewRef(al_entry_supervision(entry));
    PyObject *context = AL_ALLOC(PyContext_Copy(supervision->context));
    int made = context == NULL ? -1 : PyContext_Enter(context);
    if (made == 0) {
        made =
            supervise_make_task(self, entry, supervision, context, &refused);
        al_owner_exit(self, context);
    }
    Py_XDECREF(context);
    Py_DECREF((PyObject *)supervision);
    if (made == 0 || (is_first && refused)) {
        return made;
    }
    PyObject *error = PyErr_GetRaisedException();
    int settled = 0;
    if (al_supervise_is_resting(self, entry)) {
        settled = supervise_fail(self, entry, error);
    }
    Py_DECREF(error);
    return settled;
}

/* Make an open entry of a Supervision (new).  NULL with an exception, nothing
   changed. */
static EntryObject *
supervise_new_entry(RegistryObject *self, SupervisionObject *supervision,
                    PyObject *id, double stale_after, PyObject *info)
{
    EntryObject *entry = al_entry_new(self->st, (PyObject *)self, id);
    if (entry == NULL) {
        return NULL;
    }
    al_entry_extras *extras = al_entry_extend(entry);
    if (extras == NULL) {
        Py_DECREF((PyObject *)entry);
        return NULL;
    }
    extras->info = Py_NewRef(info);
    extras->supervision = Py_NewRef((PyObject *)supervision);
    self->ids_given = true;
    Py_XSETREF(supervision->context, AL_ALLOC(PyContext_CopyCurrent()));
    if (supervision->context == NULL
        || al_registry_open(self, entry, stale_after) < 0)
    {
        Py_DECREF((PyObject *)entry);
        return NULL;
    }
    if (al_owner_set(self, entry, supervision->context, false) < 0) {
        al_registry_revoke(self, entry);
        Py_DECREF((PyObject *)entry);
        return NULL;
    }
    supervision->entry = (EntryObject *)Py_NewRef((PyObject *)entry);
    return entry;
}

/* Open the entry of a Supervision, and begin its first run.  Returns 0; -1
   with an exception, nothing changed unless it is an exit. */
static int
supervise_open(RegistryObject *self, SupervisionObject *supervision,
               PyObject *id, double stale_after, PyObject *info)
{
    EntryObject *entry =
        supervise_new_entry(self, supervision, id, stale_after, info);
    if (entry == NULL) {
        return -1;
    }
    self->registered++;
    int begun = supervise_run(self, entry);
    if (begun < 0 && supervision->entry == entry
        && entry->extras->restarts == 0 && !entry->resting)
    {
        self->registered--;
        al_registry_revoke(self, entry);
        Py_CLEAR(supervision->entry);
        Py_CLEAR(entry->extras->supervision);
    }
    Py_DECREF((PyObject *)entry);
    return begun;
}

PyObject *
al_supervise_open(PyObject *op, PyObject *args)
{
    RegistryObject *self = (RegistryObject *)op;
    SupervisionObject *supervision;
    PyObject *fn, *given, *info, *seconds;
    double stale_after = AL_STALE_AFTER_DEFAULT;
    if (!PyArg_ParseTuple(args, "O!OOOO:_supervise", self->st->Supervision,
                          &supervision, &fn, &given, &seconds, &info)
        || (seconds != Py_None
            && al_args_seconds(self->st->check_seconds, "stale_after", seconds,
                               &stale_after)
                   < 0)
        || al_registry_bind(self, "TaskRegistry.supervise()",
                            "registry.supervise, fn, task_id")
               < 0
        || al_register_check_open(self, given) < 0)
    {
        return NULL;
    }
    if (supervision->fn != NULL) {
        return PyErr_Format(PyExc_RuntimeError,
                            "%.100R is in use already: make a new one",
                            supervision);
    }
    PyObject *id = al_register_check_id(self, given);
    PyObject *ready = NULL;
    if (id != NULL) {
        ready = al_ready_new(self->st, Py_NewRef(id));
        Py_XSETREF(supervision->fn, Py_NewRef(fn));
        if (ready != NULL
            && supervise_open(self, supervision, id, stale_after, info) < 0)
        {
            Py_CLEAR(ready);
        }
        Py_DECREF(id);
    }
    return ready;
}

/* ------------------------------------------------------ for _supervise.py */

PyDoc_STRVAR(supervision_run_doc,
"_run($self, /)\n--\n\n"
"Begin the next run, unless the task has ended or runs.");

static PyObject *
supervision_run(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EntryObject *entry = ((SupervisionObject *)op)->entry;
    if (entry == NULL || entry->registry == NULL) {
        Py_RETURN_NONE;
    }
    RegistryObject *self = (RegistryObject *)Py_NewRef(entry->registry);
    Py_INCREF((PyObject *)entry);
    int begun = entry->resting && al_supervise_is_resting(self, entry)
                    ? supervise_run(self, entry)
                    : 0;
    Py_DECREF((PyObject *)entry);
    Py_DECREF((PyObject *)self);
    if (begun < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(supervision_cancel_stale_doc,
"_cancel_stale($self, error, /)\n--\n\n"
"Cancel the present run; it will have failed with this error, unless it\n"
"fails with one of its own.  Returns whether the request was made.");

static PyObject *
supervision_cancel_stale(PyObject *op, PyObject *error)
{
    SupervisionObject *supervision = (SupervisionObject *)op;
    EntryObject *entry = supervision->entry;
    if (entry == NULL || entry->task == NULL || supervision->stopping
        || entry->registry == NULL)
    {
        Py_RETURN_FALSE;
    }
    RegistryObject *self = (RegistryObject *)Py_NewRef(entry->registry);
    PyObject *task = Py_NewRef(entry->task);
    Py_INCREF((PyObject *)entry);
    Py_XSETREF(supervision->stale_error, Py_NewRef(error));
    int requested = al_capture_cancel(self->st, &self->bound, task, NULL,
                                      (PyObject *)entry);
    Py_DECREF((PyObject *)entry);
    Py_DECREF(task);
    Py_DECREF((PyObject *)self);
    if (requested <= 0) {
        Py_CLEAR(supervision->stale_error); /* it has ended by itself */
    }
    return requested < 0 ? NULL : PyBool_FromLong(requested);
}

static PyObject *
supervision_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                PyObject *Py_UNUSED(kwargs))
{
    return AL_ALLOC(type->tp_alloc(type, 0));
}

static int
supervision_traverse(PyObject *op, visitproc visit, void *arg)
{
    SupervisionObject *self = (SupervisionObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->entry);
    Py_VISIT(self->fn);
    Py_VISIT(self->context);
    Py_VISIT(self->stale_error);
    return 0;
}

static int
supervision_clear(PyObject *op)
{
    SupervisionObject *self = (SupervisionObject *)op;
    Py_CLEAR(self->entry);
    Py_CLEAR(self->fn);
    Py_CLEAR(self->context);
    Py_CLEAR(self->stale_error);
    return 0;
}

static void
supervision_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)supervision_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef supervision_members[] = {
    {"_meta", T_OBJECT, offsetof(SupervisionObject, entry), READONLY,
     "The TaskMetadata while it is alive, or None."},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef supervision_methods[] = {
    {"_run", supervision_run, METH_NOARGS, supervision_run_doc},
    {"_cancel_stale", supervision_cancel_stale, METH_O,
     supervision_cancel_stale_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot supervision_slots[] = {
    {Py_tp_new, supervision_new},
    {Py_tp_methods, supervision_methods},
    {Py_tp_members, supervision_members},
    {Py_tp_traverse, supervision_traverse},
    {Py_tp_clear, supervision_clear},
    {Py_tp_dealloc, supervision_dealloc},
    {0, NULL},
};

static PyType_Spec supervision_spec = {
    .name = "pyasynclife._core.Supervision",
    .basicsize = sizeof(SupervisionObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = supervision_slots,
};

int
al_supervise_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Supervision, &supervision_spec,
                             true);
}
