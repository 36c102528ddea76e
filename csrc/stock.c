/* What may be done in a loop's place, for the loop is as it was made.
 *
 * A Task made by calling the Task type is what create_task makes, less two
 * frames, if the loop's create_task is the loop's own, no task factory is set
 * and asyncio.Task is the C type.  And calls may share a handle if the loop's
 * call_soon is its own as well, nobody debugs, and its queue can be seen.
 *
 * The type of a loop is judged in Python (pyasynclife._loop), once, and again
 * when it has changed; the loop itself is looked at each time.
 */
#include "compat.h"
#include "fault.h"
#include "state.h"
#include "loop.h"
#include "stock.h"

/* The one object that remembers, for a module. */
typedef struct {
    PyObject_HEAD
    PyObject *type;      /* owned: the last type of loop that was judged */
    PyObject *maker;     /* owned: its own create_task; NULL: it is not fit */
    PyObject *call_soon; /* owned: its own; NULL: it is not fit */
    PyObject *native;    /* owned: uvloop's type, if seen, or NULL; and */
    PyObject *factory;   /* owned: its get_task_factory */
    PyObject *debug;     /* owned: its get_debug */
    PyObject *closed;    /* owned: its is_closed */
    unsigned int tag;    /* of that type, and of Handle, when judged; 0: ask */
    unsigned int handle_tag;
    bool handles_differ; /* that type's are not asyncio's */
} StockObject;

/* ----------------------------------------------------------- the type */

/* A type's version, which changes with it. */
static unsigned int
stock_tag(al_state *st, PyTypeObject *type)
{
    (void)PyObject_HasAttr((PyObject *)type, st->s_call_soon); /* gives one */
    return type->tp_version_tag;
}

/* Judge a type of loop.  -1 with an exception. */
static int
stock_judge(al_state *st, StockObject *self, PyTypeObject *type)
{
    PyTypeObject *handle = (PyTypeObject *)st->Handle;
    unsigned int tag = stock_tag(st, type);
    unsigned int handle_tag = stock_tag(st, handle);
    PyObject *terms =
        PyObject_CallOneArg(st->loop_fast_paths, (PyObject *)type);
    if (terms == NULL) {
        return -1;
    }
    PyObject **fields[] = {&self->maker,   &self->call_soon, &self->native,
                           &self->factory, &self->debug,     &self->closed};
    PyObject *old[Py_ARRAY_LENGTH(fields) + 1] = {self->type};
    Py_ssize_t n = PyTuple_GET_SIZE(terms); /* two, or all for uvloop's */
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *term = PyTuple_GET_ITEM(terms, i);
        old[i + 1] = *fields[i];
        *fields[i] = term == Py_None ? NULL : Py_NewRef(term);
    }
    self->type = Py_NewRef((PyObject *)type);
    /* Somebody may have changed them meanwhile. */
    self->tag = type->tp_version_tag == tag ? tag : 0;
    self->handle_tag = handle->tp_version_tag == handle_tag ? handle_tag : 0;
    self->handles_differ = n > 2;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(old); i++) {
        Py_XDECREF(old[i]);
    }
    Py_DECREF(terms);
    return 0;
}

static bool
stock_is_judged(al_state *st, const StockObject *self, PyTypeObject *type)
{
    unsigned int handle_tag = ((PyTypeObject *)st->Handle)->tp_version_tag;
    return (PyObject *)type == self->type && self->tag != 0
           && type->tp_version_tag == self->tag
           && (self->handles_differ
               || (self->handle_tag != 0 && handle_tag == self->handle_tag));
}

/* Tell whether a loop is of uvloop's making. */
static bool
stock_is_native(const StockObject *self, PyObject *loop)
{
    return self->native != NULL
           && PyObject_TypeCheck(loop, (PyTypeObject *)self->native);
}

/* ------------------------------------------------------------ the loop */

/* The attributes of the loop itself, where looking at them as a dict costs it
   nothing (new); else NULL, without an exception. */
