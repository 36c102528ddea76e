/* Decides which fast paths are safe on a loop of asyncio or uvloop.
 *
 * This is rule R3 of docs/internals/capture.md.  A Task made by calling the
 * Task type is what create_task makes, less two frames, if
 *   - the loop's create_task is asyncio's or uvloop's own,
 *   - no task factory is set, and
 *   - asyncio.Task is the C type.
 * Calls may also share a handle if
 *   - the loop's call_soon is its own as well,
 *   - the loop is not in debug mode, and
 *   - asyncio's Handle is as asyncio made it: some profilers patch it.
 *
 * The type of a loop is examined in Python, by loop_fast_paths(): once, and
 * again when that type or Handle has changed, which CPython's type version
 * tags tell.  The loop itself is looked at each time: anybody may set an
 * attribute of it.
 *
 * Each question fetches the loop's dict anew.  To pass it on from the question
 * to the scheduling of the Task would save 40 of the 15,000 instructions of a
 * child; but finalizers may run while the Task is made, and a dict that they
 * replace would not be noticed.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/fast_path.h"

/* The facts about the last type of loop that was examined.  There is one for
   each module, st->fast_path. */
typedef struct {
    PyObject_HEAD
    PyObject *type;        /* owned: that type */
    PyObject *create_task; /* owned: its own; NULL: no fast path */
    PyObject *call_soon;   /* owned: its own; NULL: no sharing of handles */
    PyObject *uvloop;      /* owned: uvloop's native type, or NULL; and its */
    PyObject *get_task_factory;  /* owned */
    PyObject *get_debug;         /* owned */
    PyObject *is_closed;         /* owned */
    unsigned int version;        /* of that type when examined; 0: unknown */
    unsigned int handle_version; /* of asyncio's Handle then */
    bool has_own_handles;        /* that type's are not asyncio's */
} FastPathObject;

/* ----------------------------------------------------------- the type */

/* Return a type's version tag, which changes whenever the type does. */
static unsigned int
fast_path_version(al_state *st, PyTypeObject *type)
{
    /* A lookup assigns a tag to a type that has none. */
    (void)PyObject_HasAttr((PyObject *)type, st->s_call_soon);
    return type->tp_version_tag;
}

/* Examine a type of loop, and remember the result.  -1 with an exception. */
static int
fast_path_examine(al_state *st, FastPathObject *self, PyTypeObject *type)
{
    PyTypeObject *handle = (PyTypeObject *)st->Handle;
    unsigned int version = fast_path_version(st, type);
    unsigned int handle_version = fast_path_version(st, handle);
    PyObject *terms =
        PyObject_CallOneArg(st->loop_fast_paths, (PyObject *)type);
    if (terms == NULL) {
        return -1;
    }
    PyObject **fields[] = {&self->create_task, &self->call_soon,
                           &self->uvloop,      &self->get_task_factory,
                           &self->get_debug,   &self->is_closed};
    PyObject *old[Py_ARRAY_LENGTH(fields) + 1] = {self->type};
    Py_ssize_t n = PyTuple_GET_SIZE(terms); /* two, or all for uvloop's */
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *term = PyTuple_GET_ITEM(terms, i);
        old[i + 1] = *fields[i];
        *fields[i] = term == Py_None ? NULL : Py_NewRef(term);
    }
    self->type = Py_NewRef((PyObject *)type);
    /* If a type has changed meanwhile it is examined again next time. */
    self->version = type->tp_version_tag == version ? version : 0;
    self->handle_version =
        handle->tp_version_tag == handle_version ? handle_version : 0;
    self->has_own_handles = n > 2;
    for (size_t i = 0; i < Py_ARRAY_LENGTH(old); i++) {
        Py_XDECREF(old[i]);
    }
    Py_DECREF(terms);
    return 0;
}

/* Tell whether the facts that are remembered hold for a type of loop. */
static bool
fast_path_is_current(al_state *st, const FastPathObject *self,
                     PyTypeObject *type)
{
    unsigned int handle_version = ((PyTypeObject *)st->Handle)->tp_version_tag;
    return (PyObject *)type == self->type && self->version != 0
           && type->tp_version_tag == self->version
           && (self->has_own_handles
               || (self->handle_version != 0
                   && handle_version == self->handle_version));
}

