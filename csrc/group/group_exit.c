/* How a group is left: what __aexit__ awaits.
 *
 * The order is asyncio's: wait for the children, raise what must go bare, take
 * our cancellation of the parent back, then raise the cancellation from
 * outside, or the errors, or nothing.  What differs:
 *
 * - Of the cancellations that reach the exit, those are told apart that are
 *   the group's own, and the first other one is the very object that leaves
 *   it (CPython gh-155433 keeps it only for a body at its end).
 * - Until 3.12 uncancel() leaves a cancellation that was not delivered; the
 *   exit lets it come, and absorbs it (gh-117407).
 * - Errors that a KeyboardInterrupt or SystemExit would bury go to the loop's
 *   exception handler (gh-135736).
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/awaitable.h"
#include "group/group.h"
#include "group/group_exit.h"

typedef enum {
    GROUP_EXIT_BEGIN = 0,
    GROUP_EXIT_WAIT,  /* for the children */
    GROUP_EXIT_FLUSH, /* for a cancellation of ours, to absorb it */
} group_exit_phase;

/* One use of __aexit__. */
typedef struct {
    PyObject_HEAD
    GroupObject *group; /* owned */
    PyObject *body;     /* owned: what the body raised, or NULL */
    PyObject
        *outer_cancel;    /* owned: the first cancellation not ours, or NULL */
    PyObject *own_cancel; /* owned: the first that is ours alone, or NULL */
    group_exit_phase phase;
} GroupExitObject;

/* Raise as Python's raise does: with what is being handled as context. */
static void
group_exit_raise(PyObject *error)
{
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
}

/* A cancellation has reached the exit: is it ours alone? */
static void
group_exit_note_cancelled(GroupExitObject *self, PyObject *error)
{
    GroupObject *group = self->group;
    bool ours = false;
    if (group->parent_cancel_requested && group->parent != NULL) {
        long count = al_task_cancelling(group->st, group->parent);
        if (count < 0) {
            PyErr_Clear(); /* cannot be told: then it is not ours */
        }
        ours = count >= 0 && count <= group->parent_cancelling;
    }
    PyObject **place = ours ? &self->own_cancel : &self->outer_cancel;
    if (*place == NULL) {
        *place = Py_NewRef(error);
    }
}

static bool
group_exit_is_cancellation(GroupExitObject *self, PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, self->group->st->CancelledError);
}

/* Cancel the children.  What would end the loop's run leaves the group when
   they have ended. */
static void
group_exit_abort(GroupObject *group)
{
    if (al_group_abort(group) < 0) {
        PyObject *error = PyErr_GetRaisedException();
        al_group_note_base_error(group, error);
        Py_DECREF(error);
    }
}

static void
group_exit_begin(GroupExitObject *self)
{
    GroupObject *group = self->group;
    group->exiting = true;
    self->phase = GROUP_EXIT_WAIT;
    if (self->body == NULL) {
        return;
    }
    al_group_note_base_error(group, self->body);
    if (group_exit_is_cancellation(self, self->body)) {
        group_exit_note_cancelled(self, self->body);
    }
    if (!group->aborting) {
        group_exit_abort(group);
    }
}

/* What was thrown into an exit that waits; -1 with it raised. */
static int
group_exit_take_thrown(GroupExitObject *self, PyObject *thrown)
{
    GroupObject *group = self->group;
    if (!group_exit_is_cancellation(self, thrown)) {
        PyErr_SetRaisedException(Py_NewRef(thrown));
        return -1;
    }
    if (self->phase == GROUP_EXIT_FLUSH) {
        long count = al_task_cancelling(group->st, group->parent);
        if (count > 0 && self->outer_cancel == NULL) {
            self->outer_cancel =
                Py_NewRef(thrown); /* one from outside came along */
        }
        return count < 0 ? -1 : 0;
    }
    group_exit_note_cancelled(self, thrown);
    if (!group->aborting) {
        group_exit_abort(group);
    }
    return 0;
}

