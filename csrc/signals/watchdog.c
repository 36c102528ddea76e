/* The deadline of the process: a thread that ends it and needs no GIL.
 *
 * A SignalCoordinator with kill_after has a Watchdog, which has a native
 * thread.  The thread is idle until the first signal, then sleeps until the
 * deadline.  It then writes the Python stack of every thread to stderr and
 * ends the process by that signal.  It touches no Python object, so it works
 * while C code holds the GIL, while a callback never returns, and while the
 * interpreter waits at its end for a thread.
 *
 * Who starts the clock.  A Python-level handler does not run while C code
 * holds the GIL, so our own C handler lies over CPython's in the kernel:
 *
 *     kernel -> watchdog_on_signal()   notes the time, posts a semaphore
 *                  |
 *                  +-> CPython's C handler, as without us
 *
 * It lies there only while one of our SignalHandlers is the Python-level
 * handler.  Its flags and mask are those of CPython's action, signal.signal()
 * replaces it like any other, and al_watchdog_reveal() hides it from our own
 * code, which reads, compares and restores actions.  If a host has replaced
 * it, the SignalHandler starts the clock once the interpreter or the loop
 * calls it.
 *
 * The dump.  The function that writes the stacks without the GIL is private,
 * and is hidden in CPython 3.14.  faulthandler.register() is the public way to
 * it on every version: it installs a C handler for a signal that calls the
 * function.  We register one for a real-time signal that nobody uses, remember
 * the C handler, put the signal's action back, and call the handler directly.
 * faulthandler.dump_traceback_later() has one user per process, so we leave it
 * to the program (pytest uses it).
 *
 * At the deadline nothing may hold up the end of the process.  If the dump
 * crashes, because it reads the frames of threads that run meanwhile, or takes
 * longer than DUMP_SECONDS, because nobody reads the pipe that is stderr, a
 * signal handler ends the process all the same.  If the signal does not end
 * it, because it is process 1 of a container, _exit(128 + signum) does.
 *
 * What a signal handler or the thread reads is atomic, and is never freed: the
 * table of watches is static, shared by all interpreters of the process as
 * signals are.  Only the main interpreter makes a Watchdog.  A forked child
 * has no thread; the number of the process that made it tells that a watch is
 * dead, and the child may use its place.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "signals/watchdog.h"

#ifndef _WIN32
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WATCHES 8            /* at a time */
#define SIGNALS 64           /* those with a number up to this */
#define STACK_SIZE (1 << 19) /* of the thread: virtual memory */
#define SLICE 0.02           /* seconds between two looks at the deadline */
#define DUMP_SECONDS 3       /* for a dump, at most */
#define DIE_SECONDS 0.5      /* for the signal to end the process */

/* A thread and its deadline.  `signals` has a bit for each signal. */
typedef struct {
    atomic_long pid;               /* of the process that made it; 0: free */
    atomic_uint_least64_t signals; /* that start the clock */
    _Atomic double seconds;        /* from the signal to the deadline */
    atomic_int signum;             /* that came first; 0: none so far */
    _Atomic double due;            /* the deadline, in monotonic time */
    atomic_bool is_over;           /* the thread is to return */
    sem_t wake;
    pthread_t thread;
} al_watch;

typedef void (*al_c_handler)(int);

/* Shared by all interpreters, as signals are. */
static struct {
    al_watch watches[WATCHES];
    _Atomic al_c_handler python; /* CPython's C handler of signals */
    _Atomic al_c_handler dump;   /* faulthandler's, for dump_signum */
    int dump_signum;
    atomic_int ending; /* by this signal; 0: not yet */
} watchdog_process;

/* ------------------------------------------------- the end of the process */

static void
watchdog_sleep(double seconds)
{
    struct timespec rest = {(time_t)seconds,
                            (long)((seconds - (double)(time_t)seconds) * 1e9)};
    (void)nanosleep(&rest, NULL);
}

/* Give a signal an action, and let it through to this thread.
   Async-signal-safe. */
