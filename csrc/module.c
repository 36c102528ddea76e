/* The module: PyInit__core, and an exec function that lists all types. */
#include "base/compat.h"
#include "base/fault.h"
#include "base/histogram.h"
#include "base/state.h"
#include "aio/fast_path.h"
#include "aio/done_callback.h"
#include "aio/call_queue.h"
#include "aio/capture.h"
#include "aio/awaitable.h"
#include "aio/exit_log.h"
#include "aio/join_set.h"
#include "aio/deadline.h"
#include "registry/entry.h"
#include "registry/owner.h"
#include "registry/registry_type.h"
#include "registry/supervise.h"
#include "group/group.h"
#include "group/group_exit.h"
#include "signals/signal_handler.h"
#include "signals/watchdog.h"
#include "watch/loop_pulse.h"
#include "batch/result.h"
#include "batch/job_type.h"
#include "batch/worker.h"
#include "batch/item_task.h"
#include "batch/batch_wait.h"
#include "batch/batch_type.h"
#include "batch/pool.h"

PyDoc_STRVAR(module_adopt_methods_doc,
"adopt_methods($module, subclass, /)\n--\n\n"
"Make the native methods of its base a subclass's own: the interpreter calls\n"
"them faster than inherited ones.");

static PyObject *
module_adopt_methods(PyObject *Py_UNUSED(module), PyObject *subclass)
{
    if (!PyType_Check(subclass)) {
        return PyErr_Format(PyExc_TypeError, "expected a type, got %R",
                            subclass);
    }
    return al_state_adopt_methods((PyTypeObject *)subclass) < 0
               ? NULL
               : Py_NewRef(Py_None);
}

PyDoc_STRVAR(module_allow_capture_doc,
"allow_capture($module, allowed, /)\n--\n\n"
"Allow the capture or turn it off.  Returns whether it was allowed.");

static PyObject *
module_allow_capture(PyObject *module, PyObject *allowed)
{
    int allow = PyObject_IsTrue(allowed);
    return allow < 0
               ? NULL
               : PyBool_FromLong(al_capture_allow(al_state_of(module), allow));
}

static PyMethodDef module_methods[] = {
    {"allow_capture", module_allow_capture, METH_O, module_allow_capture_doc},
    {"adopt_methods", module_adopt_methods, METH_O, module_adopt_methods_doc},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    al_state *st = al_state_of(module);
    if (al_fault_setup(module) < 0 || al_state_load(st) < 0
        || al_histogram_setup(module, st) < 0
        || al_fast_path_setup(module, st) < 0
        || al_done_callback_setup(module, st) < 0
        || al_call_queue_setup(module, st) < 0
        || al_capture_setup(module, st) < 0
        || al_awaitable_setup(module, st) < 0
        || al_exit_log_setup(module, st) < 0
        || al_join_set_setup(module, st) < 0 || al_entry_setup(module, st) < 0
        || al_owner_setup(module, st) < 0 || al_supervise_setup(module, st) < 0
        || al_registry_type_setup(module, st) < 0
        || al_group_setup(module, st) < 0
        || al_group_exit_setup(module, st) < 0
        || al_signal_handler_setup(module, st) < 0
        || al_watchdog_setup(module, st) < 0
        || al_loop_pulse_setup(module, st) < 0
        || al_deadline_setup(module, st) < 0 || al_result_setup(module, st) < 0
        || al_worker_setup(module, st) < 0 || al_job_type_setup(module, st) < 0
        || al_item_task_setup(module, st) < 0
        || al_batch_wait_setup(module, st) < 0
        || al_batch_type_setup(module, st) < 0
        || al_pool_setup(module, st) < 0)
    {
        return -1;
    }
    return 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    return al_state_visit(al_state_of(module), visit, arg);
}

static int
module_clear(PyObject *module)
{
    return al_state_clear(al_state_of(module));
}

static void
module_free(void *module)
{
    (void)module_clear((PyObject *)module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    AL_INTERPRETERS_SLOT
    {0, NULL},
};

struct PyModuleDef al_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "pyasynclife._core",
    .m_doc = "The native core of pyasynclife: import pyasynclife instead.",
    .m_size = sizeof(al_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&al_module);
}
