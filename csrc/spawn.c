/* Making a Task of a coroutine, as the loop's create_task would.
 *
 * What create_task is given is handed on untouched, so a task factory sees
 * what it would see from asyncio.  The Task type is called in its place where
 * nobody could tell, and for an eager start, which loops and versions take or
 * refuse each in their own way.
 */
#include "compat.h"
#include "fault.h"
#include "state.h"
#include "loop.h"
#include "capture.h"
#include "spawn.h"

/* loop.create_task(coro, **keywords) */
static PyObject *
spawn_by_loop(al_state *st, const al_loop *bound, PyObject *const *args,
              PyObject *kwnames)
{
    PyObject *stack[AL_TASK_KEYWORDS + 3] = {NULL, bound->loop, args[0]};
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n; i++) {
        stack[3 + i] = args[1 + i];
    }
    return AL_ALLOC(PyObject_VectorcallMethod(
        st->s_create_task, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        kwnames));
}

/* The value of a keyword (borrowed), or NULL. */
static PyObject *
spawn_keyword(PyObject *const *args, PyObject *kwnames, const char *name)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_CompareWithASCIIString(key, name) == 0) {
            return args[1 + i];
        }
    }
    return NULL;
}

/* Refuse an eager start that would hang the loop: a Task that cannot enter its
   context stays the current one for ever (CPython gh-157301). */
static int
spawn_check_context(PyObject *context)
{
    if (context == NULL || context == Py_None) {
        return 0;
    }
    if (!PyContext_CheckExact(context)) {
        PyErr_Format(PyExc_TypeError, "context is a contextvars.Context, "
                     "got %R", context);
        return -1;
    }
    return PyContext_Enter(context) < 0 ? -1 : PyContext_Exit(context);
}

/* Tell whether an eager Task is ours to make: there is no task factory, and
   create_task is no Python code that somebody put there.  A native one,
   uvloop's, may not know of eager_start. */
static int
spawn_is_ours(al_state *st, const al_loop *bound)
{
    PyObject *method = PyObject_GetAttr(bound->loop, st->s_create_task);
    if (method == NULL) {
        return -1;
    }
    PyObject *function =
        PyMethod_Check(method) ? PyMethod_GET_FUNCTION(method) : method;
    int ours = function == bound->maker || !PyFunction_Check(function);
    Py_DECREF(method);
    if (!ours) {
        return 0;
    }
    PyObject *factory = PyObject_CallMethodNoArgs(bound->loop,
                                                  st->s_get_task_factory);
    ours = factory == NULL ? -1 : factory == Py_None;
    Py_XDECREF(factory);
    return ours;
}

/* al_spawn() where eager_start was passed. */
static PyObject *
spawn_eager(al_state *st, const al_loop *bound, PyObject *const *args,
            PyObject *kwnames)
{
    if (!AL_HAS_EAGER_START) {
        PyErr_SetString(PyExc_TypeError,
                        "eager_start needs CPython 3.12 or newer, this is "
                        "3.11");
        return NULL;
    }
    int eager = PyObject_IsTrue(spawn_keyword(args, kwnames, "eager_start"));
    if (eager < 0
        || (eager
            && spawn_check_context(spawn_keyword(args, kwnames, "context")) < 0))
    {
        return NULL;
    }
    int ours = spawn_is_ours(st, bound);
    if (ours <= 0) {
        return ours < 0 ? NULL : spawn_by_loop(st, bound, args, kwnames);
    }
    PyObject *type = PyObject_GetAttr(st->tasks_module, st->s_Task);
    PyObject *task = type == NULL
                         ? NULL
                         : al_loop_make_task(st, type, bound->loop, args[0],
                                           kwnames, args + 1);
    Py_XDECREF(type);
    return task;
}

/* A stock loop that is closed says so in create_task; the Task type would
   leave a Task behind that never runs. */
static int
spawn_is_open(al_state *st, const al_loop *bound)
{
    PyObject *closed = PyObject_GetAttr(bound->loop, st->s__closed);
    int open = closed == NULL ? -1 : closed == Py_False;
    Py_XDECREF(closed);
    return open;
}

/* al_spawn() in a loop of asyncio's own, as it was made. */
static PyObject *
spawn_stock(al_state *st, const al_loop *bound, PyObject *const *args,
            PyObject *kwnames, PyObject *watcher, al_spawned *how)
{
    PyObject *task;
    int captured = al_capture_start(st, bound, args[0], kwnames, args + 1,
                                    watcher, &task);
    if (captured != 0) {
        *how = AL_SPAWNED_WATCHED;
        return captured < 0 ? NULL : task;
    }
    int open = spawn_is_open(st, bound);
    *how = open > 0 ? AL_SPAWNED_LAZY : AL_SPAWNED;
    return open < 0 ? NULL
           : open   ? al_loop_make_task(st, st->Task, bound->loop, args[0],
                                        kwnames, args + 1)
                    : spawn_by_loop(st, bound, args, kwnames);
}

PyObject *
al_spawn(al_state *st, al_loop *bound, PyObject *const *args,
         PyObject *kwnames, PyObject *watcher, al_spawned *how)
{
    *how = AL_SPAWNED;
    if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > AL_TASK_KEYWORDS) {
        PyErr_Format(PyExc_TypeError,
                     "create_task() takes at most %d keyword arguments",
                     AL_TASK_KEYWORDS);
        return NULL;
    }
    if (al_loop_check_thread(st, bound, "TaskGroup.create_task()") < 0) {
        return NULL;
    }
    if (spawn_keyword(args, kwnames, "eager_start") != NULL) {
        return spawn_eager(st, bound, args, kwnames);
    }
    int stock = al_loop_is_stock(st, bound);
    return stock < 0 ? NULL
           : stock   ? spawn_stock(st, bound, args, kwnames, watcher, how)
                     : spawn_by_loop(st, bound, args, kwnames);
}

PyObject *
al_spawn_named(al_state *st, const al_loop *bound, PyObject *coro,
               PyObject *name, PyObject *context, PyObject *watcher,
               al_spawned *how)
{
    *how = AL_SPAWNED;
    PyObject *values[] = {name, context};
    PyObject *task = NULL;
    int stock = al_loop_is_stock(st, bound);
    int captured =
        stock <= 0 ? stock
                   : al_capture_start(
                         st, bound, coro,
                         context == NULL ? st->kw_name : st->kw_name_context,
                         values, watcher, &task);
    if (captured != 0) {
        *how = AL_SPAWNED_WATCHED;
        return captured < 0 ? NULL : task;
    }
    return al_loop_new_task(st, bound, stock, coro, name, context);
}
