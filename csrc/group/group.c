/* TaskGroup: its children, their errors, and how they are cancelled.
 *
 * The behaviour is that of asyncio.TaskGroup in CPython 3.15, on every
 * version.  The order of events at a child's end is asyncio's too, because
 * callers can see it.  One thing differs: a Task that was started eagerly and
 * has already ended without an error never becomes a child, so it costs no
 * loop iteration.
 *
 * Who owns whom, and until when:
 *
 *     parent Task -> its frame -> awaitable -> GroupExit -> group
 *
 *     group -> parent               until the exit has ended
 *           -> children: the Tasks  until each has ended
 *           -> on_done -> group     until the exit has ended
 *           -> errors, base_error   until the exit raises or reports them
 *           -> waiter <- parent     until the exit is resumed
 *     child -> on_done -> group     until on_done has been called
 *
 * All of these cycles are broken without the garbage collector.  When the
 * group has been left, it holds none of the errors that it has raised
 * (CPython gh-124958).
 *
 * A child's life:
 *
 *     create_task()       closes the coroutine and raises if the group has not
 *                         been entered, is aborting or is finished (gh-115957)
 *     group_spawn         makes the Task; the capture may attach on_done
 *     group_adopt         adds the edge of the await graph, the entry in
 *                         `children`, and on_done
 *     the loop            runs the child to its end, then calls on_done:
 *     group_on_task_done
 *       1. the child leaves `children`, and the edge is removed
 *       2. if it was the last and the exit waits, the waiter is woken: the
 *          parent's step is scheduled before 3. may cancel the parent
 *       3. if it has failed, its error is kept, and the first failure cancels
 *          the other children in the order of their creation, then the parent;
 *          after the parent's end it is kept and reported, after the group's
 *          end only reported
 *
 * The parent is cancelled because the body may be waiting for something else;
 * the exit takes this cancellation back.  It is requested at most once, and
 * not at all if the group is aborting already: then either the parent was
 * cancelled before, or the exit has begun.  cancel() does what a first failure
 * does, but leaves no error.  Before the entry it is remembered, and takes
 * effect on entry.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/awaitable.h"
#include "aio/capture.h"
#include "aio/create_task.h"
#include "group/group.h"
#include "group/group_exit.h"

/* ------------------------------------------------------------ errors */

/* Report an error that nobody will receive. */
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
    /* Detached first: the exception handler is the user's code. */
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

/* -------------------------------------------------------- cancelling */

int
al_group_abort(GroupObject *self, PyObject *spared)
{
    al_state *st = self->st;
    PyObject *loop = self->bound.loop, *exit = NULL;
    self->aborting = true;
    if (al_group_is_empty(self)) {
        return 0;
    }
    /* A copy: cancel() may run Python, which may end children. */
    PyObject *tasks = AL_ALLOC(PyDict_Keys(self->children));
    if (tasks == NULL) {
        return al_loop_handle_error(
            st, loop, "cancelling the tasks of a group failed", NULL);
    }
    /* For the same reason the callback is held: the exit may drop it. */
    PyObject *on_done = Py_XNewRef(self->on_done);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tasks); i++) {
        PyObject *task = PyList_GET_ITEM(tasks, i);
        int done = spared == NULL ? 0 : PySet_Contains(spared, task);
        if (done == 0) {
            done = al_capture_cancel(st, &self->bound, task, NULL, on_done);
        }
        if (done < 0) {
            al_loop_handle_error_keep_exit(
                st, loop, "cancelling a task of a group failed", task, &exit);
        }
    }
    Py_XDECREF(on_done);
    Py_DECREF(tasks);
    return al_loop_raise_exit(exit);
}

/* Cancel the parent, once, so that the body stops.  Its cancelling() is noted
   afterwards: a higher count later means that somebody else has cancelled it
   as well.  -1 with an exception. */
static int
group_cancel_parent(GroupObject *self)
{
    if (self->parent == NULL || self->parent_cancel_requested) {
        return 0;
    }
    self->parent_cancel_requested = true;
    PyObject *parent = Py_NewRef(self->parent);
    int cancelled = al_task_cancel(self->st, parent, NULL);
    if (cancelled >= 0) {
        self->parent_cancelling = al_task_cancelling(self->st, parent);
    }
    Py_DECREF(parent);
    return cancelled < 0 || self->parent_cancelling < 0 ? -1 : 0;
}

/* Cancel the children but those in `spared`, if that is not NULL, then the
   parent.  -1 with an exception; even then each has been asked to stop. */
