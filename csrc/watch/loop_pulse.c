/* LoopPulse: whether an event loop keeps time, for a thread that looks on.
 *
 * A LoopWatch (Python) has a timer in the loop, which calls beat(), and a
 * thread, which calls wait():
 *
 *     loop      beat() ---- interval ---- beat() -- late --------- beat()
 *                  due ........^             ^ due   ^       ^
 *     thread    sleeps, without the GIL ........ look    look
 *
 * Each beat says when the next is due.  The thread sleeps until that is past
 * by half of the threshold.  If there has been a beat meanwhile, and in a loop
 * that keeps time there always has, it sleeps on, and has not needed the GIL.
 * Otherwise it looks where the loop's thread is; and again, the later the
 * less often, until there is one.
 *
 * A look has two halves.  Without the GIL the thread reads the raw stack; then
 * it asks for the GIL, and gets the stack from the interpreter.  Python code
 * gives the GIL away soon, so the second one counts.  If it took longer, C
 * code held the GIL, and the loop's thread has gone on, perhaps out of the
 * function that called that code: then the first one counts.
 *
 * `due` is written by the loop and read by the thread without the GIL, and so
 * is `wake`, a lock that is held until the pulse is closed.  A lock of
 * CPython's is slept on by the monotonic clock, on every platform.  Everything
 * else is read and written with the GIL, or by the thread alone.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/histogram.h"
#include "base/state.h"
#include "watch/raw_stack.h"
#include "watch/loop_pulse.h"

#define LOOP_PULSE_LONGEST 3600.0 /* seconds of one sleep */
#define LOOP_PULSE_FRAMES 1000    /* of a stack, at most */

#ifdef _WIN32
typedef volatile double al_shared_double;
typedef volatile bool al_shared_bool;
#else
#include <stdatomic.h>
typedef _Atomic double al_shared_double;
typedef atomic_bool al_shared_bool;
#endif

typedef struct {
    PyObject_HEAD
    PyThreadState *thread; /* borrowed: the loop's, which may have ended */
    unsigned long thread_id;
    double threshold, interval;
    double patience;         /* after which C code holds the GIL */
    al_shared_double due;    /* the next beat */
    al_shared_bool closed;   /* wait() returns */
    al_shared_bool looking;  /* the thread waits for the GIL, or has it */
    PyThread_type_lock wake; /* owned: held until the pulse is closed */
    al_histogram lag;
    /* the thread's own */
    double looked_for, next_look; /* while the beat due then is missing */
    bool can_read;                /* the raw stack */
    al_raw_stack raw;
} LoopPulseObject;

/* ------------------------------------------------------------- the thread */

/* Sleep until the beat is late.  Returns whether it is; false: closed. */
static bool
loop_pulse_sleep(LoopPulseObject *self, double *due)
{
    for (;;) {
        *due = self->due;
        double look = *due == self->looked_for ? self->next_look
                                               : *due + self->threshold / 2;
        double left = look - al_clock();
        if (self->closed || left <= 0.0) {
            return !self->closed;
        }
        left = left < LOOP_PULSE_LONGEST ? left : LOOP_PULSE_LONGEST;
        if (PyThread_acquire_lock_timed(self->wake,
                                        (PY_TIMEOUT_T)(left * 1e6) + 1, 0)
            == PY_LOCK_ACQUIRED)
        {
            PyThread_release_lock(self->wake); /* closed: whoever waits, too */
            return false;
        }
    }
}

/* Tell whether the loop's thread is alive, so that its state may be read. */
static bool
loop_pulse_has_thread(LoopPulseObject *self)
{
    PyThreadState *at =
        PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    while (at != NULL && at != self->thread) {
        at = PyThreadState_Next(at);
    }
    return at != NULL && at->thread_id == self->thread_id;
}

/* Return file, line and function, as a tuple (new).  NULL with an exception.
 */
static PyObject *
loop_pulse_place(PyCodeObject *code, int line)
{
    return AL_ALLOC(
        Py_BuildValue("(OiO)", code->co_filename, line, code->co_qualname));
}

/* Add the place of each frame of the loop's thread to a list, as the
   interpreter has it, innermost first, and its code to another.  Returns 0; -1
   with an exception. */
static int
loop_pulse_stack(LoopPulseObject *self, PyObject *places, PyObject *codes)
{
    PyFrameObject *frame = loop_pulse_has_thread(self)
                               ? PyThreadState_GetFrame(self->thread)
                               : NULL;
    int failed = 0;
    for (int n = 0; frame != NULL && !failed && n < LOOP_PULSE_FRAMES; n++) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        PyObject *place = loop_pulse_place(code, PyFrame_GetLineNumber(frame));
        failed =
            place == NULL || AL_ALLOC_INT(PyList_Append(places, place)) < 0;
        Py_XDECREF(place);
        if (!failed) {
            failed = AL_ALLOC_INT(PyList_Append(codes, (PyObject *)code)) < 0;
        }
        Py_DECREF((PyObject *)code);
        PyFrameObject *outer = PyFrame_GetBack(frame);
        Py_DECREF((PyObject *)frame);
        frame = outer;
    }
    Py_XDECREF((PyObject *)frame);
    return failed ? -1 : 0;
}

