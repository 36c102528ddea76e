/* Making a Task of a coroutine, as the loop's create_task would.
 *
 * What create_task is given is handed on untouched, so a task factory sees
 * what it would see from asyncio.  The Task type is called in its place where
 * nobody could tell, and for an eager start, which loops and versions take or
 * refuse each in their own way.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/fast_path.h"
#include "aio/capture.h"
#include "aio/create_task.h"

/* loop.create_task(coro, **keywords) */
static PyObject *
create_task_by_loop(al_state *st, const al_loop *bound, PyObject *const *args,
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

/* Where a keyword is among others; -1: it is not. */
static Py_ssize_t
create_task_find(PyObject *kwnames, PyObject *name)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (key == name || PyUnicode_Compare(key, name) == 0) {
            return i;
        }
    }
    return -1;
}

/* Refuse an eager start that would hang the loop: a Task that cannot enter its
   context stays the current one for ever (CPython gh-157301). */
static int
create_task_check_context(PyObject *context)
{
    if (context == Py_None) {
        return 0;
    }
    if (!PyContext_CheckExact(context)) {
        PyErr_Format(PyExc_TypeError,
                     "context is a contextvars.Context, "
                     "got %R",
                     context);
        return -1;
    }
    return PyContext_Enter(context) < 0 ? -1 : PyContext_Exit(context);
}

/* The Task type for an eager Task that is ours to make (new): there is no task
   factory, and create_task is no Python code that somebody put there.  A
   native one may not know of eager_start.  NULL without an exception: it is
   not. */
static PyObject *
create_task_type(al_state *st, const al_loop *bound)
{
    al_fast_path stock = al_fast_path_ask(st, bound, AL_FAST_PATH_TASKS);
    if (stock != AL_FAST_PATH_NOTHING) {
        return stock == AL_FAST_PATH_ERROR ? NULL : Py_NewRef(st->Task);
    }
    PyObject *method = PyObject_GetAttr(bound->loop, st->s_create_task);
    if (method == NULL) {
        return NULL;
    }
    bool python = PyFunction_Check(
        PyMethod_Check(method) ? PyMethod_GET_FUNCTION(method) : method);
    Py_DECREF(method);
    PyObject *factory =
        python
            ? NULL
            : PyObject_CallMethodNoArgs(bound->loop, st->s_get_task_factory);
    Py_XDECREF(factory);
    return factory == Py_None ? PyObject_GetAttr(st->tasks_module, st->s_Task)
                              : NULL;
}

/* al_create_task() where eager_start was passed. */
static PyObject *
create_task_eager(al_state *st, const al_loop *bound, PyObject *const *args,
                  PyObject *kwnames)
{
    if (!AL_HAS_EAGER_START) {
        PyErr_SetString(PyExc_TypeError,
                        "eager_start needs CPython 3.12 or newer, this is "
                        "3.11");
        return NULL;
    }
    Py_ssize_t eager = create_task_find(kwnames, st->s_eager_start);
    Py_ssize_t context = create_task_find(kwnames, st->s_context);
    int begins = PyObject_IsTrue(args[1 + eager]);
    if (begins < 0
        || (begins && context >= 0
            && create_task_check_context(args[1 + context]) < 0))
    {
        return NULL;
    }
    PyObject *type = create_task_type(st, bound);
    if (type == NULL) {
        return PyErr_Occurred()
                   ? NULL
                   : create_task_by_loop(st, bound, args, kwnames);
    }
    PyObject *task =
        al_task_make(st, type, bound->loop, args[0], kwnames, args + 1);
    Py_DECREF(type);
    return task;
}

/* What the Task type is called with. */
typedef struct {
    PyObject *kwnames;       /* borrowed, or NULL */
    PyObject *const *values; /* borrowed */
    PyObject *name;          /* borrowed: to be given later, or NULL */
} create_task_keys;

/* Bring the keywords of create_task to those of the Task type.  uvloop, and
   asyncio until 3.12, name a Task after it was made, so it uses up a number;
   as ours must, for others to be numbered as they would be.  Tells whether it
   can be done. */
