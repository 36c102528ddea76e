/* The Task that reads an asynchronous source for a pump.
 *
 * One Task reads the source from its first item to aclose(), so that cancel
 * scopes and context variables inside the source work, and no item's timeout
 * cancels the source.  The Task runs read() in Python, which offers each item
 * and waits until it is taken, so it is at most one item ahead of the workers:
 *
 *     reader Task     anext() -> offer -> wait ................ -> anext()
 *     source.ahead               item    item    NULL
 *     worker                             pulls, item_taken: wakes the reader
 *
 * The reader of a queue runs read_queue().  It takes an item only if a worker
 * has room for it, and the workers take what the queue has ready without it.
 *
 * Its end means the end of the source, or its failure, which stops the batch.
 * A reader that was abandoned has no pump to fail: whatever it raises later
 * goes to the loop's exception handler.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "aio/create_task.h"
#include "batch/drive.h"
#include "batch/source.h"
#include "batch/item.h"
#include "batch/pump.h"
#include "batch/reader.h"

int
al_reader_start(al_pump *p)
{
    al_state *st = p->st;
    PyObject *stack[] = {p->source.items, p->owner};
    PyObject *read = p->source.is_queue ? st->read_queue : st->read_source;
    PyObject *coro = AL_ALLOC(PyObject_Vectorcall(read, stack, 2, NULL));
    PyObject *callback =
        coro == NULL ? NULL : PyObject_GetAttr(p->owner, st->s_reader_ended);
    PyObject *name = NULL, *task = NULL;
    if (callback != NULL) {
        name = AL_ALLOC(PyUnicode_FromFormat("%U source", p->name));
    }
    if (name != NULL) {
        task = al_create_task_plain(st, &p->bound, coro, name, NULL);
    }
    if (coro != NULL && task == NULL) {
        al_coro_close_unstarted(st, coro);
    }
    int failed = -1;
    if (task != NULL) {
        p->reader = Py_NewRef(task);
        failed = al_task_add_done_callback(st, task, callback, NULL);
        if (failed) {
            Py_CLEAR(p->reader);
        }
        else if (p->stopping != AL_STOP_NONE) {
            /* Made by an eager factory, it has stopped its batch already. */
            p->reader_cancelled = true;
            failed = al_task_cancel(st, task, NULL) < 0 ? -1 : 0;
        }
    }
    Py_XDECREF(task);
    Py_XDECREF(name);
    Py_XDECREF(callback);
    Py_XDECREF(coro);
    return failed;
}

