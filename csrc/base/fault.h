/* Allocations that tests can make fail.
 *
 * Every allocation of ours is wrapped in AL_ALLOC.  In a build with AL_FAULTS
 * the nth one fails with MemoryError, so that tests can take every error path,
 * and its source line is recorded.  In any other build the macros are their
 * argument and cost nothing.  The same build counts the steps of searches that
 * must stay short.
 */
#ifndef AL_FAULT_H
#define AL_FAULT_H

#include "base/compat.h"

#ifdef AL_FAULTS
/* Tell whether this allocation is the one that fails; if so, MemoryError is
   set and the source line recorded.  Pure C. */
bool al_fault(const char *file, int line);

/* Count a step of a search.  Pure C. */
void al_fault_count_step(void);

/* Add the functions of fault.c to the module.  Returns 0; -1 with an
   exception.  Pure C. */
int al_fault_setup(PyObject *module);

#define AL_COUNT_STEP() al_fault_count_step()
#define AL_FAULT al_fault(__FILE__, __LINE__)
#define AL_ALLOC(expression) (AL_FAULT ? NULL : (expression))
#define AL_ALLOC_INT(expression) (AL_FAULT ? -1 : (expression))
#else
#define al_fault_setup(module) ((void)(module), 0)

/* A step of a search whose length tests look at. */
#define AL_COUNT_STEP() ((void)0)

/* An expression that allocates, and returns NULL, or -1, with an exception if
   it fails. */
#define AL_ALLOC(expression) (expression)
#define AL_ALLOC_INT(expression) (expression)
#endif

#endif