/* Examine a type of loop, unless the facts that are remembered hold for it.
   -1 with an exception. */
static inline int
fast_path_update(al_state *st, FastPathObject *self, PyTypeObject *type)
{
    return fast_path_is_current(st, self, type)
               ? 0
               : fast_path_examine(st, self, type);
}

/* Tell whether a loop is uvloop's. */
static bool
fast_path_is_uvloop(const FastPathObject *self, PyObject *loop)
{
    return self->uvloop != NULL
           && PyObject_TypeCheck(loop, (PyTypeObject *)self->uvloop);
}

/* ------------------------------------------------------------ the loop */

/* Return the loop's own attributes as a dict (new); NULL without an exception
   where to look at them so would slow the loop down (see AL_DICT_IS_FREE). */
static PyObject *
fast_path_dict(PyObject *loop)
{
    if (!AL_DICT_IS_FREE) {
        return NULL;
    }
    PyObject *dict = PyObject_GenericGetDict(loop, NULL);
    if (dict == NULL) {
        PyErr_Clear(); /* it has none, or MemoryError: getattr works too */
    }
    return dict;
}

/* Tell whether loop.name is the method `function` of its type, not replaced on
   the loop itself: 1 or 0; -1 with an exception. */
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

/* Return an attribute that asyncio's loops set on themselves (new); NULL with
   an exception, or without one if there is none.  loop_fast_paths() has made
   sure that the type has no such attribute, which might be a property. */
static PyObject *
fast_path_attribute(PyObject *loop, PyObject *dict, PyObject *name)
{
    return dict == NULL ? PyObject_GetAttr(loop, name)
                        : Py_XNewRef(PyDict_GetItemWithError(dict, name));
}

/* Tell whether what was found (stolen; NULL: nothing, or it raised) is that
   constant: 1 or 0; -1 with an exception. */
static int
fast_path_is(PyObject *found, PyObject *constant)
{
    if (found == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_DECREF(found);
    return found == constant;
}

/* Tell whether calling the Task type is safe: create_task is the loop's own,
   and there is no task factory.  1 or 0; -1 with an exception. */
static int
fast_path_can_make_task(al_state *st, const FastPathObject *self,
                        PyObject *loop, PyObject *dict)
{
    int own =
        fast_path_has_method(loop, dict, st->s_create_task, self->create_task);
    if (own <= 0) {
        return own;
    }
    return fast_path_is(
        fast_path_is_uvloop(self, loop)
            ? PyObject_CallOneArg(self->get_task_factory, loop)
            : fast_path_attribute(loop, dict, st->s__task_factory),
        Py_None);
}

/* Tell whether sharing a handle is safe: call_soon is the loop's own, and it
   is not in debug mode.  1 or 0; -1 with an exception. */
static int
fast_path_can_share(al_state *st, const FastPathObject *self, PyObject *loop,
                    PyObject *dict)
{
    if (self->call_soon == NULL) {
        return 0;
    }
    int own =
        fast_path_has_method(loop, dict, st->s_call_soon, self->call_soon);
    if (own <= 0) {
        return own;
    }
    return fast_path_is(fast_path_is_uvloop(self, loop)
                            ? PyObject_CallOneArg(self->get_debug, loop)
                            : fast_path_attribute(loop, dict, st->s__debug),
                        Py_False);
}

al_fast_path
al_fast_path_find(al_state *st, const al_loop *bound, al_fast_path most)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    if (fast_path_update(st, self, Py_TYPE(bound->loop)) < 0) {
        return AL_FAST_PATH_ERROR;
    }
    if (self->create_task == NULL) {
        return AL_FAST_PATH_NONE;
    }
    /* Read from the dict: getattr on a module is slow. */
    PyObject *task_type = PyDict_GetItemWithError(
        PyModule_GetDict(st->tasks_module), st->s_Task);
    if (task_type != st->Task) {
        return PyErr_Occurred() ? AL_FAST_PATH_ERROR : AL_FAST_PATH_NONE;
    }
    PyObject *dict = fast_path_dict(bound->loop);
    int makes = fast_path_can_make_task(st, self, bound->loop, dict);
    int shares = 0;
    if (makes > 0 && most == AL_FAST_PATH_HANDLE) {
        shares = fast_path_can_share(st, self, bound->loop, dict);
    }
    Py_XDECREF(dict);
    return makes < 0 || shares < 0 ? AL_FAST_PATH_ERROR
           : shares                ? AL_FAST_PATH_HANDLE
           : makes                 ? AL_FAST_PATH_TASK
                                   : AL_FAST_PATH_NONE;
}

