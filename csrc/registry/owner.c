/* The registered task in whose context code runs.
 *
 * A context variable, the same for all registries, has the owner of the code
 * that runs: a small object that stands for one registration.  register()
 * sets it in the context of the new Task, and whatever the Task starts
 * inherits it: children of a group, items of a batch, threads.
 *
 *     context ---> owner ---> outer owner, of another registry
 *                    :
 *                    ..> entry, while it is alive
 *
 * An owner does not own its entry.  Contexts live long, for each child has a
 * copy, and must keep neither the result of a task that has ended nor, in a
 * cycle through the frame that has the child, its exception.  Nor does a later
 * task of the same id get the heartbeats of code that an earlier one started:
 * that has an owner of its own.
 *
 * A task that is registered from within a task of another registry has two
 * owners.  In such a chain each registry is found once, and nothing that has
 * ended, so tasks that register each other for ever make no long chain.  To
 * leave one out, the owners in front of it are copied; a copy has the original
 * as its `origin`, which alone knows the entry.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/object.h"
#include "base/ptr_table.h"
#include "base/state.h"
#include "aio/loop.h"
#include "registry/entry.h"
#include "registry/registry.h"
#include "registry/owner.h"

typedef struct OwnerObject {
    PyObject_HEAD
    PyObject *id;               /* owned: an exact str */
    EntryObject *entry;         /* borrowed; NULL: it has ended, or a copy */
    struct OwnerObject *origin; /* owned: that this is a copy of, or NULL */
    struct OwnerObject *outer;  /* owned, or NULL */
} OwnerObject;                  /* no GC: a chain of them is in no cycle */

/* Make an owner (new).  NULL with MemoryError. */
static OwnerObject *
owner_new(al_state *st, PyObject *id, OwnerObject *outer)
{
    OwnerObject *self =
        AL_ALLOC(PyObject_New(OwnerObject, (PyTypeObject *)st->Owner));
    if (self == NULL) {
        return NULL;
    }
    self->id = Py_NewRef(id);
    self->entry = NULL;
    self->origin = NULL;
    self->outer = (OwnerObject *)Py_XNewRef((PyObject *)outer);
    return self;
}

/* The alive entry of an owner; NULL if it has ended. */
static EntryObject *
owner_entry(const OwnerObject *self)
{
    EntryObject *entry =
        self->origin == NULL ? self->entry : self->origin->entry;
    return entry == NULL || entry->threshold == NULL ? NULL : entry;
}

/* Return the owner of the code that runs (new), or NULL; an exception is
   possible only for want of memory. */
static OwnerObject *
owner_get(al_state *st)
{
    PyObject *value = NULL;
    if (PyContextVar_Get(st->owner_var, NULL, &value) < 0) {
        return NULL;
    }
    if (value != NULL && !Py_IS_TYPE(value, (PyTypeObject *)st->Owner)) {
        Py_CLEAR(value); /* somebody has set the variable by hand */
    }
    return (OwnerObject *)value;
}

/* Put into *kept (new, or NULL) the owners of a chain that are alive and not
   of this registry.  Returns 0; -1 with MemoryError. */
static int
owner_filter(RegistryObject *self, OwnerObject *chain, OwnerObject **kept)
{
    *kept = NULL;
    if (chain == NULL) {
        return 0;
    }
    OwnerObject *rest;
    if (owner_filter(self, chain->outer, &rest) < 0) {
        return -1;
    }
    EntryObject *entry = owner_entry(chain);
    if (entry == NULL || entry->registry == (PyObject *)self) {
        *kept = rest;
        return 0;
    }
    if (rest == chain->outer) {
        *kept = (OwnerObject *)Py_NewRef((PyObject *)chain);
    }
    else {
        *kept = owner_new(self->st, chain->id, rest);
        OwnerObject *origin = chain->origin == NULL ? chain : chain->origin;
        if (*kept != NULL) {
            (*kept)->origin = (OwnerObject *)Py_NewRef((PyObject *)origin);
        }
    }
    Py_XDECREF((PyObject *)rest);
    return *kept == NULL ? -1 : 0;
}

/* Give an entry its owner, unless it has one.  The context that is entered may
   have owners of other registries.  Returns 0; -1 with MemoryError. */
