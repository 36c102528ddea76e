/* Where a batch's items come from.
 *
 * next() and key() run in the batch's own context, entered around each call;
 * of a list, a tuple or a range without a key nothing of the user's runs, and
 * nothing is entered.
 */
#include "compat.h"
#include "fault.h"
#include "state.h"
#include "loop.h"
#include "drive.h"
#include "source.h"

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
    source->quiet = source_is_plain(source->items) && source->key == NULL;
    source->length = al_source_length(source);
    source->iterator = source_iterate(source);
    return source->iterator == NULL ? -1 : 0;
}

bool
al_source_may_give(const al_source *source)
{
    return source->async ? source->ahead != NULL : !source->done;
}

/* What the key says of an item, as an exact str (new). */
static PyObject *
source_key(al_source *source, PyObject *item)
{
    PyObject *key = Py_NewRef(source->key);
    PyObject *answer = al_drive_call(source->context, key, item);
    Py_DECREF(key);
    if (answer == NULL || (PyUnicode_CheckExact(answer)
                           && PyUnicode_GET_LENGTH(answer) > 0))
    {
        return answer;
    }
    if (PyUnicode_Check(answer) && PyUnicode_GET_LENGTH(answer) > 0) {
        Py_SETREF(answer, AL_ALLOC(PyUnicode_FromObject(answer)));
        return answer;
    }
    PyErr_Format(PyExc_TypeError,
                 "key returned %R for item %zd: a task id is a non-empty str",
                 answer, source->pulled - 1);
    Py_DECREF(answer);
    return NULL;
}

/* The next item of the iterator (new); NULL at its end, or with its error. */
static PyObject *
source_next(al_source *source)
{
    PyObject *iterator = Py_NewRef(source->iterator);
    PyObject *item = source->quiet
                         ? Py_TYPE(iterator)->tp_iternext(iterator)
                         : al_drive_next(source->context, iterator);
    if (item == NULL && PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyErr_Clear();
    }
    if (item == NULL) {
        source->done = true;
        source->exhausted = !PyErr_Occurred();
        Py_CLEAR(source->iterator);
    }
    Py_DECREF(iterator);
    return item;
}

/* A coroutine where an item belongs: close it, and spell out the call. */
static void
source_refuse_coroutine(al_state *st, PyObject *coro)
{
    PyErr_SetString(PyExc_TypeError,
                    "the items are coroutines, which bounded_gather makes "
                    "itself: pass the function and its arguments, "
                    "bounded_gather(fetch, urls) for "
                    "[fetch(url) for url in urls]");
    al_coro_refuse(st, coro);
}

int
al_source_pull(al_state *st, al_source *source, PyObject **item,
               PyObject **task_id)
{
    *task_id = NULL;
    if (source->async) {
        *item = source->ahead;
        source->ahead = NULL;
    }
    else {
        *item = source->iterator == NULL ? NULL : source_next(source);
    }
    if (*item == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    source->pulled++;
    if (PyCoro_CheckExact(*item)) {
        source_refuse_coroutine(st, *item);
        source->done = true;
        source->pulled--;
        Py_CLEAR(*item);
        return -1;
    }
    if (source->key != NULL) {
        *task_id = source_key(source, *item);
        if (*task_id == NULL) {
            source->done = true;
            source->pulled--;
            Py_CLEAR(*item);
            return -1;
        }
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
}
