/* How the Tasks of a JoinSet have ended, one after the other. */
#ifndef AL_EXIT_LOG_H
#define AL_EXIT_LOG_H

#include "base/compat.h"
#include "base/state.h"

typedef enum {
    AL_EXIT_FINISHED = 0,
    AL_EXIT_CANCELLED,
    AL_EXIT_FAILED,
    AL_EXIT_SWALLOWED,
    AL_EXIT_KINDS, /* how many there are */
} al_exit_kind;

/* What a registry knows of a Task. */
typedef struct {
    PyObject *task_id; /* borrowed; NULL: it is in no registry */
    double age;
    double silence;
} al_exit_origin;

typedef struct {
    PyObject *name;    /* owned; NULL: asking the Task for it failed */
    PyObject *task_id; /* owned, or NULL */
    PyObject *error;   /* owned, or NULL */
    double age;
    double silence;
    al_exit_kind kind;
} al_exit;

/* Drop what an exit owns.  Runs Python. */
static inline void
al_exit_clear(al_exit *exit)
{
    Py_CLEAR(exit->name);
    Py_CLEAR(exit->task_id);
    Py_CLEAR(exit->error);
}

/* Make an empty log (new).  NULL with MemoryError.  Pure C. */
PyObject *al_exit_log_new(al_state *st);

/* Make room for so many further exits.  Returns 0; -1 with MemoryError,
   nothing changed.  Pure C. */
int al_exit_log_reserve(PyObject *log, Py_ssize_t more);

/* Append an exit, for which there is room, and take over what it owns.  A log
   that the collector has cleared drops it.  Runs Python. */
void al_exit_log_add(PyObject *log, al_exit *exit);

/* Make the type ExitLog, and the constants EXIT_*.  Returns 0; -1 with an
   exception.  Runs Python. */
int al_exit_log_setup(PyObject *module, al_state *st);

#endif
