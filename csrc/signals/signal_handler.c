/* The Python-level handler of one signal, for SignalCoordinator.
 *
 * The layers, once a coordinator handles the signal:
 *
 *     kernel                the action of the signal, as sigaction() has it
 *        |
 *     CPython's C handler   sets a flag, and writes a byte to the wake-up file
 *        |                  that the loop has set with signal.set_wakeup_fd()
 *        |
 *        +----> main thread, between two bytecodes:
 *        |        SignalHandler(signum, frame)
 *        |          previous(signum, frame), if it is chained
 *        |          wake()              -> call_soon_threadsafe(deliver)
 *        |
 *        +----> event loop, when it reads the byte:
 *                 the callback of loop.add_signal_handler()
 *                   on_loop_wakeup()
 *                   deliver()           -> take()
 *
 * The order of events of one signal:
 *
 *  1. CPython's C handler sets its flag and writes the byte.
 *  2. The interpreter calls us, whether the loop is busy, idle or not running.
 *     We count the signal in plain fields: it cannot be lost from here on.
 *  3. We call the handler that was there before, if it is chained.  What it
 *     raises is kept: it must not be raised in the code that the main thread
 *     happens to run.
 *  4. We call wake(), unless an earlier wake-up has not been answered.
 *  5. We call notice(), at most once in 0.3 s.  It tells whether the signal
 *     shall also do what it did before us, as a second Ctrl-C does.
 *  6. In the loop, take() returns how many signals came since the last take(),
 *     and take_errors() what the previous handler has raised.
 *
 * The interpreter may call us again in the middle of any of these steps, as
 * soon as Python code runs.  Therefore the count comes first, and the call
 * that counts runs no Python code.  The previous handler comes before any
 * Python code of ours, so that a host sees the signals in their order.
 * Nothing of ours raises, but for what the previous handler does when notice()
 * has asked for it.
 *
 * add_signal_handler() is not enough: its callback waits for a free loop, the
 * byte is lost when the wake-up file is full, and a later call of
 * signal.signal() displaces it.  It is used for the byte that wakes the
 * loop.  Its callback counts a signal only if it was not us that the
 * interpreter called.
 *
 * A host may displace us, note the signals that come, and raise them again
 * after it has put us back (uvicorn does).  Such a signal reaches us twice: by
 * the loop's callback while we are displaced, then directly.  It is counted
 * the first time; as many direct calls are then taken for replays.  The same
 * holds for a handler of ours that a newer one covers, with a host between.
 *
 * The previous action is kept as the kernel has it.  signal.getsignal() knows
 * neither the flag SA_RESTART nor a handler that C code has set.
 *
 * We may be called after we were disarmed, in a forked child, or when the loop
 * is closed: a host has put us back (uvicorn restores the handler that it
 * found), or nobody could remove us (a uvloop that has stopped cannot).  Then
 * we fall back to the previous handler or action, so that the signal keeps its
 * effect.
 *
 * A handler uses no module state after it was made: a signal may come while
 * the interpreter shuts down.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "signals/action.h"
#include "signals/signal_handler.h"
#include "signals/watchdog.h"

#ifndef _WIN32
#include <unistd.h>
#else
#include <process.h>
#define getpid _getpid
#endif

typedef struct {
    PyObject_HEAD
    PyObject *previous; /* owned: as getsignal() had it; NULL once cleared */
    PyObject *wake;     /* owned: wakes the loop; NULL once disarmed */
    PyObject *notice;   /* owned, or NULL: called at each press */
    PyObject *registered_loop; /* owned, or NULL: calls on_loop_wakeup() */
    PyObject *covered;         /* owned, or NULL: ours, below the host's */
    PyObject *errors;          /* owned: list, or NULL: for take_errors() */
    PyObject *getsignal;       /* owned; NULL once cleared */
    al_action previous_action; /* as the kernel had it */
    int signum;
    long armed_pid;           /* the process that armed it */
    uint64_t count;           /* signals so far */
    uint64_t delivered;       /* of them, returned by take() */
    uint64_t calls;           /* by the interpreter, replays too */
    uint64_t calls_at_wakeup; /* `calls` when the loop last called */
    uint64_t replays;         /* counted, and perhaps to be raised again */
    double pending_since;     /* when the oldest undelivered signal came */
    double noticed_at;        /* when notice() was last called */
    bool armed;
    bool chained;      /* `previous` is called too */
    bool is_c_handler; /* C code has set previous_action, not Python */
    bool replayable;   /* a signal that is raised again counts once */
    bool wake_pending; /* wake() was called, take() not yet */
    bool installing;   /* the loop's own handler may be in our place */
    bool holds;        /* the chained call waits for release() */
    bool held;         /* and there is one to be made */
} SignalHandlerObject;

