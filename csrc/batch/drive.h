/* An awaitable that is stepped by hand, in a context of its own. */
#ifndef AL_DRIVE_H
#define AL_DRIVE_H

#include "base/compat.h"
#include "base/state.h"

/* An awaitable that has suspended; both NULL: there is none. */
typedef struct {
    PyObject *iterator; /* owned: its coroutine or iterator */
    PyObject *context;  /* owned: it runs in this */
} al_drive;

/* Call fn and take the first step of what it returns, in a context (stolen;
   NULL: an exception is set), with arguments as for PyObject_Vectorcall().
   PYGEN_NEXT: *result is what it waits for.  PYGEN_RETURN: *result is its
   value.  PYGEN_ERROR: *result is its exception, and none is set.  All are
   new.  After the last two the drive is empty.  Runs Python. */
PySendResult al_drive_begin(al_state *st, al_drive *drive, PyObject *context,
                            PyObject *fn, PyObject *const *args, size_t nargsf,
                            PyObject **result);

/* Take one more step.  `thrown` (borrowed), unless NULL, is thrown into the
   awaitable.  Returns what al_drive_begin returns.  Runs Python. */
PySendResult al_drive_resume(al_state *st, al_drive *drive, PyObject *thrown,
                             PyObject **result);

/* fn(*args), which must be awaitable (new); NULL with its exception, or with
   TypeError.  The arguments are as for PyObject_Vectorcall().  Runs Python. */
PyObject *al_drive_open(al_state *st, PyObject *fn, PyObject *const *args,
                        size_t nargsf);

/* callable(arg) in the context (new); NULL with an exception.
   Runs Python. */
PyObject *al_drive_call(PyObject *context, PyObject *callable, PyObject *arg);

/* object.name() in the context (new); NULL with an exception.
   Runs Python. */
PyObject *al_drive_method(PyObject *context, PyObject *object, PyObject *name);

/* object.close() in the context, if the object has that method.  Returns 0; -1
   with an exception.  Runs Python. */
int al_drive_close(al_state *st, PyObject *context, PyObject *object);

/* The iterator's next item, taken in the context (new); NULL at its end, with
   or without StopIteration, or with its exception.  Runs Python. */
PyObject *al_drive_next(PyObject *context, PyObject *iterator);

/* The visit of an embedded drive.  Pure C. */
static inline int
al_drive_visit(al_drive *drive, visitproc visit, void *arg)
{
    Py_VISIT(drive->iterator);
    Py_VISIT(drive->context);
    return 0;
}

/* The clear of an embedded drive.  Runs Python. */
static inline void
al_drive_clear(al_drive *drive)
{
    Py_CLEAR(drive->iterator);
    Py_CLEAR(drive->context);
}

#endif
