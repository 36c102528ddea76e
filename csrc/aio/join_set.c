/* Cancel many, wait for all, know what became of each.
 *
 * A drain holds one node for each Task.  The node is the Task's done callback
 * where nobody else would tell of its end; a registry's entries have a
 * callback already and pass the word on.  The waiting itself, with its timer,
 * is a few lines of Python over `pending`, `waiters` and `callers`.
 *
 * Whether a Task swallowed its cancellation is asked at its end: it gave a
 * value, we had asked, and the request still stands.  A Task that took the
 * request back by uncancel() meant to go on, and is not accused.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/capture.h"
#include "aio/join_set.h"

typedef struct {
    PyObject_HEAD
    al_state *st;
    al_loop bound;
    PyObject *nodes;   /* owned: list */
    PyObject *waiters; /* owned: list of futures */
    PyObject *callers; /* owned: list of the Tasks that wait */
    Py_ssize_t pending;
} DrainObject;

typedef enum {
    NODE_STUCK = 0,
    NODE_FINISHED,
    NODE_CANCELLED,
    NODE_FAILED,
    NODE_SWALLOWED,
} node_how;

static const char *const node_words[] = {
    "stuck", "finished", "cancelled", "failed", "swallowed",
};

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    DrainObject *drain; /* owned; NULL when it has ended */
    PyObject *task;     /* owned */
    PyObject *meta;     /* owned: the entry, or None */
    PyObject *error;    /* owned, or NULL */
    node_how how;
    bool asked; /* cancel() was called, and true */
    bool ended;
} NodeObject;

/* ---------------------------------------------------------- core half */

PyObject *
al_drain_new(al_state *st, const al_loop *bound)
{
    PyObject *nodes = AL_ALLOC(PyList_New(0));
    PyObject *waiters = nodes == NULL ? NULL : AL_ALLOC(PyList_New(0));
    PyObject *callers = waiters == NULL ? NULL : AL_ALLOC(PyList_New(0));
    DrainObject *self =
        callers == NULL ? NULL : AL_ALLOC(PyObject_GC_New(
            DrainObject, (PyTypeObject *)st->Drain));
    if (self == NULL) {
        Py_XDECREF(nodes);
        Py_XDECREF(waiters);
        Py_XDECREF(callers);
        return NULL;
    }
    self->st = st;
    self->bound = *bound;
    Py_XINCREF(self->bound.loop);
    Py_XINCREF(self->bound.context);
    self->nodes = nodes;
    self->waiters = waiters;
    self->callers = callers;
    self->pending = 0;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

/* Tell whether a cancellation of ours still stands, uncaught or swallowed. */
static bool
node_request_stands(DrainObject *drain, NodeObject *node)
{
    al_state *st = drain->st;
    if (!node->asked) {
        return false;
    }
    long count = al_task_cancelling(st, node->task);
    if (count < 0 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* a Task of another make that does not count */
    }
    else if (count < 0) {
        al_loop_report(st, drain->bound.loop,
                       "asking a task for its cancellations failed",
                       node->task);
    }
    return count > 0;
}

void
al_node_end(PyObject *op, al_outcome outcome, PyObject *error)
{
    NodeObject *node = (NodeObject *)op;
    if (node->ended) {
        return;
    }
    node->ended = true;
    DrainObject *drain = node->drain; /* let go: the drain holds its nodes */
    node->drain = NULL;
    if (drain == NULL || drain->waiters == NULL) {
        Py_XDECREF((PyObject *)drain);
        return; /* the collector has been here */
    }
    PyObject *waiters = Py_NewRef(drain->waiters);
    node->how = outcome == AL_CANCELLED ? NODE_CANCELLED
                : outcome == AL_DONE    ? NODE_FINISHED
                                        : NODE_FAILED;
    if (outcome == AL_DONE && node_request_stands(drain, node)) {
        node->how = NODE_SWALLOWED;
    }
    Py_XSETREF(node->error, Py_XNewRef(error));
    /* What is left may be no others than the tasks that wait. */
    Py_ssize_t waiting = PyList_GET_SIZE(waiters);
    if (--drain->pending <= (waiting > 1 ? waiting : 1)) {
        al_futures_wake(drain->st, &drain->bound, waiters);
    }
    Py_DECREF(waiters);
    Py_DECREF((PyObject *)drain);
}

/* Ask a Task that is done how it ended, and note it; one that would not tell
   has failed.  Returns 0; -1 with the Task's error. */
static int
node_look(NodeObject *node)
{
    PyObject *value;
    al_outcome outcome = al_task_outcome(node->drain->st, node->task, &value);
    if (outcome == AL_ERROR) {
        PyObject *error = PyErr_GetRaisedException();
        al_node_end((PyObject *)node, AL_FAILED, error);
        PyErr_SetRaisedException(error);
        return -1;
    }
    al_node_end((PyObject *)node, outcome,
                outcome == AL_FAILED ? value : NULL);
    Py_XDECREF(value);
    return 0;
}

void
al_node_cancel(PyObject *op)
{
    NodeObject *node = (NodeObject *)op;
    if (node->asked || node->ended || node->drain == NULL) {
        return;
    }
    DrainObject *drain = (DrainObject *)Py_NewRef((PyObject *)node->drain);
    PyObject *task = Py_NewRef(node->task);
    node->asked = true;
    PyObject *watcher = node->meta == Py_None ? op : node->meta;
    int asked = al_capture_cancel(drain->st, &drain->bound, task, NULL,
                                  watcher);
    node->asked = asked > 0;
    if (asked < 0) {
        al_loop_report(drain->st, drain->bound.loop,
                       "cancelling a task failed", task);
    }
    Py_DECREF(task);
    Py_DECREF((PyObject *)drain);
}

static PyObject *
node_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf,
                PyObject *Py_UNUSED(kwnames))
{
    NodeObject *node = (NodeObject *)op;
    if (PyVectorcall_NARGS(nargsf) != 1 || args[0] != node->task) {
        PyErr_SetString(PyExc_TypeError, "a DrainNode is not for calling");
        return NULL;
    }
    if (!node->ended && node->drain != NULL && node_look(node) < 0) {
        return NULL; /* to the loop's handler */
    }
    Py_RETURN_NONE;
}

