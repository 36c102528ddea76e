/* The exit of a TaskGroup: the awaitable that __aexit__ returns.
 *
 * It waits for the children, whatever happens, and then decides how the group
 * is left:
 *
 *     BEGIN   first step: note the body's exception; if there is one, abort
 *       |
 *       v        .-- a child is alive: yield the waiter
 *     WAIT <-----|
 *       |        '-- resumed, or a CancelledError is thrown in: note it, abort
 *       |
 *       |  no child is alive: raise base_error if there is one, otherwise
 *       |  take back our cancellation of the parent
 *       |
 *       |-- it has not been delivered (3.11, 3.12) -> FLUSH: yield None
 *       |                                               |
 *       |<-- resumed, or the CancelledError is thrown in, and absorbed
 *       v
 *     finish  raise the errors as one group, or the cancellation from outside,
 *             or return True: the body's CancelledError was ours
 *
 * Any other exception that is thrown in, such as close()'s GeneratorExit, is
 * raised at once and ends the exit.  Before the first step it leaves the group
 * untouched.
 *
 * Two kinds of cancellation reach the exit, from the body or while it waits.
 * If the group has not cancelled the parent, or parent.cancelling() is higher
 * than right after it did, somebody else has: an "outer" cancellation.  The
 * first such object leaves the group, with its message (gh-155433; CPython
 * keeps it only if the body was at its end).  Any other is the group's own,
 * and is absorbed.
 *
 * Differences between versions:
 *
 * - When uncancel() reaches zero, 3.13 also drops a cancellation that has been
 *   requested but not delivered.  3.11 and 3.12 leave it pending, and it would
 *   hit the parent's next await after the group.  FLUSH lets it arrive here
 *   (gh-117407).
 * - Errors that leave the group hide a cancellation from outside, so that one
 *   is requested again, for the parent's next await (gh-116720).  On 3.11 and
 *   3.12 an asyncio.timeout() around the group could not take the new request
 *   back, for the reason above, so al_task_cancel_again() makes it one loop
 *   iteration later, if it still stands.
 * - Nowhere does asyncio report the errors that a KeyboardInterrupt or
 *   SystemExit replaces.  Here they go to the loop's exception handler
 *   (gh-135736).
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
    GROUP_EXIT_WAIT,  /* for the children's ends */
    GROUP_EXIT_FLUSH, /* for the delivery of our own cancellation */
} group_exit_phase;

/* One call of __aexit__. */
typedef struct {
    PyObject_HEAD
    GroupObject *group;     /* owned */
    PyObject *body;         /* owned: the body's exception, or NULL */
    PyObject *outer_cancel; /* owned: the first cancellation that somebody
                               else has requested, or NULL */
    PyObject *own_cancel;   /* owned: the first that only the group has
                               requested, or NULL */
    group_exit_phase phase;
} GroupExitObject;

/* Raise as the `raise` statement does: the exception being handled becomes
   the context. */
static void
group_exit_raise(PyObject *error)
{
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
}

/* Keep a cancellation that has reached the exit, as the group's own or as one
   from outside; the first of each kind. */
static void
group_exit_note_cancelled(GroupExitObject *self, PyObject *error)
{
    GroupObject *group = self->group;
    bool ours = false;
    if (group->parent_cancel_requested && group->parent != NULL) {
        long count = al_task_cancelling(group->st, group->parent);
        if (count < 0) {
            PyErr_Clear(); /* unknown: it must not be swallowed */
        }
        ours = count >= 0 && count <= group->parent_cancelling;
    }
    PyObject **place = ours ? &self->own_cancel : &self->outer_cancel;
    if (*place == NULL) {
        *place = Py_NewRef(error);
    }
}

/* A subclass of CancelledError counts too (gh-113848).  Pure C. */
static bool
group_exit_is_cancellation(GroupExitObject *self, PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, self->group->st->CancelledError);
}

/* Return the parent's cancelling(); 0 if another exit of the group has ended
   and dropped the parent.  -1 with an exception. */
static long
group_exit_count_requests(GroupObject *group)
{
    return group->parent == NULL
               ? 0
               : al_task_cancelling(group->st, group->parent);
}

/* Cancel the children.  A KeyboardInterrupt or SystemExit of their cancel()
   leaves the group once they have ended. */
static void
group_exit_abort(GroupObject *group)
{
    if (al_group_abort(group, NULL) < 0) {
        PyObject *error = PyErr_GetRaisedException();
        al_group_note_base_error(group, error);
        Py_DECREF(error);
    }
}

/* The first step: note how the body has ended. */
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

/* Handle an exception that was thrown into the exit.  0: a cancellation, which
   was noted; -1 with an exception: the exit ends. */
static int
group_exit_take_thrown(GroupExitObject *self, PyObject *thrown)
{
    GroupObject *group = self->group;
    if (!group_exit_is_cancellation(self, thrown)) {
        PyErr_SetRaisedException(Py_NewRef(thrown));
        return -1;
    }
    if (self->phase == GROUP_EXIT_FLUSH) {
        long count = group_exit_count_requests(group);
        /* Ours was taken back: a count is that of a cancellation from outside
           which came in the same loop iteration. */
        if (count > 0 && self->outer_cancel == NULL) {
            self->outer_cancel = Py_NewRef(thrown);
        }
        return count < 0 ? -1 : 0;
    }
    group_exit_note_cancelled(self, thrown);
    if (!group->aborting) {
        group_exit_abort(group);
    }
    return 0;
}

