/* The handler of one signal: what SignalCoordinator does without the loop.
 *
 * CPython's own C handler only trips a flag; it calls us between any two
 * bytecodes of the main thread, be the loop busy, idle or not running, and
 * again in the middle of our own call.  So a call first stores the fact in
 * plain fields, then pokes the loop, at most once until the loop has taken
 * what there is, then calls the handler that was found.  Nothing of ours
 * raises there; what the found handler raises (a host's SystemExit) goes on.
 *
 * The action that was found is kept as the kernel has it: the table of
 * signal.getsignal() knows nothing of the SA_RESTART flag, nor of a handler
 * that C code has set.
 *
 * A handler that is disarmed, or finds itself in a forked child, or whose
 * loop is closed, may still be called: somebody put it back (uvicorn restores
 * what it found), or nobody could take it away (uvloop cannot, once stopped).
 * Then it stands in for what it covers, so that no process becomes deaf.
 *
 * No module state is used after birth: a signal may come while the
 * interpreter goes down.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "signals/signal_handler.h"

#ifndef _WIN32
#include <errno.h>
#include <signal.h>
#include <unistd.h>
typedef struct sigaction signal_handler_action;
#else
#include <process.h>
#include <signal.h>
#define getpid _getpid
typedef struct {
    void (*sa_handler)(int);
} signal_handler_action;
#endif

typedef struct {
    PyObject_HEAD
    PyObject *previous;  /* owned: as getsignal() had it; NULL once cleared */
    PyObject *poke;      /* owned: wakes the loop; NULL once disarmed */
    PyObject *entry;     /* owned: the loop with an entry of ours, or NULL */
    PyObject *getsignal; /* owned; NULL once cleared */
    signal_handler_action found; /* as the kernel had it */
    int signum;
    long pid;       /* the process that armed it */
    uint64_t count; /* signals so far */
    uint64_t taken; /* of them, told to the coordinator */
    uint64_t heard; /* of them, known when the loop last called */
    double since;   /* when the oldest that is not taken came */
    bool armed;
    bool chained; /* `previous` is called too */
    bool native;  /* `found` is a function that C code has set */
    bool poked;   /* the loop has not answered the last poke yet */
    bool gap;     /* for a moment the loop's handler took our place */
} SignalHandlerObject;

/* ------------------------------------------------------ the kernel's side */

