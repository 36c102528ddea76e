/* The module state: every object that is imported, interned or made once.
 *
 * Each row of the three lists below is a member of the struct; import, visit
 * and clear are loops over them.  Our objects keep a plain pointer to the
 * state for their methods.  Their traverse, clear and dealloc never follow it:
 * at exit the state may be freed before them (CPython gh-130221).
 */
#ifndef AL_STATE_H
#define AL_STATE_H

#include "base/compat.h"

/* Imported: member, module, dotted attribute. */
#define AL_IMPORTS(X)                                                         \
    X(tasks_dict, "asyncio.tasks", "__dict__")                                \
    X(events_dict, "asyncio.events", "__dict__")                              \
    X(Handle, "asyncio.events", "Handle")                                     \
    X(Task, "_asyncio", "Task")                                               \
    X(Future, "_asyncio", "Future")                                           \
    X(iscoroutine, "asyncio", "iscoroutine")                                  \
    X(CancelledError, "asyncio", "CancelledError")                            \
    X(InvalidStateError, "asyncio", "InvalidStateError")                      \
    X(Coroutine, "collections.abc", "Coroutine")                              \
    X(deque, "collections", "deque")                                          \
    X(getsignal, "signal", "getsignal")                                       \
    X(future_state, "pyasynclife._core_fast_paths", "future_state")           \
    X(future_exception, "pyasynclife._core_fast_paths", "future_exception")   \
    X(future_result, "pyasynclife._core_fast_paths", "future_result")         \
    X(future_callbacks, "pyasynclife._core_fast_paths", "future_callbacks")   \
    X(task_waiter, "pyasynclife._core_fast_paths", "task_waiter")             \
    X(task_must_cancel, "pyasynclife._core_fast_paths", "task_must_cancel")   \
    X(task_set_name, "pyasynclife._core_fast_paths", "task_set_name")         \
    X(handle_callback, "pyasynclife._core_fast_paths", "handle_callback")     \
    X(loop_clock, "pyasynclife._core_fast_paths", "loop_clock")               \
    X(loop_fast_paths, "pyasynclife._core_fast_paths", "loop_fast_paths")     \
    X(is_plain, "pyasynclife._core_fast_paths", "is_plain")                   \
    X(is_monitored, "pyasynclife._core_fast_paths", "is_monitored")           \
    X(time_module, "pyasynclife._core_fast_paths", "time")                    \
    X(monotonic, "pyasynclife._core_fast_paths", "monotonic")                 \
    X(time_dict, "pyasynclife._core_fast_paths", "time_dict")                 \
    X(base_events_dict, "pyasynclife._core_fast_paths", "base_events_dict")   \
    X(add_awaited_by, "pyasynclife._core_fast_paths", "add_awaited_by")       \
    X(discard_awaited_by, "pyasynclife._core_fast_paths",                     \
      "discard_awaited_by")                                                   \
    X(cancel_again, "pyasynclife._core_tasks", "cancel_again")                \
    X(raise_exit, "pyasynclife._core_tasks", "raise_exit")                    \
    X(close_with, "pyasynclife._core_tasks", "close_with")                    \
    X(eager_factory_type, "pyasynclife._core_tasks", "eager_factory_type")    \
    X(self_test_coroutine, "pyasynclife._core_tasks", "self_test_coroutine")  \
    X(has_foreign_factory, "pyasynclife._core_tasks", "has_foreign_factory")  \
    X(report_callback_error, "pyasynclife._core_reports",                     \
      "report_callback_error")                                                \
    X(report_unread_items, "pyasynclife._core_reports",                       \
      "report_unread_items")                                                  \
    X(report_unread_job, "pyasynclife._core_reports", "report_unread_job")    \
    X(warn_unknown_heartbeat, "pyasynclife._core_reports",                    \
      "warn_unknown_heartbeat")                                               \
    X(check_seconds, "pyasynclife._arguments", "check_optional_seconds")      \
    X(check_number, "pyasynclife._arguments", "check_number")                 \
    X(check_answer, "pyasynclife._arguments", "check_answer")                 \
    X(refuse_key, "pyasynclife._arguments", "refuse_key")                     \
    X(close_unstarted, "pyasynclife._arguments", "close_unstarted")           \
    X(DuplicateTaskError, "pyasynclife._errors", "DuplicateTaskError")        \
    X(UnknownTaskError, "pyasynclife._errors", "UnknownTaskError")            \
    X(ClosedError, "pyasynclife._errors", "ClosedError")                      \
    X(PoolFullError, "pyasynclife._errors", "PoolFullError")                  \
    X(too_many_errors, "pyasynclife._errors", "too_many_errors")              \
    X(pending, "pyasynclife._states", "TaskState.PENDING")                    \
    X(running, "pyasynclife._states", "TaskState.RUNNING")                    \
    X(done, "pyasynclife._states", "TaskState.DONE")                          \
    X(cancelled, "pyasynclife._states", "TaskState.CANCELLED")                \
    X(failed, "pyasynclife._states", "TaskState.FAILED")                      \
    X(healthy, "pyasynclife._states", "TaskHealth.HEALTHY")                   \
    X(stale, "pyasynclife._states", "TaskHealth.STALE")                       \
    X(health_failed, "pyasynclife._states", "TaskHealth.FAILED")              \
    X(unknown, "pyasynclife._states", "TaskHealth.UNKNOWN")                   \
    X(logger, "pyasynclife._log", "logger")                                   \
    X(run_worker, "pyasynclife._core_batch", "run_worker")                    \
    X(read_source, "pyasynclife._core_batch", "read_source")                  \
    X(read_queue, "pyasynclife._core_batch", "read_queue")                    \
    X(queue_has_none, "pyasynclife._core_batch", "QUEUE_HAS_NONE")            \
    X(put_back, "pyasynclife._core_batch", "put_back")                        \
    X(check_queue, "pyasynclife._core_batch", "check_queue")                  \
    X(run_item, "pyasynclife._core_batch", "run_item")                        \
    X(function_name, "pyasynclife._core_batch", "function_name")              \
    X(hold_abandoned, "pyasynclife._held_futures", "hold_abandoned")

