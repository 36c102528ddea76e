/* Which allocation is to fail next, and which have failed so far; and how many
 * steps searches have taken.
 *
 * The four variables are shared by all interpreters of a process, the only
 * ones of ours that are.  They exist in test builds alone, where one thread at
 * a time injects faults.
 */
#include "base/fault.h"

#ifdef AL_FAULTS
typedef struct {
    const char *file;
    int line;
} Site;

#define FAULT_SITES 1024

/* Counts down to the allocation that fails; 0: none fails. */
static long fault_countdown = 0;
static Site fault_sites[FAULT_SITES];
static int fault_n_sites = 0;
static long long fault_steps = 0;

/* Record that the allocation of a source line has failed. */
static void
fault_record(const char *file, int line)
{
    for (int i = 0; i < fault_n_sites; i++) {
        if (fault_sites[i].line == line && fault_sites[i].file == file) {
            return;
        }
    }
    if (fault_n_sites < FAULT_SITES) {
        fault_sites[fault_n_sites++] = (Site){file, line};
    }
}

bool
al_fault(const char *file, int line)
{
    if (fault_countdown == 0 || --fault_countdown != 0) {
        return false;
    }
    fault_record(file, line);
    PyErr_NoMemory();
    return true;
}

void
al_fault_count_step(void)
{
    fault_steps++;
}

/* ---------------------------------------------------------- Python API */

PyDoc_STRVAR(fault_fail_allocation_doc,
"fail_allocation($module, nth, /)\n--\n\n"
"Make the nth allocation from now on fail.\n\n"
"nth: 0 makes none fail.\n"
"Returns how many the call before had left to count.");

static PyObject *
fault_fail_allocation(PyObject *Py_UNUSED(module), PyObject *nth)
{
    long left = fault_countdown;
    fault_countdown = 0;
    long next = PyLong_AsLong(nth);
    PyObject *answer = next < 0 ? NULL : PyLong_FromLong(left);
    fault_countdown = answer == NULL ? 0 : next;
    return answer;
}

PyDoc_STRVAR(fault_failed_allocations_doc,
"failed_allocations($module, /)\n--\n\n"
"Return the (file, line) of every allocation that has failed so far.");

static PyObject *
fault_failed_allocations(PyObject *Py_UNUSED(module),
                         PyObject *Py_UNUSED(ignored))
{
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && i < fault_n_sites; i++) {
        Site *at = &fault_sites[i];
        PyObject *site = Py_BuildValue("(si)", at->file, at->line);
        if (site == NULL || PyList_Append(list, site) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(site);
    }
    return list;
}

PyDoc_STRVAR(fault_search_steps_doc,
"search_steps($module, /)\n--\n\n"
"Return how many steps the searches in sorted lists have taken so far.");

static PyObject *
fault_search_steps(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLongLong(fault_steps);
}

static PyMethodDef fault_methods[] = {
    {"search_steps", fault_search_steps, METH_NOARGS, fault_search_steps_doc},
    {"fail_allocation", fault_fail_allocation, METH_O,
     fault_fail_allocation_doc},
    {"failed_allocations", fault_failed_allocations, METH_NOARGS,
     fault_failed_allocations_doc},
    {NULL, NULL, 0, NULL},
};

int
al_fault_setup(PyObject *module)
{
    return PyModule_AddFunctions(module, fault_methods);
}
#else
typedef int fault_nothing; /* a file must not be empty */
#endif
