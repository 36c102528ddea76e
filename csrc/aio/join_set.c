/* Cancel many Tasks, wait for all, know the outcome of each.
 *
 * This is the idea of Tokio's JoinSet: abort all, join all.  A shutdown makes
 * one; its report reads it.
 *
 *     JoinSet
 *       .running    a list of members whose Task has not ended
 *       .calling    a list of those of them whose Task waits for this set
 *       .queue      a list of those of both that are still to be cancelled
 *       .log        how the Tasks have ended that were members
 *       .insiders   futures of the callers that are members
 *       .outsiders  futures of the other callers
 *
 * A member holds its set, and the set its members, until the Task ends; then
 * the log has all that a report shows.  add() makes the member a done callback
 * of the Task.  A registry that shuts down does not: its entry is one already,
 * and calls al_member_end.  The waiting itself, with its timer, is Python:
 * join_and_report().
 *
 * All Tasks are members before the first is cancelled, so a Task that ends
 * while it is still in the queue is in the report.  How many are cancelled in
 * one loop iteration is decided in Python, too.
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
#include "aio/exit_log.h"
#include "aio/join_set.h"

typedef struct {
    PyObject_HEAD
    al_state *st;
    al_loop bound;
    /* The lists own the members that are in them. */
    al_link running;
    al_link calling;
    al_link queue;        /* borrowed members, in the order of add() */
    al_ptr_table by_task; /* the members that have not ended */
    Py_ssize_t pending;   /* how many have not ended */
    Py_ssize_t callers;   /* how many are in `calling` */
    Py_ssize_t queued;    /* how many are in `queue` */
    char in_slices;       /* for Python: a callback goes on cancelling */
    PyObject *insiders;   /* owned: list of futures */
    PyObject *outsiders;  /* owned: list of futures */
    PyObject *log;        /* owned: ExitLog */
    PyObject *context;    /* owned: of the done callbacks; NULL: none yet */
} JoinSetObject;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    al_link link;          /* in `running` or `calling` */
    al_link queue_link;    /* in `queue` */
    al_ptr_link task_link; /* in the set's by_task, until it ends */
    JoinSetObject *set;    /* owned; NULL when it has ended */
    PyObject *task;        /* owned */
    PyObject *meta;        /* owned: the entry, or None */
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
    PyObject *log = outsiders == NULL ? NULL : al_exit_log_new(st);
    JoinSetObject *self =
        log == NULL ? NULL
                    : AL_ALLOC(PyObject_GC_New(JoinSetObject,
                                               (PyTypeObject *)st->JoinSet));
    if (self == NULL) {
        Py_XDECREF(insiders);
        Py_XDECREF(outsiders);
        Py_XDECREF(log);
        return NULL;
    }
    self->st = st;
    self->bound = *bound;
    Py_XINCREF(self->bound.loop);
    al_list_init(&self->running);
    al_list_init(&self->calling);
    al_list_init(&self->queue);
    self->by_task = (al_ptr_table){NULL, 0, 0};
    self->pending = self->callers = self->queued = 0;
    self->in_slices = false;
    self->insiders = insiders;
    self->outsiders = outsiders;
    self->log = log;
    self->context = NULL;
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

/* Take a member out of the queue, if it is there. */
static void
member_leave_queue(JoinSetObject *set, MemberObject *member)
{
    if (al_link_is_in(&member->queue_link)) {
        al_link_unlink(&member->queue_link);
        set->queued--;
    }
}

/* The name of a member's Task (new), or the id if it has no Task; NULL,
   without an exception, if asking for it fails. */
static PyObject *
member_name(JoinSetObject *set, MemberObject *member, PyObject *task_id)
{
    if (member->task == Py_None) { /* its id is its name, too */
        return Py_XNewRef(task_id);
    }
    PyObject *name = al_task_name(set->st, member->task);
    if (name == NULL) {
        al_loop_report_or_exit_later(set->st, set->bound.loop,
                                     "asking a task for its name failed",
                                     member->task);
    }
    return name;
}

