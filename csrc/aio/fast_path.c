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
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/fast_path.h"

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
} FastPathObject;

/* ----------------------------------------------------------- the type */

/* A type's version, which changes with it. */
static unsigned int
fast_path_tag(al_state *st, PyTypeObject *type)
{
    (void)PyObject_HasAttr((PyObject *)type, st->s_call_soon); /* gives one */
    return type->tp_version_tag;
}

/* Judge a type of loop.  -1 with an exception. */
static int
fast_path_judge(al_state *st, FastPathObject *self, PyTypeObject *type)
{
    PyTypeObject *handle = (PyTypeObject *)st->Handle;
    unsigned int tag = fast_path_tag(st, type);
    unsigned int handle_tag = fast_path_tag(st, handle);
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
fast_path_is_judged(al_state *st, const FastPathObject *self,
                    PyTypeObject *type)
{
    unsigned int handle_tag = ((PyTypeObject *)st->Handle)->tp_version_tag;
    return (PyObject *)type == self->type && self->tag != 0
           && type->tp_version_tag == self->tag
           && (self->handles_differ
               || (self->handle_tag != 0 && handle_tag == self->handle_tag));
}

/* Tell whether a loop is of uvloop's making. */
static bool
fast_path_is_native(const FastPathObject *self, PyObject *loop)
{
    return self->native != NULL
           && PyObject_TypeCheck(loop, (PyTypeObject *)self->native);
}

/* ------------------------------------------------------------ the loop */

/* The attributes of the loop itself, where looking at them as a dict costs it
   nothing (new); else NULL, without an exception. */
static PyObject *
fast_path_dict(PyObject *loop)
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
fast_path_has_method(PyObject *loop, PyObject *dict, PyObject *name,
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
fast_path_attribute(PyObject *loop, PyObject *dict, PyObject *name)
{
    return dict == NULL ? PyObject_GetAttr(loop, name)
                        : Py_XNewRef(PyDict_GetItemWithError(dict, name));
}

/* What is found is that very object, a constant: 1 or 0; -1 with an exception.
   Steals what is found. */
static int
fast_path_is(PyObject *found, PyObject *what)
{
    if (found == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_DECREF(found);
    return found == what;
}

/* create_task is the loop's own, and there is no task factory. */
static int
fast_path_makes(al_state *st, const FastPathObject *self, PyObject *loop,
                PyObject *dict)
{
    int makes =
        fast_path_has_method(loop, dict, st->s_create_task, self->maker);
    if (makes <= 0) {
        return makes;
    }
    return fast_path_is(
        fast_path_is_native(self, loop)
            ? PyObject_CallOneArg(self->factory, loop)
            : fast_path_attribute(loop, dict, st->s__task_factory),
        Py_None);
}

/* call_soon is the loop's own, and nobody debugs. */
static int
fast_path_calls(al_state *st, const FastPathObject *self, PyObject *loop,
                PyObject *dict)
{
    if (self->call_soon == NULL) {
        return 0;
    }
    int calls =
        fast_path_has_method(loop, dict, st->s_call_soon, self->call_soon);
    if (calls <= 0) {
        return calls;
    }
    return fast_path_is(fast_path_is_native(self, loop)
                            ? PyObject_CallOneArg(self->debug, loop)
                            : fast_path_attribute(loop, dict, st->s__debug),
                        Py_False);
}

/* Judge the type of the bound loop if that is to be done.  -1 with an
   exception. */
static int
fast_path_know(al_state *st, FastPathObject *self, const al_loop *bound)
{
    PyTypeObject *type = Py_TYPE(bound->loop);
    return fast_path_is_judged(st, self, type)
               ? 0
               : fast_path_judge(st, self, type);
}

al_fast_path
al_fast_path_ask(al_state *st, const al_loop *bound, al_fast_path most)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    if (fast_path_know(st, self, bound) < 0) {
        return AL_FAST_PATH_ERROR;
    }
    if (self->maker == NULL) {
        return AL_FAST_PATH_NOTHING;
    }
    /* The dict of a module, for a module's attributes are slow. */
    PyObject *task_type = PyDict_GetItemWithError(
        PyModule_GetDict(st->tasks_module), st->s_Task);
    if (task_type != st->Task) {
        return PyErr_Occurred() ? AL_FAST_PATH_ERROR : AL_FAST_PATH_NOTHING;
    }
    PyObject *dict = fast_path_dict(bound->loop);
    int makes = fast_path_makes(st, self, bound->loop, dict);
    int calls = 0;
    if (makes > 0 && most == AL_FAST_PATH_CALLS) {
        calls = fast_path_calls(st, self, bound->loop, dict);
    }
    Py_XDECREF(dict);
    return makes < 0 || calls < 0 ? AL_FAST_PATH_ERROR
           : calls                ? AL_FAST_PATH_CALLS
           : makes                ? AL_FAST_PATH_TASKS
                                  : AL_FAST_PATH_NOTHING;
}

int
al_fast_path_shares(al_state *st, const al_loop *bound)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    if (fast_path_know(st, self, bound) < 0) {
        return -1;
    }
    PyObject *dict = fast_path_dict(bound->loop);
    int shares = fast_path_calls(st, self, bound->loop, dict);
    Py_XDECREF(dict);
    return shares;
}

int
al_fast_path_is_open(al_state *st, PyObject *loop)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    if (fast_path_is_native(self, loop)) {
        return fast_path_is(PyObject_CallOneArg(self->closed, loop), Py_False);
    }
    PyObject *dict = fast_path_dict(loop);
    int open =
        fast_path_is(fast_path_attribute(loop, dict, st->s__closed), Py_False);
    Py_XDECREF(dict);
    return open;
}

