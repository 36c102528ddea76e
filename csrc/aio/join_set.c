/* Cancel many Tasks, wait for all, know the outcome of each.
 *
 * This is the idea of Tokio's JoinSet: abort all, join all.  A shutdown makes
 * one; its report reads it.
 *
 *     JoinSet
 *       .members    [JoinSetMember, ...]      one for each Task
 *       .pending    members whose Task has not ended
 *       .waiters    futures, woken when .pending may be low enough
 *       .callers    the Tasks that wait
 *
 *     a member      stuck --al_member_end--> finished, cancelled, failed or
 *                                            swallowed
 *
 * A member holds its set, and the set its members, until the Task ends.
 * add() makes the member a done callback of the Task.  A registry that shuts
 * down does not: its entry is one already, and calls al_member_end.  The
 * waiting itself, with its timer, is Python: join_and_report().
 *
 * A Task has swallowed its cancellation if it returned a value, this set or an
 * earlier one had cancelled it, and the request still counts in cancelling().
 * A Task that took the request back by uncancel() meant to go on, and has
 * finished.
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
    PyObject *callers; /* owned: list of the Tasks that wait, or None */
    Py_ssize_t pending;
} JoinSetObject;

typedef enum {
    MEMBER_STUCK = 0, /* it has not ended */
    MEMBER_FINISHED,
    MEMBER_CANCELLED,
    MEMBER_FAILED,
    MEMBER_SWALLOWED,
} member_outcome;

static const char *const member_words[] = {
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
    bool cancel_sent; /* a cancel() is under way, or has returned True */
    bool ended;
} MemberObject;

/* ----------------------------------------------------------- core half */

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

/* Tell whether our cancellation still counts in the Task's cancelling(). */
static bool
member_still_cancelling(JoinSetObject *set, MemberObject *member)
{
    al_state *st = set->st;
    if (!member->cancel_sent) {
        return false;
    }
    long count = al_task_cancelling(st, member->task);
    if (count < 0 && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* another library's Task, which does not count */
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
    /* The state first: all that follows may run Python, and come here again.
       Without its set the member is in no cycle any more. */
    member->ended = true;
    JoinSetObject *set = member->set;
    member->set = NULL;
    if (set == NULL || set->waiters == NULL) {
        Py_XDECREF((PyObject *)set);
        return; /* the collector has cleared the set */
    }
    PyObject *waiters = Py_NewRef(set->waiters);
    member->outcome = outcome == AL_CANCELLED ? MEMBER_CANCELLED
                      : outcome == AL_DONE    ? MEMBER_FINISHED
                                              : MEMBER_FAILED;
    if (outcome == AL_DONE && member_still_cancelling(set, member)) {
        member->outcome = MEMBER_SWALLOWED;
    }
    Py_XSETREF(member->error, Py_XNewRef(error));
    /* The Tasks that are pending may all be among those that wait here: each
       of them decides in Python whether it waits for any other. */
    Py_ssize_t waiting = PyList_GET_SIZE(waiters);
    if (--set->pending <= (waiting > 1 ? waiting : 1)) {
        al_loop_wake_waiters(set->st, &set->bound, waiters);
    }
    Py_DECREF(waiters);
    Py_DECREF((PyObject *)set);
}

/* Ask a Task that is done for its outcome, and record it.  If asking raises,
   that is recorded as a failure.  Returns 0; -1 with that exception. */
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
    /* Set before the call, which may run code that ends the Task. */
    member->cancel_sent = true;
    PyObject *on_done = member->meta == Py_None ? op : member->meta;
    int sent = al_capture_cancel(set->st, &set->bound, task, NULL, on_done);
    member->cancel_sent = sent > 0;
    if (sent < 0) {
        al_loop_report_or_exit_later(set->st, set->bound.loop,
                                     "cancelling a task failed", task);
    }
    Py_DECREF(task);
    Py_DECREF((PyObject *)set);
}

void
al_member_was_cancelled(PyObject *op)
{
    ((MemberObject *)op)->cancel_sent = true;
}

/* The done callback. */
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
        return NULL; /* the loop reports it */
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

/* ---------------------------------------------------------- Python API */

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
"Cancel a Task and follow it to its end; record the outcome of one that is\n"
"done.\n\n"
"meta: the Task's entry in a registry, or None; kept for the report.\n"
"Returns the JoinSetMember.  Raises what asking a done Task raises.");

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
        /* Nothing will call it at the Task's end, so it ends here. */
        PyObject *error = PyErr_GetRaisedException();
        al_member_end(member, AL_FAILED, error);
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
     "How many of its Tasks have not ended."},
    {"members", T_OBJECT_EX, offsetof(JoinSetObject, members), READONLY,
     "The list of its JoinSetMembers, in the order of their add()."},
    {"waiters", T_OBJECT_EX, offsetof(JoinSetObject, waiters), READONLY,
     "Futures that get None when no Tasks but the callers may be pending."},
    {"callers", T_OBJECT_EX, offsetof(JoinSetObject, callers), READONLY,
     "The list of the Tasks that wait for this set."},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *
member_get_outcome(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(
        PyUnicode_FromString(member_words[((MemberObject *)op)->outcome]));
}

static PyGetSetDef member_getset[] = {
    {"outcome", member_get_outcome, NULL,
     "'stuck', 'finished', 'cancelled', 'failed' or 'swallowed'; stuck is a\n"
     "Task that has not ended.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef member_members[] = {
    {"task", T_OBJECT, offsetof(MemberObject, task), READONLY, "The Task."},
    {"meta", T_OBJECT, offsetof(MemberObject, meta), READONLY,
     "The Task's entry in a registry, or None."},
    {"error", T_OBJECT, offsetof(MemberObject, error), READONLY,
     "The exception of a Task that failed, or None."},
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
"JoinSet()\n--\n\n"
"Tasks that are cancelled and awaited together, and the outcome of each.\n\n"
"Raises RuntimeError if no event loop is running.");

PyDoc_STRVAR(member_doc,
"One Task of a JoinSet, and how it has ended.");

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
    {Py_tp_doc, (void *)member_doc},
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
                                        &member_spec, true)
                          < 0
               ? -1
               : 0;
}