void
al_member_end(PyObject *op, al_outcome outcome, PyObject *error,
              const al_exit_origin *origin)
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
    member_leave_queue(set, member);
    bool swallowed =
        outcome == AL_DONE && member_still_cancelling(set, member);
    al_exit exit = {
        .name = member_name(set, member, origin->task_id),
        .task_id = Py_XNewRef(origin->task_id),
        .error = Py_XNewRef(error),
        .age = origin->age,
        .silence = origin->silence,
        .kind = swallowed                 ? AL_EXIT_SWALLOWED
                : outcome == AL_CANCELLED ? AL_EXIT_CANCELLED
                : outcome == AL_DONE      ? AL_EXIT_FINISHED
                                          : AL_EXIT_FAILED,
    };
    if (al_link_is_in(&member->link)) {
        set->pending--;
        set->callers -= member->calls > 0;
        al_ptr_table_remove(&set->by_task, &member->task_link);
        al_link_unlink(&member->link);
        al_exit_log_add(set->log, &exit);
        Py_DECREF(op); /* the list's reference; the caller has another */
    }
    else {
        al_exit_clear(&exit);
    }
    join_set_wake(set);
    Py_DECREF((PyObject *)set);
}

/* Read a number of seconds from an attribute.  -1.0 with an exception. */
static double
member_read_seconds(PyObject *meta, const char *name)
{
    PyObject *value = AL_ALLOC(PyObject_GetAttrString(meta, name));
    double seconds = value == NULL ? -1.0 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    return seconds;
}

/* al_member_end for a Task whose entry, if it has one, does not call that. */
static void
member_end_of_entry(MemberObject *member, al_outcome outcome, PyObject *error)
{
    al_exit_origin origin = {NULL, 0.0, 0.0};
    PyObject *meta = member->meta;
    PyObject *id = NULL;
    if (meta != Py_None && member->set != NULL) {
        id = AL_ALLOC(PyObject_GetAttrString(meta, "task_id"));
        origin.age = id == NULL ? -1.0 : member_read_seconds(meta, "age");
        if (!PyErr_Occurred()) {
            origin.silence = member_read_seconds(meta, "silence");
        }
        if (PyErr_Occurred()) {
            al_loop_report_or_exit_later(
                member->set->st, member->set->bound.loop,
                "asking a task for its age failed", member->task);
        }
        origin.task_id = id;
    }
    al_member_end((PyObject *)member, outcome, error, &origin);
    Py_XDECREF(id);
}

/* Ask a Task that is done for its outcome, and record it.  If asking raises,
   that is recorded as a failure.  Returns 0; -1 with that exception. */
static int
member_record_outcome(MemberObject *member)
{
    PyObject *value;
    al_outcome outcome =
        al_task_outcome(member->set->st, member->task, &value);
    PyObject *raised = outcome == AL_ERROR ? PyErr_GetRaisedException() : NULL;
    member_end_of_entry(member, raised == NULL ? outcome : AL_FAILED,
                        outcome == AL_FAILED ? value : raised);
    Py_XDECREF(value);
    if (raised != NULL) {
        PyErr_SetRaisedException(raised);
    }
    return raised == NULL ? 0 : -1;
}

