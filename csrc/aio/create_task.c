/* Makes a Task of a coroutine, as the loop's create_task would.
 *
 * There are four ways, and no code can tell which one was taken:
 *
 *     al_create_task   eager_start passed?  -> create_task_eager
 *                                                Task(..., eager_start=True)
 *     _named, _plain   otherwise            -> create_task_lazy
 *       fast_path.c says HANDLE: al_capture_start(): a Task, its first step
 *                                in a call queue, no done callback on it
 *       fast_path.c says TASK,   Task(coro, loop=loop): a Task whose first
 *       or the capture is off:   step has a Handle of its own
 *       fast_path.c says NONE:   loop.create_task(...): somebody must see it,
 *       or PYASYNCLIFE_PLAIN=1   or everybody is to see it
 *
 * The keywords of create_task are passed on untouched, so a task factory sees
 * what asyncio would show it.  An eager start does not go through create_task,
 * because every loop and version accepts or refuses that keyword in its own
 * way.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/fast_path.h"
#include "aio/capture.h"
#include "aio/create_task.h"

/* A task factory may have wrapped the coroutine in one of its own.  Cancelled
   before its first step, the wrapper never awaits it; so have a coroutine that
   has not started by then closed at the Task's end. */
static void
create_task_close_with(al_state *st, const al_loop *bound, PyObject *task,
                       PyObject *coro)
{
    int started = al_coro_started(st, coro);
    PyObject *runs = started == 0 ? al_task_coro(st, task) : NULL;
    if (started == 0 && runs != coro && !PyErr_Occurred()) {
        PyObject *none =
            PyObject_CallFunctionObjArgs(st->close_with, task, coro, NULL);
        Py_XDECREF(none);
    }
    Py_XDECREF(runs);
    if (PyErr_Occurred() && al_loop_is_exit(PyErr_Occurred())) {
        al_loop_report_or_exit_later(st, bound->loop, "", NULL);
    }
    PyErr_Clear(); /* no Task, but the factory's: the caller finds out */
}

/* loop.create_task(coro, **keywords) (new) */
static PyObject *
create_task_by_loop(al_state *st, const al_loop *bound, PyObject *coro,
                    PyObject *kwnames, PyObject *const *values)
{
    PyObject *stack[AL_TASK_KEYWORDS + 3] = {NULL, bound->loop, coro};
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n; i++) {
        stack[3 + i] = values[i];
    }
    PyObject *task = AL_ALLOC(PyObject_VectorcallMethod(
        st->s_create_task, stack + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET,
        kwnames));
    if (task != NULL) {
        create_task_close_with(st, bound, task, coro);
    }
    return task;
}

/* Return the place of a keyword among others; -1: it is not there.  Interned
   names, as those of a call in Python code, are compared by address. */
static Py_ssize_t
create_task_find_keyword(PyObject *kwnames, PyObject *name)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *key = PyTuple_GET_ITEM(kwnames, i);
        if (key == name
            || (!PyUnicode_CHECK_INTERNED(key)
                && PyUnicode_Compare(key, name) == 0))
        {
            return i;
        }
    }
    return -1;
}

/* Refuse a context that is no Context: asyncio takes it, and its Task then
   never starts.  -1 with TypeError. */
static int
create_task_check_context(PyObject *context)
{
    if (context == Py_None || PyContext_CheckExact(context)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "context is a contextvars.Context, got %.200R", context);
    return -1;
}

/* Refuse an eager start that would hang the loop: a Task that cannot enter its
   context stays the current one for ever (CPython gh-157301).  -1 with an
   exception. */
static int
create_task_try_context(PyObject *context)
{
    if (context == Py_None) {
        return 0;
    }
    return PyContext_Enter(context) < 0 ? -1 : PyContext_Exit(context);
}

/* Return the type to call for an eager Task (new): the loop has no task
   factory, and its create_task is not Python code that somebody put there.
   Native code (uvloop's) is passed over, for it may not know eager_start.
   NULL without an exception: the loop's create_task must see the call. */