/* Read the action of a signal.  0; -1 with OSError. */
static int
action_read(int signum, signal_handler_action *action)
{
#ifndef _WIN32
    if (sigaction(signum, NULL, action) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
#else
    (void)signum;
    action->sa_handler = SIG_DFL;
#endif
    return 0;
}

/* Set the action of a signal.  0; -1 with OSError. */
static int
action_write(int signum, const signal_handler_action *action)
{
#ifndef _WIN32
    if (sigaction(signum, action, NULL) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
#else
    (void)signum;
    (void)action;
#endif
    return 0;
}

/* Tell whether an action is a function. */
static bool
action_is_function(const signal_handler_action *action)
{
    return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

/* Call a function that C code has set, as the kernel would.  One that wants
   a siginfo_t and a context gets no call: we have neither. */
static void
action_call(const signal_handler_action *action, int signum)
{
#ifndef _WIN32
    if (action->sa_flags & SA_SIGINFO) {
        return;
    }
#endif
    action->sa_handler(signum);
}

/* ------------------------------------------------------------------ core */

/* Tell whether a handler still works for its coordinator. */
static bool
signal_handler_is_alive(const SignalHandlerObject *self)
{
    return self->armed && self->pid == (long)getpid();
}

/* Count one signal. */
static void
signal_handler_record(SignalHandlerObject *self)
{
    if (self->count++ == self->taken) {
        self->since = al_clock();
    }
}

/* Call what was found, if it can be called.  0; -1 with its exception. */
static int
signal_handler_chain(SignalHandlerObject *self, PyObject *frame)
{
    if (self->native) {
        action_call(&self->found, self->signum);
        return 0;
    }
    if (self->previous == NULL || !PyCallable_Check(self->previous)) {
        return 0;
    }
    PyObject *previous = Py_NewRef(self->previous);
    PyObject *answer =
        PyObject_CallFunction(previous, "iO", self->signum, frame);
    Py_DECREF(previous);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Have the loop woken.  1 if it will be, or a poke is under way; 0 if there
   is no loop any more; -1 with what a foreign handler raised meanwhile. */
static int
signal_handler_wake_loop(SignalHandlerObject *self)
{
    if (self->poked || self->poke == NULL) {
        return 1;
    }
    self->poked = true; /* a signal may come in the middle of the call */
    PyObject *poke = Py_NewRef(self->poke);
    PyObject *answer = PyObject_CallNoArgs(poke);
    Py_DECREF(poke);
    if (answer != NULL) {
        int reached = answer != Py_False;
        self->poked = reached;
        Py_DECREF(answer);
        return reached;
    }
    self->poked = false;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return -1; /* KeyboardInterrupt of somebody's: not ours to swallow */
    }
    /* No memory or no stack left: the fact is stored, and the byte that
       CPython wrote to the wake-up file wakes the loop. */
    PyErr_Clear();
    return 1;
}

/* Do what would have happened had we never been here.  0; -1 with what a
   Python handler raised. */
static int
signal_handler_call_found(SignalHandlerObject *self, PyObject *frame)
{
    SignalHandlerObject *base = self; /* below it nothing of ours is dead */
    while (base->previous != NULL && Py_TYPE(base->previous) == Py_TYPE(self)
           && !signal_handler_is_alive((SignalHandlerObject *)base->previous))
    {
        base = (SignalHandlerObject *)base->previous;
    }
    if (!base->native && base->found.sa_handler == SIG_IGN) {
        return 0;
    }
    if (!base->native && base->previous != NULL
        && PyCallable_Check(base->previous))
    {
        return signal_handler_chain(base, frame);
    }
    /* The rest is the kernel's to do, if the signal was sent to us, and not
       to a handler that calls us in its turn. */
    PyObject *top =
        self->getsignal == NULL
            ? Py_NewRef(Py_None)
            : PyObject_CallFunction(self->getsignal, "i", self->signum);
    if (top == NULL) {
        return -1;
    }
    Py_DECREF(top);
    if (top != (PyObject *)self) {
        return base->native ? signal_handler_chain(base, frame) : 0;
    }
    if (action_write(self->signum, &base->found) < 0) {
        return -1;
    }
    (void)raise(self->signum);
    return 0;
}

/* ------------------------------------------------------------------ door */

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
    Py_INCREF(op); /* what we call may remove us */
    int reached = 0;
    if (signal_handler_is_alive(self)) {
        signal_handler_record(self);
        reached = signal_handler_wake_loop(self);
    }
    int done = reached < 0     ? -1
               : reached == 0  ? signal_handler_call_found(self, frame)
               : self->chained ? signal_handler_chain(self, frame)
                               : 0;
    Py_DECREF(op);
    if (done < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_arm_doc,
"arm($self, chain, /)\n--\n\n"
"Begin to count, once installed; `chain`: call what was found too.");

static PyObject *
signal_handler_arm(PyObject *op, PyObject *chain)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    signal_handler_action ours;
    int chained = PyObject_IsTrue(chain);
    if (chained < 0 || action_read(self->signum, &ours) < 0) {
        return NULL;
    }
    /* What is installed now is CPython's function: any other that was found
       is somebody's who did not ask Python. */
    self->native = action_is_function(&self->found)
                   && self->found.sa_handler != ours.sa_handler;
    self->chained = chained || self->native;
    self->pid = (long)getpid();
    self->armed = true;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_disarm_doc,
"disarm($self, /)\n--\n\n"
"Count no more: from now on stand in for what was found.");

static PyObject *
signal_handler_disarm(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    self->armed = false;
    Py_CLEAR(self->poke);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_take_doc,
"take($self, /)\n--\n\n"
"Return how many signals came since the last call, and answer the poke.");

static PyObject *
signal_handler_take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    uint64_t count = self->count - self->taken;
    PyObject *answer = AL_ALLOC(PyLong_FromUnsignedLongLong(count));
    if (answer != NULL) {
        self->poked = false;
        self->taken += count;
    }
    return answer;
}

PyDoc_STRVAR(signal_handler_set_installing_doc,
"open($self, gap, /)\n--\n\n"
"Tell whether the next word of the loop may be of a signal that came while\n"
"the loop's own handler was on top, in the middle of installing.");

static PyObject *
signal_handler_set_installing(PyObject *op, PyObject *gap)
{
    int open = PyObject_IsTrue(gap);
    if (open < 0) {
        return NULL;
    }
    ((SignalHandlerObject *)op)->gap = open;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_on_loop_wakeup_doc,
"hear($self, installed, /)\n--\n\n"
"Take note that the loop was told of the signal.  If we were not called,\n"
"being displaced or not yet in place, count it; else it is a wake-up, or the\n"
"word of a forked child, which on 3.11 writes into our pipe.");

static PyObject *
signal_handler_on_loop_wakeup(PyObject *op, PyObject *installed)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    int known = PyObject_IsTrue(installed);
    if (known < 0) {
        return NULL;
    }
    bool missed = (!known || self->gap) && self->count == self->heard
                  && signal_handler_is_alive(self);
    if (missed) {
        signal_handler_record(self);
    }
    self->heard = self->count;
    self->gap = false; /* what came in it is told first */
    /* Whoever displaced us was called; whom we cover was not, in the gap. */
    if (missed && known && self->chained
        && signal_handler_chain(self, Py_None) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_restore_action_doc,
"put_back($self, /)\n--\n\n"
"Give the kernel the action that was found: its function, its flags.");

static PyObject *
signal_handler_restore_action(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    if (action_write(self->signum, &self->found) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(signal_handler_take_over_doc,
"inherit($self, below, /)\n--\n\n"
"Cover what the handler below covers, which is about to go.");

static PyObject *
signal_handler_take_over(PyObject *op, PyObject *other)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    if (!Py_IS_TYPE(other, Py_TYPE(op)) || other == op) {
        return PyErr_Format(PyExc_TypeError, "expected another handler");
    }
    SignalHandlerObject *below = (SignalHandlerObject *)other;
    self->found = below->found;
    self->native = below->native;
    self->chained = below->chained;
    if (self->entry == NULL) {
        self->entry = below->entry;
        below->entry = NULL;
    }
    Py_XSETREF(self->previous, Py_XNewRef(below->previous));
    Py_RETURN_NONE;
}

static PyObject *
signal_handler_get_signum(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyLong_FromLong(((SignalHandlerObject *)op)->signum));
}

static PyObject *
signal_handler_get_count(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(
        PyLong_FromUnsignedLongLong(((SignalHandlerObject *)op)->count));
}

static PyObject *
signal_handler_get_since(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyFloat_FromDouble(((SignalHandlerObject *)op)->since));
}

