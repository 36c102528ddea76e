/* One awaitable driven by hand, in a context of its own. */
#ifndef AL_DRIVE_H
#define AL_DRIVE_H

#include "base/compat.h"
#include "base/state.h"

/* What is being driven; both NULL: nothing. */
typedef struct {
    PyObject *iterator; /* owned: what is sent into */
    PyObject *context;  /* owned: what it runs in */
} al_drive;

/* Call `fn(item)` in a copy of `context` and take the first step of what it
   returns.  PYGEN_NEXT: *result is what it waits for; PYGEN_RETURN: its
   value; PYGEN_ERROR: its exception, fetched before the context was left, and
   none is set (all new).  After the last two nothing is driven.
   Runs Python. */
PySendResult al_drive_begin(al_state *st, al_drive *drive, PyObject *context,
                            PyObject *fn, PyObject *item, PyObject **result);

/* One more step; `thrown` (borrowed) is thrown in unless NULL.  Answers like
   al_drive_begin.  Runs Python. */
PySendResult al_drive_resume(al_state *st, al_drive *drive, PyObject *thrown,
                             PyObject **result);

/* fn(item), which can be awaited (new); NULL with its exception, or with
   TypeError if it cannot.  Runs Python. */
PyObject *al_drive_open(al_state *st, PyObject *fn, PyObject *item);

/* callable(arg) in the context (new); NULL with an exception.
   Runs Python. */
PyObject *al_drive_call(PyObject *context, PyObject *callable, PyObject *arg);

/* The iterator's next item in the context (new); NULL at its end, with or
   without an exception, as tp_iternext has it.  Runs Python. */
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