static bool
create_task_sort(al_state *st, const al_loop *bound, create_task_keys *keys)
{
    Py_ssize_t n = keys->kwnames == NULL ? 0 : PyTuple_GET_SIZE(keys->kwnames);
    Py_ssize_t at = create_task_find(keys->kwnames, st->s_name);
    if (n == 0 || create_task_find(keys->kwnames, st->s_loop) >= 0) {
        return n == 0; /* the loop is no keyword of create_task */
    }
    if (at < 0
        || !(AL_NAMES_TASKS_LATE || al_fast_path_is_native(st, bound->loop)))
    {
        return true;
    }
    Py_ssize_t context = create_task_find(keys->kwnames, st->s_context);
    PyObject *name = keys->values[at];
    if (n - 1 != (context >= 0)
        || !(name == Py_None || PyUnicode_CheckExact(name)))
    {
        return false;
    }
    keys->name = name == Py_None ? NULL : name;
    keys->kwnames = context >= 0 ? st->kw_context : NULL;
    keys->values += context >= 0 ? context : 0;
    return true;
}

/* create_task_task() where calling the Task type will do. */
static PyObject *
create_task_direct(al_state *st, const al_loop *bound, al_fast_path stock,
                   PyObject *const *args, PyObject *kwnames,
                   const create_task_keys *keys, PyObject *watcher,
                   al_created *how)
{
    PyObject *task = NULL;
    int captured = 0;
    if (stock == AL_FAST_PATH_CALLS) {
        captured = al_capture_start(st, bound, args[0], keys->kwnames,
                                    keys->values, watcher, &task);
    }
    if (captured == 0) {
        /* In a closed loop it would stay behind and never run. */
        int open = al_fast_path_is_open(st, bound->loop);
        if (open <= 0) {
            return open < 0 ? NULL
                            : create_task_by_loop(st, bound, args, kwnames);
        }
        task = al_task_make(st, st->Task, bound->loop, args[0], keys->kwnames,
                            keys->values);
    }
    if (captured < 0 || task == NULL) {
        return NULL;
    }
    *how = captured ? AL_CREATED_WATCHED : AL_CREATED_LAZY;
    if (keys->name != NULL) {
        PyObject *none =
            PyObject_CallMethodOneArg(task, st->s_set_name, keys->name);
        if (none == NULL) {
            PyErr_Clear(); /* no memory for a name: it keeps its number */
        }
        Py_XDECREF(none);
    }
    return task;
}

/* A Task of args[0], by whichever way nobody can tell from create_task. */
static PyObject *
create_task_task(al_state *st, const al_loop *bound, al_fast_path most,
                 PyObject *const *args, PyObject *kwnames, PyObject *watcher,
                 al_created *how)
{
    *how = AL_CREATED;
    create_task_keys keys = {kwnames, args + 1, NULL};
    al_fast_path stock = al_fast_path_ask(st, bound, most);
    if (stock == AL_FAST_PATH_ERROR) {
        return NULL;
    }
    return stock == AL_FAST_PATH_NOTHING || !create_task_sort(st, bound, &keys)
               ? create_task_by_loop(st, bound, args, kwnames)
               : create_task_direct(st, bound, stock, args, kwnames, &keys,
                                    watcher, how);
}

PyObject *
al_create_task(al_state *st, al_loop *bound, PyObject *const *args,
               PyObject *kwnames, PyObject *watcher, al_created *how)
{
    *how = AL_CREATED;
    if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > AL_TASK_KEYWORDS) {
        PyErr_Format(PyExc_TypeError,
                     "create_task() takes at most %d keyword arguments",
                     AL_TASK_KEYWORDS);
        return NULL;
    }
    if (al_loop_check_thread(st, bound, "TaskGroup.create_task()") < 0) {
        return NULL;
    }
    return create_task_find(kwnames, st->s_eager_start) >= 0
               ? create_task_eager(st, bound, args, kwnames)
               : create_task_task(st, bound, AL_FAST_PATH_CALLS, args, kwnames,
                                  watcher, how);
}

PyObject *
al_create_task_named(al_state *st, const al_loop *bound, PyObject *coro,
                     PyObject *name, PyObject *context, PyObject *watcher,
                     al_created *how)
{
    PyObject *args[] = {coro, name, context};
    return create_task_task(
        st, bound, AL_FAST_PATH_CALLS, args,
        context == NULL ? st->kw_name : st->kw_name_context, watcher, how);
}

PyObject *
al_create_task_plain(al_state *st, const al_loop *bound, PyObject *coro,
                     PyObject *name, PyObject *context)
{
    al_created how;
    PyObject *args[] = {coro, name, context};
    return create_task_task(
        st, bound, AL_FAST_PATH_TASKS, args,
        context == NULL ? st->kw_name : st->kw_name_context, NULL, &how);
}
