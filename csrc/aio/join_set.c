/* Cancel many Tasks, wait for all, know the outcome of each.
 *
 * This is the idea of Tokio's JoinSet: abort all, join all.  A shutdown makes
 * one; its report reads it.
 *
 *     JoinSet
 *       .running    a list of members whose Task has not ended
 *       .calling    a list of those of them whose Task waits for this set
 *       .ended      a list of members that no report has read yet
 *       .insiders   futures of the callers that are members
 *       .outsiders  futures of the other callers
 *
 *     a member      stuck --al_member_end--> finished, cancelled, failed or
 *                                            swallowed
 *
 * A member holds its set, and the set its members, until the Task ends.
 * add() makes the member a done callback of the Task.  A registry that shuts
 * down does not: its entry is one already, and calls al_member_end.  The
 * waiting itself, with its timer, is Python: join_and_report().
 *
 * An outsider waits for all Tasks.  Tasks of the set that wait for the set
 * must not wait for each other: an insider waits until all that have not ended
 * are callers, which then go on together.  They stay in `calling`, so that
 * none of them waits for another one's clean-up.  So a call is woken once,
 * however many Tasks shut each other down.
 *
 * A Task has swallowed its cancellation if it returned a value, this set or an
 * earlier one had cancelled it, and the request still counts in cancelling().
 * A Task that took the request back by uncancel() meant to go on, and has
 * finished.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/object.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/capture.h"
#include "aio/join_set.h"

typedef struct {
    PyObject_HEAD
    al_state *st;
    al_loop bound;
    /* The lists own the members that are in them. */
    al_link running;
    al_link calling;
    al_link ended;
    al_ptr_table by_task; /* the members that have not ended */
    Py_ssize_t pending;   /* how many have not ended */
    Py_ssize_t callers;   /* how many are in `calling` */
    PyObject *insiders;   /* owned: list of futures */
    PyObject *outsiders;  /* owned: list of futures */
    PyObject *exits;      /* owned: dict, for make_report() */
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
    al_link link;          /* in a list of the set */
    al_ptr_link task_link; /* in the set's by_task, until it ends */
    JoinSetObject *set;    /* owned; NULL when it has ended */
    PyObject *task;        /* owned */
    PyObject *meta;        /* owned: the entry, or None */
    PyObject *error;       /* owned, or NULL */
    member_outcome outcome;
    Py_ssize_t calls; /* enter() without leave(); if any, it is in `calling` */
    bool cancel_sent; /* a cancel() is under way, or has returned True */
    bool ended;
} MemberObject;

#define MEMBER_OF(link_) AL_CONTAINER_OF(link_, MemberObject, link)

/* ----------------------------------------------------------- core half */

PyObject *
al_join_set_new(al_state *st, const al_loop *bound)
{
    PyObject *insiders = AL_ALLOC(PyList_New(0));
    PyObject *outsiders = insiders == NULL ? NULL : AL_ALLOC(PyList_New(0));
    PyObject *exits = outsiders == NULL ? NULL : AL_ALLOC(PyDict_New());
    JoinSetObject *self =
        exits == NULL ? NULL
                      : AL_ALLOC(PyObject_GC_New(JoinSetObject,
                                                 (PyTypeObject *)st->JoinSet));
    if (self == NULL) {
        Py_XDECREF(insiders);
        Py_XDECREF(outsiders);
        Py_XDECREF(exits);
        return NULL;
    }
    self->st = st;
    self->bound = *bound;
    Py_XINCREF(self->bound.loop);
    al_list_init(&self->running);
    al_list_init(&self->calling);
    al_list_init(&self->ended);
    self->by_task = (al_ptr_table){NULL, 0, 0};
    self->pending = self->callers = 0;
    self->insiders = insiders;
    self->outsiders = outsiders;
    self->exits = exits;
    PyObject_GC_Track((PyObject *)self);
    return (PyObject *)self;
}

Py_ssize_t
al_join_set_pending(PyObject *op)
{
    return ((JoinSetObject *)op)->pending;
}

/* Wake the callers that have nothing left to wait for. */
static void
join_set_wake(JoinSetObject *self)
{
    PyObject *insiders = Py_XNewRef(self->insiders);
    PyObject *outsiders = Py_XNewRef(self->outsiders);
    if (insiders != NULL && self->pending == self->callers) {
        al_loop_wake_waiters(self->st, &self->bound, insiders);
    }
    if (outsiders != NULL && self->pending == 0) {
        al_loop_wake_waiters(self->st, &self->bound, outsiders);
    }
    Py_XDECREF(insiders);
    Py_XDECREF(outsiders);
}

/* Count a call of a member that has not ended, or one less, and move it to
   `calling`, or back to `running`.  A call that has returned is taken back
   later, and by then there may be another. */
