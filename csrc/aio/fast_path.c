/* Decides which fast paths are safe on a loop of asyncio or uvloop.
 *
 * This is rule R3 of docs/internals/capture.md.  A Task made by calling the
 * Task type is what create_task makes, less two frames, if
 *   - the loop's create_task is asyncio's or uvloop's own,
 *   - no task factory is set,
 *   - asyncio.Task is the C type, and
 *   - no tool of sys.monitoring looks at the functions that are bypassed.
 * Calls may also share a handle if
 *   - the loop's call_soon and _run_once are its own as well,
 *   - the loop is not in debug mode, and
 *   - asyncio's Handle is as asyncio made it: some profilers patch it.
 *
 * The type of a loop is examined in Python, by loop_fast_paths(): once, and
 * again when that type, Handle, or the code of one of asyncio's functions has
 * changed, which CPython's type version tags tell and a comparison of code
 * objects.  The loop itself is looked at each time: anybody may set an
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

#include <string.h>

/* The facts about one type of loop. */
typedef struct {
    PyObject *type;        /* owned: that type; NULL: none yet */
    PyObject *create_task; /* owned: its own; NULL: no fast path */
    PyObject *call_soon;   /* owned: its own; NULL: no sharing of handles */
    PyObject *functions;   /* owned: tuple of asyncio's own that it bypasses */
    PyObject *codes;       /* owned: tuple, the code of each when examined */
    PyObject *uvloop;      /* owned: uvloop's native type, or NULL; and its */
    PyObject *get_task_factory;  /* owned */
    PyObject *get_debug;         /* owned */
    PyObject *is_closed;         /* owned */
    unsigned int version;        /* of that type when examined; 0: unknown */
    unsigned int handle_version; /* of asyncio's Handle then */
} fast_path_facts;

/* There is one for each module, st->fast_path.  Two types are remembered: a
   program may use asyncio's loop and uvloop in turn. */
typedef struct {
    PyObject_HEAD
    fast_path_facts known[2];
    fast_path_facts *last;   /* the one in use: another makes room */
    uint64_t tasks_version;  /* of asyncio.tasks, where Task was found */
    uint64_t events_version; /* of asyncio.events, where Handle was found */
} FastPathObject;

static const fast_path_facts fast_path_nothing = {0};

/* ----------------------------------------------------------- the type */

/* Drop the references of facts that were detached.  Runs Python. */
static void
fast_path_drop(fast_path_facts *old)
{
    Py_XDECREF(old->create_task);
    Py_XDECREF(old->call_soon);
    Py_XDECREF(old->functions);
    Py_XDECREF(old->codes);
    Py_XDECREF(old->uvloop);
    Py_XDECREF(old->get_task_factory);
    Py_XDECREF(old->get_debug);
    Py_XDECREF(old->is_closed);
    Py_XDECREF(old->type);
}

/* fast_path_recall() for another type than the last. */
static fast_path_facts *
fast_path_recall_other(FastPathObject *self, PyTypeObject *type)
{
    for (int i = 0; i < 2; i++) {
        if (self->known[i].type == (PyObject *)type) {
            self->last = &self->known[i];
            return self->last;
        }
    }
    return NULL;
}

/* Return what is remembered of a type, current or not; NULL: nothing. */
static inline fast_path_facts *
fast_path_recall(al_state *st, PyTypeObject *type)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    return self->last->type == (PyObject *)type
               ? self->last
               : fast_path_recall_other(self, type);
}

/* Return a type's version tag, which changes whenever the type does. */
static unsigned int
fast_path_version(al_state *st, PyTypeObject *type)
{
    /* A lookup assigns a tag to a type that has none. */
    (void)PyObject_HasAttr((PyObject *)type, st->s_call_soon);
    return type->tp_version_tag;
}

/* Examine a type of loop, and remember the result, which is returned.  NULL
   with an exception. */
static const fast_path_facts *
fast_path_examine(al_state *st, PyTypeObject *type)
{
    PyTypeObject *handle = (PyTypeObject *)st->Handle;
    unsigned int version = fast_path_version(st, type);
    unsigned int handle_version = fast_path_version(st, handle);
    PyObject *terms =
        PyObject_CallOneArg(st->loop_fast_paths, (PyObject *)type);
    if (terms == NULL) {
        return NULL;
    }
    FastPathObject *self = (FastPathObject *)st->fast_path;
    fast_path_facts *facts = fast_path_recall(st, type);
    if (facts == NULL) {
        facts = &self->known[self->last == &self->known[0]];
        self->last = facts;
    }
    fast_path_facts old = *facts;
    PyObject **fields[] = {
        &facts->create_task, &facts->call_soon, &facts->functions,
        &facts->codes,       &facts->uvloop,    &facts->get_task_factory,
        &facts->get_debug,   &facts->is_closed,
    };
    memset(facts, 0, sizeof(*facts));
    facts->type = Py_NewRef((PyObject *)type);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(terms); i++) {
        PyObject *term = PyTuple_GET_ITEM(terms, i);
        *fields[i] = term == Py_None ? NULL : Py_NewRef(term);
    }
    /* If a type has changed meanwhile it is examined again next time. */
    facts->version = type->tp_version_tag == version ? version : 0;
    facts->handle_version =
        handle->tp_version_tag == handle_version ? handle_version : 0;
    fast_path_drop(&old);
    Py_DECREF(terms);
    /* To drop a type may run code, which may have other types examined. */
    return facts->type == (PyObject *)type ? facts : &fast_path_nothing;
}