static int
group_cancel_all(GroupObject *self, PyObject *spared)
{
    PyObject *exit =
        al_group_abort(self, spared) < 0 ? PyErr_GetRaisedException() : NULL;
    int cancelled = group_cancel_parent(self);
    return exit == NULL ? cancelled : al_loop_raise_more_severe(exit);
}

/* What cancel() does, from any state: before the entry it is remembered, after
   the first time and once no child is left in the exit it has no effect.  -1
   with an exception. */
static int
group_request_cancel(GroupObject *self, PyObject *spared)
{
    if (!self->entered) {
        self->cancel_on_enter = true;
        return 0;
    }
    if (self->aborting || (self->exiting && al_group_is_empty(self))) {
        return 0;
    }
    return group_cancel_all(self, spared);
}

/* --------------------------------------------------- a child's end */

/* Report a child that failed too late for the group to raise its error. */
static void
group_report_late(GroupObject *self, PyObject *task, PyObject *error)
{
    /* Held, for the repr of the Task may leave the group. */
    PyObject *parent =
        Py_NewRef(self->parent == NULL ? Py_None : self->parent);
    PyObject *text = AL_ALLOC(PyUnicode_FromFormat(
        "Task %R has errored out but its parent task %R is already completed",
        task, parent));
    Py_DECREF(parent);
    const char *message = text == NULL ? NULL : PyUnicode_AsUTF8(text);
    if (message == NULL) {
        PyErr_Clear(); /* a repr has failed, but `error` matters more */
        message = "a task of a group failed after its parent's end";
    }
    group_report(self, error, message, task);
    Py_XDECREF(text);
}

/* Keep an error for the exit to raise. */
static void
group_keep_error(GroupObject *self, PyObject *error)
{
    al_group_note_base_error(self, error);
    if (al_group_add_error(self, error) < 0) {
        /* No memory for the list: the exit raises this error by itself, unless
           another one already has that place. */
        PyErr_Clear();
        if (self->base_error == NULL) {
            self->base_error = Py_NewRef(error);
        }
    }
}

/* A child has failed with `error`: keep the error and, if it is the first,
   cancel everything else.  -1 with an exception. */
static int
group_take_error(GroupObject *self, PyObject *task, PyObject *error)
{
    if (self->exited) {
        group_report_late(self, task, error);
        return 0;
    }
    group_keep_error(self, error);
    /* A group may be left in another Task than the one that entered it, as in
       a pytest fixture.  If the latter has ended, nothing can be cancelled,
       and the error is reported to the loop's exception handler as well. */
    int parent_done =
        self->parent == NULL ? 1 : al_task_done(self->st, self->parent);
    if (parent_done > 0) {
        group_report_late(self, task, error);
    }
    return parent_done < 0 ? -1
           : parent_done || self->aborting || self->parent_cancel_requested
               ? 0
               : group_cancel_all(self, NULL);
}

/* Remove a Task from the children.  1: it was a child; 0: it was not; -1 with
   an exception. */
static int
group_remove_child(GroupObject *self, PyObject *task)
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

/* The done callback of every child; its order is in the essay above.  A Task
   that is not, or no longer, a child is ignored. */
