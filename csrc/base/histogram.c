/* Histogram: a snapshot of counts of durations.
 *
 * What counts durations has an al_histogram as a member, to which a duration
 * is added without an allocation.  The object that users see is a copy of it.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/args.h"
#include "base/histogram.h"
#include "base/state.h"

#include <math.h>

#define HISTOGRAM_BUCKETS (AL_HISTOGRAM_BOUNDS + 1)

typedef struct {
    PyObject_HEAD
    al_histogram counted;
} HistogramObject;

static const al_histogram *
histogram_of(PyObject *op)
{
    return &((HistogramObject *)op)->counted;
}

static unsigned long long
histogram_total(const al_histogram *self)
{
    unsigned long long total = 0;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        total += self->counts[i];
    }
    return total;
}

/* Return the upper bound of a bucket. */
static double
histogram_bound(int bucket)
{
    return bucket < AL_HISTOGRAM_BOUNDS ? ldexp(AL_HISTOGRAM_LEAST, bucket)
                                        : Py_HUGE_VAL;
}

PyObject *
al_histogram_new(al_state *st, const al_histogram *counted)
{
    PyTypeObject *type = (PyTypeObject *)st->Histogram;
    PyObject *self = AL_ALLOC(type->tp_alloc(type, 0));
    if (self != NULL) {
        ((HistogramObject *)self)->counted = *counted;
    }
    return self;
}

/* ------------------------------------------------------------ attributes */

static PyObject *
histogram_get_count(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(
        PyLong_FromUnsignedLongLong(histogram_total(histogram_of(op))));
}

static PyObject *
histogram_get_sum(PyObject *op, void *Py_UNUSED(closure))
{
    return AL_ALLOC(PyFloat_FromDouble(histogram_of(op)->sum));
}

static PyObject *
histogram_get_bounds(PyObject *Py_UNUSED(op), void *Py_UNUSED(closure))
{
    PyObject *bounds = AL_ALLOC(PyTuple_New(AL_HISTOGRAM_BOUNDS));
    for (int i = 0; bounds != NULL && i < AL_HISTOGRAM_BOUNDS; i++) {
        PyObject *bound = AL_ALLOC(PyFloat_FromDouble(histogram_bound(i)));
        if (bound == NULL) {
            Py_CLEAR(bounds);
            break;
        }
        PyTuple_SET_ITEM(bounds, i, bound);
    }
    return bounds;
}

static PyObject *
histogram_get_counts(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *counts = AL_ALLOC(PyTuple_New(HISTOGRAM_BUCKETS));
    for (int i = 0; counts != NULL && i < HISTOGRAM_BUCKETS; i++) {
        PyObject *count =
            AL_ALLOC(PyLong_FromUnsignedLongLong(histogram_of(op)->counts[i]));
        if (count == NULL) {
            Py_CLEAR(counts);
            break;
        }
        PyTuple_SET_ITEM(counts, i, count);
    }
    return counts;
}

PyDoc_STRVAR(histogram_quantile_doc,
"quantile($self, /, q)\n--\n\n"
"Return the upper bound of the bucket that holds a quantile, in seconds.\n\n"
"Args:\n"
"    q: From 0 to 1; 0.5 is the median.\n\n"
"Returns:\n"
"    The bound; math.inf if the quantile is above the last bound; nan if\n"
"    nothing was counted.  The quantile itself is at most that bound and,\n"
"    unless it is in the first bucket, more than half of it.\n\n"
"Raises:\n"
"    TypeError, ValueError: ``q`` is not a number from 0 to 1.");

static PyObject *
histogram_quantile(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    static const al_signature signature = {"quantile", 1, 1, 1, {"q"}};
    al_state *st = al_state_of_type(Py_TYPE(op));
    PyObject *got[1];
    if (st == NULL || al_args_sort(&signature, args, nargs, kwnames, got) < 0)
    {
        return NULL;
    }
    PyObject *checked =
        PyObject_CallFunction(st->check_number, "sOdd", "q", got[0], 0.0, 1.0);
    if (checked == NULL) {
        return NULL;
    }
    double part = PyFloat_AsDouble(checked);
    Py_DECREF(checked);
    const al_histogram *self = histogram_of(op);
    unsigned long long total = histogram_total(self), so_far = 0;
    if (total == 0) {
        return AL_ALLOC(PyFloat_FromDouble(Py_NAN));
    }
    /* 0.07 * 100 is a little more than 7 */
    double rank = part * (double)total * (1.0 - 1e-12);
    int bucket = 0;
    while (bucket < AL_HISTOGRAM_BOUNDS) {
        so_far += self->counts[bucket];
        if (so_far > 0 && (double)so_far >= rank) {
            break;
        }
        bucket++;
    }
    return AL_ALLOC(PyFloat_FromDouble(histogram_bound(bucket)));
}

