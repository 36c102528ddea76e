/* Every allocation of ours goes through here.
 *
 * In a build with AL_FAULTS the nth one fails with MemoryError, so that tests
 * can walk every error path; in any other build the macros are the expression.
 */
#ifndef AL_FAULT_H
#define AL_FAULT_H

#include "compat.h"

#ifdef AL_FAULTS
/* Counts down to the allocation that fails; 0: none will. */
extern long al_fault_countdown;

/* Tells whether this allocation is the one; sets MemoryError if so.  Pure C. */
static inline bool
al_fault(void)
{
    if (al_fault_countdown == 0 || --al_fault_countdown != 0) {
        return false;
    }
    PyErr_NoMemory();
    return true;
}

#define AL_ALLOC(expression) (al_fault() ? NULL : (expression))
#define AL_ALLOC_INT(expression) (al_fault() ? -1 : (expression))
#else
/* An allocation that answers NULL, or -1, with an exception set. */
#define AL_ALLOC(expression) (expression)
#define AL_ALLOC_INT(expression) (expression)
#endif

#endif
