/* Cancel many, wait for all, know what became of each.
 *
 * A set holds one member for each Task.  The member is the Task's done
 * callback where nobody else would tell of its end; a registry's entries have
 * a callback already and pass the word on.  The waiting itself, with its
 * timer, is a few lines of Python over `pending`, `waiters` and `callers`.
 *
 * Whether a Task swallowed its cancellation is asked at its end: it gave a
 * value, we had asked, and the request still stands.  A Task that took the
 * request back by uncancel() meant to go on, and is not accused.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/capture.h"
#include "aio/join_set.h"

typedef struct {
    PyObject_HEAD
    al_state *st;
    al_loop bound;
    PyObject *members; /* owned: list */
    PyObject *waiters; /* owned: list of futures */
    PyObject *callers; /* owned: list of the Tasks that wait */
    Py_ssize_t pending;
} JoinSetObject;

typedef enum {
    MEMBER_STUCK = 0,
    MEMBER_FINISHED,
    MEMBER_CANCELLED,
    MEMBER_FAILED,
    MEMBER_SWALLOWED,
} member_outcome;

static const char *const member_outcomes[] = {
    "stuck", "finished", "cancelled", "failed", "swallowed",
};

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    JoinSetObject *set; /* owned; NULL when it has ended */
    PyObject *task;     /* owned */
    PyObject *meta;     /* owned: the entry, or None */
    PyObject *error;    /* owned, or NULL */
    member_outcome outcome;
    bool cancel_sent; /* cancel() was called, and true */
    bool ended;
} MemberObject;

/* ---------------------------------------------------------- core half */

PyObject *
al_join_set_new(al_state *st, const al_loop *bound)
{
    PyObject *members = AL_ALLOC(PyList_New(0));
    PyObject *waiters = members == NULL ? NULL : AL_ALLOC(PyList_New(0));
    PyObject *callers = waiters == NULL ? NULL : AL_ALLOC(PyList_New(0));
    JoinSetObject *self =
        callers == NULL ? NULL
                        : AL_ALLOC(PyObject_GC_New(
                              JoinSetObject, (PyTypeObject *)st->JoinSet));
    if (self == NULL) {
        Py_XDECREF(members);
        Py_XDECREF(waiters);
        Py_XDECREF(callers);
        return NULL;
    }
    self->st = st;
    self->bound = *bound;
    Py_XINCREF(self->bound.loop);
    Py_XINCREF(self->bound.context);
    self->members = members;
    self->waiters = waiters;
    self->callers = callers;
    self->pending = 0;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

/* Tell whether a cancellation of ours still stands, uncaught or swallowed. */
static bool
member_request_stands(JoinSetObject *set, MemberObject *member)
{
    al_state *st = set->st;
    if (!member->cancel_sent) {
        return false;
    }
    long count = al_task_cancelling(st, member->task);
    if (count < 0 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* a Task of another make that does not count */
    }
    else if (count < 0) {
        al_loop_report_or_exit_later(
            st, set->bound.loop, "asking a task for its cancellations failed",
            member->task);
    }
    return count > 0;
}

void
al_member_end(PyObject *op, al_outcome outcome, PyObject *error)
{
    MemberObject *member = (MemberObject *)op;
    if (member->ended) {
        return;
    }
    member->ended = true;
    JoinSetObject *set = member->set; /* let go: the set holds its members */
    member->set = NULL;
    if (set == NULL || set->waiters == NULL) {
        Py_XDECREF((PyObject *)set);
        return; /* the collector has been here */
    }
    PyObject *waiters = Py_NewRef(set->waiters);
    member->outcome = outcome == AL_CANCELLED ? MEMBER_CANCELLED
                      : outcome == AL_DONE    ? MEMBER_FINISHED
                                              : MEMBER_FAILED;
    if (outcome == AL_DONE && member_request_stands(set, member)) {
        member->outcome = MEMBER_SWALLOWED;
    }
    Py_XSETREF(member->error, Py_XNewRef(error));
    /* What is left may be no others than the tasks that wait. */
    Py_ssize_t waiting = PyList_GET_SIZE(waiters);
    if (--set->pending <= (waiting > 1 ? waiting : 1)) {
        al_loop_wake_waiters(set->st, &set->bound, waiters);
    }
    Py_DECREF(waiters);
    Py_DECREF((PyObject *)set);
}

/* Ask a Task that is done how it ended, and note it; one that would not tell
   has failed.  Returns 0; -1 with the Task's error. */
static int
member_record_outcome(MemberObject *member)
{
    PyObject *value;
    al_outcome outcome =
        al_task_outcome(member->set->st, member->task, &value);
    if (outcome == AL_ERROR) {
        PyObject *error = PyErr_GetRaisedException();
        al_member_end((PyObject *)member, AL_FAILED, error);
        PyErr_SetRaisedException(error);
        return -1;
    }
    al_member_end((PyObject *)member, outcome,
                  outcome == AL_FAILED ? value : NULL);
    Py_XDECREF(value);
    return 0;
}

void
al_member_cancel(PyObject *op)
{
    MemberObject *member = (MemberObject *)op;
    if (member->cancel_sent || member->ended || member->set == NULL) {
        return;
    }
    JoinSetObject *set = (JoinSetObject *)Py_NewRef((PyObject *)member->set);
    PyObject *task = Py_NewRef(member->task);
    member->cancel_sent = true;
    PyObject *watcher = member->meta == Py_None ? op : member->meta;
    int asked = al_capture_cancel(set->st, &set->bound, task, NULL, watcher);
    member->cancel_sent = asked > 0;
    if (asked < 0) {
        al_loop_report_or_exit_later(set->st, set->bound.loop,
                                     "cancelling a task failed", task);
    }
    Py_DECREF(task);
    Py_DECREF((PyObject *)set);
}

static PyObject *
member_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf,
                  PyObject *Py_UNUSED(kwnames))
{
    MemberObject *member = (MemberObject *)op;
    if (PyVectorcall_NARGS(nargsf) != 1 || args[0] != member->task) {
        PyErr_SetString(PyExc_TypeError, "a JoinSetMember is not for calling");
        return NULL;
    }
    if (!member->ended && member->set != NULL
        && member_record_outcome(member) < 0)
    {
        return NULL; /* to the loop's handler */
    }
    Py_RETURN_NONE;
}

