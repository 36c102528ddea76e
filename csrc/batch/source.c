/* Where a batch's items come from.
 *
 * The items themselves are read lazily, by next() or by the reader; added ones
 * wait in a list, each in its job.  Which comes next:
 *
 *     iterable:       items, to their end, then what was added
 *     asynchronous:   what was added before the reader's item arrived,
 *                     that item, what was added since, ...
 *     a queue:        likewise, and then what the queue has ready
 *
 * A pull takes an item of a queue by get_nowait(), so an item leaves the queue
 * when it starts.  Only where the queue is empty a reader waits for its next
 * item; an empty queue is no end.
 *
 * While the items are held back, by a block that has not chosen what to do
 * with the results, added ones overtake them.
 *
 * next() and key() run in the batch's own context, which is entered around
 * each call.  For a list, a tuple or a range without a key, none of the user's
 * code runs and nothing is entered.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/task.h"
#include "batch/drive.h"
#include "batch/job.h"
#include "batch/source.h"

/* Tell whether reading the items runs no code of the user's.  A subclass may
   have an __iter__ or __len__ of its own. */
static bool
source_is_plain(PyObject *items)
{
    return PyList_CheckExact(items) || PyTuple_CheckExact(items)
           || Py_IS_TYPE(items, &PyRange_Type);
}

Py_ssize_t
al_source_length(const al_source *source)
{
    if (source->async || !source_is_plain(source->items)) {
        return -1;
    }
    Py_ssize_t length = PyObject_Size(source->items);
    if (length < 0) {
        PyErr_Clear(); /* a range longer than any memory */
    }
    return length;
}

/* iter(items) in the source's context. */
static PyObject *
source_iterate(al_source *source)
{
    if (PyContext_Enter(source->context) < 0) {
        return NULL;
    }
    PyObject *iterator = AL_ALLOC(PyObject_GetIter(source->items));
    PyObject *error = PyErr_GetRaisedException();
    (void)PyContext_Exit(source->context);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return iterator;
}

int
al_source_begin(al_source *source)
{
    source->context = AL_ALLOC(PyContext_CopyCurrent());
    if (source->context == NULL) {
        return -1;
    }
    if (source->async) {
        return 0;
    }
    source->runs_no_python =
        source_is_plain(source->items) && source->key == NULL;
    source->length = al_source_length(source); /* it may have changed */
    source->iterator = source_iterate(source);
    return source->iterator == NULL ? -1 : 0;
}

int
al_source_close(al_state *st, al_source *source)
{
    PyObject *iterator = source->iterator;
    if (iterator == NULL) {
        return 0;
    }
    source->iterator = NULL;
    source->ended = true;
    /* An iterator that the caller passed, such as a file or a cursor, is the
       caller's; but nobody else reads on from a generator. */
    bool ours = !source->runs_no_python
                && (iterator != source->items || PyGen_Check(iterator)
                    || PyObject_HasAttr(iterator, st->s_throw));
    int failed = ours ? al_drive_close(st, source->context, iterator) : 0;
    PyObject *error = PyErr_GetRaisedException();
    Py_DECREF(iterator);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return failed;
}

PyObject *
al_source_queued(const al_source *source)
{
    PyObject *items = AL_ALLOC(PyList_New(0));
    for (al_link *at = source->added.next;
         items != NULL && at != &source->added; at = at->next)
    {
        PyObject *item = at == &source->ahead_mark
                             ? NULL
                             : AL_CONTAINER_OF(at, JobObject, link)->item;
        if (item != NULL && AL_ALLOC_INT(PyList_Append(items, item)) < 0) {
            Py_CLEAR(items);
        }
    }
    return items;
}

/* The next job that was added (new), or NULL.  Sets no exception. */
static JobObject *
source_next_added(al_source *source)
{
    if (source->waiting == 0) {
        return NULL;
    }
    al_link *first = source->added.next;
    if (first == &source->ahead_mark) {
        first = first->next;
    }
    al_link_unlink(first);
    source->waiting--;
    return AL_CONTAINER_OF(first, JobObject, link);
}

PyObject *
al_source_key(al_state *st, al_source *source, PyObject *item,
              Py_ssize_t index)
{
    /* Held, for its own call may clear the source. */
    PyObject *key = Py_NewRef(source->key);
    PyObject *answer = source->context == NULL
                           ? PyObject_CallOneArg(key, item)
                           : al_drive_call(source->context, key, item);
    Py_DECREF(key);
    if (answer == NULL
        || (PyUnicode_CheckExact(answer) && PyUnicode_GET_LENGTH(answer) > 0))
    {
        return answer;
    }
    if (PyUnicode_Check(answer) && PyUnicode_GET_LENGTH(answer) > 0) {
        Py_SETREF(answer, AL_ALLOC(PyUnicode_FromObject(answer)));
        return answer;
    }
    PyErr_Format(PyExc_TypeError,
                 "key returned %.200R for item %zd: a task id is a non-empty "
                 "str",
                 answer, index);
    al_coro_close_unstarted(st, answer);
    Py_DECREF(answer);
    return NULL;
}