static NodeObject *
node_new(DrainObject *drain, PyObject *task, PyObject *meta)
{
    NodeObject *node = AL_ALLOC(PyObject_GC_New(
        NodeObject, (PyTypeObject *)drain->st->DrainNode));
    if (node == NULL) {
        return NULL;
    }
    node->vectorcall = node_vectorcall;
    node->drain = (DrainObject *)Py_NewRef((PyObject *)drain);
    node->task = Py_NewRef(task);
    node->meta = Py_NewRef(meta);
    node->error = NULL;
    node->how = NODE_STUCK;
    node->asked = false;
    node->ended = false;
    PyObject_GC_Track((PyObject *)node);
    return node;
}

PyObject *
al_drain_add(PyObject *op, PyObject *task, PyObject *meta)
{
    DrainObject *drain = (DrainObject *)op;
    NodeObject *node = node_new(drain, task, meta);
    if (node == NULL
        || AL_ALLOC_INT(PyList_Append(drain->nodes, (PyObject *)node)) < 0)
    {
        Py_XDECREF((PyObject *)node);
        return NULL;
    }
    drain->pending++;
    return (PyObject *)node;
}

/* ---------------------------------------------------------- door half */

static PyObject *
drain_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    al_state *st = al_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    if (PyTuple_GET_SIZE(args) != 0 || kwargs != NULL) {
        PyErr_SetString(PyExc_TypeError, "Drain() takes no arguments");
        return NULL;
    }
    al_loop bound = {NULL, NULL, 0, AL_CLOCK_ITS_OWN};
    PyObject *loop = al_loop_running(st, "a shutdown");
    PyObject *drain = NULL;
    if (loop != NULL && al_loop_bind(st, &bound, loop) == 0) {
        drain = al_drain_new(st, &bound);
    }
    al_loop_clear(&bound);
    Py_XDECREF(loop);
    return drain;
}

PyDoc_STRVAR(drain_add_doc,
"add($self, task, meta=None, /)\n--\n\n"
"Cancel a Task, or note how it has ended, and follow it to its end.");