/* Yield the future that the end of the last child wakes. */
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
        /* The exit cannot wait: cancel the children, which would otherwise
           run on without supervision. */
        PyObject *error = PyErr_GetRaisedException();
        (void)al_group_abort(group, NULL);
        (void)al_loop_raise_more_severe(error);
        return PYGEN_ERROR;
    }
    group->waiter = Py_NewRef(future);
    *result = future;
    return PYGEN_NEXT;
}

/* The children have ended: take back our cancellation of the parent.
   PYGEN_RETURN: done; PYGEN_NEXT: it must be delivered first, *result is to be
   yielded. */
static PySendResult
group_exit_uncancel(GroupExitObject *self, PyObject **result)
{
    GroupObject *group = self->group;
    if (!group->parent_cancel_requested || group->parent == NULL) {
        return PYGEN_RETURN;
    }
    /* Held: a foreign Task's methods may step this exit once more, and end
       it. */
    PyObject *parent = Py_NewRef(group->parent);
    al_cancel_state state = AL_CANCEL_ERROR;
    long remaining = al_task_uncancel(group->st, parent);
    if (remaining > 0) {
        /* Somebody else had cancelled the parent before the group did, and one
           CancelledError was delivered for both requests. */
        state = AL_CANCEL_COUNTED;
        if (self->outer_cancel == NULL) {
            self->outer_cancel = Py_XNewRef(self->own_cancel);
        }
    }
    else if (remaining == 0) {
        /* All requests were taken back, those from outside too. */
        Py_CLEAR(self->outer_cancel);
        PyObject *cancelling = al_task_cancelling_method(group->st, parent);
        if (cancelling != NULL) {
            state = al_task_cancel_state(group->st, parent, cancelling);
            Py_DECREF(cancelling);
        }
    }
    Py_DECREF(parent);
    if (state != AL_CANCEL_PENDING) {
        return state == AL_CANCEL_ERROR ? PYGEN_ERROR : PYGEN_RETURN;
    }
    /* A bare yield: the Task goes on in the next loop iteration, and throws
       its pending CancelledError in. */
    self->phase = GROUP_EXIT_FLUSH;
    *result = Py_NewRef(Py_None);
    return PYGEN_NEXT;
}

/* Raise the errors as one ExceptionGroup, and request a cancellation from
   outside again, which they hide.  If the only error is a GeneratorExit of the
   body, it is raised by itself, so that an async generator around the group
   can be closed. */
static void
group_exit_raise_errors(GroupExitObject *self)
{
    GroupObject *group = self->group;
    /* Both held: a foreign Task's methods may step this exit once more, and
       end it. */
    PyObject *errors = Py_NewRef(group->errors);
    PyObject *parent = Py_XNewRef(group->parent);
    long count = group_exit_count_requests(group);
    if (count > 0
        && al_task_cancel_again(group->st, &group->bound, parent) < 0)
    {
        count = -1;
    }
    Py_XDECREF(parent);
    if (count < 0) {
        Py_DECREF(errors);
        return;
    }
    Py_CLEAR(group->errors);
    if (self->body != NULL && PyList_GET_SIZE(errors) == 1
        && PyErr_GivenExceptionMatches(self->body, PyExc_GeneratorExit))
    {
        group_exit_raise(self->body);
    }
    else {
        PyObject *error_group = AL_ALLOC(
            PyObject_CallFunction(PyExc_BaseExceptionGroup, "sO",
                                  "unhandled errors in a TaskGroup", errors));
        if (error_group != NULL) {
            PyException_SetCause(error_group, NULL); /* raise ... from None */
            group_exit_raise(error_group);
            Py_DECREF(error_group);
        }
    }
    Py_DECREF(errors);
}

/* Leave the group: no child is alive, and our cancellation was taken back. */
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

/* Go on in the current phase as far as possible without waiting. */
static PySendResult
group_exit_resume(GroupExitObject *self, PyObject **result)
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

/* The exit has ended: drop everything that could keep the errors alive.  Keeps
   the raised exception, which the reports must not see. */
static void
group_exit_end(GroupObject *group)
{
    PyObject *error = PyErr_GetRaisedException();
    group->exited = true;
    al_group_report_errors(group, error);
    Py_CLEAR(group->parent);
    Py_CLEAR(group->base_error);
    Py_CLEAR(group->on_done);
    if (group->children != NULL && al_group_is_empty(group)) {
        /* Its room is freed, but not the dict: a foreign Task's hash may be
           at work, in the lookup that adds it. */
        PyDict_Clear(group->children);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* The awaitable's step; see the essay above for the phases. */
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
        answer = group_exit_resume(self, result);
    }
    else {
        Py_CLEAR(group->waiter);
        if (thrown == NULL || group_exit_take_thrown(self, thrown) == 0) {
            answer = group_exit_resume(self, result);
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
    PyObject *awaitable = al_awaitable_coroutine(
        st, (PyObject *)self, group_exit_step, "TaskGroup.__aexit__");
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

/* The children, for the await chain of a Task that waits for them; or None. */
static PyObject *
group_exit_get_waits_for(PyObject *op, void *Py_UNUSED(closure))
{
    GroupObject *group = ((GroupExitObject *)op)->group;
    if (group == NULL || group->children == NULL) {
        Py_RETURN_NONE;
    }
    return AL_ALLOC(PyDict_Keys(group->children));
}

static PyGetSetDef group_exit_getset[] = {
    {"_waits_for", group_exit_get_waits_for, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot group_exit_slots[] = {
    {Py_tp_getset, group_exit_getset},
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