static MemberObject *
member_new(JoinSetObject *set, PyObject *task, PyObject *meta)
{
    MemberObject *member = AL_ALLOC(
        PyObject_GC_New(MemberObject, (PyTypeObject *)set->st->JoinSetMember));
    if (member == NULL) {
        return NULL;
    }
    member->vectorcall = member_vectorcall;
    member->set = (JoinSetObject *)Py_NewRef((PyObject *)set);
    member->task = Py_NewRef(task);
    member->meta = Py_NewRef(meta);
    member->error = NULL;
    member->outcome = MEMBER_STUCK;
    member->cancel_sent = false;
    member->ended = false;
    PyObject_GC_Track((PyObject *)member);
    return member;
}

PyObject *
al_join_set_add(PyObject *op, PyObject *task, PyObject *meta)
{
    JoinSetObject *set = (JoinSetObject *)op;
    MemberObject *member = member_new(set, task, meta);
    if (member == NULL
        || AL_ALLOC_INT(PyList_Append(set->members, (PyObject *)member)) < 0)
    {
        Py_XDECREF((PyObject *)member);
        return NULL;
    }
    set->pending++;
    return (PyObject *)member;
}

/* ---------------------------------------------------------- door half */

static PyObject *
join_set_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    al_state *st = al_state_of_type(type);
    if (st == NULL) {
        return NULL;
    }
    if (PyTuple_GET_SIZE(args) != 0 || kwargs != NULL) {
        PyErr_SetString(PyExc_TypeError, "JoinSet() takes no arguments");
        return NULL;
    }
    al_loop bound = {NULL, NULL, 0, AL_CLOCK_ITS_OWN};
    PyObject *loop = al_loop_running(st, "a shutdown");
    PyObject *set = NULL;
    if (loop != NULL && al_loop_bind(st, &bound, loop) == 0) {
        set = al_join_set_new(st, &bound);
    }
    al_loop_clear(&bound);
    Py_XDECREF(loop);
    return set;
}

PyDoc_STRVAR(join_set_add_doc,
"add($self, task, meta=None, /)\n--\n\n"
"Cancel a Task, or note how it has ended, and follow it to its end.");