static void
watchdog_set_action(int signum, al_c_handler handler)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_handler = handler;
    (void)sigaction(signum, &action, NULL);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signum);
    (void)pthread_sigmask(SIG_UNBLOCK, &one, NULL);
}

/* End the process by a signal; does not return.  Async-signal-safe. */
static void
watchdog_die(int signum)
{
    bool stops = signum == SIGTSTP || signum == SIGTTIN || signum == SIGTTOU;
    if (!stops) {
        watchdog_set_action(signum, SIG_DFL);
        (void)kill(getpid(), signum);
        watchdog_sleep(DIE_SECONDS);
    }
    _exit(128 + signum);
}

/* The dump has crashed, or takes too long. */
static void
watchdog_cut_short(int Py_UNUSED(signum))
{
    watchdog_die(atomic_load(&watchdog_process.ending));
}

/* Write the line that precedes the dump. */
static void
watchdog_write_reason(int signum, double seconds)
{
    static const struct {
        int signum;
        const char *name;
    } names[] = {
        {SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"},   {SIGHUP, "SIGHUP"},
        {SIGQUIT, "SIGQUIT"}, {SIGUSR1, "SIGUSR1"}, {SIGUSR2, "SIGUSR2"},
    };
    char name[24], line[160];
    (void)snprintf(name, sizeof(name), "signal %d", signum);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].signum == signum) {
            (void)snprintf(name, sizeof(name), "%s", names[i].name);
        }
    }
    long ms = seconds < 1e6 ? (long)(seconds * 1e3) : 1000000000L;
    int length = snprintf(line, sizeof(line),
                          "pyasynclife: the process still runs %ld.%03ld s "
                          "after %s: it is ended by %s\n",
                          ms / 1000, ms % 1000, name, name);
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)length);
    (void)ignored;
}

/* Dump all threads, and end the process; does not return.  If another thread
   does that already, wait for it. */
static void
watchdog_bite(int signum, double seconds)
{
    int nobody = 0;
    while (!atomic_compare_exchange_strong(&watchdog_process.ending, &nobody,
                                           signum))
    {
        nobody = 0;
        watchdog_sleep(DIE_SECONDS);
    }
    watchdog_set_action(SIGSEGV, watchdog_cut_short);
    watchdog_set_action(SIGBUS, watchdog_cut_short);
    watchdog_set_action(SIGALRM, watchdog_cut_short);
    (void)alarm(DUMP_SECONDS);
    watchdog_write_reason(signum, seconds);
    al_c_handler dump = atomic_load(&watchdog_process.dump);
    if (dump != NULL && !Py_IsFinalizing()) {
        dump(watchdog_process.dump_signum);
    }
    watchdog_die(signum);
}

/* --------------------------------------------------------------- a watch */

/* Tell whether a watch belongs to this process.  Async-signal-safe. */
static bool
watch_is_ours(al_watch *self)
{
    return atomic_load(&self->pid) == (long)getpid();
}

/* Start the clock, unless it runs.  Async-signal-safe. */
static void
watch_begin(al_watch *self, int signum, double when)
{
    int none = 0;
    if (atomic_load(&self->signum) == 0) {
        atomic_store(&self->due, when + atomic_load(&self->seconds));
    }
    if (atomic_compare_exchange_strong(&self->signum, &none, signum)) {
        (void)sem_post(&self->wake);
    }
}

/* The thread. */
static void *
watch_run(void *arg)
{
    al_watch *self = (al_watch *)arg;
    while (atomic_load(&self->signum) == 0 && !atomic_load(&self->is_over)) {
        (void)sem_wait(&self->wake);
    }
    while (!atomic_load(&self->is_over)) {
        double left = atomic_load(&self->due) - al_clock();
        if (left <= 0.0) {
            watchdog_bite(atomic_load(&self->signum),
                          atomic_load(&self->seconds) - left);
        }
        watchdog_sleep(left < SLICE ? left : SLICE);
    }
    return NULL;
}