int
al_reader_check_queue(const al_pump *p, PyObject *loop)
{
    if (!p->source.is_queue) {
        return 0;
    }
    PyObject *none = PyObject_CallFunctionObjArgs(p->st->check_queue,
                                                  p->source.items, loop, NULL);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

void
al_reader_item_over(al_pump *p, PyObject *unstarted)
{
    if (p->source.items == NULL) {
        return; /* the batch is being collected */
    }
    PyObject *queue = Py_NewRef(p->source.items);
    PyObject *none =
        unstarted == NULL
            ? al_drive_method(p->source.context, queue, p->st->s_task_done)
            : PyObject_CallFunctionObjArgs(p->st->put_back, queue, unstarted,
                                           NULL);
    if (none == NULL && p->queue_failed
        && PyErr_ExceptionMatches(PyExc_Exception))
    {
        PyErr_Clear();
    }
    else if (none == NULL) {
        p->queue_failed = true;
        if (al_loop_handle_error(
                p->st, p->bound.loop,
                "task_done() of a batch's queue failed: the batch calls it "
                "once for each item, so nobody else may",
                NULL)
            < 0)
        {
            al_pump_fail(p);
        }
    }
    Py_XDECREF(none);
    Py_DECREF(queue);
}

void
al_reader_close(al_pump *p)
{
    if (p->reader == NULL || !p->reader_gets || p->reader_closing
        || p->stopping != AL_STOP_NONE)
    {
        return;
    }
    PyObject *reader = Py_NewRef(p->reader);
    p->reader_closing = true;
    if (al_task_cancel(p->st, reader, NULL) < 0) {
        al_pump_fail(p);
    }
    Py_DECREF(reader);
}

bool
al_reader_take_close(al_pump *p)
{
    bool closing = p->reader_closing && p->stopping == AL_STOP_NONE;
    p->reader_gets = p->reader_closing = false;
    return closing;
}

void
al_reader_offer(al_pump *p, PyObject *item)
{
    p->reader_gets = false;
    /* A reader that was abandoned offers in vain. */
    if (!p->source.ended && p->source.ahead == NULL) {
        al_list_append(&p->source.added, &p->source.ahead_mark);
        p->source.ahead = Py_NewRef(item);
        al_pump_update(p);
    }
}

void
al_reader_cancel(al_pump *p, bool again)
{
    if (p->reader == NULL || (p->reader_cancelled && !again)) {
        return;
    }
    PyObject *reader = Py_NewRef(p->reader);
    p->reader_cancelled = true;
    if (al_task_cancel(p->st, reader, NULL) < 0) {
        al_loop_report_or_exit_later(p->st, p->bound.loop,
                                     "cancelling the source's reader failed",
                                     reader);
    }
    Py_DECREF(reader);
}

/* End the item that was ahead when the pump was stopped: it never starts. */
static void
reader_refuse_ahead(al_pump *p)
{
    al_item item = {0};
    PyObject *ahead = Py_NewRef(p->source.ahead);
    al_link_unlink(&p->source.ahead_mark);
    al_link_after(&p->source.ahead_mark, &p->source.added);
    int more = al_source_pull(p->st, &p->source, false, &item.value,
                              &item.task_id, &item.job);
    if (more < 0 && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* a batch that is ending does not fail for its key */
        more = 1;
        item.value = Py_NewRef(ahead);
        p->source.pulled++;
        p->source.from_items++;
    }
    item.index = p->source.pulled - 1;
    PyObject *result =
        more > 0 ? al_item_unstarted(p->st, &item, p->stopping, p->budget)
                 : NULL;
    if (result != NULL) {
        p->calls->item_ended(p->owner, result);
        Py_DECREF(result);
    }
    else if (PyErr_Occurred()) {
        al_pump_fail(p);
    }
    if (p->source.is_queue) {
        al_reader_item_over(p, p->source.refused ? NULL : ahead);
    }
    Py_DECREF(ahead);
    al_item_clear(&item);
}

void
al_reader_abandon(al_pump *p)
{
    if (p->reader == NULL) {
        return;
    }
    Py_CLEAR(p->reader);
    p->source.ended = true;
    if (p->source.ahead != NULL) {
        reader_refuse_ahead(p);
    }
    al_pump_update(p);
}

/* Judge how the reader ended.  Returns 0; -1 with the exception that the batch
   is to raise. */
static int
reader_judge(al_pump *p, PyObject *reader)
{
    PyObject *value;
    al_outcome outcome = al_task_outcome(p->st, reader, &value);
    bool stopped = p->stopping != AL_STOP_NONE;
    /* close() may come in the reader's last step, too late to be noticed. */
    if (outcome == AL_CANCELLED && !stopped && !p->reader_closing) {
        PyErr_SetString(p->st->CancelledError,
                        "the batch's asynchronous source was cancelled");
        outcome = AL_ERROR;
    }
    else if (outcome == AL_FAILED
             || (outcome == AL_DONE && PyExceptionInstance_Check(value)))
    {
        /* read() returns an exit, so that the Task does not end the loop's
           run before the items have ended. */
        PyErr_SetRaisedException(Py_NewRef(value));
        if (outcome == AL_FAILED && stopped) {
            al_loop_report_or_exit_later(
                p->st, p->bound.loop,
                "a batch's asynchronous source failed while it "
                "was being cancelled",
                NULL);
        }
        else {
            outcome = AL_ERROR;
        }
    }
    Py_XDECREF(value);
    return outcome == AL_ERROR ? -1 : 0;
}

/* Report the exception of a reader that was abandoned, if it has one. */
static void
reader_report_abandoned(al_pump *p, PyObject *reader)
{
    PyObject *value;
    al_outcome outcome = al_task_outcome(p->st, reader, &value);
    if (outcome != AL_CANCELLED && value != NULL
        && PyExceptionInstance_Check(value))
    {
        PyErr_SetRaisedException(Py_NewRef(value));
        outcome = AL_ERROR;
    }
    if (outcome == AL_ERROR) {
        al_loop_report_or_exit_later(
            p->st, p->bound.loop,
            "a batch's asynchronous source, which did not stop in "
            "time, failed",
            reader);
    }
    Py_XDECREF(value);
}

void
al_reader_ended(al_pump *p, PyObject *task)
{
    PyObject *reader = p->reader;
    if (reader == NULL) {
        reader_report_abandoned(p, task);
        return;
    }
    p->reader = NULL;
    p->source.ended = true;
    bool stopped = p->stopping != AL_STOP_NONE;
    if (reader_judge(p, reader) < 0) {
        al_pump_fail(p);
    }
    p->source.exhausted = !stopped && p->fatal == NULL;
    if (p->stopping != AL_STOP_NONE && p->source.ahead != NULL) {
        reader_refuse_ahead(p);
    }
    Py_DECREF(reader);
    al_pump_update(p);
}
