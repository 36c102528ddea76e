/* The pump: takes items from a source and has workers run them.
 *
 * The owner embeds the pump and is notified by four calls.  The pump owns its
 * workers; each worker owns the owner, and so keeps the pump alive until it
 * is detached:
 *
 *     owner --embeds--> pump --owns--> workers, reader Task, timer
 *       ^                                 |
 *       +--------------owns---------------+
 *
 * No worker waits for an item: one that finds nothing to pull ends.  So every
 * change that may bring an item, or room for one, calls al_pump_update(),
 * which makes the next worker.  In a batch's life:
 *
 *     begin -> update -> spawn -> worker pulls an item and drives it
 *                                 item suspends -> grow -> more workers
 *                                 item ends     -> the worker pulls the next
 *     stop, fail: nothing new; workers and reader are cancelled, each once
 *     drain:      nothing new; only the reader is cancelled
 *     no worker, no reader, nothing to pull: the pump is over
 *
 * Almost every call below can run Python code, which may stop, pause or even
 * end the pump.  Members that are used after such a call are read again.
 */
#include "base/compat.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/deadline.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/job.h"
#include "batch/pump.h"
#include "batch/reader.h"
#include "batch/worker.h"
#include "batch/item_task.h"
#include "batch/admission.h"

/* How many Tasks of one item each are made at once, if none is waiting to
   begin. */
#define PUMP_ITEM_TASKS 64

/* How many workers the first item that suspends brings, if the length of the
   source is known, and if it is not.  From then on they double. */
#define PUMP_RAMP_KNOWN 64
#define PUMP_RAMP 8

/* ------------------------------------------------------------ the end */

/* Tell whether nothing more happens by itself.  While workers are being made
   the answer is no: the item that one of them pulls may be the last. */
static bool
pump_may_be_over(const al_pump *p)
{
    if (!p->begun || p->alive > 0 || p->spawning || p->reader != NULL
        || p->source.ahead != NULL)
    {
        return false;
    }
    return p->stopping != AL_STOP_NONE
           || (al_pump_is_empty(p)
               && (p->closed || p->calls->may_be_over(p->owner)));
}

/* Close the items that were not read to their end.  An error is reported, as
   that of a reader that was cancelled; an exit is raised by the batch. */
static void
pump_close_source(al_pump *p)
{
    p->spawning = true; /* not over yet, whatever close() does */
    int failed = al_source_close(p->st, &p->source);
    p->spawning = false;
    if (failed
        && al_loop_handle_error(p->st, p->bound.loop,
                                "a batch's source failed while it was being "
                                "closed",
                                NULL)
               < 0)
    {
        al_pump_fail(p);
    }
}

/* Notify the owner, once, if the pump is over. */
static void
pump_check_over(al_pump *p)
{
    if (p->source.is_queue && p->begun && al_pump_reads_on(p)) {
        p->calls->item_taken(p->owner);
    }
    if (!p->over && p->source.iterator != NULL && pump_may_be_over(p)) {
        pump_close_source(p);
    }
    if (p->over || !pump_may_be_over(p)) {
        return;
    }
    p->over = true;
    al_deadline_disarm(&p->deadlines);
    p->calls->over(p->owner);
}

/* ----------------------------------------------------- making workers */

/* Tell whether one more worker may be made now. */
static bool
pump_may_make_worker(const al_pump *p)
{
    return al_pump_may_pull(p) && p->alive < p->limit
           && p->unstarted < AL_PUMP_WAITING_MAX
           && (p->unstarted == 0 || p->pulled_for <= AL_PUMP_SLICE);
}

/* Make a worker.  For one of a single item this pulls the item, and so may run
   the source and the key for any time.  Returns 0; -1 with an exception. */
static int
pump_make_worker(al_pump *p)
{
    if (!p->task_per_item) {
        return al_worker_spawn(p);
    }
    if (p->source.runs_no_python && p->limits == NULL) {
        return al_item_task_spawn(p);
    }
    double began = al_clock();
    int failed = al_item_task_spawn(p);
    p->pulled_for += al_clock() - began;
    return failed;
}

/* al_pump_spawn() without the check whether the pump is over. */
static void
pump_make_workers(al_pump *p, Py_ssize_t n)
{
    if (p->spawning) {
        return; /* the call that is making workers goes on */
    }
    p->spawning = true;
    if (p->registry != NULL && al_pump_may_pull(p)) {
        (void)al_item_task_check_registry(p);
    }
    while (n-- > 0 && pump_may_make_worker(p)) {
        if (pump_make_worker(p) < 0) {
            al_pump_fail(p);
        }
    }
    p->spawning = false;
}