/* Yield a future that the last child's end wakes. */
static PySendResult
group_exit_suspend(GroupExitObject *self, PyObject **result)
{
    GroupObject *group = self->group;
    if (group->waiter != NULL) {
        PyErr_Format(PyExc_RuntimeError, "TaskGroup %R is being left already",
                     (PyObject *)group);
        return PYGEN_ERROR;
    }
    PyObject *future = al_loop_create_waiter(group->st, &group->bound);
    if (future == NULL) {
        /* Nobody will wait: at least they are not left to run. */
        PyObject *error = PyErr_GetRaisedException();
        (void)al_group_abort(group);
        (void)al_loop_raise_more_severe(error);
        return PYGEN_ERROR;
    }
    group->waiter = Py_NewRef(future);
    *result = future;
    return PYGEN_NEXT;
}

/* The children have ended: take our cancellation of the parent back.
   PYGEN_NEXT: it must be let come first; PYGEN_RETURN: done. */
static PySendResult
group_exit_uncancel(GroupExitObject *self, PyObject **result)
{
    GroupObject *group = self->group;
    if (!group->parent_cancel_requested || group->parent == NULL) {
        return PYGEN_RETURN;
    }
    long remaining = al_task_uncancel(group->st, group->parent);
    if (remaining < 0) {
        return PYGEN_ERROR;
    }
    if (remaining > 0) {
        if (self->outer_cancel == NULL) {
            self->outer_cancel = Py_XNewRef(self->own_cancel);
        }
        return PYGEN_RETURN;
    }
    Py_CLEAR(self->outer_cancel);
    PyObject *counter = al_task_cancelling_method(group->st, group->parent);
    al_cancel_state state =
        counter == NULL
            ? AL_CANCEL_ERROR
            : al_task_cancel_state(group->st, group->parent, counter);
    Py_XDECREF(counter);
    if (state != AL_CANCEL_PENDING) {
        return state == AL_CANCEL_ERROR ? PYGEN_ERROR : PYGEN_RETURN;
    }
    self->phase = GROUP_EXIT_FLUSH;
    *result = Py_NewRef(Py_None);
    return PYGEN_NEXT;
}

/* Raise the errors, all as one group; a GeneratorExit of the body that is
   alone goes bare, so that an async generator can be closed. */
static void
group_exit_raise_errors(GroupExitObject *self)
{
    GroupObject *group = self->group;
    long count = group->parent == NULL
                     ? 0
                     : al_task_cancelling(group->st, group->parent);
    /* A cancellation from outside comes again at the next await. */
    if (count < 0
        || (count > 0
            && al_task_cancel_again(group->st, &group->bound, group->parent)
                   < 0))
    {
        return;
    }
    PyObject *errors = group->errors;
    group->errors = NULL;
    if (self->body != NULL && PyList_GET_SIZE(errors) == 1
        && PyErr_GivenExceptionMatches(self->body, PyExc_GeneratorExit))
    {
        group_exit_raise(self->body);
    }
    else {
        PyObject *all = AL_ALLOC(
            PyObject_CallFunction(PyExc_BaseExceptionGroup, "sO",
                                  "unhandled errors in a TaskGroup", errors));
        if (all != NULL) {
            PyException_SetCause(all, NULL); /* raise ... from None */
            group_exit_raise(all);
            Py_DECREF(all);
        }
    }
    Py_DECREF(errors);
}

