/* Our done callback on a Task, first among others. */
#ifndef AL_DONE_CALLBACK_H
#define AL_DONE_CALLBACK_H

#include "base/compat.h"
#include "base/state.h"

/* Take our done callback off a Task if it is the only one.  Returns its
   context (new); NULL, without an exception, if it stays.  Pure C. */
PyObject *al_done_callback_detach(al_state *st, PyObject *task,
                                  PyObject *on_done);

/* Add our done callback to a Task that is not done, before those that the Task
   has.  Failures are reported to the loop and lose nobody's callback.  Returns
   0; -1 with an exception that ends the loop's run, all else done.
   Runs Python. */
int al_done_callback_attach(al_state *st, PyObject *loop, PyObject *task,
                            PyObject *on_done, PyObject *context);

/* Make the object that equals every callback.  Returns 0; -1 with an
   exception.  Runs Python. */
int al_done_callback_setup(PyObject *module, al_state *st);

#endif