void
al_pump_spawn(al_pump *p, Py_ssize_t n)
{
    pump_make_workers(p, n);
    pump_check_over(p);
}

/* How many items may be pulled now, added ones among them. */
static Py_ssize_t
pump_room(const al_pump *p)
{
    Py_ssize_t room = p->room > 0 ? p->room : 0;
    return p->room_of_source ? room + p->source.waiting : room;
}

void
al_pump_grow(al_pump *p)
{
    if (p->unstarted > 0 || p->resting > 0 || p->alive >= p->limit
        || !al_pump_may_pull(p))
    {
        return;
    }
    Py_ssize_t left = al_source_left(&p->source);
    Py_ssize_t n = left < 0 ? PUMP_RAMP : PUMP_RAMP_KNOWN;
    n = n < p->alive ? p->alive : n;
    Py_ssize_t room = pump_room(p);
    n = n > room ? room : n;
    if (p->source.async && !p->source.ended) {
        /* The reader has one item ready; the next takes an iteration. */
        left = 1 + p->source.waiting + p->source.backlog;
    }
    if (left == 0 && !p->source.async) {
        /* Every item has its worker: min(max_concurrent, n) Tasks.  Another
           one would only find the end, so here it is found without. */
        al_source_end(&p->source);
    }
    if (p->limits != NULL) {
        left = al_admission_left(p, left);
    }
    if (left >= 0 && n > left) {
        n = left;
    }
    al_pump_spawn(p, n);
}

/* Let held items begin, in the order in which they were held. */
static void
pump_admit(al_pump *p)
{
    int done = 1;
    /* A future that is done belongs to an item that was cancelled meanwhile.
     */
    while (done > 0 && p->held != NULL && PyList_GET_SIZE(p->held) > 0
           && !al_pump_holds_items(p))
    {
        PyObject *future = Py_NewRef(PyList_GET_ITEM(p->held, 0));
        done = PyList_SetSlice(p->held, 0, 1, NULL) < 0
                   ? -1
                   : al_task_done(p->st, future);
        if (done < 0) {
            al_pump_fail(p);
        }
        else if (done == 0) {
            al_admission_held(p);
            al_loop_wake_waiter(p->st, &p->bound, future);
        }
        Py_DECREF(future);
    }
}

void
al_pump_update(al_pump *p)
{
    /* A source that failed stops the pump once all items that were pulled
       before have begun: see al_item_task_spawn(). */
    if (p->fatal != NULL && al_pump_lets_run(p) && p->unstarted == 0) {
        al_pump_stop(p, AL_STOP_FATAL, NULL, false);
    }
    if (p->begun && p->unstarted == 0) {
        pump_make_workers(p, p->task_per_item ? PUMP_ITEM_TASKS : 1);
    }
    pump_admit(p);
    pump_check_over(p);
}

void
al_pump_limit_changed(al_pump *p)
{
    if (p->held != NULL && PyList_GET_SIZE(p->held) > 0
        && !al_pump_holds_items(p))
    {
        al_admission_held(p); /* before another one may start */
    }
    al_pump_update(p);
    if (p->held != NULL && !p->paused) {
        (void)PyList_Reverse(p->held); /* the last is woken first */
        al_loop_wake_waiters(p->st, &p->bound, p->held);
    }
    if (p->begun) {
        al_pump_spawn(p, p->limit - p->alive < al_source_left(&p->source)
                             ? p->limit - p->alive
                             : al_source_left(&p->source));
        al_pump_grow(p);
    }
}

/* ----------------------------------------------------------- stopping */

/* Call `visit` for each worker.  Each moves back to the pump's list before its
   call, so workers may end, and new ones begin, meanwhile. */
static void
pump_each_worker(al_pump *p, void (*visit)(WorkerObject *, const void *),
                 const void *arg)
{
    al_link before;
    al_list_move(&p->workers, &before);
    while (!al_list_is_empty(&before)) {
        WorkerObject *worker =
            AL_CONTAINER_OF(before.next, WorkerObject, link);
        al_link_unlink(&worker->link);
        al_list_append(&p->workers, &worker->link);
        Py_INCREF(worker);
        visit(worker, arg);
        Py_DECREF(worker);
    }
}

/* Tell whether every item has ended, although workers are still there. */
static bool
pump_items_have_ended(const al_pump *p)
{
    bool may_pull =
        p->stopping == AL_STOP_NONE ? !al_pump_is_empty(p) : p->reader != NULL;
    if (!p->begun || may_pull) {
        return false;
    }
    al_link *at = p->workers.next;
    while (at != &p->workers
           && AL_CONTAINER_OF(at, WorkerObject, link)->item.value == NULL)
    {
        at = at->next;
    }
    return at == &p->workers;
}