/* Return the line of an instruction, at an address that may be any. */
static int
loop_pulse_line(PyCodeObject *code, uintptr_t instruction)
{
    uintptr_t begin = (uintptr_t)code->co_code_adaptive;
    uintptr_t size = (uintptr_t)Py_SIZE(code) * 2; /* bytes each */
    bool is_in = instruction >= begin && instruction < begin + size;
    int line = is_in ? PyCode_Addr2Line(code, (int)(instruction - begin)) : -1;
    return line < 0 ? code->co_firstlineno : line;
}

/* Return the place of a frame of the raw stack, if one of the codes is at the
   address of its own (new).  NULL without an exception if none is; NULL with
   an exception. */
static PyObject *
loop_pulse_raw_place(const al_raw_frame *frame, PyObject *codes)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(codes); i++) {
        PyCodeObject *code = (PyCodeObject *)PyList_GET_ITEM(codes, i);
        if ((uintptr_t)code == frame->code) {
            int line = loop_pulse_line(code, frame->instruction);
            return loop_pulse_place(code, line);
        }
    }
    return NULL;
}

/* Put the raw stack into a list that has the later one, unless it is cut, or
   its innermost frame unknown.  Returns 0; -1 with an exception. */
static int
loop_pulse_take_raw(LoopPulseObject *self, PyObject *places, PyObject *codes)
{
    const al_raw_stack *raw = &self->raw;
    if (raw->n == 0 || raw->n == AL_RAW_STACK_FRAMES) {
        return 0;
    }
    Py_ssize_t later = PyList_GET_SIZE(places);
    for (int i = 0; i < raw->n; i++) {
        PyObject *place = i < AL_RAW_STACK_NAMED
                              ? al_raw_stack_place(raw, i)
                              : loop_pulse_raw_place(&raw->frames[i], codes);
        if (place == NULL && (i == 0 || PyErr_Occurred())) {
            return PyErr_Occurred() ? -1 : 0;
        }
        if (place == NULL) {
            continue; /* one of the interpreter's own */
        }
        int failed = AL_ALLOC_INT(PyList_Append(places, place));
        Py_DECREF(place);
        if (failed < 0) {
            return -1;
        }
    }
    return PyList_SetSlice(places, 0, later, NULL);
}

/* Return what a look has shown (new).  NULL with an exception. */
static PyObject *
loop_pulse_report(LoopPulseObject *self, double due, double late, bool held)
{
    bool moved_on = self->due != due;
    PyObject *report = NULL, *places = NULL;
    PyObject *codes = AL_ALLOC(PyList_New(0));
    if (codes != NULL) {
        places = AL_ALLOC(PyList_New(0));
    }
    if (places != NULL && loop_pulse_stack(self, places, codes) == 0
        && (!held || loop_pulse_take_raw(self, places, codes) == 0))
    {
        PyObject *context =
            loop_pulse_has_thread(self) ? self->thread->context : NULL;
        context = Py_NewRef(context == NULL ? Py_None : context);
        report = AL_ALLOC(
            Py_BuildValue("(ddOOOO)", due, late, moved_on ? Py_True : Py_False,
                          held ? Py_True : Py_False, places, context));
        Py_DECREF(context);
    }
    Py_XDECREF(places);
    Py_XDECREF(codes);
    return report;
}

PyDoc_STRVAR(loop_pulse_wait_doc,
"wait($self, /)\n--\n\n"
"Wait, without the GIL, until a beat is late, and look where the loop is.\n\n"
"Returns when the beat was due, by how much it is late, whether there has\n"
"been one since, whether the GIL was held meanwhile, a list of file, line\n"
"and function for each frame of the loop's thread, innermost first, and its\n"
"context or None.  Returns None once the pulse is closed.\n"
"To be called by one thread.");

static PyObject *
loop_pulse_wait(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopPulseObject *self = (LoopPulseObject *)op;
    double due = 0.0, asked = 0.0;
    bool late;
    self->looking = false;
    Py_BEGIN_ALLOW_THREADS
    late = loop_pulse_sleep(self, &due);
    if (late) {
        self->looking = true;
        self->raw.n = 0;
        if (self->can_read) {
            al_raw_stack_read(&self->raw, self->thread);
        }
        asked = al_clock();
    }
    Py_END_ALLOW_THREADS
    if (!late) {
        Py_RETURN_NONE;
    }
    double now = al_clock(), rest = (now - due) / 20;
    self->looked_for = due;
    self->next_look = now + (rest > self->interval ? rest : self->interval);
    return loop_pulse_report(self, due, now - due,
                             now - asked > self->patience);
}

/* --------------------------------------------------------------- the loop */