static PyObject *
group_on_task_done(PyObject *op, PyObject *task)
{
    GroupObject *self = (GroupObject *)op;
    int removed = group_remove_child(self, task);
    if (removed <= 0) {
        return removed < 0 ? NULL : Py_NewRef(Py_None);
    }
    /* An error here is raised last: the exit must not be left waiting. */
    PyObject *unlink_error = al_task_unlink(self->st, task, self->parent) < 0
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
    if (unlink_error != NULL) {
        failed = al_loop_raise_more_severe(unlink_error);
    }
    return failed < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef group_on_done_def = {
    "_on_task_done",
    group_on_task_done,
    METH_O,
    NULL,
};

/* ---------------------------------------------- a child's beginning */

/* Make the dict of children, if there is none.  -1 with an exception. */
static int
group_make_children(GroupObject *self)
{
    if (self->children == NULL) {
        self->children = AL_ALLOC(PyDict_New());
    }
    return self->children == NULL ? -1 : 0;
}

/* The children's done callback, made at its first use (new). */
static PyObject *
group_make_on_done(GroupObject *self)
{
    if (self->on_done == NULL) {
        self->on_done =
            AL_ALLOC(PyCFunction_New(&group_on_done_def, (PyObject *)self));
    }
    return Py_XNewRef(self->on_done);
}

/* Cancel a Task that could not be made a child: nobody would wait for it.
   Keeps the raised exception. */
static void
group_disown(GroupObject *self, PyObject *task, PyObject *coro)
{
    PyObject *error = PyErr_GetRaisedException();
    if (al_task_cancel(self->st, task, NULL) < 0) {
        PyErr_Clear(); /* a task factory's object that will run nothing */
        al_coro_close_unstarted(self->st, coro);
    }
    PyErr_SetRaisedException(error);
}

/* Tell whether a Task has already ended without an error: 1 or 0; -1 with an
   exception. */
static int
group_ended_without_error(GroupObject *self, PyObject *task)
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

/* Add a Task to the children.  `on_done` is NULL if the capture will call it.
   On error the Task is no child. */
static int
group_add_child(GroupObject *self, PyObject *task, PyObject *on_done)
{
    if (al_task_link(self->st, task, self->parent) < 0
        || AL_ALLOC_INT(PyDict_SetItem(self->children, task, Py_None)) < 0)
    {
        return -1;
    }
    if (on_done == NULL) {
        return 0;
    }
    /* Last: a foreign Task may call it at once, and then all is in place. */
    int failed = al_task_add_done_callback(self->st, task, on_done, NULL);
    if (failed < 0) {
        PyObject *error = PyErr_GetRaisedException();
        if (group_remove_child(self, task) < 0) {
            PyErr_Clear(); /* a foreign Task's hash: it stays a child */
        }
        PyErr_SetRaisedException(error);
    }
    return failed;
}

/* Make a new Task a child, unless it has already succeeded or was cancelled.
   -1 with an exception. */
static int
group_adopt(GroupObject *self, PyObject *task, al_created how,
            PyObject *on_done)
{
    if (how == AL_CREATED) {
        int ended = group_ended_without_error(self, task);
        if (ended != 0) {
            return ended < 0 ? -1 : 0;
        }
    }
    if (group_add_child(self, task, how == AL_CREATED_WATCHED ? NULL : on_done)
        < 0)
    {
        return -1;
    }
    /* A child that ran inside create_task may have cancelled the group before
       it was one of the children (CPython gh-155418). */
    return self->aborting && al_task_cancel(self->st, task, NULL) < 0 ? -1 : 0;
}

/* Start a child from the coroutine args[0] with the keywords `kwnames`, whose
   values follow in args (new).  On error there is no child, and the coroutine
   is closed if it has not started. */
static PyObject *
group_spawn(GroupObject *self, PyObject *const *args, PyObject *kwnames)
{
    al_created how;
    PyObject *task = NULL;
    PyObject *on_done =
        group_make_children(self) < 0 ? NULL : group_make_on_done(self);
    if (on_done != NULL) {
        task = al_create_task(self->st, &self->bound, args, kwnames, on_done,
                              &how);
    }
    if (task == NULL) {
        al_coro_close_unstarted(self->st, args[0]);
    }
    else if (group_adopt(self, task, how, on_done) < 0) {
        group_disown(self, task, args[0]);
        Py_CLEAR(task);
    }
    Py_XDECREF(on_done);
    return task;
}

/* -------------------------------------------------------- Python API */

static PyObject *
group_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
          PyObject *Py_UNUSED(kwargs))
{
    al_state *st = al_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    GroupObject *self = (GroupObject *)AL_ALLOC(type->tp_alloc(type, 0));
    if (self != NULL) {
        self->st = st;
    }
    return (PyObject *)self;
}

static int
group_init(PyObject *Py_UNUSED(op), PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) != 0
        || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0))
    {
        PyErr_SetString(PyExc_TypeError, "TaskGroup() takes no arguments");
        return -1;
    }
    return 0;
}

static PyObject *
group_repr(PyObject *op)
{
    GroupObject *self = (GroupObject *)op;
    Py_ssize_t tasks =
        al_group_is_empty(self) ? 0 : PyDict_GET_SIZE(self->children);
    Py_ssize_t errors =
        self->errors == NULL ? 0 : PyList_GET_SIZE(self->errors);
    char counts[80];
    int used = 0;
    counts[0] = '\0';
    if (tasks > 0) {
        used = PyOS_snprintf(counts, sizeof(counts), " tasks=%zd", tasks);
    }
    if (errors > 0) {
        PyOS_snprintf(counts + used, sizeof(counts) - (size_t)used,
                      " errors=%zd", errors);
    }
    return AL_ALLOC(PyUnicode_FromFormat("<TaskGroup%s%s>", counts,
                                         self->aborting  ? " cancelling"
                                         : self->entered ? " entered"
                                                         : ""));
}

/* The one step of `async with`'s entry: bind to the loop and find the parent.
   It never suspends. */
