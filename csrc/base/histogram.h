/* Counts of durations, in buckets whose bounds double. */
#ifndef AL_HISTOGRAM_H
#define AL_HISTOGRAM_H

#include "base/compat.h"
#include "base/state.h"

#include <math.h>

#define AL_HISTOGRAM_LEAST 1e-4 /* seconds: the first bound */
#define AL_HISTOGRAM_BOUNDS 26

/* A member of the object whose durations it counts.  The last bucket is for
   those above every bound. */
typedef struct {
    unsigned long long counts[AL_HISTOGRAM_BOUNDS + 1];
    double sum;
} al_histogram;

/* Return the first bucket whose bound is not below a duration.  Bounds differ
   in the exponent alone, so no loop is needed. */
static inline int
histogram_bucket(double seconds)
{
    int exponent, least;
    double mantissa = frexp(seconds, &exponent);
    double first = frexp(AL_HISTOGRAM_LEAST, &least);
    int bucket = exponent - least + (mantissa > first);
    return seconds <= AL_HISTOGRAM_LEAST ? 0
           : bucket < AL_HISTOGRAM_BOUNDS && seconds < Py_HUGE_VAL
               ? bucket
               : AL_HISTOGRAM_BOUNDS;
}

/* Count a duration in seconds `times` times: 1, or -1 to take it back.  One
   that is no number, or negative, as a clock that was set back gives, counts
   as 0.  Pure C. */
static inline void
al_histogram_count(al_histogram *self, double seconds, int times)
{
    seconds = seconds > 0.0 ? seconds : 0.0;
    self->counts[histogram_bucket(seconds)] += (unsigned long long)times;
    self->sum += times * seconds;
}

/* Make a Histogram of what has been counted so far (new).  NULL with
   MemoryError.  Pure C. */
PyObject *al_histogram_new(al_state *st, const al_histogram *counted);

/* Make the type Histogram.  Returns 0; -1 with an exception.  Runs Python. */
int al_histogram_setup(PyObject *module, al_state *st);

#endif