static PyObject *
loop_pulse_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    double threshold, interval, patience;
    PyObject *before;
    if (!PyArg_ParseTuple(args, "dddO:LoopPulse", &threshold, &interval,
                          &patience, &before))
    {
        return NULL;
    }
    if (kwargs != NULL || (before != Py_None && !Py_IS_TYPE(before, type))) {
        return PyErr_Format(PyExc_TypeError,
                            "LoopPulse() takes three times and a LoopPulse");
    }
    LoopPulseObject *self =
        (LoopPulseObject *)AL_ALLOC(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    self->wake = AL_ALLOC(PyThread_allocate_lock());
    if (self->wake == NULL) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    (void)PyThread_acquire_lock(self->wake, WAIT_LOCK);
    if (before != Py_None) {
        self->lag = ((LoopPulseObject *)before)->lag;
    }
    self->thread = PyThreadState_Get();
    self->thread_id = PyThread_get_thread_ident();
    self->threshold = threshold;
    self->interval = interval;
    self->patience = patience;
    self->looked_for = -1.0;
    self->can_read = al_raw_stack_check(&self->raw);
    self->due = al_clock() + interval;
    return (PyObject *)self;
}

PyDoc_STRVAR(loop_pulse_beat_doc,
"beat($self, counts, /)\n--\n\n"
"Note that the loop is running callbacks, and when it is to do so again.\n\n"
"counts: whether the lateness is counted.\n\n"
"Returns by how many seconds this beat came late.");

static PyObject *
loop_pulse_beat(PyObject *op, PyObject *counts)
{
    LoopPulseObject *self = (LoopPulseObject *)op;
    double now = al_clock(), late = now - self->due;
    late = late > 0.0 ? late : 0.0;
    if (counts == Py_True) {
        al_histogram_count(&self->lag, late, 1);
    }
    self->due = now + self->interval;
    return AL_ALLOC(PyFloat_FromDouble(late));
}

PyDoc_STRVAR(loop_pulse_close_doc,
"close($self, /)\n--\n\n"
"Let wait() return None, now and later.");

static PyObject *
loop_pulse_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    LoopPulseObject *self = (LoopPulseObject *)op;
    if (!self->closed) {
        self->closed = true;
        PyThread_release_lock(self->wake);
    }
    Py_RETURN_NONE;
}

static PyObject *
loop_pulse_get_lag(PyObject *op, void *Py_UNUSED(closure))
{
    al_state *st = al_state_of_type(Py_TYPE(op));
    return st == NULL ? NULL
                      : al_histogram_new(st, &((LoopPulseObject *)op)->lag);
}

static PyObject *
loop_pulse_get_due(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyFloat_FromDouble(((LoopPulseObject *)op)->due));
}

static PyObject *
loop_pulse_get_looking(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((LoopPulseObject *)op)->looking);
}

static PyObject *
loop_pulse_get_can_read(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((LoopPulseObject *)op)->can_read);
}

static void
loop_pulse_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    LoopPulseObject *self = (LoopPulseObject *)op;
    if (self->wake != NULL) {
        if (!self->closed) {
            PyThread_release_lock(self->wake);
        }
        PyThread_free_lock(self->wake);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef loop_pulse_methods[] = {
    {"wait", loop_pulse_wait, METH_NOARGS, loop_pulse_wait_doc},
    {"beat", loop_pulse_beat, METH_O, loop_pulse_beat_doc},
    {"close", loop_pulse_close, METH_NOARGS, loop_pulse_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef loop_pulse_getset[] = {
    {"lag", loop_pulse_get_lag, NULL, "A Histogram of the lateness of beats.",
     NULL},
    {"due", loop_pulse_get_due, NULL, "When the next beat is due.", NULL},
    {"looking", loop_pulse_get_looking, NULL,
     "Whether a look has begun, and the next wait() not.", NULL},
    {"can_read", loop_pulse_get_can_read, NULL,
     "Whether stacks are read without the GIL.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(loop_pulse_doc,
"LoopPulse(threshold, interval, patience, before, /)\n--\n\n"
"Whether the loop of the current thread keeps time, for a thread that looks\n"
"on.\n\n"
"patience: seconds to wait for the GIL, after which C code must hold it.\n"
"before: a pulse whose lag is taken over, or None.");

static PyType_Slot loop_pulse_slots[] = {
    {Py_tp_doc, (void *)loop_pulse_doc},
    {Py_tp_new, loop_pulse_new},
    {Py_tp_methods, loop_pulse_methods},
    {Py_tp_getset, loop_pulse_getset},
    {Py_tp_dealloc, loop_pulse_dealloc},
    {0, NULL},
};

static PyType_Spec loop_pulse_spec = {
    .name = "pyasynclife._core.LoopPulse",
    .basicsize = sizeof(LoopPulseObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = loop_pulse_slots,
};

int
al_loop_pulse_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->LoopPulse, &loop_pulse_spec, true);
}