/* The next item of the iterator (new); NULL at its end, or with its exception.
   Either ends the source. */
static PyObject *
source_next(al_source *source)
{
    PyObject *iterator = Py_NewRef(source->iterator);
    PyObject *item = source->runs_no_python
                         ? Py_TYPE(iterator)->tp_iternext(iterator)
                         : al_drive_next(source->context, iterator);
    if (item == NULL && PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyErr_Clear();
    }
    if (item == NULL) {
        source->ended = true;
        source->exhausted = !PyErr_Occurred();
        Py_CLEAR(source->iterator);
    }
    Py_DECREF(iterator);
    return item;
}

void
al_source_refuse_coroutine(al_state *st, PyObject *coro)
{
    PyErr_SetString(PyExc_TypeError,
                    "the items are coroutines, which bounded_gather makes "
                    "itself: pass the function and its arguments, "
                    "bounded_gather(fetch, urls) for "
                    "[fetch(url) for url in urls]");
    al_coro_close_unstarted(st, coro);
}

/* The next item of a queue (new); NULL if it is empty, or with an exception.
   The reader notices its end. */
static PyObject *
source_poll(al_state *st, al_source *source)
{
    PyObject *queue = Py_NewRef(source->items);
    source->backlog -= source->backlog > 0;
    PyObject *item = al_drive_method(source->context, queue, st->s_get_nowait);
    if (item == NULL) {
        source->backlog = 0;
        if (PyErr_ExceptionMatches(st->queue_has_none)) {
            PyErr_Clear();
        }
    }
    Py_DECREF(queue);
    return item;
}

/* The next item (new); NULL if there is none, or with an exception.  *job is
   its job (new), or NULL if it comes from the items and was not added. */
static PyObject *
source_take(al_state *st, al_source *source, bool only_added, JobObject **job)
{
    PyObject *item = NULL;
    *job = NULL;
    if (only_added) {
        /* Nothing of the items. */
    }
    else if (!source->async && source->iterator != NULL) {
        item = source_next(source);
    }
    else if (source->ahead != NULL
             && source->added.next == &source->ahead_mark)
    {
        al_link_unlink(&source->ahead_mark);
        item = source->ahead;
        source->ahead = NULL;
    }
    if (item == NULL && !PyErr_Occurred()) {
        *job = source_next_added(source);
        if (*job != NULL) {
            item = Py_NewRef((*job)->item);
        }
        else if (source->is_queue && !source->ended && !only_added) {
            item = source_poll(st, source);
        }
    }
    return item;
}

/* The id of an item that was pulled last, and of its job (new); NULL with an
   exception. */
static PyObject *
source_ask_key(al_state *st, al_source *source, PyObject *item, JobObject *job)
{
    Py_ssize_t index = source->pulled - 1;
    if (job == NULL) {
        return al_source_key(st, source, item, index);
    }
    job->asks_key = true;
    PyObject *task_id = al_source_key(st, source, item, index);
    job->asks_key = false;
    if (task_id != NULL) {
        Py_XSETREF(job->task_id, Py_NewRef(task_id));
    }
    return task_id;
}

int
al_source_pull(al_state *st, al_source *source, bool only_added,
               PyObject **item, PyObject **task_id, JobObject **job)
{
    *task_id = NULL;
    *item = source_take(st, source, only_added, job);
    if (*item == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    /* Counted before key() is called, whose error names the index. */
    source->pulled++;
    if (*job != NULL) {
        *task_id = Py_XNewRef((*job)->task_id); /* key() was called already */
    }
    else {
        source->from_items++;
    }
    bool refused = *job == NULL && al_coro_is(st, *item);
    if (refused) {
        al_source_refuse_coroutine(st, *item);
    }
    else if (source->key != NULL && *task_id == NULL) {
        *task_id = source_ask_key(st, source, *item, *job);
        refused = *task_id == NULL;
    }
    if (refused) {
        /* An item without an id has no result: as if it was never pulled. */
        source->ended = true;
        source->refused = source->is_queue && *job == NULL;
        source->pulled--;
        source->from_items -= *job == NULL;
        Py_CLEAR(*item);
        return -1;
    }
    return 1;
}

int
al_source_visit(al_source *source, visitproc visit, void *arg)
{
    Py_VISIT(source->items);
    Py_VISIT(source->key);
    Py_VISIT(source->context);
    Py_VISIT(source->iterator);
    Py_VISIT(source->ahead);
    for (al_link *at = source->added.next; at != &source->added; at = at->next)
    {
        if (at != &source->ahead_mark) {
            Py_VISIT((PyObject *)AL_CONTAINER_OF(at, JobObject, link));
        }
    }
    return 0;
}

void
al_source_clear(al_source *source)
{
    Py_CLEAR(source->items);
    Py_CLEAR(source->key);
    Py_CLEAR(source->context);
    Py_CLEAR(source->iterator);
    Py_CLEAR(source->ahead);
    al_link_unlink(&source->ahead_mark);
    while (!al_list_is_empty(&source->added)) {
        JobObject *job = source_next_added(source);
        al_job_detach(job);
        Py_DECREF(job);
    }
}
