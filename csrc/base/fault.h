/* Every allocation of ours goes through here.
 *
 * In a build with AL_FAULTS the nth one fails with MemoryError, so that tests
 * can walk every error path, and which ones failed is remembered; in any other
 * build the macros are the expression.
 */
#ifndef AL_FAULT_H
#define AL_FAULT_H

#include "base/compat.h"

#ifdef AL_FAULTS
/* Tells whether this allocation is the one; sets MemoryError if so, and notes
   where it stands.  Pure C. */
bool al_fault(const char *file, int line);

/* Add fail_allocation() and failed_allocations() to the module.  Returns 0;
   -1 with an exception.  Pure C. */
int al_fault_setup(PyObject *module);

#define AL_FAULT al_fault(__FILE__, __LINE__)
#define AL_ALLOC(expression) (AL_FAULT ? NULL : (expression))
#define AL_ALLOC_INT(expression) (AL_FAULT ? -1 : (expression))
#else
#define al_fault_setup(module) ((void)(module), 0)

/* An allocation that answers NULL, or -1, with an exception set. */
#define AL_ALLOC(expression) (expression)
#define AL_ALLOC_INT(expression) (expression)
#endif

#endif
