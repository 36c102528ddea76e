/* How the Tasks of a JoinSet have ended, one after the other.
 *
 * A report of a shutdown makes an object for each Task only when somebody
 * reads it.  What it needs then is taken here, at the end of each Task, into
 * one array: neither the Task nor its entry is kept.  The log only grows, so
 * the reports of one shutdown share it, and each notes its counts: of each
 * kind it shows as many exits as there were when it was made.
 *
 * Danger spots.
 *
 * Memory: the end of a Task must not fail, so the room for its exit is
 * reserved when it is added to the set.
 *
 * Re-entrancy: to make a list may run the collector, and that may end Tasks,
 * so the array may grow, and move, meanwhile.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/exit_log.h"

typedef struct {
    PyObject_HEAD
    al_exit *exits; /* owned: [0 .. count - 1] */
    Py_ssize_t count, room;
    Py_ssize_t counts[AL_EXIT_KINDS];
} ExitLogObject;

/* Return what a report shows of an exit (new): name, task_id, age, silence and
   error. */
static PyObject *
exit_as_tuple(const al_exit *exit)
{
    bool known = exit->task_id != NULL;
    PyObject *name = exit->name == NULL ? Py_None : exit->name;
    PyObject *id = known ? exit->task_id : Py_None;
    PyObject *error = exit->error == NULL ? Py_None : exit->error;
    return known ? AL_ALLOC(Py_BuildValue("OOddO", name, id, exit->age,
                                          exit->silence, error))
                 : AL_ALLOC(Py_BuildValue("OOOOO", name, id, id, id, error));
}

PyObject *
al_exit_log_new(al_state *st)
{
    ExitLogObject *self =
        AL_ALLOC(PyObject_GC_New(ExitLogObject, (PyTypeObject *)st->ExitLog));
    if (self == NULL) {
        return NULL;
    }
    self->exits = NULL;
    self->count = self->room = 0;
    memset(self->counts, 0, sizeof(self->counts));
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

int
al_exit_log_reserve(PyObject *op, Py_ssize_t more)
{
    ExitLogObject *self = (ExitLogObject *)op;
    if (self->count + more <= self->room) {
        return 0;
    }
    Py_ssize_t room = 2 * (self->count + more);
    al_exit *exits =
        AL_ALLOC(PyMem_Realloc(self->exits, (size_t)room * sizeof(al_exit)));
    if (exits == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->exits = exits;
    self->room = room;
    return 0;
}

void
al_exit_log_add(PyObject *op, al_exit *exit)
{
    ExitLogObject *self = (ExitLogObject *)op;
    if (self->count == self->room) {
        al_exit_clear(exit);
        return;
    }
    self->exits[self->count++] = *exit;
    self->counts[exit->kind]++;
}

/* ---------------------------------------------------------- Python API */

PyDoc_STRVAR(exit_log_counts_doc,
"counts($self, /)\n--\n\n"
"Return how many Tasks have ended so far, by EXIT_FINISHED, EXIT_CANCELLED,\n"
"EXIT_FAILED and EXIT_SWALLOWED.");

static PyObject *
exit_log_counts(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    const Py_ssize_t *counts = ((ExitLogObject *)op)->counts;
    return AL_ALLOC(Py_BuildValue(
        "nnnn", counts[AL_EXIT_FINISHED], counts[AL_EXIT_CANCELLED],
        counts[AL_EXIT_FAILED], counts[AL_EXIT_SWALLOWED]));
}

PyDoc_STRVAR(exit_log_exits_doc,
"exits($self, kind, count, /)\n--\n\n"
"Return the first exits of a kind, in the order of the ends, as a list of\n"
"tuples: name, task_id, age, silence, error.");

static PyObject *
exit_log_exits(PyObject *op, PyObject *args)
{
    ExitLogObject *self = (ExitLogObject *)op;
    int kind;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "in:exits", &kind, &count)) {
        return NULL;
    }
    PyObject *list = AL_ALLOC(PyList_New(0));
    for (Py_ssize_t i = 0;
         list != NULL && i < self->count && PyList_GET_SIZE(list) < count; i++)
    {
        al_exit exit = self->exits[i]; /* the array may move below */
        if ((int)exit.kind != kind) {
            continue;
        }
        PyObject *one = exit_as_tuple(&exit);
        if (one == NULL || AL_ALLOC_INT(PyList_Append(list, one)) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
    }
    return list;
}

/* --------------------------------------------------------- GC and specs */

static int
exit_log_traverse(PyObject *op, visitproc visit, void *arg)
{
    ExitLogObject *self = (ExitLogObject *)op;
    Py_VISIT(Py_TYPE(op));
    for (Py_ssize_t i = 0; i < self->count; i++) {
        Py_VISIT(self->exits[i].name); /* no str, of a Task not asyncio's */
        Py_VISIT(self->exits[i].task_id);
        Py_VISIT(self->exits[i].error);
    }
    return 0;
}

static int
exit_log_clear(PyObject *op)
{
    ExitLogObject *self = (ExitLogObject *)op;
    al_exit *exits = self->exits;
    Py_ssize_t count = self->count;
    self->exits = NULL;
    self->count = self->room = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        al_exit_clear(&exits[i]);
    }
    PyMem_Free(exits);
    return 0;
}

PyDoc_STRVAR(exit_log_doc,
"How the Tasks of a JoinSet have ended.");

static PyMethodDef exit_log_methods[] = {
    {"counts", exit_log_counts, METH_NOARGS, exit_log_counts_doc},
    {"exits", exit_log_exits, METH_VARARGS, exit_log_exits_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot exit_log_slots[] = {
    {Py_tp_doc, (void *)exit_log_doc},
    {Py_tp_methods, exit_log_methods},
    {Py_tp_traverse, exit_log_traverse},
    {Py_tp_clear, exit_log_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec exit_log_spec = {
    .name = "pyasynclife._core.ExitLog",
    .basicsize = sizeof(ExitLogObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = exit_log_slots,
};

int
al_exit_log_setup(PyObject *module, al_state *st)
{
    if (PyModule_AddIntConstant(module, "EXIT_FINISHED", AL_EXIT_FINISHED) < 0
        || PyModule_AddIntConstant(module, "EXIT_CANCELLED", AL_EXIT_CANCELLED)
               < 0
        || PyModule_AddIntConstant(module, "EXIT_FAILED", AL_EXIT_FAILED) < 0
        || PyModule_AddIntConstant(module, "EXIT_SWALLOWED", AL_EXIT_SWALLOWED)
               < 0)
    {
        return -1;
    }
    return al_state_add_type(module, &st->ExitLog, &exit_log_spec, true);
}