/* Start the grace of everything that has just been cancelled.  Returns 0; -1
   with an exception. */
static int
pump_begin_grace(al_pump *p)
{
    if (p->over || !p->begun || p->grace == Py_HUGE_VAL) {
        return 0;
    }
    double now = al_loop_time(p->st, &p->bound);
    if (now == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    al_deadline_drop(&p->grace_end); /* that of the reader, after a drain */
    return al_deadline_add(&p->deadlines, &p->grace_end, now + p->grace);
}

typedef struct {
    al_stop why;
    PyObject *msg; /* borrowed, or NULL */
    bool again;
} pump_cancellation;

static void
pump_cancel_worker(WorkerObject *worker, const void *arg)
{
    const pump_cancellation *cancellation = arg;
    al_worker_cancel(worker, cancellation->why, cancellation->msg,
                     cancellation->again);
}

static void
pump_refuse_unbegun(WorkerObject *worker, const void *Py_UNUSED(arg))
{
    if (!worker->begun) {
        al_worker_cancel(worker, AL_STOP_DRAIN, NULL, false);
    }
}

/* al_pump_stop() with AL_STOP_DRAIN. */
static void
pump_drain(al_pump *p)
{
    p->stopping = AL_STOP_DRAIN;
    al_job_end_waiting(p);
    al_reader_cancel(p, false);
    if (p->limits != NULL) {
        al_admission_stop(p, AL_STOP_NONE);
    }
    if (p->task_per_item && p->unstarted > 0) {
        pump_each_worker(p, pump_refuse_unbegun, NULL);
    }
    pump_check_over(p);
    if (p->reader != NULL && pump_begin_grace(p) < 0) {
        al_pump_fail(p);
    }
}

void
al_pump_stop(al_pump *p, al_stop why, PyObject *msg, bool again)
{
    bool first = al_pump_lets_run(p);
    if (p->over) {
        return;
    }
    if (why == AL_STOP_DRAIN) {
        if (p->stopping == AL_STOP_NONE) {
            pump_drain(p);
        }
        return;
    }
    if (first && (why == AL_STOP_BUDGET || why == AL_STOP_CANCEL)
        && pump_items_have_ended(p))
    {
        /* Too late to change what became of the batch. */
        p->closed = true;
        pump_check_over(p);
        return;
    }
    bool leaves_items = why == AL_STOP_REGISTRY;
    if (first) {
        p->stopping = leaves_items ? AL_STOP_CANCEL : why;
        p->left_to_registry = leaves_items || al_item_task_check_registry(p);
    }
    if (first) {
        al_job_end_waiting(p);
    }
    al_reader_cancel(p, again);
    /* Nothing begins after a stop, so one round of cancelling reaches all. */
    if (again || (!leaves_items && !p->items_cancelled)) {
        p->items_cancelled = true;
        pump_each_worker(
            p, pump_cancel_worker,
            &(pump_cancellation){.why = why, .msg = msg, .again = again});
    }
    if (first && p->limits != NULL) {
        al_admission_stop(p, p->stopping);
    }
    pump_check_over(p);
    if (first && pump_begin_grace(p) < 0) {
        al_pump_fail(p);
    }
}

void
al_pump_fail(al_pump *p)
{
    const char *message = "a batch failed more than once, and raises another "
                          "exception";
    PyObject *error = PyErr_GetRaisedException(), *other = p->fatal;
    assert(error != NULL);
    /* The waiter for the end may have raised the first one already. */
    if (other != NULL && p->over) {
        PyErr_SetRaisedException(error);
        al_loop_report_or_exit_later(p->st, p->bound.loop, message, NULL);
        return;
    }
    if (other == NULL || (al_loop_is_exit(error) && !al_loop_is_exit(other))) {
        p->fatal = error;
    }
    else {
        other = error;
    }
    if (other != NULL) {
        al_loop_report_exception(p->st, p->bound.loop, message, NULL, other);
        Py_DECREF(other);
    }
    al_pump_stop(p, AL_STOP_FATAL, NULL, false);
}

/* ------------------------------------- deadlines, and what outlives them
 *
 * An item that runs on after its grace is abandoned: its outcome is RUNNING,
 * its place goes to the next item, and its worker leaves the pump.  The Task
 * drives the item on, as any Task drives its coroutine, and is held until it
 * ends; whatever the item then returns or raises is the Task's own.
 */

/* Tell whether a Task has ended.  Then its callback brings the outcome, in
   this loop iteration or the next. */
static bool
pump_task_has_ended(al_pump *p, PyObject *task)
{
    int done = al_task_done(p->st, task);
    if (done < 0) {
        al_loop_report_or_exit_later(
            p->st, p->bound.loop, "a task does not tell whether it has ended",
            task);
    }
    return done > 0;
}

/* Hold a Task that nothing waits for any more until it ends: the loop itself
   only has a weak reference. */
static void
pump_hold_task(al_pump *p, PyObject *task)
{
    PyObject *none = PyObject_CallOneArg(p->st->hold_abandoned, task);
    if (none == NULL) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "a task that did not stop cannot be held",
                                     task);
    }
    Py_XDECREF(none);
}