/* Start the thread, with all signals blocked.  Returns 0; -1 with OSError. */
static int
watch_start(al_watch *self)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error == 0) {
        (void)pthread_attr_setstacksize(&attributes, STACK_SIZE);
        sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        error = pthread_create(&self->thread, &attributes, watch_run, self);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void)pthread_attr_destroy(&attributes);
    }
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

/* Take a free place and start its thread.  Returns the watch; NULL with an
   exception. */
static al_watch *
watch_new(double seconds, uint64_t signals)
{
    al_watch *self = watchdog_process.watches;
    al_watch *end = self + WATCHES;
    while (self < end && watch_is_ours(self)) {
        self++;
    }
    if (self == end) {
        return (al_watch *)PyErr_Format(
            PyExc_RuntimeError,
            "%d coordinators with kill_after handle signals already", WATCHES);
    }
    atomic_store(&self->signals, signals);
    atomic_store(&self->seconds, seconds);
    atomic_store(&self->signum, 0);
    atomic_store(&self->is_over, false);
    if (sem_init(&self->wake, 0, 0) < 0) {
        return (al_watch *)PyErr_SetFromErrno(PyExc_OSError);
    }
    if (AL_ALLOC_INT(watch_start(self)) < 0) {
        return NULL;
    }
    atomic_store(&self->pid, (long)getpid()); /* from here on it hears */
    return self;
}

/* End the thread, and free the place. */
static void
watch_stop(al_watch *self)
{
    atomic_store(&self->is_over, true);
    (void)sem_post(&self->wake);
    (void)pthread_join(self->thread, NULL); /* it needs no GIL */
    atomic_store(&self->pid, 0);
}

/* ------------------------------------------------------------ the signals */

void
al_watchdog_note(int signum)
{
    double now = al_clock();
    for (int i = 0; i < WATCHES; i++) {
        al_watch *watch = &watchdog_process.watches[i];
        uint64_t signals = atomic_load(&watch->signals);
        if ((signals >> (signum - 1)) & 1 && watch_is_ours(watch)) {
            watch_begin(watch, signum, now);
        }
    }
}

/* Our handler in the kernel, over CPython's. */
static void
watchdog_on_signal(int signum)
{
    int before = errno;
    al_watchdog_note(signum);
    errno = before;
    atomic_load (&watchdog_process.python)(signum);
}

void
al_watchdog_reveal(struct sigaction *action)
{
    if (action->sa_handler == watchdog_on_signal) {
        action->sa_handler = atomic_load(&watchdog_process.python);
    }
}

/* Tell whether a watch of this process waits for a signal. */
static bool
watchdog_awaits(int signum)
{
    for (int i = 0; i < WATCHES; i++) {
        al_watch *watch = &watchdog_process.watches[i];
        uint64_t signals = atomic_load(&watch->signals);
        if ((signals >> (signum - 1)) & 1 && watch_is_ours(watch)
            && atomic_load(&watch->signum) == 0)
        {
            return true;
        }
    }
    return false;
}

/* Have faulthandler make the function that dumps all threads, unless it has.
   Without a free signal there is none.  Returns 0; -1 with an exception. */