static int
owner_make(RegistryObject *self, EntryObject *entry)
{
    if (entry->owner != NULL) {
        return 0;
    }
    OwnerObject *before = owner_get(self->st);
    OwnerObject *outer = NULL;
    OwnerObject *owner = NULL;
    if (!PyErr_Occurred() && owner_filter(self, before, &outer) == 0) {
        owner = owner_new(self->st, entry->id.text, outer);
    }
    Py_XDECREF((PyObject *)outer);
    Py_XDECREF((PyObject *)before);
    if (owner == NULL) {
        return -1;
    }
    owner->entry = entry;
    entry->owner = (PyObject *)owner;
    return 0;
}

void
al_owner_exit(RegistryObject *self, PyObject *context)
{
    PyObject *error = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    if (PyContext_Exit(context) < 0) { /* a task factory has left it */
        al_loop_report_or_exit_later(self->st, self->bound.loop,
                                     "leaving a context failed", NULL);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

int
al_owner_set(RegistryObject *self, EntryObject *entry, PyObject *context,
             bool enter)
{
    if (PyContext_Enter(context) < 0) {
        return -1;
    }
    PyObject *token = NULL;
    if (owner_make(self, entry) == 0) {
        token = AL_ALLOC(PyContextVar_Set(self->st->owner_var, entry->owner));
    }
    Py_XDECREF(token);
    if (token == NULL || !enter) {
        al_owner_exit(self, context);
    }
    return token == NULL ? -1 : 0;
}

void
al_owner_end(EntryObject *entry)
{
    if (entry->owner != NULL) {
        ((OwnerObject *)entry->owner)->entry = NULL;
        Py_CLEAR(entry->owner);
    }
}

/* Find the entry of this registry in whose context code runs (borrowed). */
static EntryObject *
owner_find(RegistryObject *self)
{
    OwnerObject *first = owner_get(self->st);
    EntryObject *found = NULL;
    for (OwnerObject *at = first; at != NULL && found == NULL; at = at->outer)
    {
        EntryObject *entry = owner_entry(at);
        if (entry != NULL && entry->registry == (PyObject *)self) {
            found = entry;
        }
    }
    Py_XDECREF((PyObject *)first);
    return found;
}

EntryObject *
al_owner_current(RegistryObject *self, bool thread)
{
    if (self->bound.loop == NULL) {
        return NULL;
    }
    EntryObject *found = NULL;
    int here = al_loop_check_thread(self->st, &self->bound, "heartbeat()");
    if (here == 0) {
        found = al_registry_current(self);
        return found == NULL && !PyErr_Occurred() ? owner_find(self) : found;
    }
    if (!PyErr_ExceptionMatches(PyExc_RuntimeError)) {
        return NULL;
    }
    PyErr_Clear(); /* a thread may have its context from a task */
    found = owner_find(self);
    if (found == NULL && thread && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "heartbeat() without an id was called from another "
                        "thread than its event loop's, and not in the context "
                        "of a registered task: pass the id, "
                        "heartbeat(task_id), which works in any thread, or "
                        "start the thread by asyncio.to_thread()");
    }
    return found;
}

PyObject *
al_owner_current_id(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EntryObject *entry = al_owner_current((RegistryObject *)op, false);
    if (entry == NULL && PyErr_Occurred()) {
        return NULL;
    }
    return Py_NewRef(entry == NULL ? Py_None : entry->id.text);
}

/* ------------------------------------------------------------ spec */

static PyObject *
owner_repr(PyObject *op)
{
    return AL_ALLOC(
        PyUnicode_FromFormat("<Owner %R>", ((OwnerObject *)op)->id));
}

static void
owner_dealloc(PyObject *op)
{
    OwnerObject *self = (OwnerObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    Py_DECREF(self->id);
    Py_XDECREF((PyObject *)self->origin);
    Py_XDECREF((PyObject *)self->outer);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMemberDef owner_members[] = {
    {"task_id", T_OBJECT, offsetof(OwnerObject, id), READONLY,
     "The id of the registered task, which may have ended."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot owner_slots[] = {
    {Py_tp_repr, owner_repr},
    {Py_tp_members, owner_members},
    {Py_tp_dealloc, owner_dealloc},
    {0, NULL},
};

static PyType_Spec owner_spec = {
    .name = "pyasynclife._core.Owner",
    .basicsize = sizeof(OwnerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = owner_slots,
};

int
al_owner_setup(PyObject *module, al_state *st)
{
    if (al_state_add_type(module, &st->Owner, &owner_spec, true) < 0) {
        return -1;
    }
    st->owner_var = AL_ALLOC(PyContextVar_New("pyasynclife_task", NULL));
    return st->owner_var == NULL
               ? -1
               : PyModule_AddObjectRef(module, "owner", st->owner_var);
}