/* Tell whether each function still has the code that it had: what replaces
   f.__code__, as ddtrace does, changes neither f nor its class. */
static bool
fast_path_has_same_code(const fast_path_facts *facts)
{
    Py_ssize_t n = PyTuple_GET_SIZE(facts->codes);
    for (Py_ssize_t i = 0; i < n; i++) {
        if (PyFunction_GET_CODE(PyTuple_GET_ITEM(facts->functions, i))
            != PyTuple_GET_ITEM(facts->codes, i))
        {
            return false;
        }
    }
    return true;
}

/* Tell whether facts hold for their type as it is now. */
static bool
fast_path_is_current(al_state *st, const fast_path_facts *facts)
{
    PyTypeObject *type = (PyTypeObject *)facts->type;
    unsigned int handle_version = ((PyTypeObject *)st->Handle)->tp_version_tag;
    return facts->version != 0 && type->tp_version_tag == facts->version
           && (facts->uvloop != NULL
               || (facts->handle_version != 0
                   && handle_version == facts->handle_version))
           && fast_path_has_same_code(facts);
}

/* Return the facts about a type of loop, which is examined unless they are
   known and hold.  NULL with an exception.  They are the type's until Python
   runs. */
static inline const fast_path_facts *
fast_path_of_type(al_state *st, PyTypeObject *type)
{
    const fast_path_facts *facts = fast_path_recall(st, type);
    return facts != NULL && fast_path_is_current(st, facts)
               ? facts
               : fast_path_examine(st, type);
}

/* Tell whether a tool of sys.monitoring wants to see one of the functions
   called: 1 or 0; -1 with an exception.  Runs Python. */
static int
fast_path_is_monitored(al_state *st, const fast_path_facts *facts)
{
    Py_ssize_t n = PyTuple_GET_SIZE(facts->codes), i = 0;
    while (i < n
           && !AL_CODE_MAY_BE_MONITORED(PyTuple_GET_ITEM(facts->codes, i)))
    {
        i++;
    }
    if (i == n) {
        return 0;
    }
    PyObject *codes = Py_NewRef(facts->codes);
    int is = al_object_truth(PyObject_CallOneArg(st->is_monitored, codes));
    Py_DECREF(codes);
    return is;
}