void
al_member_cancel(PyObject *op)
{
    MemberObject *member = (MemberObject *)op;
    if (member->cancel_sent || member->ended || member->set == NULL) {
        return;
    }
    member_leave_queue(member->set, member);
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
al_member_queue(PyObject *op)
{
    MemberObject *member = (MemberObject *)op;
    if (member->cancel_sent || member->ended || member->set == NULL
        || al_link_is_in(&member->queue_link))
    {
        return;
    }
    al_list_append(&member->set->queue, &member->queue_link);
    member->set->queued++;
}

Py_ssize_t
al_join_set_cancel(PyObject *op, Py_ssize_t most)
{
    JoinSetObject *self = (JoinSetObject *)op;
    /* At most those that are there now: a Task's cancel() may add more. */
    Py_ssize_t n = most < self->queued ? most : self->queued;
    while (n-- > 0 && !al_list_is_empty(&self->queue)) {
        MemberObject *member =
            AL_CONTAINER_OF(self->queue.next, MemberObject, queue_link);
        Py_INCREF((PyObject *)member);
        al_member_cancel((PyObject *)member);
        Py_DECREF((PyObject *)member);
    }
    return self->queued;
}

void
al_member_was_cancelled(PyObject *op)
{
    ((MemberObject *)op)->cancel_sent = true;
}

bool
al_member_is_cancelled(PyObject *op)
{
    return ((MemberObject *)op)->cancel_sent;
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
    member->link = member->queue_link = (al_link){NULL, NULL};
    member->task_link = (al_ptr_link){NULL, NULL};
    member->calls = 0;
    member->cancel_sent = member->ended = false;
    PyObject_GC_Track((PyObject *)member);
    return member;
}

PyObject *
al_join_set_add(PyObject *op, PyObject *task, PyObject *meta)
{
    JoinSetObject *set = (JoinSetObject *)op;
    if (set->log == NULL) { /* the collector has cleared it */
        PyErr_SetString(PyExc_RuntimeError, "this JoinSet is gone");
        return NULL;
    }
    if (al_ptr_table_reserve(&set->by_task) < 0
        || al_exit_log_reserve(set->log, set->pending + 1) < 0)
    {
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

/* Follow a Task from outside a registry to its end, or record the outcome of
   one that is done.  Returns the member (new); NULL with an exception. */
static PyObject *
join_set_follow(JoinSetObject *set, PyObject *task, PyObject *meta)
{
    if (set->context == NULL) { /* one for all: a copy for each is slow */
        set->context = AL_ALLOC(PyContext_CopyCurrent());
        if (set->context == NULL) {
            return NULL;
        }
    }
    int done = al_task_done(set->st, task);
    PyObject *member =
        done < 0 ? NULL : al_join_set_add((PyObject *)set, task, meta);
    if (member == NULL) {
        return NULL;
    }
    if (done ? member_record_outcome((MemberObject *)member) < 0
             : al_task_add_done_callback(set->st, task, member, set->context)
                   < 0)
    {
        /* Nothing will call it at the Task's end, so it ends here. */
        PyObject *error = PyErr_GetRaisedException();
        member_end_of_entry((MemberObject *)member, AL_FAILED, error);
        PyErr_SetRaisedException(error);
        Py_CLEAR(member);
    }
    return member;
}

PyDoc_STRVAR(join_set_add_doc,
"add($self, task, meta=None, was_cancelled=False, /)\n--\n\n"
"Follow a Task to its end, and queue it for cancel(); record the outcome of\n"
"one that is done.\n\n"
"meta: the Task's entry in a registry, or None; kept for the report.\n"
"was_cancelled: whether another shutdown has cancelled it: not queued.\n"
"Returns the JoinSetMember.  Raises what asking a done Task raises.");

static PyObject *
join_set_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError,
                        "add() takes a task, an entry and a flag");
        return NULL;
    }
    PyObject *meta = nargs >= 2 ? args[1] : Py_None;
    PyObject *member = join_set_follow((JoinSetObject *)op, args[0], meta);
    if (member == NULL) {
        return NULL;
    }
    if (nargs == 3 && args[2] == Py_True) {
        al_member_was_cancelled(member);
    }
    else {
        al_member_queue(member);
    }
    return member;
}

PyDoc_STRVAR(join_set_cancel_doc,
"cancel($self, most, /)\n--\n\n"
"Cancel so many of the Tasks that are queued, in the order of add().\n\n"
"Returns how many are left.  Errors go to the loop's exception handler.");

