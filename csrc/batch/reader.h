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

/* The pump was closed: a reader that waits for a queue's next item looks
   whether the queue is empty, and ends then.  Runs Python. */
void al_reader_close(al_pump *pump);

/* Tell whether al_reader_close() has cancelled the reader, once.  Pure C. */
bool al_reader_take_close(al_pump *pump);

/* Refuse a queue of another loop.  Returns 0; -1 with RuntimeError.
   Runs Python. */
int al_reader_check_queue(const al_pump *pump, PyObject *loop);

/* An item of a queue has ended: call the queue's task_done().  `unstarted`,
   unless NULL, is put back into the queue before, if there is room.  The first
   error goes to the loop's exception handler.  Runs Python. */
void al_reader_item_over(al_pump *pump, PyObject *unstarted);

/* Cancel the reader, if there is one, unless it was cancelled already and not
   `again`.  Runs Python. */
void al_reader_cancel(al_pump *pump, bool again);

/* The reader's Task (borrowed) has ended.  Sets no exception.
   Runs Python. */
void al_reader_ended(al_pump *pump, PyObject *task);

/* Go on without a reader that does not stop.  Runs Python. */
void al_reader_abandon(al_pump *pump);

#endif