/* The result of an abandoned item (new).  An item whose Task has not begun
   counts as never started. */
static PyObject *
pump_abandoned_result(WorkerObject *worker, double now)
{
    al_pump *p = worker->pump;
    if (!worker->begun) {
        return al_admission_unstarted(p, &worker->item);
    }
    return al_item_stuck(p->st, &worker->item,
                         al_admission_seconds(p, &worker->item), p->grace,
                         now - worker->item.started);
}

/* Abandon the item of a worker; the worker keeps it, and nothing else. */
static void
pump_abandon_item(WorkerObject *worker, double now)
{
    al_pump *p = worker->pump;
    PyObject *task = Py_XNewRef(worker->task);
    if (worker->stepping || (task != NULL && pump_task_has_ended(p, task))
        || worker->owner == NULL || worker->item.value == NULL)
    {
        Py_XDECREF(task);
        return;
    }
    PyObject *owner = Py_NewRef(worker->owner);
    PyObject *result = pump_abandoned_result(worker, now);
    if (result == NULL) {
        al_pump_fail(p);
    }
    JobObject *job = worker->item.job;
    worker->item.job = NULL;
    al_worker_detach(worker); /* its place is free */
    if (job != NULL) {
        al_job_end(job, p, result);
    }
    if (task != NULL) {
        pump_hold_task(p, task);
    }
    if (result != NULL) {
        /* Not over meanwhile: an on_result that stops the pump runs in the
           context that closing the source enters. */
        bool spawning = p->spawning;
        p->spawning = true;
        p->calls->item_ended(p->owner, result);
        p->spawning = spawning;
    }
    if (worker->item.of_queue) {
        worker->item.of_queue = false;
        bool fresh = !worker->begun && worker->item.attempts == 0;
        al_reader_item_over(p, fresh ? worker->item.value : NULL);
    }
    al_pump_update(p);
    Py_XDECREF((PyObject *)job);
    Py_XDECREF(result);
    Py_XDECREF(task);
    Py_DECREF(owner);
}

static void
pump_abandon_worker(WorkerObject *worker, const void *now)
{
    if (worker->item.value != NULL) {
        pump_abandon_item(worker, *(const double *)now);
    }
}

/* Abandon a reader that was cancelled and has not stopped in time. */
static void
pump_abandon_reader(al_pump *p)
{
    PyObject *reader = Py_XNewRef(p->reader);
    if (reader != NULL && !pump_task_has_ended(p, reader)) {
        pump_hold_task(p, reader);
        al_reader_abandon(p);
    }
    Py_XDECREF(reader);
}

/* An item's deadline is due: its timeout, or the grace that follows. */
static void
pump_item_due(al_deadline *deadline)
{
    al_item *item = AL_CONTAINER_OF(deadline, al_item, deadline);
    WorkerObject *worker = AL_CONTAINER_OF(item, WorkerObject, item);
    al_pump *p = worker->pump;
    Py_INCREF(worker);
    if (item->timeout_sent) {
        pump_abandon_item(worker, al_pump_time(p));
    }
    /* If a stop has cancelled the item, it has its grace, too. */
    else if (item->cancels_sent == 0) {
        item->timeout_sent = true;
        al_worker_cancel(worker, AL_STOP_NONE, NULL, false);
        /* The flag is off again if the cancellation has ended the item. */
        if (item->timeout_sent && p->grace != Py_HUGE_VAL
            && al_deadline_add(&p->deadlines, deadline,
                               al_pump_time(p) + p->grace)
                   < 0)
        {
            al_pump_fail(p);
        }
    }
    Py_DECREF(worker);
}

