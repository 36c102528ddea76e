/* Where a batch's items come from.
 *
 * The items themselves are read lazily, by next() or by the reader; added ones
 * wait in a list.  Which comes next:
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
#include "base/state.h"
#include "aio/task.h"
#include "batch/fifo.h"
#include "batch/drive.h"
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

int
al_source_add(al_source *source, PyObject *item)
{
    if (source->added == NULL) {
        source->added = AL_ALLOC(PyList_New(0));
    }
    if (source->added == NULL
        || AL_ALLOC_INT(PyList_Append(source->added, item)) < 0)
    {
        return -1;
    }
    source->added_count++;
    return 0;
}

PyObject *
al_source_queued(const al_source *source)
{
    if (source->added == NULL) {
        return AL_ALLOC(PyList_New(0));
    }
    return AL_ALLOC(PyList_GetSlice(source->added, source->added_front,
                                    PyList_GET_SIZE(source->added)));
}

/* The next item that was added (new), or NULL.  Sets no exception. */
static PyObject *
source_next_added(al_source *source)
{
    if (al_source_waiting(source) == 0) {
        return NULL;
    }
    PyObject *item =
        Py_NewRef(PyList_GET_ITEM(source->added, source->added_front));
    source->added_first -= source->added_first > 0;
    (void)al_fifo_take(source->added, &source->added_front);
    return item;
}

/* key(item) as an exact str (new).  The key is held, for its own call may
   clear the source. */
static PyObject *
source_key(al_state *st, al_source *source, PyObject *item)
{
    PyObject *key = Py_NewRef(source->key);
    PyObject *answer = al_drive_call(source->context, key, item);
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
                 answer, source->pulled - 1);
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

/* The next item (new); NULL if there is none, or with an exception.  Tells in
   `from_items` whether it comes from the items and was not added. */
static PyObject *
source_take(al_state *st, al_source *source, bool only_added, bool *from_items)
{
    *from_items = true;
    PyObject *item = NULL;
    if (only_added) {
        /* Nothing of the items. */
    }
    else if (!source->async && source->iterator != NULL) {
        item = source_next(source);
    }
    else if (source->added_first == 0) {
        /* Of an asynchronous source; else `ahead` is NULL. */
        item = source->ahead;
        source->ahead = NULL;
    }
    if (item == NULL && !PyErr_Occurred()) {
        *from_items = false;
        item = source_next_added(source);
        if (item == NULL && source->is_queue && !source->ended && !only_added)
        {
            *from_items = true;
            item = source_poll(st, source);
        }
    }
    return item;
}

int
al_source_pull(al_state *st, al_source *source, bool only_added,
               PyObject **item, PyObject **task_id)
{
    bool from_items;
    *task_id = NULL;
    *item = source_take(st, source, only_added, &from_items);
    if (*item == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    /* Counted before key() is called, whose error names the index. */
    source->pulled++;
    source->from_items += from_items;
    bool refused = al_coro_is(st, *item);
    if (refused) {
        al_source_refuse_coroutine(st, *item);
    }
    else if (source->key != NULL) {
        *task_id = source_key(st, source, *item);
        refused = *task_id == NULL;
    }
    if (refused) {
        /* An item without an id has no result: as if it was never pulled. */
        source->ended = true;
        source->refused = source->is_queue && from_items;
        source->pulled--;
        source->from_items -= from_items;
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
    Py_VISIT(source->added);
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
    Py_CLEAR(source->added);
}