static PyObject *
drain_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "add() takes a task and an entry");
        return NULL;
    }
    DrainObject *drain = (DrainObject *)op;
    PyObject *meta = nargs == 2 ? args[1] : Py_None;
    int done = al_task_done(drain->st, args[0]);
    PyObject *node = done < 0 ? NULL : al_drain_add(op, args[0], meta);
    if (node == NULL) {
        return NULL;
    }
    if (done ? node_look((NodeObject *)node) < 0
             : al_task_watch(drain->st, &drain->bound, args[0], node) < 0)
    {
        PyObject *error = PyErr_GetRaisedException();
        al_node_end(node, AL_FAILED, error); /* nobody will tell of its end */
        PyErr_SetRaisedException(error);
        Py_DECREF(node);
        return NULL;
    }
    al_node_cancel(node);
    return node;
}

static PyMethodDef drain_methods[] = {
    {"add", AL_METHOD(drain_add), METH_FASTCALL, drain_add_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef drain_members[] = {
    {"pending", T_PYSSIZET, offsetof(DrainObject, pending), READONLY,
     "How many have not ended."},
    {"nodes", T_OBJECT_EX, offsetof(DrainObject, nodes), READONLY, NULL},
    {"waiters", T_OBJECT_EX, offsetof(DrainObject, waiters), READONLY,
     "Futures, given None when none may be pending but those who wait."},
    {"callers", T_OBJECT_EX, offsetof(DrainObject, callers), READONLY,
     "The Tasks that wait."},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *
node_get_how(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(
        PyUnicode_FromString(node_words[((NodeObject *)op)->how]));
}

static PyGetSetDef node_getset[] = {
    {"how", node_get_how, NULL,
     "'stuck', 'finished', 'cancelled', 'failed' or 'swallowed'.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef node_members[] = {
    {"task", T_OBJECT, offsetof(NodeObject, task), READONLY, NULL},
    {"meta", T_OBJECT, offsetof(NodeObject, meta), READONLY, NULL},
    {"error", T_OBJECT, offsetof(NodeObject, error), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(NodeObject, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* --------------------------------------------------------- GC and specs */

static int
drain_traverse(PyObject *op, visitproc visit, void *arg)
{
    DrainObject *self = (DrainObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->nodes);
    Py_VISIT(self->waiters);
    Py_VISIT(self->callers);
    return al_loop_visit(&self->bound, visit, arg);
}

static int
drain_clear(PyObject *op)
{
    DrainObject *self = (DrainObject *)op;
    Py_CLEAR(self->nodes);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->callers);
    al_loop_clear(&self->bound);
    return 0;
}

static void
drain_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)drain_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static int
node_traverse(PyObject *op, visitproc visit, void *arg)
{
    NodeObject *self = (NodeObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->drain);
    Py_VISIT(self->task);
    Py_VISIT(self->meta);
    Py_VISIT(self->error);
    return 0;
}

static int
node_clear(PyObject *op)
{
    NodeObject *self = (NodeObject *)op;
    self->ended = true;
    Py_CLEAR(self->task);
    Py_CLEAR(self->meta);
    Py_CLEAR(self->error);
    Py_CLEAR(self->drain);
    return 0;
}

static void
node_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)node_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(drain_doc,
"Tasks that were told to end, and what became of each.");

static PyType_Slot drain_slots[] = {
    {Py_tp_doc, (void *)drain_doc},
    {Py_tp_new, drain_new},
    {Py_tp_methods, drain_methods},
    {Py_tp_members, drain_members},
    {Py_tp_traverse, drain_traverse},
    {Py_tp_clear, drain_clear},
    {Py_tp_dealloc, drain_dealloc},
    {0, NULL},
};

static PyType_Spec drain_spec = {
    .name = "pyasynclife._core.Drain",
    .basicsize = sizeof(DrainObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = drain_slots,
};

static PyType_Slot node_slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_getset, node_getset},
    {Py_tp_members, node_members},
    {Py_tp_traverse, node_traverse},
    {Py_tp_clear, node_clear},
    {Py_tp_dealloc, node_dealloc},
    {0, NULL},
};

static PyType_Spec node_spec = {
    .name = "pyasynclife._core.DrainNode",
    .basicsize = sizeof(NodeObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION
             | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = node_slots,
};

int
al_drain_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Drain, &drain_spec, true) < 0
                   || al_state_add_type(module, &st->DrainNode, &node_spec,
                                        false)
                          < 0
               ? -1
               : 0;
}