static PyObject *
create_task_type(al_state *st, const al_loop *bound)
{
    al_fast_path path = al_fast_path_find(st, bound, AL_FAST_PATH_TASK);
    if (path != AL_FAST_PATH_NONE) {
        return path == AL_FAST_PATH_ERROR ? NULL : Py_NewRef(st->Task);
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
    return factory == Py_None ? Py_XNewRef(PyDict_GetItemWithError(
                                    st->tasks_dict, st->s_Task))
                              : NULL;
}

/* The keywords for a call of the Task type. */
typedef struct {
    PyObject *kwnames;       /* borrowed, or NULL */
    PyObject *const *values; /* borrowed */
    PyObject *name;          /* borrowed: to set afterwards, or NULL */
} create_task_keywords;

/* Turn the keywords of create_task into those of the Task type.  Tells whether
   that is possible.  uvloop, and asyncio until 3.12, set the name after the
   Task was made, so every Task uses up a number of the default names.  Ours
   must do so too, or the next Task without a name would get another one. */
static bool
create_task_convert_keywords(al_state *st, const al_loop *bound,
                             create_task_keywords *keys)
{
    bool late = AL_NAMES_TASKS_LATE || al_fast_path_is_uvloop(st, bound->loop);
    if (!late && keys->kwnames == st->kw_name) {
        return true;
    }
    Py_ssize_t n = keys->kwnames == NULL ? 0 : PyTuple_GET_SIZE(keys->kwnames);
    Py_ssize_t at = create_task_find_keyword(keys->kwnames, st->s_name);
    if (n == 0 || create_task_find_keyword(keys->kwnames, st->s_loop) >= 0) {
        return n == 0; /* create_task() has no such keyword */
    }
    if (at < 0 || !late) {
        return true;
    }
    Py_ssize_t context =
        create_task_find_keyword(keys->kwnames, st->s_context);
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

/* Name a Task that was made without its name, which may be NULL. */
static void
create_task_set_name(al_state *st, PyObject *task, PyObject *name)
{
    if (name == NULL) {
        return;
    }
    PyObject *none = al_task_set_name(st, task, name);
    if (none == NULL) {
        PyErr_Clear(); /* MemoryError: it keeps its default name */
    }
    Py_XDECREF(none);
}

/* create_task_lazy() where calling the Task type is safe (new). */
static PyObject *
create_task_direct(al_state *st, const al_loop *bound, al_fast_path path,
                   PyObject *const *args, PyObject *kwnames,
                   const create_task_keywords *keys, al_on_done on_done,
                   al_created *how)
{
    PyObject *task = NULL;
    int captured = 0;
    if (path == AL_FAST_PATH_HANDLE) {
        captured = al_capture_start(st, bound, args[0], keys->kwnames,
                                    keys->values, on_done, &task);
    }
    if (captured == 0) {
        /* In a closed loop the Task would stay pending for ever. */
        int open = al_fast_path_is_open(st, bound->loop);
        if (open <= 0) {
            return open < 0 ? NULL
                            : create_task_by_loop(st, bound, args[0], kwnames,
                                                  args + 1);
        }
        task = al_task_make(st, st->Task, bound->loop, args[0], keys->kwnames,
                            keys->values);
    }
    if (captured < 0 || task == NULL) {
        return NULL;
    }
    *how = captured ? AL_CREATED_WATCHED : AL_CREATED_LAZY;
    create_task_set_name(st, task, keys->name);
    return task;
}

/* create_task_lazy() where each Task is to be made by the loop (new). */
static PyObject *
create_task_plain(al_state *st, const al_loop *bound, PyObject *const *args,
                  PyObject *kwnames, create_task_keywords *keys)
{
    if (!create_task_convert_keywords(st, bound, keys)) {
        return create_task_by_loop(st, bound, args[0], kwnames, args + 1);
    }
    PyObject *task =
        create_task_by_loop(st, bound, args[0], keys->kwnames, keys->values);
    if (task != NULL) {
        create_task_set_name(st, task, keys->name);
    }
    return task;
}

/* Make a Task of args[0] by the fastest way that nobody can tell from
   create_task (new). */
static PyObject *
create_task_lazy(al_state *st, const al_loop *bound, al_fast_path most,
                 PyObject *const *args, PyObject *kwnames, al_on_done on_done,
                 al_created *how)
{
    *how = AL_CREATED;
    create_task_keywords keys = {kwnames, args + 1, NULL};
    if (st->is_plain == Py_True) {
        return create_task_plain(st, bound, args, kwnames, &keys);
    }
    al_fast_path path = al_fast_path_find(st, bound, most);
    if (path == AL_FAST_PATH_ERROR) {
        return NULL;
    }
    return path == AL_FAST_PATH_NONE
                   || !create_task_convert_keywords(st, bound, &keys)
               ? create_task_by_loop(st, bound, args[0], kwnames, args + 1)
               : create_task_direct(st, bound, path, args, kwnames, &keys,
                                    on_done, how);
}

/* create_task_eager() where eager_start is false and the loops of this version
   do not take it (new).  Without it a Task starts later anyway, unless an
   eager task factory of asyncio makes it. */
static PyObject *
create_task_not_eager(al_state *st, const al_loop *bound,
                      PyObject *const *args, PyObject *kwnames,
                      al_on_done on_done, al_created *how)
{
    Py_ssize_t name = create_task_find_keyword(kwnames, st->s_name);
    Py_ssize_t context = create_task_find_keyword(kwnames, st->s_context);
    if (PyTuple_GET_SIZE(kwnames) != 1 + (name >= 0) + (context >= 0)) {
        /* Another keyword, which create_task() refuses. */
        return create_task_by_loop(st, bound, args[0], kwnames, args + 1);
    }
    if (AL_HAS_EAGER_START) {
        PyObject *type =
            PyObject_CallOneArg(st->eager_factory_type, bound->loop);
        if (type != Py_None) {
            PyObject *task = type == NULL
                                 ? NULL
                                 : al_task_make(st, type, bound->loop, args[0],
                                                kwnames, args + 1);
            Py_XDECREF(type);
            return task;
        }
        Py_DECREF(type);
    }
    PyObject *kept[3] = {args[0]};
    Py_ssize_t n = 1;
    if (name >= 0) {
        kept[n++] = args[1 + name];
    }
    if (context >= 0) {
        kept[n++] = args[1 + context];
    }
    return create_task_lazy(st, bound, AL_FAST_PATH_HANDLE, kept,
                            n == 3         ? st->kw_name_context
                            : name >= 0    ? st->kw_name
                            : context >= 0 ? st->kw_context
                                           : NULL,
                            on_done, how);
}

/* al_create_task() where eager_start was passed (new). */
static PyObject *
create_task_eager(al_state *st, const al_loop *bound, PyObject *const *args,
                  PyObject *kwnames, al_on_done on_done, al_created *how)
{
    Py_ssize_t eager = create_task_find_keyword(kwnames, st->s_eager_start);
    Py_ssize_t context = create_task_find_keyword(kwnames, st->s_context);
    int is_eager = PyObject_IsTrue(args[1 + eager]);
    if (is_eager == 0 && !AL_LOOPS_TAKE_EAGER_START) {
        return create_task_not_eager(st, bound, args, kwnames, on_done, how);
    }
    if (is_eager > 0 && !AL_HAS_EAGER_START) {
        PyErr_SetString(PyExc_TypeError,
                        "eager_start needs CPython 3.12 or newer, this is "
                        "3.11");
        return NULL;
    }
    if (is_eager < 0
        || (is_eager && context >= 0
            && create_task_try_context(args[1 + context]) < 0))
    {
        return NULL;
    }
    PyObject *type = create_task_type(st, bound);
    if (type == NULL) {
        return PyErr_Occurred() ? NULL
                                : create_task_by_loop(st, bound, args[0],
                                                      kwnames, args + 1);
    }
    PyObject *task =
        al_task_make(st, type, bound->loop, args[0], kwnames, args + 1);
    Py_DECREF(type);
    return task;
}

PyObject *
al_create_task(al_state *st, al_loop *bound, PyObject *const *args,
               PyObject *kwnames, PyObject *on_done, al_created *how)
{
    *how = AL_CREATED;
    if (kwnames != NULL && PyTuple_GET_SIZE(kwnames) > AL_TASK_KEYWORDS) {
        PyErr_Format(PyExc_TypeError,
                     "create_task() takes at most %d keyword arguments",
                     AL_TASK_KEYWORDS);
        return NULL;
    }
    Py_ssize_t context = create_task_find_keyword(kwnames, st->s_context);
    if (al_loop_check_thread(st, bound, "TaskGroup.create_task()") < 0
        || (context >= 0 && create_task_check_context(args[1 + context]) < 0))
    {
        return NULL;
    }
    al_on_done done = {on_done, NULL};
    return create_task_find_keyword(kwnames, st->s_eager_start) >= 0
               ? create_task_eager(st, bound, args, kwnames, done, how)
               : create_task_lazy(st, bound, AL_FAST_PATH_HANDLE, args,
                                  kwnames, done, how);
}

PyObject *
al_create_task_named(al_state *st, const al_loop *bound, PyObject *coro,
                     PyObject *name, PyObject *context, al_on_done on_done,
                     al_created *how)
{
    PyObject *args[] = {coro, name, context};
    return create_task_lazy(
        st, bound, AL_FAST_PATH_HANDLE, args,
        context == NULL ? st->kw_name : st->kw_name_context, on_done, how);
}

PyObject *
al_create_task_plain(al_state *st, const al_loop *bound, PyObject *coro,
                     PyObject *name, PyObject *context)
{
    al_created how;
    al_on_done on_done = {NULL, NULL};
    PyObject *args[] = {coro, name, context};
    return create_task_lazy(
        st, bound, AL_FAST_PATH_TASK, args,
        context == NULL ? st->kw_name : st->kw_name_context, on_done, &how);
}
