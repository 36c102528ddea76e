/* A group's core: its children, their errors, and how they are cancelled.
 *
 * The behaviour is that of asyncio.TaskGroup in CPython 3.15, on every
 * version; the order of what is done at a child's end is asyncio's, for
 * callers see it.  A child that was started eagerly and has succeeded is none:
 * it costs no turn.
 *
 * A child owns the group through its done callback, and the group its
 * children until they have ended; the exit drops the rest, so that nothing
 * here keeps the raised errors alive, or is kept by them.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/capture.h"
#include "aio/create_task.h"
#include "group/group.h"

/* Tell the loop of an error that nobody will receive. */
static void
group_report(GroupObject *self, PyObject *error, const char *message,
             PyObject *task)
{
    if (self->bound.loop != NULL) {
        al_loop_report_exception(self->st, self->bound.loop, message, task,
                                 error);
    }
}

void
al_group_report_errors(GroupObject *self, PyObject *but)
{
    PyObject *errors = self->errors;
    self->errors = NULL;
    if (errors == NULL) {
        return;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(errors); i++) {
        PyObject *error = PyList_GET_ITEM(errors, i);
        if (error != but) {
            group_report(self, error,
                         "a TaskGroup was left by another error "
                         "than this one of a child",
                         NULL);
        }
    }
    Py_DECREF(errors);
}

int
al_group_add_error(GroupObject *self, PyObject *error)
{
    if (self->errors == NULL) {
        self->errors = AL_ALLOC(PyList_New(0));
    }
    return self->errors == NULL
               ? -1
               : AL_ALLOC_INT(PyList_Append(self->errors, error));
}

void
al_group_note_base_error(GroupObject *self, PyObject *error)
{
    if (self->base_error == NULL && al_loop_is_exit(error)) {
        self->base_error = Py_NewRef(error);
    }
}

int
al_group_abort(GroupObject *self)
{
    al_state *st = self->st;
    PyObject *loop = self->bound.loop, *exit = NULL;
    self->aborting = true;
    if (al_group_is_empty(self)) {
        return 0;
    }
    /* cancel() may run Python, and that may end children. */
    PyObject *tasks = AL_ALLOC(PyDict_Keys(self->children));
    if (tasks == NULL) {
        return al_loop_handle_error(
            st, loop, "cancelling the tasks of a group failed", NULL);
    }
    PyObject *on_done = Py_XNewRef(self->on_done); /* till the group's end */
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tasks); i++) {
        PyObject *task = PyList_GET_ITEM(tasks, i);
        if (al_capture_cancel(st, &self->bound, task, NULL, on_done) < 0) {
            al_loop_handle_error_keep_exit(
                st, loop, "cancelling a task of a group failed", task, &exit);
        }
    }
    Py_XDECREF(on_done);
    Py_DECREF(tasks);
    return al_loop_raise_exit(exit);
}

/* Cancel the parent, once, to bring it out of the body.  -1 with an
   exception. */
static int
group_request(GroupObject *self)
{
    if (self->parent == NULL || self->requested) {
        return 0;
    }
    self->requested = true;
    PyObject *parent = Py_NewRef(self->parent);
    int asked = al_task_cancel(self->st, parent, NULL);
    if (asked >= 0) {
        self->asked = al_task_cancelling(self->st, parent);
    }
    Py_DECREF(parent);
    return asked < 0 || self->asked < 0 ? -1 : 0;
}

/* Cancel the children and the parent.  -1 with an exception, all being asked
   that could be. */
static int
group_bring_down(GroupObject *self)
{
    PyObject *exit =
        al_group_abort(self) < 0 ? PyErr_GetRaisedException() : NULL;
    int asked = group_request(self);
    return exit == NULL ? asked : al_loop_raise_more_severe(exit);
}

int
al_group_cancel(GroupObject *self)
{
    if (!self->entered) {
        self->cancel_on_enter = true;
        return 0;
    }
    if (self->aborting || (self->exiting && al_group_is_empty(self))) {
        return 0;
    }
    return group_bring_down(self);
}

/* A child has failed after its parent's end. */
static void
group_report_late(GroupObject *self, PyObject *task, PyObject *error)
{
    PyObject *text = AL_ALLOC(PyUnicode_FromFormat(
        "Task %R has errored out but its parent task %R is already completed",
        task, self->parent == NULL ? Py_None : self->parent));
    const char *message = text == NULL ? NULL : PyUnicode_AsUTF8(text);
    if (message == NULL) {
        PyErr_Clear(); /* a repr that failed: the error counts */
        message = "a task of a group failed after its parent's end";
    }
    group_report(self, error, message, task);
    Py_XDECREF(text);
}

/* -1 with an exception. */
static int
group_take_error(GroupObject *self, PyObject *task, PyObject *error)
{
    int ended =
        self->parent == NULL ? 1 : al_task_done(self->st, self->parent);
    if (ended < 0) {
        return -1;
    }
    if (ended || self->over) {
        group_report_late(self, task, error);
        return 0;
    }
    al_group_note_base_error(self, error);
    if (al_group_add_error(self, error) < 0) {
        /* Out of memory: the error leaves the group bare, if it must. */
        PyErr_Clear();
        if (self->base_error == NULL) {
            self->base_error = Py_NewRef(error);
        }
    }
    if (self->aborting || self->requested) {
        return 0;
    }
    return group_bring_down(self);
}