static PyObject *
join_set_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2) {
        PyErr_SetString(PyExc_TypeError, "add() takes a task and an entry");
        return NULL;
    }
    JoinSetObject *set = (JoinSetObject *)op;
    PyObject *meta = nargs == 2 ? args[1] : Py_None;
    int done = al_task_done(set->st, args[0]);
    PyObject *member = done < 0 ? NULL : al_join_set_add(op, args[0], meta);
    if (member == NULL) {
        return NULL;
    }
    if (done ? member_record_outcome((MemberObject *)member) < 0
             : al_task_add_done_callback(set->st, &set->bound, args[0], member)
                   < 0)
    {
        PyObject *error = PyErr_GetRaisedException();
        al_member_end(member, AL_FAILED,
                      error); /* nobody will tell of its end */
        PyErr_SetRaisedException(error);
        Py_DECREF(member);
        return NULL;
    }
    al_member_cancel(member);
    return member;
}

static PyMethodDef join_set_methods[] = {
    {"add", AL_METHOD(join_set_add), METH_FASTCALL, join_set_add_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef join_set_members[] = {
    {"pending", T_PYSSIZET, offsetof(JoinSetObject, pending), READONLY,
     "How many have not ended."},
    {"members", T_OBJECT_EX, offsetof(JoinSetObject, members), READONLY, NULL},
    {"waiters", T_OBJECT_EX, offsetof(JoinSetObject, waiters), READONLY,
     "Futures, given None when none may be pending but those who wait."},
    {"callers", T_OBJECT_EX, offsetof(JoinSetObject, callers), READONLY,
     "The Tasks that wait."},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *
member_get_outcome(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(
        PyUnicode_FromString(member_outcomes[((MemberObject *)op)->outcome]));
}

static PyGetSetDef member_getset[] = {
    {"outcome", member_get_outcome, NULL,
     "'stuck', 'finished', 'cancelled', 'failed' or 'swallowed'.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef member_members[] = {
    {"task", T_OBJECT, offsetof(MemberObject, task), READONLY, NULL},
    {"meta", T_OBJECT, offsetof(MemberObject, meta), READONLY, NULL},
    {"error", T_OBJECT, offsetof(MemberObject, error), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(MemberObject, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* --------------------------------------------------------- GC and specs */

static int
join_set_traverse(PyObject *op, visitproc visit, void *arg)
{
    JoinSetObject *self = (JoinSetObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->members);
    Py_VISIT(self->waiters);
    Py_VISIT(self->callers);
    return al_loop_visit(&self->bound, visit, arg);
}

static int
join_set_clear(PyObject *op)
{
    JoinSetObject *self = (JoinSetObject *)op;
    Py_CLEAR(self->members);
    Py_CLEAR(self->waiters);
    Py_CLEAR(self->callers);
    al_loop_clear(&self->bound);
    return 0;
}

static int
member_traverse(PyObject *op, visitproc visit, void *arg)
{
    MemberObject *self = (MemberObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT((PyObject *)self->set);
    Py_VISIT(self->task);
    Py_VISIT(self->meta);
    Py_VISIT(self->error);
    return 0;
}

static int
member_clear(PyObject *op)
{
    MemberObject *self = (MemberObject *)op;
    self->ended = true;
    Py_CLEAR(self->task);
    Py_CLEAR(self->meta);
    Py_CLEAR(self->error);
    Py_CLEAR(self->set);
    return 0;
}

PyDoc_STRVAR(join_set_doc,
"Tasks that were told to end, and what became of each.");

static PyType_Slot join_set_slots[] = {
    {Py_tp_doc, (void *)join_set_doc},
    {Py_tp_new, join_set_new},
    {Py_tp_methods, join_set_methods},
    {Py_tp_members, join_set_members},
    {Py_tp_traverse, join_set_traverse},
    {Py_tp_clear, join_set_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec join_set_spec = {
    .name = "pyasynclife._core.JoinSet",
    .basicsize = sizeof(JoinSetObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = join_set_slots,
};

static PyType_Slot member_slots[] = {
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_getset, member_getset},
    {Py_tp_members, member_members},
    {Py_tp_traverse, member_traverse},
    {Py_tp_clear, member_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec member_spec = {
    .name = "pyasynclife._core.JoinSetMember",
    .basicsize = sizeof(MemberObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = member_slots,
};

int
al_join_set_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->JoinSet, &join_set_spec, true) < 0
                   || al_state_add_type(module, &st->JoinSetMember,
                                        &member_spec, false)
                          < 0
               ? -1
               : 0;
}