static PySendResult
group_enter_step(PyObject *op, PyObject *thrown, PyObject **result)
{
    GroupObject *self = (GroupObject *)op;
    if (thrown != NULL) {
        PyErr_SetRaisedException(Py_NewRef(thrown));
        return PYGEN_ERROR;
    }
    if (self->entered) {
        PyErr_Format(PyExc_RuntimeError,
                     "TaskGroup %R has already been entered", op);
        return PYGEN_ERROR;
    }
    if (self->bound.loop == NULL) {
        PyObject *loop = al_loop_running(self->st, "a TaskGroup");
        if (loop == NULL) {
            return PYGEN_ERROR;
        }
        al_loop_bind_tasks(&self->bound, loop);
        Py_DECREF(loop);
    }
    PyObject *parent = al_loop_current_task(self->st, &self->bound);
    if (parent == NULL) {
        return PYGEN_ERROR;
    }
    if (parent == Py_None) {
        Py_DECREF(parent);
        PyErr_Format(PyExc_RuntimeError,
                     "TaskGroup %R cannot determine the parent task", op);
        return PYGEN_ERROR;
    }
    Py_XSETREF(self->parent, parent);
    self->entered = true;
    if (self->cancel_on_enter && group_request_cancel(self, NULL) < 0) {
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(op);
    return PYGEN_RETURN;
}

static PyObject *
group_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_awaitable_coroutine(((GroupObject *)op)->st, op,
                                  group_enter_step, "TaskGroup.__aenter__");
}

static PyObject *
group_aexit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        PyErr_Format(PyExc_TypeError,
                     "__aexit__() takes 3 arguments (%zd given)", nargs);
        return NULL;
    }
    return al_group_exit_new((GroupObject *)op,
                             PyExceptionInstance_Check(args[1]) ? args[1]
                                                                : NULL);
}

/* create_task() with the coroutine args[0] and the keywords `kwnames`, whose
   values follow in args (new).  A coroutine that is refused is closed. */
static inline PyObject *
group_create_first(GroupObject *self, PyObject *const *args, PyObject *kwnames)
{
    const char *why = !self->entered ? "has not been entered"
                      : self->exiting && al_group_is_empty(self)
                          ? "is finished"
                      : self->aborting ? "is shutting down"
                                       : NULL;
    if (why == NULL) {
        return group_spawn(self, args, kwnames);
    }
    if (al_coro_close(self->st, args[0]) == 0) {
        PyErr_Format(PyExc_RuntimeError, "TaskGroup %R %s", (PyObject *)self,
                     why);
    }
    return NULL;
}

/* create_task(coro=...): asyncio allows the coroutine as a keyword.  The other
   keywords follow it in a call with the coroutine first.  The method is not
   looked up again, for a subclass may have passed the keyword on to us. */
static PyObject *
group_create_named(GroupObject *self, PyObject *const *args, PyObject *kwnames)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    Py_ssize_t at = 0;
    while (
        at < n
        && PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, at), self->st->s_coro)
               != 0)
    {
        at++;
    }
    if (at == n) {
        PyErr_SetString(PyExc_TypeError, "create_task() missing 1 required "
                                         "positional argument: 'coro'");
        return NULL;
    }
    PyObject *task = NULL, *names = AL_ALLOC(PyTuple_New(n - 1));
    PyObject **values =
        names == NULL ? NULL
                      : AL_ALLOC(PyMem_Malloc((size_t)n * sizeof(PyObject *)));
    if (values != NULL) {
        values[0] = args[at];
        for (Py_ssize_t i = 0, put = 0; i < n; i++) {
            if (i != at) {
                PyTuple_SET_ITEM(names, put,
                                 Py_NewRef(PyTuple_GET_ITEM(kwnames, i)));
                values[++put] = args[i];
            }
        }
        task = group_create_first(self, values, n > 1 ? names : NULL);
    }
    else {
        PyErr_NoMemory();
        al_coro_close_unstarted(self->st, args[at]);
    }
    PyMem_Free(values);
    Py_XDECREF(names);
    return task;
}

PyDoc_STRVAR(group_create_task_doc,
"create_task($self, coro, *, name=None, context=None, **kwargs)\n--\n\n"
"Start a child of the group.\n\n"
"The group holds the Task until it ends.\n\n"
"Args:\n"
"    coro: A coroutine.\n"
"    name: The name of the Task.\n"
"    context: The context of the Task; None: a copy of the current one.\n"
"    kwargs: As for asyncio.create_task(): ``eager_start``, which may be\n"
"        true on 3.12 and newer.\n\n"
"Returns:\n"
"    The Task.\n\n"
"Raises:\n"
"    RuntimeError: The group has not been entered, is shutting down or has\n"
"        finished, or this is another thread.  The coroutine is closed.\n\n"
"Source: asyncio.TaskGroup.create_task.");

