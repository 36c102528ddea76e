/* The module state: loops over the lists of state.h.
 *
 * visit and clear treat the front of the struct, up to its first member that
 * is no object, as an array of pointers.  So a new object needs one row in one
 * list and is imported, visited and cleared.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/state.h"

#include <string.h>

static const struct {
    size_t offset;
    const char *module;
    const char *attribute;
} state_imports[] = {
#define AL_ROW(field, module, attribute)                                      \
    {offsetof(al_state, field), module, attribute},
    AL_IMPORTS(AL_ROW)
#undef AL_ROW
};

static const struct {
    size_t offset;
    const char *text;
} state_names[] = {
#define AL_ROW(name) {offsetof(al_state, s_##name), #name},
    AL_NAMES(AL_ROW)
#undef AL_ROW
};

/* Tuples of keyword names for vectorcalls, one or two names each. */
static const struct {
    size_t offset;
    const char *first;
    const char *second;
} state_keywords[] = {
    {offsetof(al_state, kw_context), "context", NULL},
    {offsetof(al_state, kw_name), "name", NULL},
    {offsetof(al_state, kw_name_context), "name", "context"},
    {offsetof(al_state, kw_loop), "loop", NULL},
    {offsetof(al_state, kw_name_loop), "name", "loop"},
    {offsetof(al_state, kw_exc_info_extra), "exc_info", "extra"},
    {offsetof(al_state, kw_msg), "msg", NULL},
};

#define STATE_LENGTH(table) (sizeof(table) / sizeof((table)[0]))
#define STATE_OBJECTS offsetof(al_state, call_queues_run)
#define STATE_FIELD(st, at) ((PyObject **)((char *)(st) + (at)))

/* Return the attribute at a dotted path from an object (stolen), or the object
   itself for an empty path (new).  NULL with an exception. */
static PyObject *
state_follow(PyObject *object, const char *path)
{
    while (object != NULL && *path != '\0') {
        const char *dot = strchr(path, '.');
        size_t length = dot == NULL ? strlen(path) : (size_t)(dot - path);
        PyObject *name =
            AL_ALLOC(PyUnicode_FromStringAndSize(path, (Py_ssize_t)length));
        PyObject *next = name == NULL ? NULL : PyObject_GetAttr(object, name);
        Py_XDECREF(name);
        Py_SETREF(object, next);
        path += length + (dot == NULL ? 0 : 1);
    }
    return object;
}

static int
state_make_keywords(al_state *st)
{
    for (size_t i = 0; i < STATE_LENGTH(state_keywords); i++) {
        const char *first = state_keywords[i].first;
        const char *second = state_keywords[i].second;
        PyObject *names = AL_ALLOC(Py_BuildValue(
            second == NULL ? "(N)" : "(NN)", PyUnicode_InternFromString(first),
            second == NULL ? NULL : PyUnicode_InternFromString(second)));
        if (names == NULL) {
            return -1;
        }
        *STATE_FIELD(st, state_keywords[i].offset) = names;
    }
    st->no_args = AL_ALLOC(PyTuple_New(0));
    return st->no_args == NULL ? -1 : 0;
}

al_state *
al_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &al_module);
    return module == NULL ? NULL : al_state_of(module);
}

int
al_state_load(al_state *st)
{
    for (size_t i = 0; i < STATE_LENGTH(state_names); i++) {
        PyObject *name =
            AL_ALLOC(PyUnicode_InternFromString(state_names[i].text));
        if (name == NULL) {
            return -1;
        }
        *STATE_FIELD(st, state_names[i].offset) = name;
    }
    for (size_t i = 0; i < STATE_LENGTH(state_imports); i++) {
        PyObject *found =
            state_follow(PyImport_ImportModule(state_imports[i].module),
                         state_imports[i].attribute);
        if (found == NULL) {
            return -1;
        }
        *STATE_FIELD(st, state_imports[i].offset) = found;
    }
    return state_make_keywords(st);
}

int
al_state_add_type(PyObject *module, PyObject **field, PyType_Spec *spec,
                  bool public)
{
    *field = AL_ALLOC(PyType_FromModuleAndSpec(module, spec, NULL));
    if (*field == NULL) {
        return -1;
    }
    return public ? PyModule_AddType(module, (PyTypeObject *)*field) : 0;
}

int
al_state_adopt_methods(PyTypeObject *type)
{
    /* The base is immutable, so its dict does not change during the walk. */
    PyObject *name, *method;
    Py_ssize_t at = 0;
    while (PyDict_Next(type->tp_base->tp_dict, &at, &name, &method)) {
        if (!Py_IS_TYPE(method, &PyMethodDescr_Type)) {
            continue;
        }
        PyObject *own = AL_ALLOC(PyDescr_NewMethod(
            type, ((PyMethodDescrObject *)method)->d_method));
        int set =
            own == NULL ? -1 : PyObject_SetAttr((PyObject *)type, name, own);
        Py_XDECREF(own);
        if (set < 0) {
            return -1;
        }
    }
    return 0;
}

int
al_state_visit(al_state *st, visitproc visit, void *arg)
{
    for (size_t at = 0; at < STATE_OBJECTS; at += sizeof(PyObject *)) {
        Py_VISIT(*STATE_FIELD(st, at));
    }
    return 0;
}

int
al_state_clear(al_state *st)
{
    for (size_t at = 0; at < STATE_OBJECTS; at += sizeof(PyObject *)) {
        Py_CLEAR(*STATE_FIELD(st, at));
    }
    return 0;
}
