/* What differs between CPython 3.11 and 3.15.
 *
 * This is the only file that tests for a version; a test of the sources holds
 * that.  Every other file includes it first and sees one CPython.  Where two
 * versions need different code, a constant AL_... is 0 or 1, so that both ways
 * are compiled on every version; the compiler drops one.
 */
#ifndef AL_COMPAT_H
#define AL_COMPAT_H

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>
#include <structmember.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifndef _WIN32
#include <time.h>
#endif

#if PY_VERSION_HEX < 0x030B0000
#error "pyasynclife needs CPython 3.11 or newer"
#endif

/* Cast a METH_FASTCALL function for a method table. */
#define AL_METHOD(function) ((PyCFunction)(void (*)(void))(function))

/* 3.11 has the raised exception as type, value and traceback only. */
#if PY_VERSION_HEX < 0x030C0000
static inline PyObject *
PyErr_GetRaisedException(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL) {
        return NULL;
    }
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
}

static inline void
PyErr_SetRaisedException(PyObject *error)
{
    PyObject *type = Py_NewRef(Py_TYPE(error));
    PyErr_Restore(type, error, PyException_GetTraceback(error));
}
#endif

/* A plain read: any thread may ask, with or without the GIL. */
#if PY_VERSION_HEX < 0x030D0000
#define Py_IsFinalizing _Py_IsFinalizing
#endif

/* Before 3.14 the public struct of a coroutine has its state: FRAME_CREATED
   until the first step, or until it is closed before that. */
#if PY_VERSION_HEX < 0x030E0000
#define AL_FRAME_CREATED (PY_VERSION_HEX < 0x030D0000 ? -2 : -3)
#define AL_CORO_IS_FRESH(coro)                                                \
    (((PyCoroObject *)(coro))->cr_frame_state == AL_FRAME_CREATED)
#endif

/* Where the address of a thread's innermost frame is, as the offsets of one or
   two pointers from its state, and where a frame has its code, the frame that
   called it and its instruction, counted in words.  The structs are private:
   raw_stack.c checks all of this before it relies on it. */
#if PY_VERSION_HEX < 0x030D0000
#define AL_FRAME_PATH                                                         \
    offsetof(PyThreadState, cframe), offsetof(_PyCFrame, current_frame)
#else
#define AL_FRAME_PATH offsetof(PyThreadState, current_frame)
#endif
#if PY_VERSION_HEX < 0x030C0000
#define AL_FRAME_CODE 4
#define AL_FRAME_CALLER 6
#else
#define AL_FRAME_CODE 0
#define AL_FRAME_CALLER 1
#endif
#define AL_FRAME_INSTRUCTION 7
#define AL_FRAME_WORDS 8

/* Return what time.monotonic() would, in seconds.  Pure C. */
static inline double
al_clock(void)
{
#if defined(__linux__) || (PY_VERSION_HEX < 0x030D0000 && !defined(_WIN32))
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
#elif PY_VERSION_HEX >= 0x030D0000
    PyTime_t now = 0;
    (void)PyTime_MonotonicRaw(&now);
    return (double)now * 1e-9;
#else
    return _PyTime_AsSecondsDouble(_PyTime_GetMonotonicClock());
#endif
}

/* Return what time.time() would, in seconds.  Pure C. */
static inline double
al_wall_clock(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyTime_t now = 0;
    (void)PyTime_TimeRaw(&now);
    return (double)now * 1e-9;
#elif defined(_WIN32)
    return _PyTime_AsSecondsDouble(_PyTime_GetSystemClock());
#else
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
#endif
}

/* All state is per module, so an interpreter with its own GIL may import us.
   The slot came with 3.12. */
#if PY_VERSION_HEX >= 0x030C0000
#define AL_INTERPRETERS_SLOT                                                  \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define AL_INTERPRETERS_SLOT
#endif

/* From 3.12 on a Task may run its first step in its constructor. */
#if PY_VERSION_HEX < 0x030C0000
#define AL_HAS_EAGER_START 0
#else
#define AL_HAS_EAGER_START 1
#endif

/* asyncio's loops take eager_start, and pass it to task factories, from 3.13.3
   on.  What was compiled for 3.13.0 runs there as well. */
#define AL_LOOPS_TAKE_EAGER_START (Py_Version >= 0x030D0300)

/* On 3.11 and 3.12 loop.create_task() names a Task after it was made. */
#if PY_VERSION_HEX < 0x030D0000
#define AL_NAMES_TASKS_LATE 1
#else
#define AL_NAMES_TASKS_LATE 0
#endif

/* On 3.11 and 3.12 uncancel() leaves a request that was not delivered yet
   (CPython gh-117407). */
#if PY_VERSION_HEX < 0x030D0000
#define AL_UNCANCEL_KEEPS_REQUEST 1
#else
#define AL_UNCANCEL_KEEPS_REQUEST 0
#endif

/* Tell whether a tool may have asked sys.monitoring, new in 3.12, for events
   of a code object.  1 also if it was ever traced: the rest is private. */
#if PY_VERSION_HEX < 0x030C0000
#define AL_CODE_MAY_BE_MONITORED(code) 0
#else
#define AL_CODE_MAY_BE_MONITORED(code)                                        \
    (((PyCodeObject *)(code))->_co_monitoring != NULL)
#endif

/* Return a number that changes whenever a dict does, and that no other dict
   has; 0 from 3.14 on, where there is none.  Pure C. */
#define AL_DICT_HAS_VERSION (PY_VERSION_HEX < 0x030E0000)
static inline uint64_t
al_dict_version(PyObject *dict)
{
#if AL_DICT_HAS_VERSION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    return ((PyDictObject *)dict)->ma_version_tag;
#pragma GCC diagnostic pop
#else
    (void)dict;
    return 0;
#endif
}

/* On 3.11 and 3.12 to ask for an object's __dict__ makes the dict, and from
   then on every access to its attributes is slower, for everybody. */
#if PY_VERSION_HEX < 0x030D0000
#define AL_DICT_IS_FREE 0
#else
#define AL_DICT_IS_FREE 1
#endif

/* Let a tuple hash its items anew after one has changed: from 3.14 on it keeps
   its hash. */
#if PY_VERSION_HEX < 0x030E0000
#define AL_FORGET_HASH(tuple) ((void)(tuple))
#else
#define AL_FORGET_HASH(tuple)                                                 \
    ((void)(((PyTupleObject *)(tuple))->ob_hash = -1))
#endif

/* Tell whether object.name is the method of this function: 1 or 0; -1 with an
   exception.  On 3.11 and 3.12, where fast_path.c asks this for each Task, no
   method object is made.  Runs Python. */
static inline int
al_is_method(PyObject *object, PyObject *name, PyObject *function)
{
#if PY_VERSION_HEX < 0x030D0000
    PyObject *found = NULL;
    int bound = !_PyObject_GetMethod(object, name, &found);
    int same = found == function && !bound;
#else
    PyObject *found = PyObject_GetAttr(object, name);
    int same = found != NULL && PyMethod_Check(found)
               && PyMethod_GET_FUNCTION(found) == function;
#endif
    Py_XDECREF(found);
    return found == NULL ? -1 : same;
}

#endif