static void
pump_due(al_deadlines *all, al_deadline *deadline)
{
    al_pump *p = AL_CONTAINER_OF(all, al_pump, deadlines);
    if (deadline == NULL) { /* the timer itself failed */
        al_pump_fail(p);
    }
    else if (deadline == &p->budget_end) {
        al_pump_stop(p, AL_STOP_BUDGET, NULL, false);
    }
    else if (deadline == &p->grace_end) {
        double now = al_pump_time(p);
        if (!al_pump_lets_run(p)) { /* or only the reader was cancelled */
            pump_each_worker(p, pump_abandon_worker, &now);
        }
        pump_abandon_reader(p);
    }
    else if (!al_admission_due(p, deadline)) {
        pump_item_due(deadline);
    }
}

/* ---------------------------------------------------------- beginning */

void
al_pump_init(al_pump *p, al_state *st, PyObject *owner,
             const al_pump_calls *calls)
{
    *p = (al_pump){0};
    p->st = st;
    p->owner = owner;
    p->calls = calls;
    p->timeout = p->budget = p->grace = Py_HUGE_VAL;
    p->head = -1;
    al_list_init(&p->workers);
    al_source_init(&p->source);
    al_deadline_init(&p->deadlines, st, owner, &p->bound, &p->source.context,
                     pump_due);
}

/* Begin with the source, the budget and the reader.  Returns 0; -1 with an
   exception. */
static int
pump_start(al_pump *p)
{
    if (al_source_begin(&p->source) < 0) {
        return -1;
    }
    if (p->source.length == 0) { /* without a Task that finds nothing */
        p->source.ended = p->source.exhausted = true;
    }
    if (p->budget <= 0.0) {
        al_pump_stop(p, AL_STOP_BUDGET, NULL, false);
        return 0;
    }
    if (p->budget != Py_HUGE_VAL
        && al_deadline_add(&p->deadlines, &p->budget_end,
                           p->begun_at + p->budget)
               < 0)
    {
        return -1;
    }
    return p->source.async ? al_reader_start(p) : 0;
}

int
al_pump_begin(al_pump *p)
{
    al_state *st = p->st;
    PyObject *loop = al_loop_running(st, al_pump_what(p));
    if (loop == NULL) {
        return -1;
    }
    int failed = al_reader_check_queue(p, loop);
    if (!failed) {
        failed = al_loop_bind(st, &p->bound, loop);
    }
    Py_DECREF(loop);
    if (failed) {
        return -1;
    }
    if (p->task_per_item_unset && al_item_task_choose(p) < 0) {
        return -1;
    }
    p->begun_at = al_loop_time(st, &p->bound);
    if (p->begun_at == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    p->yielded_at = al_clock();
    p->begun = true;
    p->spawning = true; /* whatever the source does meanwhile */
    (void)al_item_task_check_registry(p);
    if (p->stopping == AL_STOP_NONE && pump_start(p) < 0) {
        al_pump_fail(p);
    }
    p->spawning = false;
    al_pump_update(p);
    return 0;
}

/* ---------------------------------------------------------- collecting */

int
al_pump_visit(al_pump *p, visitproc visit, void *arg)
{
    Py_VISIT(p->fn);
    Py_VISIT(p->name);
    Py_VISIT(p->fn_name);
    Py_VISIT(p->reader);
    Py_VISIT(p->fatal);
    Py_VISIT(p->registry);
    Py_VISIT(p->held);
    Py_VISIT(p->deadlines.timer);
    for (al_link *at = p->workers.next; at != &p->workers; at = at->next) {
        Py_VISIT((PyObject *)AL_CONTAINER_OF(at, WorkerObject, link));
    }
    int stop = al_source_visit(&p->source, visit, arg);
    if (stop == 0 && p->limits != NULL) {
        stop = al_limits_visit(p->limits, visit, arg);
    }
    return stop != 0 ? stop : al_loop_visit(&p->bound, visit, arg);
}

void
al_pump_clear(al_pump *p)
{
    while (!al_list_is_empty(&p->workers)) {
        al_worker_detach(AL_CONTAINER_OF(p->workers.next, WorkerObject, link));
    }
    al_limits *limits = p->limits;
    p->limits = NULL;
    if (limits != NULL) {
        al_limits_clear(limits);
        PyMem_Free(limits);
    }
    al_source_clear(&p->source);
    Py_CLEAR(p->deadlines.timer);
    Py_CLEAR(p->fatal);
    Py_CLEAR(p->registry);
    Py_CLEAR(p->held);
    Py_CLEAR(p->reader);
    Py_CLEAR(p->fn_name);
    Py_CLEAR(p->name);
    Py_CLEAR(p->fn);
    al_loop_clear(&p->bound);
}