static PyObject *
group_create_task(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    if (nargs == 0) {
        return group_create_named((GroupObject *)op, args, kwnames);
    }
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError,
                     "create_task() takes 1 positional argument but %zd were "
                     "given",
                     nargs);
        al_coro_close_unstarted(((GroupObject *)op)->st, args[0]);
        return NULL;
    }
    return group_create_first((GroupObject *)op, args, kwnames);
}

PyDoc_STRVAR(group_cancel_doc,
"cancel($self, /)\n--\n\n"
"Cancel the children and the body.\n\n"
"The block ends without an error of its own once all children have ended; a\n"
"child or a body that fails meanwhile still makes it raise.  Called before\n"
"the group is entered, it takes effect on entry.  Called again, or after the\n"
"group has finished, it has no effect.\n\n"
"Raises:\n"
"    RuntimeError: This is another thread.\n\n"
"Source: asyncio.TaskGroup.cancel, new in CPython 3.15.");

PyDoc_STRVAR(group_cancel_others_doc,
"_cancel_others($self, spared, /)\n--\n\n"
"Do as cancel(), but leave alone the children in a frozenset: a shutdown has\n"
"cancelled them already.");

/* Both of them; `spared` is NULL for cancel(). */
static PyObject *
group_cancel(PyObject *op, PyObject *spared)
{
    GroupObject *self = (GroupObject *)op;
    if (spared != NULL && !PyFrozenSet_Check(spared)) {
        PyErr_SetString(PyExc_TypeError, "_cancel_others() takes a frozenset");
        return NULL;
    }
    if (al_loop_check_thread(self->st, &self->bound, "TaskGroup.cancel()") < 0
        || group_request_cancel(self, spared) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
group_get_tasks(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyFrozenSet_New(((GroupObject *)op)->children));
}

static PyMethodDef group_methods[] = {
    {"__reduce__", al_object_refuse_pickling, METH_NOARGS, NULL},
    {"__aenter__", group_aenter, METH_NOARGS, NULL},
    {"__aexit__", AL_METHOD(group_aexit), METH_FASTCALL, NULL},
    {"create_task", AL_METHOD(group_create_task),
     METH_FASTCALL | METH_KEYWORDS, group_create_task_doc},
    {"cancel", group_cancel, METH_NOARGS, group_cancel_doc},
    {"_cancel_others", group_cancel, METH_O, group_cancel_others_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef group_getset[] = {
    {"_tasks", group_get_tasks, NULL,
     "The children that have not ended, as a new frozenset.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef group_members[] = {
    {"_parent_task", T_OBJECT, offsetof(GroupObject, parent), READONLY,
     "The Task that has entered the group, or None."},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(GroupObject, weakrefs),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static int
group_traverse(PyObject *op, visitproc visit, void *arg)
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

static int
group_clear(PyObject *op)
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

/* Not al_object_dealloc(): there are weak references, and in a subclass
   tp_clear is the subclass's. */
static void
group_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    PyObject_ClearWeakRefs(op);
    (void)group_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(group_doc,
"TaskGroup()\n--\n\n"
"Run Tasks as one group, as asyncio.TaskGroup of CPython 3.15 does.\n\n"
"The block waits for its children.  The first child that fails cancels the\n"
"others and the body; the errors are then raised as one ExceptionGroup.  A\n"
"KeyboardInterrupt or SystemExit is raised by itself.  If the block is\n"
"cancelled from outside, the children are cancelled, and the CancelledError\n"
"propagates when they have ended.\n\n"
"Example::\n\n"
"    async with TaskGroup() as group:\n"
"        group.create_task(fetch(1))\n"
"        group.create_task(fetch(2))\n\n"
"Source: asyncio.TaskGroup.");

static PyType_Slot group_slots[] = {
    {Py_tp_doc, (void *)group_doc},
    {Py_tp_new, group_new},
    {Py_tp_init, group_init},
    {Py_tp_repr, group_repr},
    {Py_tp_methods, group_methods},
    {Py_tp_getset, group_getset},
    {Py_tp_members, group_members},
    {Py_tp_traverse, group_traverse},
    {Py_tp_clear, group_clear},
    {Py_tp_dealloc, group_dealloc},
    {0, NULL},
};

static PyType_Spec group_spec = {
    .name = "pyasynclife.TaskGroup",
    .basicsize = sizeof(GroupObject),
    /* Not immutable: tracers and mocks replace its methods, as asyncio's. */
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = group_slots,
};

int
al_group_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->TaskGroup, &group_spec, true);
}