/* Signals of one handler that come closer are one press of a key: a terminal
   and a parent process may both send one. */
#define SIGNAL_HANDLER_PRESS 0.3

/* ------------------------------------------------------------------ core */

/* Tell whether a handler still works for its coordinator, in this process. */
static bool
signal_handler_is_alive(const SignalHandlerObject *self)
{
    return self->armed && self->armed_pid == (long)getpid();
}

/* Count one signal.  Pure C: nothing may interrupt this. */
static void
signal_handler_record(SignalHandlerObject *self)
{
    al_watchdog_note(self->signum);
    if (self->count++ == self->delivered) {
        self->pending_since = al_clock();
    }
    SignalHandlerObject *below = (SignalHandlerObject *)self->covered;
    for (; below != NULL; below = (SignalHandlerObject *)below->covered) {
        below->replays += below->replayable;
    }
}

/* Call the previous handler.  Returns 1; 0 if only the kernel can do what it
   does; -1 with its exception. */
static int
signal_handler_chain(SignalHandlerObject *self, PyObject *frame)
{
    if (self->is_c_handler) {
        return al_action_call(&self->previous_action, self->signum);
    }
    if (self->previous == NULL || !PyCallable_Check(self->previous)) {
        return 0;
    }
    PyObject *previous = Py_NewRef(self->previous);
    PyObject *answer =
        PyObject_CallFunction(previous, "iO", self->signum, frame);
    Py_DECREF(previous);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 1;
}

/* Wake the loop.  Returns 1 if it will wake, or an earlier wake-up is on its
   way; 0 if the loop is closed; -1 with an exception that the handler of
   another signal raised during the call. */
static int
signal_handler_wake_loop(SignalHandlerObject *self)
{
    if (self->wake_pending || self->wake == NULL) {
        return 1;
    }
    /* Before the call: for a signal during it, and because a loop in another
       thread may answer before it returns. */
    self->wake_pending = true;
    PyObject *wake = Py_NewRef(self->wake);
    PyObject *answer = PyObject_CallNoArgs(wake);
    Py_DECREF(wake);
    if (answer != NULL) {
        bool reached = answer != Py_False;
        if (!reached) {
            self->wake_pending = false;
        }
        Py_DECREF(answer);
        return reached;
    }
    self->wake_pending = false;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1; /* KeyboardInterrupt or SystemExit of another handler */
    }
    /* MemoryError or RecursionError.  The signal is counted, and the byte in
       the wake-up file wakes the loop. */
    PyErr_Clear();
    return 1;
}

/* Call notice(), unless this signal belongs to the last press.  Returns how
   many times the previous handler is to be called although it is not chained;
   -1 with an exception that the handler of another signal raised during the
   call. */
static long
signal_handler_notify(SignalHandlerObject *self)
{
    double now = al_clock();
    if (self->notice == NULL || self->notice == Py_None
        || now - self->noticed_at <= SIGNAL_HANDLER_PRESS)
    {
        return 0;
    }
    self->noticed_at = now; /* before the call, for a signal during it */
    PyObject *notice = Py_NewRef(self->notice);
    PyObject *answer = PyObject_CallFunction(notice, "i", self->signum);
    Py_DECREF(notice);
    long times = answer == NULL ? -1 : PyLong_AsLong(answer);
    Py_XDECREF(answer);
    if (times == -1 && PyErr_Occurred()
        && PyErr_ExceptionMatches(PyExc_Exception))
    {
        PyErr_Clear(); /* MemoryError or RecursionError: the signal counts */
        return 0;
    }
    return times;
}

/* Tell whether the previous handler is a working one of ours. */
static bool
signal_handler_is_above_ours(const SignalHandlerObject *self)
{
    PyObject *below = self->previous;
    return below != NULL && Py_TYPE(below) == Py_TYPE(self)
           && signal_handler_is_alive((SignalHandlerObject *)below);
}

/* Tell whether the previous handler is chained and to be called now.  If it is
   held back, the call is noted for release(). */
