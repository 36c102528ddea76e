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
#include "stock.h"
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
spawn_keyword(PyObject *const *args, PyObject *kwnames, PyObject *name)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (key == name || PyUnicode_Compare(key, name) == 0) {
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

/* The Task type for an eager Task that is ours to make (new): there is no task
   factory, and create_task is no Python code that somebody put there.  A native
   one may not know of eager_start.  NULL without an exception: it is not. */
static PyObject *
spawn_type(al_state *st, const al_loop *bound)
{
    al_stock stock = al_stock_ask(st, bound, AL_STOCK_TASKS);
    if (stock != AL_STOCK_NOTHING) {
        return stock == AL_STOCK_ERROR ? NULL : Py_NewRef(st->Task);
    }
    PyObject *method = PyObject_GetAttr(bound->loop, st->s_create_task);
    if (method == NULL) {
        return NULL;
    }
    bool python = PyFunction_Check(
        PyMethod_Check(method) ? PyMethod_GET_FUNCTION(method) : method);
    Py_DECREF(method);
    PyObject *factory =
        python ? NULL
               : PyObject_CallMethodNoArgs(bound->loop, st->s_get_task_factory);
    Py_XDECREF(factory);
    return factory == Py_None ? PyObject_GetAttr(st->tasks_module, st->s_Task)
                              : NULL;
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
    int eager = PyObject_IsTrue(spawn_keyword(args, kwnames, st->s_eager_start));
    if (eager < 0
        || (eager
            && spawn_check_context(spawn_keyword(args, kwnames, st->s_context)) < 0))
    {
        return NULL;
    }
    PyObject *type = spawn_type(st, bound);
    if (type == NULL) {
        return PyErr_Occurred() ? NULL
                                : spawn_by_loop(st, bound, args, kwnames);
    }
    PyObject *task = al_loop_make_task(st, type, bound->loop, args[0], kwnames,
                                       args + 1);
    Py_DECREF(type);
    return task;
}

/* al_spawn() where calling the Task type will do.  A loop that is closed says
   so in create_task; the Task type would leave a Task behind that never
   runs. */
static PyObject *
spawn_stock(al_state *st, const al_loop *bound, PyObject *const *args,
            PyObject *kwnames, al_spawned *how)
{
    int open = al_stock_is_open(st, bound->loop);
    if (open < 0) {
        return NULL;
    }
    *how = open ? AL_SPAWNED_LAZY : AL_SPAWNED;
    return open ? al_loop_make_task(st, st->Task, bound->loop, args[0], kwnames,
                                    args + 1)
                : spawn_by_loop(st, bound, args, kwnames);
}

/* al_capture_start, where it may be: 1, 0 or -1, and *task. */
static int
spawn_captured(al_state *st, const al_loop *bound, al_stock stock,
               PyObject *coro, PyObject *kwnames, PyObject *const *values,
               PyObject *watcher, PyObject **task)
{
    if (stock != AL_STOCK_CALLS) {
        return stock == AL_STOCK_ERROR ? -1 : 0;
    }
    return al_capture_start(st, bound, coro, kwnames, values, watcher, task);
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
    if (spawn_keyword(args, kwnames, st->s_eager_start) != NULL) {
        return spawn_eager(st, bound, args, kwnames);
    }
    al_stock stock = al_stock_ask(st, bound, AL_STOCK_CALLS);
    PyObject *task = NULL;
    int captured = spawn_captured(st, bound, stock, args[0], kwnames, args + 1,
                                  watcher, &task);
    if (captured != 0) {
        *how = AL_SPAWNED_WATCHED;
        return captured < 0 ? NULL : task;
    }
    return stock == AL_STOCK_NOTHING
               ? spawn_by_loop(st, bound, args, kwnames)
               : spawn_stock(st, bound, args, kwnames, how);
}

PyObject *
al_spawn_named(al_state *st, const al_loop *bound, PyObject *coro,
               PyObject *name, PyObject *context, PyObject *watcher,
               al_spawned *how)
{
    *how = AL_SPAWNED;
    PyObject *values[] = {name, context};
    PyObject *task = NULL;
    al_stock stock = al_stock_ask(st, bound, AL_STOCK_CALLS);
    int captured = spawn_captured(
        st, bound, stock, coro,
        context == NULL ? st->kw_name : st->kw_name_context, values, watcher,
        &task);
    if (captured != 0) {
        *how = AL_SPAWNED_WATCHED;
        return captured < 0 ? NULL : task;
    }
    return al_loop_new_task(st, bound, stock != AL_STOCK_NOTHING, coro, name,
                            context);
}

PyObject *
al_spawn_task(al_state *st, const al_loop *bound, PyObject *coro,
              PyObject *name, PyObject *context)
{
    al_stock stock = al_stock_ask(st, bound, AL_STOCK_TASKS);
    return stock == AL_STOCK_ERROR
               ? NULL
               : al_loop_new_task(st, bound, stock != AL_STOCK_NOTHING, coro,
                                  name, context);
}