static PyObject *
stock_dict(PyObject *loop)
{
    if (!AL_DICT_IS_FREE) {
        return NULL;
    }
    PyObject *dict = PyObject_GenericGetDict(loop, NULL);
    if (dict == NULL) {
        PyErr_Clear(); /* it has none; MemoryError: the other way works */
    }
    return dict;
}

/* loop.name is that method of its type, for the loop has none of its own: 1 or
   0; -1 with an exception. */
static int
stock_has_method(PyObject *loop, PyObject *dict, PyObject *name,
                 PyObject *function)
{
    if (dict != NULL) {
        int own = PyDict_Contains(dict, name);
        return own < 0 ? -1 : !own;
    }
    return al_is_method(loop, name, function);
}

/* An attribute of a loop that only the loop itself has, not its type (new);
   NULL with an exception, or without one if there is none. */
static PyObject *
stock_attribute(PyObject *loop, PyObject *dict, PyObject *name)
{
    return dict == NULL ? PyObject_GetAttr(loop, name)
                        : Py_XNewRef(PyDict_GetItemWithError(dict, name));
}

/* What is found is that very object, a constant: 1 or 0; -1 with an exception.
   Steals what is found. */
static int
stock_is(PyObject *found, PyObject *what)
{
    if (found == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_DECREF(found);
    return found == what;
}

/* create_task is the loop's own, and there is no task factory. */
static int
stock_makes(al_state *st, const StockObject *self, PyObject *loop,
            PyObject *dict)
{
    int makes = stock_has_method(loop, dict, st->s_create_task, self->maker);
    if (makes <= 0) {
        return makes;
    }
    return stock_is(stock_is_native(self, loop)
                        ? PyObject_CallOneArg(self->factory, loop)
                        : stock_attribute(loop, dict, st->s__task_factory),
                    Py_None);
}

/* call_soon is the loop's own, and nobody debugs. */
static int
stock_calls(al_state *st, const StockObject *self, PyObject *loop,
            PyObject *dict)
{
    if (self->call_soon == NULL) {
        return 0;
    }
    int calls = stock_has_method(loop, dict, st->s_call_soon, self->call_soon);
    if (calls <= 0) {
        return calls;
    }
    return stock_is(stock_is_native(self, loop)
                        ? PyObject_CallOneArg(self->debug, loop)
                        : stock_attribute(loop, dict, st->s__debug),
                    Py_False);
}

/* Judge the type of the bound loop if that is to be done.  -1 with an
   exception. */
static int
stock_know(al_state *st, StockObject *self, const al_loop *bound)
{
    PyTypeObject *type = Py_TYPE(bound->loop);
    return stock_is_judged(st, self, type) ? 0 : stock_judge(st, self, type);
}

al_stock
al_stock_ask(al_state *st, const al_loop *bound, al_stock most)
{
    StockObject *self = (StockObject *)st->stock;
    if (stock_know(st, self, bound) < 0) {
        return AL_STOCK_ERROR;
    }
    if (self->maker == NULL) {
        return AL_STOCK_NOTHING;
    }
    /* The dict of a module, for a module's attributes are slow. */
    PyObject *task_type = PyDict_GetItemWithError(
        PyModule_GetDict(st->tasks_module), st->s_Task);
    if (task_type != st->Task) {
        return PyErr_Occurred() ? AL_STOCK_ERROR : AL_STOCK_NOTHING;
    }
    PyObject *dict = stock_dict(bound->loop);
    int makes = stock_makes(st, self, bound->loop, dict);
    int calls = 0;
    if (makes > 0 && most == AL_STOCK_CALLS) {
        calls = stock_calls(st, self, bound->loop, dict);
    }
    Py_XDECREF(dict);
    return makes < 0 || calls < 0 ? AL_STOCK_ERROR
           : calls                ? AL_STOCK_CALLS
           : makes                ? AL_STOCK_TASKS
                                  : AL_STOCK_NOTHING;
}

int
al_stock_shares(al_state *st, const al_loop *bound)
{
    StockObject *self = (StockObject *)st->stock;
    if (stock_know(st, self, bound) < 0) {
        return -1;
    }
    PyObject *dict = stock_dict(bound->loop);
    int shares = stock_calls(st, self, bound->loop, dict);
    Py_XDECREF(dict);
    return shares;
}

int
al_stock_is_open(al_state *st, PyObject *loop)
{
    StockObject *self = (StockObject *)st->stock;
    if (stock_is_native(self, loop)) {
        return stock_is(PyObject_CallOneArg(self->closed, loop), Py_False);
    }
    PyObject *dict = stock_dict(loop);
    int open = stock_is(stock_attribute(loop, dict, st->s__closed), Py_False);
    Py_XDECREF(dict);
    return open;
}

bool
al_stock_is_native(al_state *st, PyObject *loop)
{
    return stock_is_native((StockObject *)st->stock, loop);
}

/* ----------------------------------------------------------- its queue */

typedef struct {
    PyObject *wanted; /* borrowed: the type */
    PyObject *found;  /* borrowed, or NULL */
} stock_search;

static int
stock_visit(PyObject *object, void *arg)
{
    stock_search *search = arg;
    if ((PyObject *)Py_TYPE(object) == search->wanted) {
        search->found = object;
    }
    return search->found != NULL;
}

PyObject *
al_stock_held(PyObject *object, PyTypeObject *type, PyObject *wanted)
{
    stock_search search = {wanted, NULL};
    if (type->tp_traverse != NULL) {
        (void)type->tp_traverse(object, stock_visit, &search);
    }
    return Py_XNewRef(search.found);
}

PyObject *
al_stock_queue(al_state *st, PyObject *loop)
{
    StockObject *self = (StockObject *)st->stock;
    PyObject *queue = NULL;
    if (stock_is_native(self, loop)) {
        queue = al_stock_held(loop, (PyTypeObject *)self->native, st->deque);
    }
    else {
        PyObject *dict = stock_dict(loop);
        queue = stock_attribute(loop, dict, st->s__ready);
        Py_XDECREF(dict);
    }
    if (queue == NULL) {
        PyErr_Clear(); /* none to be seen; loop_terms() wants no property */
    }
    else if ((PyObject *)Py_TYPE(queue) != st->deque) {
        Py_CLEAR(queue);
    }
    return queue;
}

/* ---------------------------------------------------------- GC and spec */

static int
stock_traverse(PyObject *op, visitproc visit, void *arg)
{
    StockObject *self = (StockObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->type);
    Py_VISIT(self->maker);
    Py_VISIT(self->call_soon);
    Py_VISIT(self->native);
    Py_VISIT(self->factory);
    Py_VISIT(self->debug);
    Py_VISIT(self->closed);
    return 0;
}

static int
stock_clear(PyObject *op)
{
    StockObject *self = (StockObject *)op;
    Py_CLEAR(self->type);
    Py_CLEAR(self->maker);
    Py_CLEAR(self->call_soon);
    Py_CLEAR(self->native);
    Py_CLEAR(self->factory);
    Py_CLEAR(self->debug);
    Py_CLEAR(self->closed);
    return 0;
}

static void
stock_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)stock_clear(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot stock_slots[] = {
    {Py_tp_traverse, stock_traverse},
    {Py_tp_clear, stock_clear},
    {Py_tp_dealloc, stock_dealloc},
    {0, NULL},
};

static PyType_Spec stock_spec = {
    .name = "pyasynclife._core.Stock",
    .basicsize = sizeof(StockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = stock_slots,
};

int
al_stock_setup(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->Stock, &stock_spec, false) < 0) {
        return -1;
    }
    StockObject *self =
        AL_ALLOC(PyObject_GC_New(StockObject, (PyTypeObject *)st->Stock));
    if (self == NULL) {
        return -1;
    }
    self->type = self->maker = self->call_soon = self->native = NULL;
    self->factory = self->debug = self->closed = NULL;
    self->tag = self->handle_tag = 0;
    self->handles_differ = false;
    PyObject_GC_Track((PyObject *)self);
    st->stock = (PyObject *)self;
    return 0;
}