static void
member_add_call(JoinSetObject *set, MemberObject *member, int change)
{
    bool called = member->calls > 0;
    member->calls += change;
    bool calls = member->calls > 0;
    if (calls != called) {
        set->callers += change;
        al_link_unlink(&member->link);
        al_list_append(calls ? &set->calling : &set->running, &member->link);
    }
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
    if (set == NULL || !al_link_is_in(&member->link)) {
        Py_XDECREF((PyObject *)set);
        return; /* the collector has cleared the set */
    }
    bool swallowed =
        outcome == AL_DONE && member_still_cancelling(set, member);
    member->outcome = swallowed                 ? MEMBER_SWALLOWED
                      : outcome == AL_CANCELLED ? MEMBER_CANCELLED
                      : outcome == AL_DONE      ? MEMBER_FINISHED
                                                : MEMBER_FAILED;
    Py_XSETREF(member->error, Py_XNewRef(error));
    if (al_link_is_in(&member->link)) {
        set->pending--;
        set->callers -= member->calls > 0;
        al_ptr_table_remove(&set->by_task, &member->task_link);
        al_link_unlink(&member->link);
        al_list_append(&set->ended, &member->link);
    }
    join_set_wake(set);
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
    member->link = (al_link){NULL, NULL};
    member->task_link = (al_ptr_link){NULL, NULL};
    member->outcome = MEMBER_STUCK;
    member->calls = 0;
    member->cancel_sent = member->ended = false;
    PyObject_GC_Track((PyObject *)member);
    return member;
}

PyObject *
al_join_set_add(PyObject *op, PyObject *task, PyObject *meta)
{
    JoinSetObject *set = (JoinSetObject *)op;
    if (al_ptr_table_reserve(&set->by_task) < 0) {
        return NULL;
    }
    MemberObject *member = member_new(set, task, meta);
    if (member == NULL) {
        return NULL;
    }
    if (task != Py_None) {
        al_ptr_table_add(&set->by_task, &member->task_link, task);
    }
    al_list_append(&set->running, &member->link);
    Py_INCREF((PyObject *)member); /* the list's */
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
    al_loop bound = {NULL, 0, AL_CLOCK_ITS_OWN};
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
"add($self, task, meta=None, was_cancelled=False, /)\n--\n\n"
"Cancel a Task and follow it to its end; record the outcome of one that is\n"
"done.\n\n"
"meta: the Task's entry in a registry, or None; kept for the report.\n"
"was_cancelled: whether another shutdown has cancelled it: not once more.\n"
"Returns the JoinSetMember.  Raises what asking a done Task raises.");

static PyObject *
join_set_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError,
                        "add() takes a task, an entry and a flag");
        return NULL;
    }
    JoinSetObject *set = (JoinSetObject *)op;
    PyObject *meta = nargs >= 2 ? args[1] : Py_None;
    int done = al_task_done(set->st, args[0]);
    PyObject *member = done < 0 ? NULL : al_join_set_add(op, args[0], meta);
    if (member == NULL) {
        return NULL;
    }
    if (done ? member_record_outcome((MemberObject *)member) < 0
             : al_task_add_done_callback(set->st, args[0], member, NULL) < 0)
    {
        /* Nothing will call it at the Task's end, so it ends here. */
        PyObject *error = PyErr_GetRaisedException();
        al_member_end(member, AL_FAILED, error);
        PyErr_SetRaisedException(error);
        Py_DECREF(member);
        return NULL;
    }
    if (nargs == 3 && args[2] == Py_True) {
        al_member_was_cancelled(member);
    }
    else {
        al_member_cancel(member);
    }
    return member;
}

/* Find the member of a caller, a Task or None, that has not ended; NULL,
   without an exception, if it is no member. */
static MemberObject *
join_set_insider(JoinSetObject *self, PyObject *caller)
{
    al_ptr_link *link = al_ptr_table_find(&self->by_task, caller);
    return link == NULL ? NULL
                        : AL_CONTAINER_OF(link, MemberObject, task_link);
}

PyDoc_STRVAR(join_set_enter_doc,
"enter($self, caller, /)\n--\n\n"
"Note that a Task, or None, waits for this set.\n\n"
"Returns the list for its futures, which get None when left(caller) is 0.");

static PyObject *
join_set_enter(PyObject *op, PyObject *caller)
{
    JoinSetObject *self = (JoinSetObject *)op;
    MemberObject *member = join_set_insider(self, caller);
    if (member == NULL) {
        return Py_NewRef(self->outsiders);
    }
    member_add_call(self, member, 1);
    join_set_wake(self); /* it may be the last that the others wait for */
    return Py_NewRef(self->insiders);
}

PyDoc_STRVAR(join_set_leave_doc,
"leave($self, caller, /)\n--\n\n"
"Note that a Task stops waiting before left(caller) is 0.");

