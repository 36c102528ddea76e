/* One item of a batch, while it is driven, and what its end means.
 *
 * As with asyncio.timeout: each cancel() of ours is paired with one
 * uncancel(), and only if none of anybody else's is left was it ours that
 * ended the item.  A value stands although the item was told to stop, for a
 * Task that swallows its cancellation has a value too; but one whose
 * cancellation was never delivered is cancelled, as a Task would be.
 */
#include "compat.h"
#include "fault.h"
#include "state.h"
#include "loop.h"
#include "item.h"

/* The TimeoutError of an item (new), chained from its CancelledError. */
static PyObject *
item_timeout(const al_item *item, double seconds, PyObject *cancelled)
{
    PyObject *limit = AL_ALLOC(PyFloat_FromDouble(seconds));
    PyObject *task_id = item->task_id != NULL
                            ? Py_NewRef(item->task_id)
                            : al_result_default_id(item->value, item->index);
    PyObject *text = NULL, *error = NULL;
    if (limit != NULL && task_id != NULL) {
        text = AL_ALLOC(PyUnicode_FromFormat(
            item->why == AL_STOP_BUDGET
                ? "%R was ended by the budget of %S s for the whole batch"
                : "%R timed out after %S s", task_id, limit));
    }
    if (text != NULL) {
        error = AL_ALLOC(PyObject_CallOneArg(PyExc_TimeoutError, text));
    }
    if (error != NULL) {
        PyException_SetCause(error, Py_NewRef(cancelled));
        PyException_SetContext(error, Py_NewRef(cancelled));
    }
    Py_XDECREF(text);
    Py_XDECREF(task_id);
    Py_XDECREF(limit);
    return error;
}

/* Take our cancellations back; how many of others are left. */
static long
item_uncancel(al_state *st, al_item *item, PyObject *task)
{
    long left = 0;
    while (item->asked > 0 && left >= 0) {
        item->asked--;
        left = al_task_uncancel(st, task);
    }
    return left;
}

static int
item_returned(al_state *st, al_item *item, PyObject *task,
              PyObject *counter, PyObject **end, al_facts *facts)
{
    bool ours = item->asked > 0;
    long left = ours ? item_uncancel(st, item, task) : 0;
    int burden = left < 0             ? -1
                 : ours && left == 0 ? 0
                                      : al_task_burden(st, task, counter);
    if (burden < 0) {
        return -1;
    }
    if (burden == 2) {
        PyObject *error = AL_ALLOC(PyObject_CallNoArgs(st->CancelledError));
        if (error == NULL) {
            return -1;
        }
        Py_SETREF(*end, error);
        facts->error = error;
        facts->state = AL_RESULT_CANCELLED;
        return 0;
    }
    facts->data = *end;
    facts->state = AL_RESULT_DONE;
    return !ours && burden == 0;
}

static int
item_raised(al_state *st, al_item *item, PyObject *task, double seconds,
            PyObject **end, al_facts *facts)
{
    bool ours = item->asked > 0;
    long left = item_uncancel(st, item, task);
    if (left < 0) {
        return -1;
    }
    facts->state = AL_RESULT_FAILED;
    if (PyErr_GivenExceptionMatches(*end, st->CancelledError)) {
        bool ran_out = item->why == AL_STOP_NONE
                       || item->why == AL_STOP_BUDGET;
        facts->timed_out = ours && left == 0 && ran_out;
        if (facts->timed_out) {
            PyObject *error = item_timeout(item, seconds, *end);
            if (error == NULL) {
                return -1;
            }
            Py_SETREF(*end, error);
        }
        else {
            facts->state = AL_RESULT_CANCELLED;
        }
    }
    facts->error = *end;
    return 0;
}

int
al_item_judge(al_state *st, al_item *item, PyObject *task,
              PyObject *counter, PySendResult answer, double seconds, PyObject **end,
              al_facts *facts)
{
    facts->item = item->value;
    facts->task_id = item->task_id;
    facts->index = item->index;
    return answer == PYGEN_RETURN
               ? item_returned(st, item, task, counter, end, facts)
               : item_raised(st, item, task, seconds, end, facts);
}

PyObject *
al_item_unstarted(al_state *st, const al_item *item, al_stop why)
{
    bool budget = why == AL_STOP_BUDGET;
    PyObject *error = AL_ALLOC(PyObject_CallNoArgs(
        budget ? PyExc_TimeoutError : st->CancelledError));
    if (error == NULL) {
        return NULL;
    }
    al_facts facts = {.item = item->value, .task_id = item->task_id,
                      .error = error, .index = item->index,
                      .timed_out = budget};
    PyObject *result = al_result_new(st, &facts);
    Py_DECREF(error);
    return result;
}