static int
watchdog_find_dump(void)
{
    struct sigaction action;
    int signum = SIGRTMAX - 1; /* valgrind uses SIGRTMAX */
    while (signum > SIGRTMIN
           && (sigaction(signum, NULL, &action) < 0
               || action.sa_handler != SIG_DFL))
    {
        signum--;
    }
    if (atomic_load(&watchdog_process.dump) != NULL || signum <= SIGRTMIN) {
        return 0;
    }
    PyObject *faulthandler = PyImport_ImportModule("faulthandler");
    if (faulthandler == NULL) {
        return -1;
    }
    /* signum, file, all_threads, chain */
    PyObject *answer =
        PyObject_CallMethod(faulthandler, "register", "iiOO", signum,
                            STDERR_FILENO, Py_True, Py_False);
    Py_DECREF(faulthandler);
    if (answer == NULL) {
        return -1;
    }
    Py_DECREF(answer);
    struct sigaction registered;
    if (sigaction(signum, &action, &registered) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    watchdog_process.dump_signum = signum;
    atomic_store(&watchdog_process.dump, registered.sa_handler);
    return 0;
}

/* ------------------------------------------------------------ Python API */

typedef struct {
    PyObject_HEAD
    al_watch *watch; /* borrowed: static; NULL once stopped */
} WatchdogObject;

/* Return the watch if it is one of this process; else NULL. */
static al_watch *
watchdog_get_watch(PyObject *op)
{
    al_watch *watch = ((WatchdogObject *)op)->watch;
    return watch != NULL && watch_is_ours(watch) ? watch : NULL;
}

static PyObject *
watchdog_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    double seconds;
    PyObject *signals;
    if (kwargs != NULL || !PyArg_ParseTuple(args, "dO", &seconds, &signals)) {
        return PyErr_Format(PyExc_TypeError,
                            "Watchdog() takes seconds and signals");
    }
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        return PyErr_Format(PyExc_RuntimeError,
                            "only the main interpreter handles signals");
    }
    uint64_t bits = 0;
    PyObject *iterator = PyObject_GetIter(signals);
    PyObject *item;
    while (iterator != NULL && (item = PyIter_Next(iterator)) != NULL) {
        long signum = al_object_count(item);
        if (signum >= 1 && signum <= SIGNALS) {
            bits |= (uint64_t)1 << (signum - 1);
        }
    }
    Py_XDECREF(iterator);
    if (PyErr_Occurred() || watchdog_find_dump() < 0) {
        return NULL;
    }
    PyObject *self = AL_ALLOC(type->tp_alloc(type, 0));
    if (self == NULL) {
        return NULL;
    }
    ((WatchdogObject *)self)->watch = watch_new(seconds, bits);
    if (((WatchdogObject *)self)->watch == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

PyDoc_STRVAR(watchdog_begin_doc,
"begin($self, signum, seconds_ago, /)\n--\n\n"
"Start the clock, unless it runs: the process will be ended by a signal.");

static PyObject *
watchdog_begin(PyObject *op, PyObject *args)
{
    int signum;
    double seconds_ago;
    if (!PyArg_ParseTuple(args, "id", &signum, &seconds_ago)) {
        return NULL;
    }
    al_watch *watch = watchdog_get_watch(op);
    if (watch != NULL) {
        watch_begin(watch, signum, al_clock() - seconds_ago);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watchdog_disarm_doc,
"disarm($self, /)\n--\n\n"
"Stop if no signal has come; else nothing changes.");

static PyObject *
watchdog_disarm(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_watch *watch = watchdog_get_watch(op);
    if (watch != NULL) {
        atomic_store(&watch->signals, 0); /* it hears no more */
        if (atomic_load(&watch->signum) == 0) {
            ((WatchdogObject *)op)->watch = NULL;
            watch_stop(watch);
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watchdog_cancel_doc,
"cancel($self, /)\n--\n\n"
"Stop even if a signal has come: the process goes on.");

static PyObject *
watchdog_cancel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    al_watch *watch = watchdog_get_watch(op);
    if (watch != NULL) {
        atomic_store(&watch->signals, 0);
        ((WatchdogObject *)op)->watch = NULL;
        watch_stop(watch);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watchdog_postpone_doc,
"postpone($self, seconds, /)\n--\n\n"
"Once the clock runs: move the deadline to so many seconds from now, if it\n"
"is earlier.");

static PyObject *
watchdog_postpone(PyObject *op, PyObject *seconds)
{
    double due = PyFloat_AsDouble(seconds);
    if (due == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    due += al_clock();
    al_watch *watch = watchdog_get_watch(op);
    if (watch != NULL && atomic_load(&watch->due) < due) {
        atomic_store(&watch->due, due);
    }
    Py_RETURN_NONE;
}

static PyObject *
watchdog_get_signum(PyObject *op, void *Py_UNUSED(closure))
{
    al_watch *watch = watchdog_get_watch(op);
    int signum = watch == NULL ? 0 : atomic_load(&watch->signum);
    return AL_ALLOC(PyLong_FromLong(signum));
}

static PyObject *
watchdog_get_due(PyObject *op, void *Py_UNUSED(closure))
{
    al_watch *watch = watchdog_get_watch(op);
    double due = watch == NULL ? 0.0 : atomic_load(&watch->due);
    return AL_ALLOC(PyFloat_FromDouble(due));
}

static void
watchdog_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    al_watch *watch = watchdog_get_watch(op);
    if (watch != NULL && atomic_load(&watch->signum) == 0) {
        atomic_store(&watch->signals, 0);
        watch_stop(watch);
    }
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(watchdog_watch_signal_doc,
"watch_signal($module, signum, /)\n--\n\n"
"Lay our C handler over CPython's if a Watchdog waits for the signal.\n\n"
"To be called after signal.signal() has installed one of our handlers.");

static PyObject *
watchdog_watch_signal(PyObject *Py_UNUSED(module), PyObject *number)
{
    struct sigaction action;
    long signum = PyLong_AsLong(number);
    if (signum == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (signum < 1 || signum > SIGNALS || !watchdog_awaits((int)signum)) {
        Py_RETURN_NONE;
    }
    if (sigaction((int)signum, NULL, &action) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN
        && action.sa_handler != watchdog_on_signal)
    {
        atomic_store(&watchdog_process.python, action.sa_handler);
        action.sa_handler = watchdog_on_signal;
        if (sigaction((int)signum, &action, NULL) < 0) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(watchdog_end_process_doc,
"end_process($module, signum, /)\n--\n\n"
"End the process by a signal, from any thread; does not return.");

static PyObject *
watchdog_end_process(PyObject *Py_UNUSED(module), PyObject *number)
{
    long signum = PyLong_AsLong(number);
    if (signum == -1 && PyErr_Occurred()) {
        return NULL;
    }
    watchdog_die((int)signum);
    Py_UNREACHABLE();
}

static PyMethodDef watchdog_methods[] = {
    {"begin", watchdog_begin, METH_VARARGS, watchdog_begin_doc},
    {"disarm", watchdog_disarm, METH_NOARGS, watchdog_disarm_doc},
    {"cancel", watchdog_cancel, METH_NOARGS, watchdog_cancel_doc},
    {"postpone", watchdog_postpone, METH_O, watchdog_postpone_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef watchdog_getset[] = {
    {"signum", watchdog_get_signum, NULL,
     "The signal that has started the clock; 0: none so far.", NULL},
    {"due", watchdog_get_due, NULL,
     "The deadline in monotonic time, once the clock runs.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(watchdog_doc,
"Watchdog(seconds, signals, /)\n--\n\n"
"Ends the process so many seconds after the first of the signals.");

static PyType_Slot watchdog_slots[] = {
    {Py_tp_doc, (void *)watchdog_doc},
    {Py_tp_new, watchdog_new},
    {Py_tp_methods, watchdog_methods},
    {Py_tp_getset, watchdog_getset},
    {Py_tp_dealloc, watchdog_dealloc},
    {0, NULL},
};

static PyType_Spec watchdog_spec = {
    .name = "pyasynclife._core.Watchdog",
    .basicsize = sizeof(WatchdogObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = watchdog_slots,
};

static PyMethodDef watchdog_functions[] = {
    {"watch_signal", watchdog_watch_signal, METH_O, watchdog_watch_signal_doc},
    {"end_process", watchdog_end_process, METH_O, watchdog_end_process_doc},
    {NULL, NULL, 0, NULL},
};

/* ----------------------------------------------------------------- setup */

int
al_watchdog_setup(PyObject *module, al_state *st)
{
    if (PyModule_AddFunctions(module, watchdog_functions) < 0) {
        return -1;
    }
    return al_state_add_type(module, &st->Watchdog, &watchdog_spec, true);
}

#else /* Windows: SignalCoordinator handles no signals there */

void
al_watchdog_note(int Py_UNUSED(signum))
{
}

int
al_watchdog_setup(PyObject *Py_UNUSED(module), al_state *Py_UNUSED(st))
{
    return 0;
}
#endif