static PyObject *
join_set_cancel(PyObject *op, PyObject *most)
{
    Py_ssize_t n = PyLong_AsSsize_t(most);
    if (n == -1 && PyErr_Occurred()) {
        return NULL;
    }
    Py_ssize_t left = al_join_set_cancel(op, n);
    return AL_ALLOC(PyLong_FromSsize_t(left));
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

static PyMethodDef join_set_methods[] = {
    {"add", AL_METHOD(join_set_add), METH_FASTCALL, join_set_add_doc},
    {"cancel", join_set_cancel, METH_O, join_set_cancel_doc},
    {"enter", join_set_enter, METH_O, join_set_enter_doc},
    {"leave", join_set_leave, METH_O, join_set_leave_doc},
    {"left", join_set_left, METH_O, join_set_left_doc},
    {"wake_callers", join_set_wake_callers, METH_NOARGS,
     join_set_wake_callers_doc},
    {"stuck", join_set_stuck, METH_O, join_set_stuck_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef join_set_members[] = {
    {"pending", T_PYSSIZET, offsetof(JoinSetObject, pending), READONLY,
     "How many of its Tasks have not ended."},
    {"queued", T_PYSSIZET, offsetof(JoinSetObject, queued), READONLY,
     "How many of its Tasks are still to be cancelled."},
    {"in_slices", T_BOOL, offsetof(JoinSetObject, in_slices), 0,
     "Whether a callback goes on cancelling those that are queued."},
    {"log", T_OBJECT_EX, offsetof(JoinSetObject, log), READONLY,
     "The ExitLog: how its Tasks have ended."},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef member_members[] = {
    {"task", T_OBJECT, offsetof(MemberObject, task), READONLY, "The Task."},
    {"meta", T_OBJECT, offsetof(MemberObject, meta), READONLY,
     "The Task's entry in a registry, or None."},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(MemberObject, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* --------------------------------------------------------- GC and specs */

static int
join_set_traverse(PyObject *op, visitproc visit, void *arg)
{
    JoinSetObject *self = (JoinSetObject *)op;
    al_link *heads[] = {&self->running, &self->calling};
    Py_VISIT(Py_TYPE(op));
    for (size_t i = 0; i < Py_ARRAY_LENGTH(heads); i++) {
        for (al_link *at = heads[i]->next; at != heads[i]; at = at->next) {
            Py_VISIT((PyObject *)MEMBER_OF(at));
        }
    }
    Py_VISIT(self->insiders);
    Py_VISIT(self->outsiders);
    Py_VISIT(self->log);
    Py_VISIT(self->context);
    return al_loop_visit(&self->bound, visit, arg);
}

static int
join_set_clear(PyObject *op)
{
    JoinSetObject *self = (JoinSetObject *)op;
    al_link *heads[] = {&self->running, &self->calling};
    for (size_t i = 0; i < Py_ARRAY_LENGTH(heads); i++) {
        while (!al_list_is_empty(heads[i])) {
            MemberObject *member = MEMBER_OF(heads[i]->next);
            member_leave_queue(self, member);
            al_link_unlink(&member->link);
            al_ptr_table_remove(&self->by_task, &member->task_link);
            Py_DECREF((PyObject *)member);
        }
    }
    Py_CLEAR(self->insiders);
    Py_CLEAR(self->outsiders);
    Py_CLEAR(self->log);
    Py_CLEAR(self->context);
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
    return 0;
}

static int
member_clear(PyObject *op)
{
    MemberObject *self = (MemberObject *)op;
    self->ended = true;
    Py_CLEAR(self->task);
    Py_CLEAR(self->meta);
    Py_CLEAR(self->set);
    return 0;
}

PyDoc_STRVAR(join_set_doc,
"JoinSet()\n--\n\n"
"Tasks that are cancelled and awaited together, and the outcome of each.\n\n"
"Raises RuntimeError if no event loop is running.");

PyDoc_STRVAR(member_doc,
"One Task of a JoinSet.");

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
