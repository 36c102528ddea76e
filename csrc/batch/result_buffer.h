/* The results of a batch that nobody has taken yet. */
#ifndef AL_RESULT_BUFFER_H
#define AL_RESULT_BUFFER_H

#include "base/compat.h"

/* A list with a place for each item, or with what has ended as it ended. */
typedef struct {
    PyObject *list;   /* owned; None: nothing there (yet, or any more) */
    Py_ssize_t base;  /* index of the item of the first place */
    Py_ssize_t front; /* place of what is taken next */
    bool by_index;
} al_result_buffer;

/* Make an empty one.  Returns 0; -1 with an exception.  Pure C. */
int al_result_buffer_init(al_result_buffer *buffer, bool by_index);

/* Put a result where it belongs.  Returns 0; -1 with an exception, and it is
   not there.  Pure C. */
int al_result_buffer_put(al_result_buffer *buffer, PyObject *result);

/* What al_result_buffer_take will take (borrowed), or NULL: it is not there
   yet. `last`: nothing comes any more, so gaps are passed over.  Pure C. */
PyObject *al_result_buffer_peek(al_result_buffer *buffer, bool last);

/* Take what al_result_buffer_peek showed.  Runs Python. */
void al_result_buffer_take(al_result_buffer *buffer);

/* Give every item its place from now on.  Returns 0; -1 with an exception,
   nothing changed.  Runs Python. */
int al_result_buffer_sort(al_result_buffer *buffer);

/* Drop what is there.  Runs Python. */
void al_result_buffer_drop(al_result_buffer *buffer);

#endif