/* Take a child out: 1 if it was one, 0 if not, -1 with an exception. */
static int
group_forget(GroupObject *self, PyObject *task)
{
    if (self->children == NULL) {
        return 0;
    }
    if (PyDict_DelItem(self->children, task) == 0) {
        return 1;
    }
    if (!PyErr_ExceptionMatches(PyExc_KeyError)) {
        return -1;
    }
    PyErr_Clear();
    return 0;
}

/* The done callback of every child. */
static PyObject *
group_on_task_done(PyObject *op, PyObject *task)
{
    GroupObject *self = (GroupObject *)op;
    int known = group_forget(self, task);
    if (known <= 0) {
        return known < 0 ? NULL : Py_NewRef(Py_None);
    }
    PyObject *trouble = al_task_unlink(self->st, task, self->parent) < 0
                            ? PyErr_GetRaisedException()
                            : NULL;
    if (self->waiter != NULL && al_group_is_empty(self)) {
        PyObject *waiter = Py_NewRef(self->waiter);
        al_loop_wake_waiter(self->st, &self->bound, waiter);
        Py_DECREF(waiter);
    }
    PyObject *error;
    int failed = al_task_error(self->st, task, &error);
    if (failed > 0) {
        failed = group_take_error(self, task, error);
        Py_DECREF(error);
    }
    if (trouble != NULL) {
        failed = al_loop_raise_more_severe(trouble);
    }
    return failed < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef group_on_done_def = {
    "_on_task_done",
    group_on_task_done,
    METH_O,
    NULL,
};

/* Make the children's callback and their dict.  -1 with an exception. */
static int
group_prepare(GroupObject *self)
{
    if (self->on_done == NULL) {
        self->on_done =
            AL_ALLOC(PyCFunction_New(&group_on_done_def, (PyObject *)self));
    }
    if (self->children == NULL) {
        self->children = AL_ALLOC(PyDict_New());
    }
    return self->on_done == NULL || self->children == NULL ? -1 : 0;
}

/* Make a Task a child, which calls us at its end if it is `watched`.  On error
   it is none. */
static int
group_adopt(GroupObject *self, PyObject *task, bool watched)
{
    if (group_prepare(self) < 0
        || al_task_link(self->st, task, self->parent) < 0
        || AL_ALLOC_INT(PyDict_SetItem(self->children, task, Py_None)) < 0)
    {
        return -1;
    }
    if (watched) {
        return 0;
    }
    /* The state may change under add_done_callback; a callback that is
       called there finds all in place. */
    PyObject *on_done = Py_NewRef(self->on_done);
    int failed =
        al_task_add_done_callback(self->st, &self->bound, task, on_done);
    Py_DECREF(on_done);
    if (failed < 0) {
        PyObject *error = PyErr_GetRaisedException();
        if (group_forget(self, task) < 0) {
            PyErr_Clear(); /* what could not be put in cannot be taken out */
        }
        PyErr_SetRaisedException(error);
    }
    return failed;
}

/* A Task was made and could not be made a child: nobody would wait for it.
   Keeps the raised exception. */
static void
group_disown(GroupObject *self, PyObject *task, PyObject *coro)
{
    PyObject *error = PyErr_GetRaisedException();
    if (al_task_cancel(self->st, task, NULL) < 0) {
        PyErr_Clear(); /* a factory's idea of a Task: nothing will run it */
        al_coro_close_unstarted(self->st, coro);
    }
    PyErr_SetRaisedException(error);
}

/* Tell whether a Task has ended already, and well or cancelled. */
static int
group_is_settled(GroupObject *self, PyObject *task)
{
    int done = al_task_done(self->st, task);
    if (done <= 0) {
        return done;
    }
    PyObject *error;
    int failed = al_task_error(self->st, task, &error);
    Py_XDECREF(error);
    return failed < 0 ? -1 : !failed;
}

PyObject *
al_group_spawn(GroupObject *self, PyObject *const *args, PyObject *kwnames)
{
    al_created how;
    PyObject *task = NULL;
    if (group_prepare(self) == 0) {
        /* Making the Task may run Python, and that may end the group. */
        PyObject *on_done = Py_NewRef(self->on_done);
        task = al_create_task(self->st, &self->bound, args, kwnames, on_done,
                              &how);
        Py_DECREF(on_done);
    }
    if (task == NULL) {
        al_coro_close_unstarted(self->st, args[0]);
        return NULL;
    }
    int settled = how != AL_CREATED ? 0 : group_is_settled(self, task);
    if (settled > 0) {
        return task;
    }
    /* A child that ran inside create_task may have cancelled the group before
       it was a child (CPython gh-155418). */
    if (settled < 0 || group_adopt(self, task, how == AL_CREATED_WATCHED) < 0
        || (self->aborting && al_task_cancel(self->st, task, NULL) < 0))
    {
        group_disown(self, task, args[0]);
        Py_CLEAR(task);
    }
    return task;
}

/* ---------------------------------------------------------------- GC */

int
al_group_traverse(PyObject *op, visitproc visit, void *arg)
{
    GroupObject *self = (GroupObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->parent);
    Py_VISIT(self->children);
    Py_VISIT(self->on_done);
    Py_VISIT(self->errors);
    Py_VISIT(self->base_error);
    Py_VISIT(self->waiter);
    return al_loop_visit(&self->bound, visit, arg);
}

int
al_group_clear(PyObject *op)
{
    GroupObject *self = (GroupObject *)op;
    Py_CLEAR(self->parent);
    Py_CLEAR(self->children);
    Py_CLEAR(self->on_done);
    Py_CLEAR(self->errors);
    Py_CLEAR(self->base_error);
    Py_CLEAR(self->waiter);
    al_loop_clear(&self->bound);
    return 0;
}

void
al_group_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    (void)al_group_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}