/* Interned names: the member is st->s_<name>. */
#define AL_NAMES(X)                                                           \
    X(FINISHED) X(Handle) X(PENDING) X(Task) X(__qualname__) X(_aclose)       \
    X(_asyncio_future_blocking) X(_closed) X(_context) X(_debug) X(_ended)    \
    X(_log_destroy_pending) X(_must_cancel) X(_ready) X(_restore)             \
    X(_run_ended) X(get_debug)                                                \
    X(_task_factory) X(add_done_callback) X(append) X(appendleft) X(call_at)  \
    X(call_exception_handler) X(call_later) X(call_soon)                      \
    X(call_soon_threadsafe) X(cancel) X(cancelled) X(cancelling) X(close)     \
    X(closing) X(complete) X(context) X(coro) X(cr_running) X(cr_suspended)   \
    X(create_future) X(create_task) X(current_task) X(done) X(eager_start)    \
    X(error) X(exception) X(get_coro) X(get_loop) X(get_name) X(get_nowait)   \
    X(get_running_loop) X(get_task_factory) X(gi_code) X(insert)              \
    X(is_closed) X(loop) X(monotonic) X(name) X(pop) X(popleft)               \
    X(reader_ended) X(register) X(remove_done_callback) X(result)             \
    X(set_name) X(set_result) X(task) X(task_done) X(task_id) X(throw)        \
    X(time) X(uncancel) X(value)

/* Made while the module is imported, or once later: our types, and objects
   that several files share.  A file that needs another adds a row. */
#define AL_MADE(X)                                                            \
    X(Ready) X(Awaitable) X(JoinSet) X(JoinSetMember) X(ExitLog)              \
    X(Alarm) X(Entry) X(ready_stops)                                          \
    X(Registry) X(SignalHandler) X(TaskResult) X(Worker) X(ItemHandle)        \
    X(Batch) X(BatchStream) X(BatchWait) X(FastPath) X(fast_path)             \
    X(Job) X(JobWait) X(EqualToAll) X(equal_to_all) X(CallQueue)              \
    X(LoopProxy) X(Capture) X(capture) X(TaskGroup) X(GroupExit)              \
    X(ready_none) X(ready_true) X(ready_false) X(kw_context) X(kw_name)       \
    X(kw_name_context) X(kw_loop) X(kw_name_loop) X(kw_exc_info_extra)        \
    X(kw_msg) X(no_args) X(kwargs_lazy) X(kwargs_eager) X(get_running_loop)   \
    X(Watchdog) X(Owner) X(owner_var) X(Histogram) X(LoopPulse)               \
    X(Supervision)

typedef struct al_state {
#define AL_FIELD(field, ...) PyObject *field;
    AL_IMPORTS(AL_FIELD)
#undef AL_FIELD
#define AL_FIELD(name) PyObject *s_##name;
    AL_NAMES(AL_FIELD)
#undef AL_FIELD
#define AL_FIELD(field) PyObject *field;
    AL_MADE(AL_FIELD)
#undef AL_FIELD
    unsigned long call_queues_run; /* so far; must follow the objects */
    uint64_t events_version;       /* events_dict's, for get_running_loop */
    bool clock_is_patched; /* time.monotonic() is not the system's clock */
    uint64_t clock_version; /* al_loop_clock_version() when it was not, or 0 */
} al_state;

/* The module definition, in module.c. */
extern struct PyModuleDef al_module;

/* Return the state of our module (borrowed).  Pure C. */
static inline al_state *
al_state_of(PyObject *module)
{
    return (al_state *)PyModule_GetState(module);
}

/* Return the state of one of our types or of a subclass of one (borrowed);
   NULL with TypeError for any other type.  Pure C. */
al_state *al_state_of_type(PyTypeObject *type);

/* Fill the first two lists, and the tuples of keyword names.  Returns 0; -1
   with the error of an import.  Runs Python. */
int al_state_load(al_state *st);

/* Make a heap type from its spec, store it in *field and, if `public`, as an
   attribute of the module.  Returns 0; -1 with an exception.  Runs Python. */
int al_state_add_type(PyObject *module, PyObject **field, PyType_Spec *spec,
                      bool public);

/* Copy the native methods of a type's base, a heap type, to the type itself.
   The interpreter calls a method of an object's exact type faster than one
   that is inherited.  Returns 0; -1 with an exception.  Runs Python. */
int al_state_adopt_methods(PyTypeObject *type);

/* The module's traverse.  Pure C. */
int al_state_visit(al_state *st, visitproc visit, void *arg);

/* The module's clear.  Runs Python. */
int al_state_clear(al_state *st);

#endif