int
al_fast_path_can_share(al_state *st, const al_loop *bound)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    if (fast_path_update(st, self, Py_TYPE(bound->loop)) < 0) {
        return -1;
    }
    PyObject *dict = fast_path_dict(bound->loop);
    int shares = fast_path_can_share(st, self, bound->loop, dict);
    Py_XDECREF(dict);
    return shares;
}

int
al_fast_path_is_open(al_state *st, PyObject *loop)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    if (fast_path_is_uvloop(self, loop)) {
        return fast_path_is(PyObject_CallOneArg(self->is_closed, loop),
                            Py_False);
    }
    PyObject *dict = fast_path_dict(loop);
    int open =
        fast_path_is(fast_path_attribute(loop, dict, st->s__closed), Py_False);
    Py_XDECREF(dict);
    return open;
}

bool
al_fast_path_is_uvloop(al_state *st, PyObject *loop)
{
    return fast_path_is_uvloop((FastPathObject *)st->fast_path, loop);
}

/* ----------------------------------------------------- the ready queue */

/* The search of a traversal. */
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
al_fast_path_find_referent(PyObject *object, PyTypeObject *type,
                           PyObject *wanted)
{
    fast_path_search search = {wanted, NULL};
    if (type->tp_traverse != NULL) {
        (void)type->tp_traverse(object, fast_path_visit, &search);
    }
    return Py_XNewRef(search.found);
}

PyObject *
al_fast_path_ready_queue(al_state *st, PyObject *loop)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    PyObject *queue = NULL;
    if (fast_path_is_uvloop(self, loop)) {
        queue = al_fast_path_find_referent(loop, (PyTypeObject *)self->uvloop,
                                           st->deque);
    }
    else {
        PyObject *dict = fast_path_dict(loop);
        queue = fast_path_attribute(loop, dict, st->s__ready);
        Py_XDECREF(dict);
    }
    if (queue == NULL) {
        PyErr_Clear(); /* no such attribute, or no memory */
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
    Py_VISIT(self->create_task);
    Py_VISIT(self->call_soon);
    Py_VISIT(self->uvloop);
    Py_VISIT(self->get_task_factory);
    Py_VISIT(self->get_debug);
    Py_VISIT(self->is_closed);
    return 0;
}

static int
fast_path_clear(PyObject *op)
{
    FastPathObject *self = (FastPathObject *)op;
    Py_CLEAR(self->type);
    Py_CLEAR(self->create_task);
    Py_CLEAR(self->call_soon);
    Py_CLEAR(self->uvloop);
    Py_CLEAR(self->get_task_factory);
    Py_CLEAR(self->get_debug);
    Py_CLEAR(self->is_closed);
    return 0;
}

static PyType_Slot fast_path_slots[] = {
    {Py_tp_traverse, fast_path_traverse},
    {Py_tp_clear, fast_path_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec fast_path_spec = {
    .name = "pyasynclife._core.FastPath",
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
    self->type = self->create_task = self->call_soon = self->uvloop = NULL;
    self->get_task_factory = self->get_debug = self->is_closed = NULL;
    self->version = self->handle_version = 0;
    self->has_own_handles = false;
    PyObject_GC_Track((PyObject *)self);
    st->fast_path = (PyObject *)self;
    return 0;
}