/* How the group is left, its own cancellation being taken back. */
static PySendResult
group_exit_finish(GroupExitObject *self, PyObject **result)
{
    GroupObject *group = self->group;
    bool failed =
        self->body != NULL && !group_exit_is_cancellation(self, self->body);
    if (failed && al_group_add_error(group, self->body) < 0) {
        return PYGEN_ERROR;
    }
    if (group->errors == NULL && self->outer_cancel != NULL) {
        group_exit_raise(self->outer_cancel);
        return PYGEN_ERROR;
    }
    if (group->errors != NULL) {
        group_exit_raise_errors(self);
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(Py_True);
    return PYGEN_RETURN;
}

/* One step that was not thrown out of the exit. */
static PySendResult
group_exit_go_on(GroupExitObject *self, PyObject **result)
{
    GroupObject *group = self->group;
    if (self->phase == GROUP_EXIT_WAIT) {
        if (!al_group_is_empty(group)) {
            return group_exit_suspend(self, result);
        }
        if (group->base_error != NULL) {
            PyObject *error = Py_NewRef(group->base_error);
            al_group_report_errors(group, error);
            group_exit_raise(error);
            Py_DECREF(error);
            return PYGEN_ERROR;
        }
        PySendResult answer = group_exit_uncancel(self, result);
        if (answer != PYGEN_RETURN) {
            return answer;
        }
    }
    return group_exit_finish(self, result);
}

/* The group is left: let go of all that could keep the errors alive. */
static void
group_exit_end(GroupObject *group)
{
    PyObject *error = PyErr_GetRaisedException();
    group->exited = true;
    al_group_report_errors(group, error);
    Py_CLEAR(group->parent);
    Py_CLEAR(group->base_error);
    Py_CLEAR(group->on_done);
    if (al_group_is_empty(group)) {
        Py_CLEAR(group->children);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

static PySendResult
group_exit_step(PyObject *op, PyObject *thrown, PyObject **result)
{
    GroupExitObject *self = (GroupExitObject *)op;
    if (self->group == NULL
        || (thrown != NULL && self->phase == GROUP_EXIT_BEGIN))
    {
        if (thrown != NULL) {
            PyErr_SetRaisedException(Py_NewRef(thrown));
        }
        else {
            PyErr_SetString(PyExc_RuntimeError,
                            "this TaskGroup is being collected");
        }
        return PYGEN_ERROR;
    }
    GroupObject *group = (GroupObject *)Py_NewRef((PyObject *)self->group);
    PySendResult answer = PYGEN_ERROR;
    if (self->phase == GROUP_EXIT_BEGIN) {
        group_exit_begin(self);
        answer = group_exit_go_on(self, result);
    }
    else {
        Py_CLEAR(group->waiter);
        if (thrown == NULL || group_exit_take_thrown(self, thrown) == 0) {
            answer = group_exit_go_on(self, result);
        }
    }
    if (answer != PYGEN_NEXT) {
        group_exit_end(group);
    }
    Py_DECREF((PyObject *)group);
    return answer;
}

PyObject *
al_group_exit_new(GroupObject *group, PyObject *body)
{
    al_state *st = group->st;
    GroupExitObject *self = AL_ALLOC(
        PyObject_GC_New(GroupExitObject, (PyTypeObject *)st->GroupExit));
    if (self == NULL) {
        return NULL;
    }
    self->group = (GroupObject *)Py_NewRef((PyObject *)group);
    self->body = Py_XNewRef(body);
    self->outer_cancel = NULL;
    self->own_cancel = NULL;
    self->phase = GROUP_EXIT_BEGIN;
    PyObject_GC_Track((PyObject *)self);
    PyObject *awaitable =
        al_awaitable_new(st, (PyObject *)self, group_exit_step);
    Py_DECREF((PyObject *)self);
    return awaitable;
}

/* ------------------------------------------------------- GC and spec */

static int
group_exit_traverse(PyObject *op, visitproc visit, void *arg)
{
    GroupExitObject *self = (GroupExitObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->group);
    Py_VISIT(self->body);
    Py_VISIT(self->outer_cancel);
    Py_VISIT(self->own_cancel);
    return 0;
}

static int
group_exit_clear(PyObject *op)
{
    GroupExitObject *self = (GroupExitObject *)op;
    Py_CLEAR(self->body);
    Py_CLEAR(self->outer_cancel);
    Py_CLEAR(self->own_cancel);
    Py_CLEAR(self->group);
    return 0;
}

static PyType_Slot group_exit_slots[] = {
    {Py_tp_traverse, group_exit_traverse},
    {Py_tp_clear, group_exit_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec group_exit_spec = {
    .name = "pyasynclife._core.GroupExit",
    .basicsize = sizeof(GroupExitObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = group_exit_slots,
};

int
al_group_exit_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->GroupExit, &group_exit_spec, false);
}