static bool
signal_handler_chains_now(SignalHandlerObject *self)
{
    /* A coordinator below holds its own host's handler, if it is to. */
    if (self->chained && self->holds && !signal_handler_is_above_ours(self)) {
        self->held = true;
        return false;
    }
    return self->chained;
}

/* Keep the exception that the chained handler has raised: it is delivered in
   the loop.  Returns 0; -1 with an exception: that one if it cannot be kept,
   if the handler has disarmed us, or if it is ours, which raises only what it
   was asked for. */
static int
signal_handler_keep_error(SignalHandlerObject *self)
{
    if (!signal_handler_is_alive(self) || signal_handler_is_above_ours(self)) {
        return -1;
    }
    PyObject *error = PyErr_GetRaisedException();
    if (self->errors == NULL) {
        self->errors = AL_ALLOC(PyList_New(0));
    }
    if (self->errors == NULL
        || AL_ALLOC_INT(PyList_Append(self->errors, error)) < 0)
    {
        PyErr_Clear();
        PyErr_SetRaisedException(error);
        return -1;
    }
    Py_DECREF(error);
    return signal_handler_wake_loop(self) < 0 ? -1 : 0;
}

/* Call the previous handler, if it is chained and not held back.  Returns 0;
   -1 with an exception, as signal_handler_keep_error(). */
static int
signal_handler_call_chained(SignalHandlerObject *self)
{
    if (!signal_handler_chains_now(self)
        || signal_handler_chain(self, Py_None) >= 0)
    {
        return 0;
    }
    return signal_handler_keep_error(self);
}

/* Do what would have happened without us: call the previous handler, or let
   the kernel take the previous action.  Returns 0; -1 with an exception of a
   Python handler. */
static int
signal_handler_fall_back(SignalHandlerObject *self, PyObject *frame)
{
    /* Our handlers may lie one over another: skip those that do not work. */
    SignalHandlerObject *base = self;
    while (base->previous != NULL && Py_TYPE(base->previous) == Py_TYPE(self)
           && !signal_handler_is_alive((SignalHandlerObject *)base->previous))
    {
        base = (SignalHandlerObject *)base->previous;
    }
    if (!base->is_c_handler && base->previous_action.sa_handler == SIG_IGN) {
        return 0;
    }
    if (!base->is_c_handler && base->previous != NULL
        && PyCallable_Check(base->previous))
    {
        return signal_handler_chain(base, frame) < 0 ? -1 : 0;
    }
    /* Left are SIG_DFL and functions of C, which the kernel has to call.  If
       another handler is on top and called us in its turn, the kernel's action
       is its business. */
    PyObject *top =
        self->getsignal == NULL
            ? Py_NewRef(Py_None)
            : PyObject_CallFunction(self->getsignal, "i", self->signum);
    if (top == NULL) {
        return -1;
    }
    Py_DECREF(top);
    if (top != (PyObject *)self) {
        bool failed =
            base->is_c_handler && signal_handler_chain(base, frame) < 0;
        return failed ? -1 : 0;
    }
    /* Give up the signal and send it again: SIGTERM ends the process now. */
    if (al_action_write(self->signum, &base->previous_action) < 0) {
        return -1;
    }
    (void)raise(self->signum);
    return 0;
}

/* End the handling of a signal whose chained handler has raised an exception.
   Takes over `error`.  Another signal may have raised one since then; that one
   comes first.  Returns 0 if the loop was reached and delivers the error; -1
   with an exception. */
static int
signal_handler_end_with(SignalHandlerObject *self, PyObject *error,
                        bool reached)
{
    PyObject *other = PyErr_GetRaisedException();
    PyErr_SetRaisedException(error);
    int done = reached || other != NULL ? signal_handler_keep_error(self) : -1;
    if (other == NULL) {
        return done;
    }
    PyErr_Clear();
    PyErr_SetRaisedException(other);
    return -1;
}

/* Handle a signal that the interpreter reports.  Returns 0; -1 with an
   exception. */
