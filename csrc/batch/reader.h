/* The Task that reads an asynchronous source for a pump. */
#ifndef AL_READER_H
#define AL_READER_H

#include "base/compat.h"
#include "batch/pump.h"

/* Make the Task.  Returns 0; -1 with an exception, and there is no reader.
   Runs Python. */
int al_reader_start(al_pump *pump);

/* The reader has its next item ready; the one before was taken.  Nothing
   happens if the pump does not read any more.  Runs Python. */
void al_reader_offer(al_pump *pump, PyObject *item);

/* Cancel the reader, if there is one, unless it was cancelled already and not
   `again`.  Runs Python. */
void al_reader_cancel(al_pump *pump, bool again);

/* The reader's Task (borrowed) has ended.  Sets no exception.
   Runs Python. */
void al_reader_ended(al_pump *pump, PyObject *task);

/* Go on without a reader that does not stop.  Runs Python. */
void al_reader_abandon(al_pump *pump);

#endif