/* ---------------------------------------------------------------- a value */

PyDoc_STRVAR(histogram_restore_doc,
"_restore($type, sum, counts, /)\n--\n\n"
"Make a histogram of its parts, for pickle and copy.");

static PyObject *
histogram_restore(PyObject *type, PyObject *args)
{
    al_histogram counted;
    PyObject *counts;
    al_state *st = al_state_of_type((PyTypeObject *)type);
    if (st == NULL
        || !PyArg_ParseTuple(args, "dO!:_restore", &counted.sum, &PyTuple_Type,
                             &counts))
    {
        return NULL;
    }
    if (PyTuple_GET_SIZE(counts) != HISTOGRAM_BUCKETS) {
        return PyErr_Format(PyExc_ValueError, "not the parts of a Histogram");
    }
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        PyObject *count = PyTuple_GET_ITEM(counts, i);
        counted.counts[i] = PyLong_AsUnsignedLongLong(count);
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    return al_histogram_new(st, &counted);
}

static PyObject *
histogram_reduce(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *type = (PyObject *)Py_TYPE(op), *reduced = NULL;
    PyObject *restore = PyObject_GetAttrString(type, "_restore");
    PyObject *counts = histogram_get_counts(op, NULL);
    if (restore != NULL && counts != NULL) {
        reduced = AL_ALLOC(
            Py_BuildValue("O(dO)", restore, histogram_of(op)->sum, counts));
    }
    Py_XDECREF(counts);
    Py_XDECREF(restore);
    return reduced;
}

static PyObject *
histogram_richcompare(PyObject *op, PyObject *other, int compare)
{
    if (!Py_IS_TYPE(other, Py_TYPE(op))
        || (compare != Py_EQ && compare != Py_NE))
    {
        Py_RETURN_NOTIMPLEMENTED;
    }
    const al_histogram *a = histogram_of(op), *b = histogram_of(other);
    bool equal = a->sum == b->sum;
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        equal = equal && a->counts[i] == b->counts[i];
    }
    return PyBool_FromLong(equal == (compare == Py_EQ));
}

static Py_hash_t
histogram_hash(PyObject *op)
{
    PyObject *counts = histogram_get_counts(op, NULL);
    Py_hash_t hash = counts == NULL ? -1 : PyObject_Hash(counts);
    Py_XDECREF(counts);
    return hash;
}

static PyObject *
histogram_repr(PyObject *op)
{
    const al_histogram *self = histogram_of(op);
    PyObject *sum = histogram_get_sum(op, NULL);
    PyObject *text = NULL;
    if (sum != NULL) {
        text = AL_ALLOC(PyUnicode_FromFormat("<Histogram count=%llu sum=%R>",
                                             histogram_total(self), sum));
        Py_DECREF(sum);
    }
    return text;
}

static void
histogram_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef histogram_methods[] = {
    {"quantile", AL_METHOD(histogram_quantile), METH_FASTCALL | METH_KEYWORDS,
     histogram_quantile_doc},
    {"_restore", histogram_restore, METH_VARARGS | METH_CLASS,
     histogram_restore_doc},
    {"__reduce__", histogram_reduce, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef histogram_getset[] = {
    {"count", histogram_get_count, NULL, "How many durations were counted.",
     NULL},
    {"sum", histogram_get_sum, NULL, "The sum of the durations, in seconds.",
     NULL},
    {"bounds", histogram_get_bounds, NULL,
     "The upper bounds of the buckets in seconds, as a tuple: 26 bounds that\n"
     "double from 0.0001.  A duration that equals a bound is in its bucket.",
     NULL},
    {"counts", histogram_get_counts, NULL,
     "How many durations each bucket has, as a tuple: one count for each\n"
     "bound, and one for the durations above the last.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(histogram_doc,
"A snapshot of durations, counted in buckets; read-only and picklable.\n\n"
"`RegistryStats.durations` and `LoopWatch.lag` are such snapshots.  Two are\n"
"equal if their counts and sums are.");

static PyType_Slot histogram_slots[] = {
    {Py_tp_doc, (void *)histogram_doc},
    {Py_tp_methods, histogram_methods},
    {Py_tp_getset, histogram_getset},
    {Py_tp_richcompare, histogram_richcompare},
    {Py_tp_hash, histogram_hash},
    {Py_tp_repr, histogram_repr},
    {Py_tp_dealloc, histogram_dealloc},
    {0, NULL},
};

static PyType_Spec histogram_spec = {
    .name = "pyasynclife.Histogram",
    .basicsize = sizeof(HistogramObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = histogram_slots,
};

int
al_histogram_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Histogram, &histogram_spec, true);
}