static int
signal_handler_handle(SignalHandlerObject *self, PyObject *frame)
{
    if (!signal_handler_is_alive(self)) {
        return signal_handler_fall_back(self, frame);
    }
    self->calls++;
    bool replayed = self->replays > 0;
    if (replayed) {
        self->replays--;
    }
    else {
        signal_handler_record(self);
    }
    /* The host first: the rest runs Python code of ours, in the middle of
       which a later signal may come, and call the host for itself. */
    int called = 0;
    if (signal_handler_chains_now(self)) {
        called = signal_handler_chain(self, frame);
    }
    PyObject *error = called < 0 ? PyErr_GetRaisedException() : NULL;
    int reached = signal_handler_wake_loop(self);
    long times = reached;
    if (reached > 0) {
        times = replayed ? 0 : signal_handler_notify(self);
    }
    if (error != NULL) {
        return signal_handler_end_with(self, error, reached > 0);
    }
    if (reached == 0 && called == 0) {
        self->held = false;
        return signal_handler_fall_back(self, frame);
    }
    if (times < 0) {
        return -1;
    }
    for (; times > 0 && !self->chained; times--) {
        if (signal_handler_fall_back(self, frame) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ------------------------------------------------------------ Python API */

static PyObject *
signal_handler_call(PyObject *op, PyObject *args, PyObject *kwargs)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    int signum;
    PyObject *frame;
    if (kwargs != NULL || !PyArg_ParseTuple(args, "iO", &signum, &frame)) {
        return PyErr_Format(PyExc_TypeError,
                            "a signal handler takes a number and a frame");
    }
    Py_INCREF(op); /* a handler that we call may remove us */
    int done = signal_handler_handle(self, frame);
    Py_DECREF(op);
    if (done < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_arm_doc,
"arm($self, chain, /)\n--\n\n"
"Begin to count; to be called after the installation.\n\n"
"chain: whether to call the previous handler too.");

static PyObject *
signal_handler_arm(PyObject *op, PyObject *chain)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    al_action ours;
    int chained = PyObject_IsTrue(chain);
    if (chained < 0 || al_action_read(self->signum, &ours) < 0) {
        return NULL;
    }
    /* The action now is CPython's C handler.  If the previous action was
       another function, C code has set it without signal.signal(). */
    self->is_c_handler =
        al_action_is_function(&self->previous_action)
        && self->previous_action.sa_handler != ours.sa_handler;
    self->chained = chained || self->is_c_handler;
    self->armed_pid = (long)getpid();
    self->armed = true;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_disarm_doc,
"disarm($self, /)\n--\n\n"
"Count no more: from now on only the previous handler or action has effect.");

static PyObject *
signal_handler_disarm(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    self->armed = false;
    Py_CLEAR(self->wake);
    Py_CLEAR(self->notice);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_take_doc,
"take($self, /)\n--\n\n"
"Return how many signals came since the last call; the next one wakes again.");

static PyObject *
signal_handler_take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    uint64_t count = self->count - self->delivered;
    PyObject *answer = AL_ALLOC(PyLong_FromUnsignedLongLong(count));
    if (answer != NULL) {
        self->wake_pending = false;
        self->delivered += count;
    }
    return answer;
}

PyDoc_STRVAR(signal_handler_take_errors_doc,
"take_errors($self, /)\n--\n\n"
"Return what the chained handler has raised since the last call: a list.");

static PyObject *
signal_handler_take_errors(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    if (self->errors == NULL) {
        return AL_ALLOC(PyList_New(0));
    }
    PyObject *errors = self->errors;
    self->errors = NULL;
    return errors;
}

PyDoc_STRVAR(signal_handler_release_doc,
"release($self, /)\n--\n\n"
"Call the chained handler at once from now on, and once for the signals\n"
"while it was held, if there were any.");

static PyObject *
signal_handler_release(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    bool due = self->held;
    self->holds = self->held = false;
    if (due && signal_handler_call_chained(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_set_installing_doc,
"set_installing($self, installing, /)\n--\n\n"
"Mark the time during installation in which the loop's own handler may\n"
"receive a signal instead of us.");

static PyObject *
signal_handler_set_installing(PyObject *op, PyObject *installing)
{
    int is = PyObject_IsTrue(installing);
    if (is < 0) {
        return NULL;
    }
    ((SignalHandlerObject *)op)->installing = is;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_on_loop_wakeup_doc,
"on_loop_wakeup($self, on_top, /)\n--\n\n"
"Called by the loop for this signal: count it if we did not see it.\n\n"
"on_top: whether we are the installed handler.  We do not see a signal\n"
"while another handler is installed, or ours not yet.  Any other call is\n"
"just the wake-up, or is due to a forked child, which on 3.11 writes to our\n"
"wake-up file.");

static PyObject *
signal_handler_on_loop_wakeup(PyObject *op, PyObject *on_top)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    int is_on_top = PyObject_IsTrue(on_top);
    if (is_on_top < 0) {
        return NULL;
    }
    bool missed = (!is_on_top || self->installing)
                  && self->calls == self->calls_at_wakeup
                  && signal_handler_is_alive(self);
    if (missed) {
        signal_handler_record(self);
        self->replays += !is_on_top && self->replayable;
    }
    self->calls_at_wakeup = self->calls;
    self->installing = false; /* a signal of that time is reported first */
    /* A handler that displaced us was called; during the installation the
       previous handler was not. */
    if (missed && is_on_top && signal_handler_call_chained(self) < 0) {
        return NULL;
    }
    if (missed && signal_handler_notify(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_restore_action_doc,
"restore_action($self, /)\n--\n\n"
"Give the kernel the previous action, with its function and flags.");

static PyObject *
signal_handler_restore_action(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    if (al_action_write(self->signum, &self->previous_action) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_cover_doc,
"cover($self, below, /)\n--\n\n"
"Note that this handler is installed over one that displaced another of\n"
"ours: a signal that reaches both counts once.");

static PyObject *
signal_handler_cover(PyObject *op, PyObject *below)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    PyObject *at = Py_IS_TYPE(below, Py_TYPE(op)) ? below : op;
    while (at != NULL && at != op) {
        at = ((SignalHandlerObject *)at)->covered;
    }
    if (at == op) {
        return PyErr_Format(PyExc_TypeError, "expected another handler");
    }
    Py_XSETREF(self->covered, Py_NewRef(below));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_take_over_doc,
"take_over($self, below, /)\n--\n\n"
"Take over the previous handler, action and loop of the handler below, which\n"
"is about to go.");

static PyObject *
signal_handler_take_over(PyObject *op, PyObject *other)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    if (!Py_IS_TYPE(other, Py_TYPE(op)) || other == op) {
        return PyErr_Format(PyExc_TypeError, "expected another handler");
    }
    SignalHandlerObject *below = (SignalHandlerObject *)other;
    self->previous_action = below->previous_action;
    self->is_c_handler = below->is_c_handler;
    self->chained = below->chained;
    if (self->registered_loop == NULL) {
        self->registered_loop = below->registered_loop;
        below->registered_loop = NULL;
    }
    Py_XSETREF(self->previous, Py_XNewRef(below->previous));
    Py_RETURN_NONE;
}

static PyObject *
signal_handler_get_registered_loop(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *loop = ((SignalHandlerObject *)op)->registered_loop;
    return Py_NewRef(loop == NULL ? Py_None : loop);
}

static int
signal_handler_set_registered_loop(PyObject *op, PyObject *loop,
                                   void *Py_UNUSED(closure))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    Py_XSETREF(self->registered_loop,
               loop == Py_None ? NULL : Py_XNewRef(loop));
    return 0;
}

static PyObject *
signal_handler_get_ignored(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(
        ((SignalHandlerObject *)op)->previous_action.sa_handler == SIG_IGN);
}

static PyObject *
signal_handler_get_alive(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(signal_handler_is_alive((SignalHandlerObject *)op));
}

static PyObject *
signal_handler_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    int signum;
    PyObject *previous, *wake;
    if (kwargs != NULL) {
        return PyErr_Format(PyExc_TypeError,
                            "SignalHandler() takes no keyword arguments");
    }
    if (!PyArg_ParseTuple(args, "iOO:SignalHandler", &signum, &previous,
                          &wake))
    {
        return NULL;
    }
    al_state *st = al_state_of_type(type);
    al_action action;
    if (st == NULL || al_action_read(signum, &action) < 0) {
        return NULL;
    }
    SignalHandlerObject *self =
        (SignalHandlerObject *)AL_ALLOC(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    self->signum = signum;
    self->noticed_at = -1.0;
    self->previous_action = action;
    self->previous = Py_NewRef(previous);
    self->wake = Py_NewRef(wake);
    self->getsignal = Py_NewRef(st->getsignal);
    return (PyObject *)self;
}

static int
signal_handler_traverse(PyObject *op, visitproc visit, void *arg)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->previous);
    Py_VISIT(self->wake);
    Py_VISIT(self->notice);
    Py_VISIT(self->registered_loop);
    Py_VISIT(self->covered);
    Py_VISIT(self->errors);
    Py_VISIT(self->getsignal);
    return 0;
}

