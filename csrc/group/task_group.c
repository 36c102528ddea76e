/* TaskGroup: the door. */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/awaitable.h"
#include "group/group.h"
#include "group/group_exit.h"
#include "group/task_group.h"

static PyObject *
task_group_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
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
task_group_init(PyObject *Py_UNUSED(op), PyObject *args, PyObject *kwargs)
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
task_group_repr(PyObject *op)
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

static PySendResult
task_group_enter_step(PyObject *op, PyObject *thrown, PyObject **result)
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
        int bound = loop == NULL ? -1 : al_loop_bind_tasks(&self->bound, loop);
        Py_XDECREF(loop);
        if (bound < 0) {
            return PYGEN_ERROR;
        }
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
    if (self->cancel_on_enter && al_group_cancel(self) < 0) {
        return PYGEN_ERROR;
    }
    *result = Py_NewRef(op);
    return PYGEN_RETURN;
}

static PyObject *
task_group_aenter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return al_awaitable_new(((GroupObject *)op)->st, op,
                            task_group_enter_step);
}

static PyObject *
task_group_aexit(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        PyErr_Format(PyExc_TypeError,
                     "__aexit__() takes 3 arguments (%zd given)", nargs);
        return NULL;
    }
    return al_group_exit_awaitable((GroupObject *)op,
                                   PyExceptionInstance_Check(args[1]) ? args[1]
                                                                      : NULL);
}

/* create_task(coro=...): by name, as asyncio allows. */
static PyObject *
task_group_create_named(PyObject *op, PyObject *const *args, PyObject *kwnames)
{
    al_state *st = ((GroupObject *)op)->st;
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *coro = NULL, *method = NULL, *task = NULL;
    PyObject *keywords = AL_ALLOC(PyDict_New());
    int failed = keywords == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_Compare(key, st->s_coro) == 0) {
            coro = args[i];
        }
        else if (failed == 0) {
            failed = AL_ALLOC_INT(PyDict_SetItem(keywords, key, args[i]));
        }
    }
    if (failed == 0 && coro == NULL) {
        PyErr_SetString(PyExc_TypeError, "create_task() missing 1 required "
                                         "positional argument: 'coro'");
    }
    else if (failed == 0) {
        method = PyObject_GetAttr(op, st->s_create_task);
    }
    if (method != NULL) {
        task = PyObject_VectorcallDict(method, &coro, 1, keywords);
    }
    else if (coro != NULL) {
        al_coro_close_unstarted(st, coro);
    }
    Py_XDECREF(method);
    Py_XDECREF(keywords);
    return task;
}

PyDoc_STRVAR(task_group_create_task_doc,
"create_task($self, coro, *, name=None, context=None, **kwargs)\n--\n\n"
"Start a child and return its Task.\n\n"
"The keywords are those of asyncio.create_task; eager_start from 3.12 on.\n"
"A coroutine that is refused is closed.");

static PyObject *
task_group_create_task(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    GroupObject *self = (GroupObject *)op;
    if (nargs == 0) {
        return task_group_create_named(op, args, kwnames);
    }
    if (nargs != 1) {
        PyErr_Format(PyExc_TypeError,
                     "create_task() takes 1 positional argument but %zd were "
                     "given",
                     nargs);
        return NULL;
    }
    const char *why = !self->entered ? "has not been entered"
                      : self->exiting && al_group_is_empty(self)
                          ? "is finished"
                      : self->aborting ? "is shutting down"
                                       : NULL;
    if (why == NULL) {
        return al_group_spawn(self, args, kwnames);
    }
    if (al_coro_close(self->st, args[0]) == 0) {
        PyErr_Format(PyExc_RuntimeError, "TaskGroup %R %s", op, why);
    }
    return NULL;
}

PyDoc_STRVAR(task_group_cancel_doc,
"cancel($self, /)\n--\n\n"
"Cancel the children and the body; the group is then left without an error.\n\n"
"Before the group is entered: on entry.  Again, or after its end: no effect.");

static PyObject *
task_group_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    GroupObject *self = (GroupObject *)op;
    if (al_loop_check_thread(self->st, &self->bound, "TaskGroup.cancel()") < 0
        || al_group_cancel(self) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
task_group_get_tasks(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyFrozenSet_New(((GroupObject *)op)->children));
}

static PyMethodDef task_group_methods[] = {
    {"__aenter__", task_group_aenter, METH_NOARGS, NULL},
    {"__aexit__", AL_METHOD(task_group_aexit), METH_FASTCALL, NULL},
    {"create_task", AL_METHOD(task_group_create_task),
     METH_FASTCALL | METH_KEYWORDS, task_group_create_task_doc},
    {"cancel", task_group_cancel, METH_NOARGS, task_group_cancel_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef task_group_getset[] = {
    {"_tasks", task_group_get_tasks, NULL, "The children, a snapshot.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef task_group_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(GroupObject, weakrefs),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(task_group_doc,
"TaskGroup()\n--\n\n"
"asyncio.TaskGroup as CPython 3.15 has it, on every version.\n\n"
"    async with TaskGroup() as group:\n"
"        group.create_task(fetch(1))\n"
"        group.create_task(fetch(2))\n\n"
"The block waits for its children.  One that fails cancels the others and\n"
"the body, and the errors leave the block as one ExceptionGroup.\n"
"Source: asyncio.TaskGroup.");

static PyType_Slot task_group_slots[] = {
    {Py_tp_doc, (void *)task_group_doc},
    {Py_tp_new, task_group_new},
    {Py_tp_init, task_group_init},
    {Py_tp_repr, task_group_repr},
    {Py_tp_methods, task_group_methods},
    {Py_tp_getset, task_group_getset},
    {Py_tp_members, task_group_members},
    {Py_tp_traverse, al_group_traverse},
    {Py_tp_clear, al_group_clear},
    {Py_tp_dealloc, al_group_dealloc},
    {0, NULL},
};

static PyType_Spec task_group_spec = {
    .name = "pyasynclife.TaskGroup",
    .basicsize = sizeof(GroupObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = task_group_slots,
};

int
al_task_group_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->TaskGroup, &task_group_spec, true);
}