static PyObject *
join_set_leave(PyObject *op, PyObject *caller)
{
    JoinSetObject *self = (JoinSetObject *)op;
    MemberObject *member = join_set_insider(self, caller);
    if (member != NULL && member->calls > 0) { /* it may have joined since */
        member_add_call(self, member, -1);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(join_set_wake_callers_doc,
"wake_callers($self, /)\n--\n\n"
"Wake all callers to look at their deadline again.");

static PyObject *
join_set_wake_callers(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    JoinSetObject *self = (JoinSetObject *)op;
    PyObject *lists[] = {Py_NewRef(self->insiders),
                         Py_NewRef(self->outsiders)};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(lists); i++) {
        al_loop_wake_waiters(self->st, &self->bound, lists[i]);
        Py_DECREF(lists[i]);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(join_set_left_doc,
"left($self, caller, /)\n--\n\n"
"Return how many Tasks a caller still has to wait for.");

static PyObject *
join_set_left(PyObject *op, PyObject *caller)
{
    JoinSetObject *self = (JoinSetObject *)op;
    bool inside = join_set_insider(self, caller) != NULL;
    return AL_ALLOC(
        PyLong_FromSsize_t(self->pending - (inside ? self->callers : 0)));
}

/* Append the members of a list to a Python list.  Returns 0; -1 with
   MemoryError. */
static int
join_set_list(al_link *head, PyObject *list)
{
    for (al_link *at = head->next; at != head; at = at->next) {
        PyObject *member = (PyObject *)MEMBER_OF(at);
        if (AL_ALLOC_INT(PyList_Append(list, member)) < 0) {
            return -1;
        }
    }
    return 0;
}

PyDoc_STRVAR(join_set_stuck_doc,
"stuck($self, caller, /)\n--\n\n"
"Return the members that a caller still has to wait for, as a list.");

static PyObject *
join_set_stuck(PyObject *op, PyObject *caller)
{
    JoinSetObject *self = (JoinSetObject *)op;
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list != NULL
        && (join_set_list(&self->running, list) < 0
            || (join_set_insider(self, caller) == NULL
                && join_set_list(&self->calling, list) < 0)))
    {
        Py_CLEAR(list);
    }
    return list;
}

PyDoc_STRVAR(join_set_take_ended_doc,
"take_ended($self, /)\n--\n\n"
"Return the members that have ended since the last call, as a list.");

static PyObject *
join_set_take_ended(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    JoinSetObject *self = (JoinSetObject *)op;
    PyObject *list = AL_ALLOC(PyList_New(0));
    if (list == NULL || join_set_list(&self->ended, list) < 0) {
        Py_XDECREF(list);
        return NULL;
    }
    while (!al_list_is_empty(&self->ended)) {
        MemberObject *member = MEMBER_OF(self->ended.next);
        al_link_unlink(&member->link);
        Py_DECREF((PyObject *)member); /* the new list keeps it */
    }
    return list;
}

static PyMethodDef join_set_methods[] = {
    {"add", AL_METHOD(join_set_add), METH_FASTCALL, join_set_add_doc},
    {"enter", join_set_enter, METH_O, join_set_enter_doc},
    {"leave", join_set_leave, METH_O, join_set_leave_doc},
    {"left", join_set_left, METH_O, join_set_left_doc},
    {"wake_callers", join_set_wake_callers, METH_NOARGS,
     join_set_wake_callers_doc},
    {"stuck", join_set_stuck, METH_O, join_set_stuck_doc},
    {"take_ended", join_set_take_ended, METH_NOARGS, join_set_take_ended_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef join_set_members[] = {
    {"pending", T_PYSSIZET, offsetof(JoinSetObject, pending), READONLY,
     "How many of its Tasks have not ended."},
    {"exits", T_OBJECT_EX, offsetof(JoinSetObject, exits), READONLY,
     "A dict in which make_report() keeps what it has made."},
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
    al_link *heads[] = {&self->running, &self->calling, &self->ended};
    Py_VISIT(Py_TYPE(op));
    for (size_t i = 0; i < Py_ARRAY_LENGTH(heads); i++) {
        for (al_link *at = heads[i]->next; at != heads[i]; at = at->next) {
            Py_VISIT((PyObject *)MEMBER_OF(at));
        }
    }
    Py_VISIT(self->insiders);
    Py_VISIT(self->outsiders);
    Py_VISIT(self->exits);
    return al_loop_visit(&self->bound, visit, arg);
}

static int
join_set_clear(PyObject *op)
{
    JoinSetObject *self = (JoinSetObject *)op;
    al_link *heads[] = {&self->running, &self->calling, &self->ended};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(heads); i++) {
        while (!al_list_is_empty(heads[i])) {
            MemberObject *member = MEMBER_OF(heads[i]->next);
            al_link_unlink(&member->link);
            al_ptr_table_remove(&self->by_task, &member->task_link);
            Py_DECREF((PyObject *)member);
        }
    }
    Py_CLEAR(self->insiders);
    Py_CLEAR(self->outsiders);
    Py_CLEAR(self->exits);
    al_loop_clear(&self->bound);
    return 0;
}

static void
join_set_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    (void)join_set_clear(op);
    PyMem_Free(((JoinSetObject *)op)->by_task.buckets);
    type->tp_free(op);
    Py_DECREF(type);
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
    {Py_tp_dealloc, join_set_dealloc},
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