static int
signal_handler_clear(PyObject *op)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    self->armed = false;
    Py_CLEAR(self->previous);
    Py_CLEAR(self->wake);
    Py_CLEAR(self->notice);
    Py_CLEAR(self->registered_loop);
    Py_CLEAR(self->covered);
    Py_CLEAR(self->errors);
    Py_CLEAR(self->getsignal);
    return 0;
}

static PyMethodDef signal_handler_methods[] = {
    {"arm", signal_handler_arm, METH_O, signal_handler_arm_doc},
    {"disarm", signal_handler_disarm, METH_NOARGS, signal_handler_disarm_doc},
    {"take", signal_handler_take, METH_NOARGS, signal_handler_take_doc},
    {"take_errors", signal_handler_take_errors, METH_NOARGS,
     signal_handler_take_errors_doc},
    {"cover", signal_handler_cover, METH_O, signal_handler_cover_doc},
    {"release", signal_handler_release, METH_NOARGS,
     signal_handler_release_doc},
    {"set_installing", signal_handler_set_installing, METH_O,
     signal_handler_set_installing_doc},
    {"on_loop_wakeup", signal_handler_on_loop_wakeup, METH_O,
     signal_handler_on_loop_wakeup_doc},
    {"restore_action", signal_handler_restore_action, METH_NOARGS,
     signal_handler_restore_action_doc},
    {"take_over", signal_handler_take_over, METH_O,
     signal_handler_take_over_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef signal_handler_getset[] = {
    {"registered_loop", signal_handler_get_registered_loop,
     signal_handler_set_registered_loop,
     "The loop whose add_signal_handler() was called for us, or None.", NULL},
    {"ignored", signal_handler_get_ignored, NULL,
     "Whether the signal was ignored before.", NULL},
    {"alive", signal_handler_get_alive, NULL,
     "Whether it is armed, in the process that armed it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef signal_handler_members[] = {
    {"signum", T_INT, offsetof(SignalHandlerObject, signum), READONLY,
     "The signal's number."},
    {"count", T_ULONGLONG, offsetof(SignalHandlerObject, count), READONLY,
     "How many signals came so far."},
    {"since", T_DOUBLE, offsetof(SignalHandlerObject, pending_since), READONLY,
     "Monotonic time of the oldest signal that take() has not returned yet."},
    {"previous", T_OBJECT, offsetof(SignalHandlerObject, previous), READONLY,
     "What signal.getsignal() returned before; None: a handler of C code."},
    {"notice", T_OBJECT, offsetof(SignalHandlerObject, notice), 0,
     "Called in the handler with each signal that comes more than 0.3 s\n"
     "after the last one; returns how often the previous handler is to be\n"
     "called although it is not chained.  None: no such call."},
    {"holds", T_BOOL, offsetof(SignalHandlerObject, holds), 0,
     "Whether the chained handler is not called before release()."},
    {"replayable", T_BOOL, offsetof(SignalHandlerObject, replayable), 0,
     "Whether a signal counts once that came while we were displaced and is\n"
     "raised again when we are not."},
    {NULL, 0, 0, 0, NULL},
};

PyDoc_STRVAR(signal_handler_doc,
"SignalHandler(signum, previous, wake, /)\n--\n\n"
"The Python-level handler of one signal, for SignalCoordinator alone.\n\n"
"Reads the present action of the signal.  previous: the present handler, of\n"
"signal.getsignal().  wake: called without arguments in the handler; it must\n"
"have the loop call take(), and return False if there is no loop.");

static PyType_Slot signal_handler_slots[] = {
    {Py_tp_doc, (void *)signal_handler_doc},
    {Py_tp_new, signal_handler_new},
    {Py_tp_call, signal_handler_call},
    {Py_tp_methods, signal_handler_methods},
    {Py_tp_members, signal_handler_members},
    {Py_tp_getset, signal_handler_getset},
    {Py_tp_traverse, signal_handler_traverse},
    {Py_tp_clear, signal_handler_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec signal_handler_spec = {
    .name = "pyasynclife._core.SignalHandler",
    .basicsize = sizeof(SignalHandlerObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = signal_handler_slots,
};

/* ----------------------------------------------------------------- setup */

int
al_signal_handler_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->SignalHandler, &signal_handler_spec,
                             true);
}