bool
al_fast_path_is_native(al_state *st, PyObject *loop)
{
    return fast_path_is_native((FastPathObject *)st->fast_path, loop);
}

/* ----------------------------------------------------------- its queue */

typedef struct {
    PyObject *wanted; /* borrowed: the type */
    PyObject *found;  /* borrowed, or NULL */
} fast_path_search;

static int
fast_path_visit(PyObject *object, void *arg)
{
    fast_path_search *search = arg;
    if ((PyObject *)Py_TYPE(object) == search->wanted) {
        search->found = object;
    }
    return search->found != NULL;
}

PyObject *
al_fast_path_held(PyObject *object, PyTypeObject *type, PyObject *wanted)
{
    fast_path_search search = {wanted, NULL};
    if (type->tp_traverse != NULL) {
        (void)type->tp_traverse(object, fast_path_visit, &search);
    }
    return Py_XNewRef(search.found);
}

PyObject *
al_fast_path_queue(al_state *st, PyObject *loop)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    PyObject *queue = NULL;
    if (fast_path_is_native(self, loop)) {
        queue =
            al_fast_path_held(loop, (PyTypeObject *)self->native, st->deque);
    }
    else {
        PyObject *dict = fast_path_dict(loop);
        queue = fast_path_attribute(loop, dict, st->s__ready);
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
fast_path_traverse(PyObject *op, visitproc visit, void *arg)
{
    FastPathObject *self = (FastPathObject *)op;
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
fast_path_clear(PyObject *op)
{
    FastPathObject *self = (FastPathObject *)op;
    Py_CLEAR(self->type);
    Py_CLEAR(self->maker);
    Py_CLEAR(self->call_soon);
    Py_CLEAR(self->native);
    Py_CLEAR(self->factory);
    Py_CLEAR(self->debug);
    Py_CLEAR(self->closed);
    return 0;
}

static PyType_Slot fast_path_slots[] = {
    {Py_tp_traverse, fast_path_traverse},
    {Py_tp_clear, fast_path_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec fast_path_spec = {
    .name = "pyasynclife._core.Stock",
    .basicsize = sizeof(FastPathObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = fast_path_slots,
};

int
al_fast_path_setup(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->FastPath, &fast_path_spec, false) < 0) {
        return -1;
    }
    FastPathObject *self = AL_ALLOC(
        PyObject_GC_New(FastPathObject, (PyTypeObject *)st->FastPath));
    if (self == NULL) {
        return -1;
    }
    self->type = self->maker = self->call_soon = self->native = NULL;
    self->factory = self->debug = self->closed = NULL;
    self->tag = self->handle_tag = 0;
    self->handles_differ = false;
    PyObject_GC_Track((PyObject *)self);
    st->fast_path = (PyObject *)self;
    return 0;
}
