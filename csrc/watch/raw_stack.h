/* The Python stack of another thread, read without the GIL. */
#ifndef AL_RAW_STACK_H
#define AL_RAW_STACK_H

#include "base/compat.h"

#define AL_RAW_STACK_FRAMES 256
#define AL_RAW_STACK_NAMED 8 /* of the innermost the names are read, too */

/* The beginning of a str. */
typedef struct {
    int kind; /* bytes for each character; 0: it was no str */
    Py_ssize_t length;
    char data[400];
} al_raw_text;

/* A frame as it was found.  The addresses may be anything. */
typedef struct {
    uintptr_t code;        /* of a code object */
    uintptr_t instruction; /* in it: the one that runs */
} al_raw_frame;

typedef struct {
    int n;
    al_raw_frame frames[AL_RAW_STACK_FRAMES]; /* innermost first */
    struct {
        al_raw_text file, function;
        int line; /* 0: the code was none */
    } named[AL_RAW_STACK_NAMED];
} al_raw_stack;

/* Read the innermost frames of a thread, which may be running; needs no GIL.
   There are none where that is not possible.  Pure C. */
void al_raw_stack_read(al_raw_stack *self, const PyThreadState *thread);

/* Return file, line and function of one of the named frames, as a tuple (new).
   NULL without an exception if its code was none; NULL with an exception.
   Pure C. */
PyObject *al_raw_stack_place(const al_raw_stack *self, int frame);

/* Tell whether reading the stack of this thread, which has the GIL, gives what
   it is.  Pure C. */
bool al_raw_stack_check(al_raw_stack *self);

#endif
