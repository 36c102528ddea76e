/* One loop timer for a queue of deadlines.
 *
 *     owner (a pump)
 *       al_deadlines  queue: d1 -> d2 -> d3        each inside its item
 *                     timer: TimerHandle           armed for d1, or earlier
 *                              callback: Alarm     owns the owner
 *
 * Equal timeouts fall due in the order in which they started, so a sorted
 * insert from the tail compares with one neighbour.  The timer is armed
 * lazily: an item that ends in time only leaves the queue, and when the timer
 * fires too early it is armed again for the deadline that is first by then.
 * So a batch arms about one timer in each timeout's length of its run, instead
 * of one for each item.
 *
 * The loop may fire a timer before its time by our clock: if loop.time() was
 * patched, or is coarse.  Then the timer is armed again for the seconds that
 * are left, at least a millisecond: armed for the same time it would fire in
 * each iteration of the loop.
 *
 * Danger spot: due() runs Python, and may add deadlines, remove them or disarm
 * the queue.  What is due is therefore moved to a local list first, from which
 * a deadline that is dropped meanwhile removes itself, and the list is read
 * anew after each call.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/deadline.h"

/* How early a timer may fire.  uvloop's clock counts milliseconds. */
#define DEADLINE_COARSE 1e-3
#define DEADLINE_FINE 1e-6
/* The least time until a timer that has fired too early fires again. */
#define DEADLINE_AGAIN 1e-3

/* The callback of a timer.  Each timer has its own, so that the loop's handle
   owns the owner for as long as it may fire. */
typedef struct {
    PyObject_HEAD
    PyObject *owner;   /* owned */
    al_deadlines *all; /* borrowed: inside the owner */
} AlarmObject;

static PyObject *
alarm_new(al_deadlines *all)
{
    AlarmObject *self =
        AL_ALLOC(PyObject_GC_New(AlarmObject, (PyTypeObject *)all->st->Alarm));
    if (self == NULL) {
        return NULL;
    }
    self->owner = Py_NewRef(all->owner);
    self->all = all;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

/* Return how long before its time a deadline counts as due on this loop. */
static double
deadline_slack(const al_deadlines *all)
{
    return all->bound->clock == AL_CLOCK_COARSE ? DEADLINE_COARSE
                                                : DEADLINE_FINE;
}

/* Cancel a TimerHandle (stolen; may be NULL).  Errors are reported. */
static void
deadline_cancel_timer(al_deadlines *all, PyObject *timer)
{
    if (timer == NULL) {
        return;
    }
    PyObject *none = PyObject_CallMethodNoArgs(timer, all->st->s_cancel);
    if (none == NULL) {
        al_loop_report_or_exit_later(all->st, all->bound->loop,
                                     "cancelling a timer failed", NULL);
    }
    Py_XDECREF(none);
    Py_DECREF(timer);
}

/* Arm the timer for the head of the queue, unless it fires no later already.
   `early` is the time at which the last timer has fired too early, else NULL.
   -1 with an exception. */
static int
deadline_arm(al_deadlines *all, const double *early)
{
    if (al_list_is_empty(&all->queue)) {
        return 0;
    }
    double when = AL_CONTAINER_OF(all->queue.next, al_deadline, link)->when;
    if (all->timer != NULL && all->armed <= when) {
        return 0;
    }
    PyObject *alarm = alarm_new(all);
    if (alarm == NULL) {
        return -1;
    }
    PyObject *timer =
        early == NULL
            ? al_loop_call_at(all->st, all->bound, when, alarm, *all->context)
            : al_loop_call_later(all->st, all->bound,
                                 Py_MAX(when - *early, DEADLINE_AGAIN), alarm,
                                 *all->context);
    Py_DECREF(alarm);
    if (timer == NULL) {
        return -1;
    }
    PyObject *before = all->timer;
    all->timer = timer;
    all->armed = when;
    deadline_cancel_timer(all, before);
    return 0;
}

/* The timer fires: call due() for what is due, then arm it for the rest. */
static void
deadline_fire(al_deadlines *all)
{
    Py_CLEAR(all->timer);
    double now = al_loop_time(all->st, all->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        all->due(all, NULL);
        return;
    }
    double until = now + deadline_slack(all);
    bool early = until < all->armed;
    al_link due;
    al_list_init(&due);
    while (!al_list_is_empty(&all->queue)) {
        al_link *first = all->queue.next;
        if (AL_CONTAINER_OF(first, al_deadline, link)->when > until) {
            break;
        }
        al_link_unlink(first);
        al_list_append(&due, first);
    }
    /* An item that ends meanwhile removes itself from the local list. */
    while (!al_list_is_empty(&due)) {
        al_link *first = due.next;
        al_link_unlink(first);
        all->due(all, AL_CONTAINER_OF(first, al_deadline, link));
    }
    if (deadline_arm(all, early ? &now : NULL) < 0) {
        all->due(all, NULL);
    }
}

void
al_deadline_init(al_deadlines *all, al_state *st, PyObject *owner,
                 const al_loop *bound, PyObject **context, al_due due)
{
    al_list_init(&all->queue);
    all->owner = owner;
    all->bound = bound;
    all->context = context;
    all->st = st;
    all->due = due;
    all->timer = NULL;
    all->armed = 0.0;
}

int
al_deadline_add(al_deadlines *all, al_deadline *deadline, double when)
{
    al_link *before = all->queue.prev;
    while (before != &all->queue
           && AL_CONTAINER_OF(before, al_deadline, link)->when > when)
    {
        before = before->prev;
    }
    deadline->when = when;
    al_link_after(&deadline->link, before);
    if (deadline_arm(all, NULL) < 0) {
        al_deadline_drop(deadline);
        return -1;
    }
    return 0;
}

void
al_deadline_disarm(al_deadlines *all)
{
    while (!al_list_is_empty(&all->queue)) {
        al_link_unlink(all->queue.next);
    }
    PyObject *timer = all->timer;
    all->timer = NULL;
    deadline_cancel_timer(all, timer);
}

/* ------------------------------------------------------------- Alarm */

static PyObject *
alarm_call(PyObject *op, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kw))
{
    AlarmObject *self = (AlarmObject *)op;
    PyObject *owner = self->owner;
    if (owner != NULL) {
        Py_INCREF(owner);
        deadline_fire(self->all);
        Py_DECREF(owner);
    }
    Py_RETURN_NONE;
}

static int
alarm_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((AlarmObject *)op)->owner);
    return 0;
}

static int
alarm_clear(PyObject *op)
{
    Py_CLEAR(((AlarmObject *)op)->owner);
    return 0;
}

static PyType_Slot alarm_slots[] = {
    {Py_tp_call, alarm_call},
    {Py_tp_traverse, alarm_traverse},
    {Py_tp_clear, alarm_clear},
    {Py_tp_dealloc, al_object_dealloc},
    {0, NULL},
};

static PyType_Spec alarm_spec = {
    .name = "pyasynclife._core.Alarm",
    .basicsize = sizeof(AlarmObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = alarm_slots,
};

int
al_deadline_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Alarm, &alarm_spec, false);
}
