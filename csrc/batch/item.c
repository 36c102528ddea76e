/* One item of a batch while it is driven, and what its end means.
 *
 * An item can be cancelled by us (timeout, budget, max_errors, a stop) and by
 * others (its own code, a scope around it, the Task).  As in asyncio.timeout,
 * each cancel() of ours is paired with one uncancel(), and only if no
 * cancellation of anybody else is left was it ours that ended the item:
 *
 *     it raised CancelledError, ours, none left    timed out: TimeoutError
 *     it raised CancelledError, otherwise          cancelled
 *     it raised anything else                      failed
 *     it returned, another's cancellation pending  cancelled
 *     it returned                                  done
 *
 * A value counts although the item was cancelled, for a Task that swallows its
 * cancellation has a value too.  But a cancellation of somebody else that was
 * never delivered makes the item cancelled, as it would a Task.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "batch/item.h"

PyObject *
al_item_id(const al_item *item)
{
    if (item->task_id == NULL && al_item_is_call(item)) {
        return al_result_call_id(item->index);
    }
    return item->task_id != NULL
               ? Py_NewRef(item->task_id)
               : al_result_default_id(item->value, item->index);
}

/* An exception (new) whose text is made of the item's id, quoted and cut if it
   is long, and of seconds. */
static PyObject *
item_error(const al_item *item, PyObject *type, const char *format,
           double seconds)
{
    PyObject *limit = AL_ALLOC(PyFloat_FromDouble(seconds));
    PyObject *task_id = limit == NULL ? NULL : al_item_id(item);
    PyObject *name = task_id == NULL ? NULL : al_object_short(task_id);
    PyObject *text = NULL, *error = NULL;
    if (name != NULL) {
        text = AL_ALLOC(PyUnicode_FromFormat(format, name, limit));
    }
    if (text != NULL) {
        error = AL_ALLOC(PyObject_CallOneArg(type, text));
    }
    Py_XDECREF(text);
    Py_XDECREF(name);
    Py_XDECREF(task_id);
    Py_XDECREF(limit);
    return error;
}

/* The TimeoutError of an item (new), chained from its CancelledError, or from
   the error of its last attempt, which may be NULL. */
static PyObject *
item_timeout(const al_item *item, double seconds, PyObject *cause)
{
    PyObject *error = item_error(
        item, PyExc_TimeoutError,
        item->why == AL_STOP_BUDGET
            ? "%U was ended by the budget of %S s for the whole batch"
            : "%U timed out after %S s",
        seconds);
    if (error != NULL) {
        PyException_SetCause(error, Py_XNewRef(cause));
        PyException_SetContext(error, Py_XNewRef(cause));
    }
    return error;
}

/* Tell whether its timeout or the budget was the first to cancel it. */
static bool
item_ran_out(const al_item *item)
{
    return item->why == AL_STOP_NONE || item->why == AL_STOP_BUDGET;
}

/* Take our cancellations back.  Returns how many of others are left; -1 with
   an exception. */
static long
item_uncancel(al_state *st, al_item *item, PyObject *task)
{
    long left = 0;
    while (item->cancels_sent > 0 && left >= 0) {
        item->cancels_sent--;
        left = al_task_uncancel(st, task);
    }
    return left;
}

/* al_item_judge() of an item that has a value. */
static int
item_returned(al_state *st, al_item *item, PyObject *task,
              PyObject *cancelling, PyObject **end, al_result_fields *fields)
{
    bool ours = item->cancels_sent > 0;
    long left = ours ? item_uncancel(st, item, task) : 0;
    /* If all of them were ours, none is left; otherwise ask the Task.  One
       that we have cancelled is never clean: on 3.11 and 3.12 uncancel()
       leaves a request that was not delivered (CPython 117407). */
    al_cancel_state left_behind =
        left < 0            ? AL_CANCEL_ERROR
        : ours && left == 0 ? AL_CANCEL_NONE
                            : al_task_cancel_state(st, task, cancelling);
    if (left_behind == AL_CANCEL_ERROR) {
        return -1;
    }
    if (left_behind == AL_CANCEL_PENDING) {
        PyObject *error = AL_ALLOC(PyObject_CallNoArgs(st->CancelledError));
        if (error == NULL) {
            return -1;
        }
        Py_SETREF(*end, error);
        fields->error = error;
        fields->state = AL_RESULT_CANCELLED;
        return 0;
    }
    fields->data = *end;
    fields->state = AL_RESULT_DONE;
    return !ours && left_behind == AL_CANCEL_NONE;
}

/* al_item_judge() of an item that raised: never clean, so its worker is
   retired. */