static PyObject *
signal_handler_get_previous(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *previous = ((SignalHandlerObject *)op)->previous;
    return Py_NewRef(previous == NULL ? Py_None : previous);
}

static PyObject *
signal_handler_get_registered_loop(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *entry = ((SignalHandlerObject *)op)->entry;
    return Py_NewRef(entry == NULL ? Py_None : entry);
}

static int
signal_handler_set_registered_loop(PyObject *op, PyObject *entry,
                                   void *Py_UNUSED(closure))
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    Py_XSETREF(self->entry, entry == Py_None ? NULL : Py_XNewRef(entry));
    return 0;
}

static PyObject *
signal_handler_get_ignored(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((SignalHandlerObject *)op)->found.sa_handler
                           == SIG_IGN);
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
    PyObject *previous, *poke;
    if (kwargs != NULL) {
        return PyErr_Format(PyExc_TypeError,
                            "SignalHandler() takes no keyword arguments");
    }
    if (!PyArg_ParseTuple(args, "iOO:SignalHandler", &signum, &previous,
                          &poke))
    {
        return NULL;
    }
    al_state *st = al_state_of_type(type);
    signal_handler_action found;
    if (st == NULL || action_read(signum, &found) < 0) {
        return NULL;
    }
    SignalHandlerObject *self =
        (SignalHandlerObject *)AL_ALLOC(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    self->signum = signum;
    self->found = found;
    self->previous = Py_NewRef(previous);
    self->poke = Py_NewRef(poke);
    self->getsignal = Py_NewRef(st->getsignal);
    return (PyObject *)self;
}

static int
signal_handler_traverse(PyObject *op, visitproc visit, void *arg)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->previous);
    Py_VISIT(self->poke);
    Py_VISIT(self->entry);
    Py_VISIT(self->getsignal);
    return 0;
}

static int
signal_handler_clear(PyObject *op)
{
    SignalHandlerObject *self = (SignalHandlerObject *)op;
    self->armed = false;
    Py_CLEAR(self->previous);
    Py_CLEAR(self->poke);
    Py_CLEAR(self->entry);
    Py_CLEAR(self->getsignal);
    return 0;
}

static PyMethodDef signal_handler_methods[] = {
    {"arm", signal_handler_arm, METH_O, signal_handler_arm_doc},
    {"disarm", signal_handler_disarm, METH_NOARGS, signal_handler_disarm_doc},
    {"take", signal_handler_take, METH_NOARGS, signal_handler_take_doc},
    {"open", signal_handler_set_installing, METH_O,
     signal_handler_set_installing_doc},
    {"hear", signal_handler_on_loop_wakeup, METH_O,
     signal_handler_on_loop_wakeup_doc},
    {"put_back", signal_handler_restore_action, METH_NOARGS,
     signal_handler_restore_action_doc},
    {"inherit", signal_handler_take_over, METH_O,
     signal_handler_take_over_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef signal_handler_getset[] = {
    {"signum", signal_handler_get_signum, NULL, "The signal.", NULL},
    {"count", signal_handler_get_count, NULL, "Signals so far.", NULL},
    {"since", signal_handler_get_since, NULL,
     "Monotonic time at which the oldest signal not yet taken came.", NULL},
    {"previous", signal_handler_get_previous, NULL,
     "What signal.getsignal() had before; None: nothing it knew.", NULL},
    {"entry", signal_handler_get_registered_loop,
     signal_handler_set_registered_loop,
     "The loop that was given an entry for this signal, or None.", NULL},
    {"ignored", signal_handler_get_ignored, NULL,
     "Whether the signal was ignored before.", NULL},
    {"alive", signal_handler_get_alive, NULL,
     "Whether it is armed, and not in a forked child.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(signal_handler_doc,
"SignalHandler(signum, previous, poke, /)\n--\n\n"
"The Python-level handler of one signal, for SignalCoordinator alone.\n\n"
"Makes a note of the action that the signal has now.  `poke()` is called in\n"
"the handler and must have the loop call take(); False: there is no loop.");

static PyType_Slot signal_handler_slots[] = {
    {Py_tp_doc, (void *)signal_handler_doc},
    {Py_tp_new, signal_handler_new},
    {Py_tp_call, signal_handler_call},
    {Py_tp_methods, signal_handler_methods},
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