/* Tell whether a loop is uvloop's. */
static bool
fast_path_is_uvloop(const fast_path_facts *facts, PyObject *loop)
{
    return facts != NULL && facts->uvloop != NULL
           && PyObject_TypeCheck(loop, (PyTypeObject *)facts->uvloop);
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

/* Tell whether a module of asyncio still has the type that was there at
   import: 1 or 0; -1 with an exception.  *version is that of the module's dict
   where it was last found. */
static inline int
fast_path_has_type(PyObject *dict, uint64_t *version, PyObject *name,
                   PyObject *type)
{
    uint64_t now = al_dict_version(dict);
    if (now != 0 && now == *version) {
        return 1;
    }
    PyObject *found = PyDict_GetItemWithError(dict, name);
    if (found == type) {
        *version = now;
        return 1;
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* Tell whether calling the Task type is safe: asyncio's is the C type,
   create_task is the loop's own, and there is no task factory.  1 or 0; -1
   with an exception. */
static int
fast_path_can_make_task(al_state *st, const fast_path_facts *facts,
                        PyObject *loop, PyObject *dict)
{
    FastPathObject *self = (FastPathObject *)st->fast_path;
    int own = fast_path_has_type(st->tasks_dict, &self->tasks_version,
                                 st->s_Task, st->Task);
    if (own > 0) {
        own = fast_path_has_method(loop, dict, st->s_create_task,
                                   facts->create_task);
    }
    if (own <= 0) {
        return own;
    }
    return fast_path_is(
        fast_path_is_uvloop(facts, loop)
            ? PyObject_CallOneArg(facts->get_task_factory, loop)
            : fast_path_attribute(loop, dict, st->s__task_factory),
        Py_None);
}

/* Tell whether sharing a handle is safe: call_soon is the loop's own, it makes
   asyncio's handles, and it is not in debug mode.  1 or 0; -1 with an
   exception. */
static int
fast_path_can_share(al_state *st, const fast_path_facts *facts, PyObject *loop,
                    PyObject *dict)
{
    if (facts->call_soon == NULL) {
        return 0;
    }
    bool uvloop = fast_path_is_uvloop(facts, loop);
    int own =
        fast_path_has_method(loop, dict, st->s_call_soon, facts->call_soon);
    if (own > 0 && !uvloop) {
        FastPathObject *self = (FastPathObject *)st->fast_path;
        own = fast_path_has_type(st->events_dict, &self->events_version,
                                 st->s_Handle, st->Handle);
    }
    if (own <= 0) {
        return own;
    }
    return fast_path_is(uvloop ? PyObject_CallOneArg(facts->get_debug, loop)
                               : fast_path_attribute(loop, dict, st->s__debug),
                        Py_False);
}

al_fast_path
al_fast_path_find(al_state *st, const al_loop *bound, al_fast_path most)
{
    const fast_path_facts *facts = fast_path_of_type(st, Py_TYPE(bound->loop));
    if (facts == NULL) {
        return AL_FAST_PATH_ERROR;
    }
    if (facts->create_task == NULL) {
        return AL_FAST_PATH_NONE;
    }
    PyObject *dict = fast_path_dict(bound->loop);
    int makes = fast_path_can_make_task(st, facts, bound->loop, dict);
    int shares = 0;
    if (makes > 0 && most == AL_FAST_PATH_HANDLE) {
        shares = fast_path_can_share(st, facts, bound->loop, dict);
    }
    Py_XDECREF(dict);
    int seen = makes > 0 ? fast_path_is_monitored(st, facts) : 0;
    return makes < 0 || shares < 0 || seen < 0 ? AL_FAST_PATH_ERROR
           : !makes || seen                    ? AL_FAST_PATH_NONE
           : shares                            ? AL_FAST_PATH_HANDLE
                                               : AL_FAST_PATH_TASK;
}

int
al_fast_path_can_share(al_state *st, const al_loop *bound)
{
    if (st->is_plain == Py_True) {
        return 0;
    }
    const fast_path_facts *facts = fast_path_of_type(st, Py_TYPE(bound->loop));
    if (facts == NULL) {
        return -1;
    }
    PyObject *dict = fast_path_dict(bound->loop);
    int shares = fast_path_can_share(st, facts, bound->loop, dict);
    Py_XDECREF(dict);
    if (shares <= 0) {
        return shares;
    }
    int seen = fast_path_is_monitored(st, facts);
    return seen < 0 ? -1 : !seen;
}

int
al_fast_path_is_open(al_state *st, PyObject *loop)
{
    const fast_path_facts *facts = fast_path_recall(st, Py_TYPE(loop));
    if (fast_path_is_uvloop(facts, loop)) {
        return fast_path_is(PyObject_CallOneArg(facts->is_closed, loop),
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
    return fast_path_is_uvloop(fast_path_recall(st, Py_TYPE(loop)), loop);
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
    const fast_path_facts *facts = fast_path_recall(st, Py_TYPE(loop));
    PyObject *queue = NULL;
    if (fast_path_is_uvloop(facts, loop)) {
        queue = al_fast_path_find_referent(loop, (PyTypeObject *)facts->uvloop,
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
    Py_VISIT(Py_TYPE(op));
    for (int i = 0; i < 2; i++) {
        const fast_path_facts *facts = &((FastPathObject *)op)->known[i];
        Py_VISIT(facts->type);
        Py_VISIT(facts->create_task);
        Py_VISIT(facts->call_soon);
        Py_VISIT(facts->functions);
        Py_VISIT(facts->codes);
        Py_VISIT(facts->uvloop);
        Py_VISIT(facts->get_task_factory);
        Py_VISIT(facts->get_debug);
        Py_VISIT(facts->is_closed);
    }
    return 0;
}

static int
fast_path_clear(PyObject *op)
{
    for (int i = 0; i < 2; i++) {
        fast_path_facts *facts = &((FastPathObject *)op)->known[i];
        fast_path_facts old = *facts;
        memset(facts, 0, sizeof(*facts));
        fast_path_drop(&old);
    }
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
    memset(self->known, 0, sizeof(self->known));
    self->last = &self->known[0];
    self->tasks_version = self->events_version = 0;
    PyObject_GC_Track((PyObject *)self);
    st->fast_path = (PyObject *)self;
    return 0;
}