static int
item_raised(al_state *st, al_item *item, PyObject *task, double seconds,
            PyObject **end, al_result_fields *fields)
{
    bool ours = item->cancels_sent > 0;
    long left = item_uncancel(st, item, task);
    if (left < 0) {
        return -1;
    }
    fields->state = AL_RESULT_FAILED;
    /* As in asyncio.timeout: ours only if no other cancellation is left. */
    if (PyErr_GivenExceptionMatches(*end, st->CancelledError)) {
        fields->timed_out = ours && left == 0 && item_ran_out(item);
        if (fields->timed_out) {
            PyObject *error = item_timeout(item, seconds, *end);
            if (error == NULL) {
                return -1;
            }
            Py_SETREF(*end, error);
        }
        else {
            fields->state = AL_RESULT_CANCELLED;
        }
    }
    fields->error = *end;
    return 0;
}

int
al_item_judge(al_state *st, al_item *item, PyObject *task,
              PyObject *cancelling, PySendResult answer, double seconds,
              PyObject **end, al_result_fields *fields)
{
    fields->item = item->value;
    fields->task_id = item->task_id;
    fields->index = item->index;
    fields->is_call = al_item_is_call(item);
    fields->attempts = item->attempts;
    return answer == PYGEN_RETURN
               ? item_returned(st, item, task, cancelling, end, fields)
               : item_raised(st, item, task, seconds, end, fields);
}

/* Build the result of an item that has no outcome of its own (new): `error`
   (stolen) stands for it.  If that is NULL, its exception propagates. */
static PyObject *
item_make_result(al_state *st, const al_item *item, PyObject *error,
                 al_result_fields *fields)
{
    if (error == NULL) {
        return NULL;
    }
    fields->item = item->value;
    fields->task_id = item->task_id;
    fields->index = item->index;
    fields->is_call = al_item_is_call(item);
    fields->attempts = item->attempts;
    fields->error = error;
    PyObject *result = al_result_new(st, fields);
    Py_DECREF(error);
    return result;
}

/* The TimeoutError of an item that was never started (new). */
static PyObject *
item_budget_error(double budget)
{
    PyObject *limit = AL_ALLOC(PyFloat_FromDouble(budget));
    PyObject *text = NULL, *error = NULL;
    if (limit != NULL) {
        text = AL_ALLOC(PyUnicode_FromFormat(
            "never started: the budget of %S s for the whole batch ran out",
            limit));
        Py_DECREF(limit);
    }
    if (text != NULL) {
        error = AL_ALLOC(PyObject_CallOneArg(PyExc_TimeoutError, text));
        Py_DECREF(text);
    }
    return error;
}

bool
al_item_raises(al_state *st, PyObject *error, bool of_pool)
{
    return !PyErr_GivenExceptionMatches(error, PyExc_Exception)
           && !PyErr_GivenExceptionMatches(error, st->CancelledError)
           && (!of_pool || al_loop_is_exit(error));
}

PyObject *
al_item_unstarted(al_state *st, const al_item *item, al_stop why,
                  double budget)
{
    bool ran_out = why == AL_STOP_BUDGET;
    PyObject *error = ran_out
                          ? item_budget_error(budget)
                          : AL_ALLOC(PyObject_CallNoArgs(st->CancelledError));
    al_result_fields fields = {.timed_out = ran_out};
    return item_make_result(st, item, error, &fields);
}

PyObject *
al_item_waited(al_state *st, al_item *item, al_stop why, PyObject *last,
               double seconds, double duration)
{
    PyObject *error;
    item->why = why;
    bool timed_out = item_ran_out(item);
    if (timed_out) {
        error = item_timeout(item, seconds, last);
    }
    else {
        error = AL_ALLOC(PyObject_CallNoArgs(st->CancelledError));
        if (error != NULL) {
            PyException_SetContext(error, Py_XNewRef(last));
        }
    }
    al_result_fields fields = {.duration = duration,
                               .state = timed_out ? AL_RESULT_FAILED
                                                  : AL_RESULT_CANCELLED,
                               .timed_out = timed_out};
    return item_make_result(st, item, error, &fields);
}

PyObject *
al_item_stuck(al_state *st, const al_item *item, double seconds, double grace,
              double duration)
{
    bool timed_out = item->cancels_sent > 0 && item_ran_out(item);
    PyObject *error;
    if (!timed_out) {
        error = item_error(item, st->CancelledError,
                           "%U did not stop within %S s", grace);
    }
    else if (item->why == AL_STOP_BUDGET) {
        error = item_error(item, PyExc_TimeoutError,
                           "%U did not stop when the budget of %S s for the "
                           "whole batch ran out",
                           seconds);
    }
    else {
        error =
            item_error(item, PyExc_TimeoutError,
                       "%U timed out after %S s and did not stop", seconds);
    }
    al_result_fields fields = {.duration = duration,
                               .state = AL_RESULT_RUNNING,
                               .timed_out = timed_out};
    return item_make_result(st, item, error, &fields);
}
