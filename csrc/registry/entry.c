/* One tracked task, and the heartbeat order of a registry.
 *
 * An entry is the object that users see as TaskMetadata and, at the same
 * time, the Task's done callback: one allocation a task.  While its task is
 * alive it owns its registry, through which it finds the clock; ended, it
 * owns nothing but what became of the task.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "base/list.h"
#include "base/state.h"
#include "aio/loop.h"
#include "aio/task.h"
#include "base/ptr_table.h"
#include "registry/entry.h"

/* ----------------------------------------------- the heartbeat order */

static al_threshold *
threshold_new(al_heartbeats *beats, double stale_after)
{
    al_threshold *ring = AL_ALLOC(PyMem_Malloc(sizeof(al_threshold)));
    if (ring == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    ring->next = NULL;
    ring->beats = beats;
    ring->stale_after = stale_after;
    ring->members = 0;
    al_list_init(&ring->quiet);
    al_list_init(&ring->beating);
    al_list_init(&ring->stale);
    return ring;
}

/* The ring of a threshold, made where there is none. */
static al_threshold *
threshold_of(al_heartbeats *beats, double stale_after)
{
    al_threshold *last = beats->rings;
    for (al_threshold *ring = last; ring != NULL; ring = ring->next) {
        if (ring->stale_after == stale_after) {
            return ring;
        }
        last = ring;
    }
    last->next = threshold_new(beats, stale_after);
    return last->next;
}

/* One member less; a ring without any is freed, but for the default. */
static void
threshold_release(al_threshold *ring)
{
    al_heartbeats *beats = ring->beats;
    if (--ring->members > 0 || ring == beats->rings) {
        return;
    }
    al_threshold *before = beats->rings;
    while (before->next != ring) {
        before = before->next;
    }
    before->next = ring->next;
    PyMem_Free(ring);
}

/* Put an entry into the list of a place, by its `last`; new ones belong at
   the tail, so the walk is short. */
static void
entry_put(EntryObject *entry, al_place place)
{
    al_heartbeats *beats = entry->ring->beats;
    al_link *head = place == AL_PENDING      ? &beats->pending
                    : place == AL_NEVER_BEAT ? &entry->ring->quiet
                    : place == AL_BEATING    ? &entry->ring->beating
                                             : &entry->ring->stale;
    al_link *at = head->prev;
    while (at != head
           && AL_CONTAINER_OF(at, EntryObject, beat)->last > entry->last)
    {
        at = at->prev;
    }
    al_link_after(&entry->beat, at);
    entry->place = (uint8_t)place;
    beats->count[place]++;
}

static void
entry_take(EntryObject *entry)
{
    al_link_unlink(&entry->beat);
    entry->ring->beats->count[entry->place]--;
    entry->place = AL_NOWHERE;
}

int
al_heartbeats_init(al_heartbeats *beats, al_state *st, al_loop *bound,
                   int (*ended)(EntryObject *), double stale_after)
{
    beats->st = st;
    beats->bound = bound;
    beats->ended = ended;
    al_list_init(&beats->pending);
    beats->rings = threshold_new(beats, stale_after);
    return beats->rings == NULL ? -1 : 0;
}

void
al_heartbeats_clear(al_heartbeats *beats)
{
    while (beats->rings != NULL) {
        al_threshold *ring = beats->rings;
        beats->rings = ring->next;
        PyMem_Free(ring);
    }
    PyMem_Free(beats->tasks.buckets);
    PyMem_Free(beats->names.buckets);
    beats->tasks = beats->names = (al_ptr_table){NULL, 0, 0};
}

int
al_heartbeats_join(al_heartbeats *beats, EntryObject *entry)
{
    al_threshold *ring = threshold_of(beats, entry->stale_after);
    if (ring == NULL) {
        return -1;
    }
    entry->ring = ring;
    ring->members++;
    entry_put(entry, AL_PENDING);
    return 0;
}

void
al_heartbeats_leave(EntryObject *entry)
{
    if (entry->ring != NULL) {
        entry_take(entry);
        al_ptr_table_remove(&entry->ring->beats->tasks, &entry->key);
        al_ptr_table_remove(&entry->ring->beats->names, &entry->name);
        threshold_release(entry->ring);
        entry->ring = NULL;
    }
}

int
al_entry_started(EntryObject *entry)
{
    if (entry->place != AL_PENDING) {
        return 1;
    }
    al_state *st = entry->ring->beats->st;
    PyObject *coro = entry->task != NULL
                         ? al_task_coro(st, entry->task)
                         : Py_XNewRef(entry->coro); /* an eager first step */
    int started = coro == NULL ? -1 : al_coro_started(st, coro);
    Py_XDECREF(coro);
    if (started > 0 && entry->place == AL_PENDING) {
        entry_take(entry);
        entry_put(entry, entry->beats > 0 ? AL_BEATING : AL_NEVER_BEAT);
    }
    return started;
}

/* Tasks start in the order they were made, so the first that has not started
   ends the walk; each is passed once. */
static int
heartbeats_settle(al_heartbeats *beats)
{
    int started = 1;
    while (started > 0 && !al_list_is_empty(&beats->pending)) {
        EntryObject *entry =
            AL_CONTAINER_OF(beats->pending.next, EntryObject, beat);
        Py_INCREF(entry);
        started = al_entry_started(entry);
        Py_DECREF(entry);
    }
    return started < 0 ? -1 : 0;
}

int
al_heartbeats_beat(al_heartbeats *beats, EntryObject *entry, double now)
{
    int started = 1;
    if (entry->place == AL_PENDING) {
        started = al_entry_started(entry);
    }
    if (entry->ring == NULL) {
        return started < 0 ? -1 : 0; /* ended while we asked */
    }
    assert(entry->ring->beats == beats);
    al_place place = entry->place == AL_PENDING ? AL_PENDING : AL_BEATING;
    al_link_unlink(&entry->beat);
    beats->count[entry->place]--;
    entry->last = now;
    entry->beats++;
    entry->told = false;
    entry_put(entry, place);
    return started < 0 ? -1 : 1;
}

/* The overdue head of a list; NULL if its first is fresh. */
static EntryObject *
threshold_overdue(al_threshold *ring, al_link *head, double now)
{
    if (al_list_is_empty(head)) {
        return NULL;
    }
    EntryObject *entry = AL_CONTAINER_OF(head->next, EntryObject, beat);
    return now - entry->last > ring->stale_after ? entry : NULL;
}

int
al_heartbeats_sweep(al_heartbeats *beats, double now)
{
    int answer = heartbeats_settle(beats);
    for (al_threshold *ring = beats->rings; ring != NULL; ring = ring->next) {
        for (;;) {
            EntryObject *quiet = threshold_overdue(ring, &ring->quiet, now);
            EntryObject *beating =
                threshold_overdue(ring, &ring->beating, now);
            EntryObject *first =
                quiet == NULL
                        || (beating != NULL && beating->last < quiet->last)
                    ? beating
                    : quiet;
            if (first == NULL) {
                break;
            }
            entry_take(first);
            entry_put(first, AL_STALE);
        }
    }
    return answer;
}

static int
entry_compare(const void *left, const void *right)
{
    double a = (*(EntryObject *const *)left)->last;
    double b = (*(EntryObject *const *)right)->last;
    return (a > b) - (a < b);
}

PyObject *
al_heartbeats_stale(al_heartbeats *beats, bool untold)
{
    Py_ssize_t most = beats->count[AL_STALE];
    EntryObject **found =
        AL_ALLOC(PyMem_Calloc((size_t)most + 1, sizeof(EntryObject *)));
    if (found == NULL) {
        return PyErr_NoMemory();
    }
    Py_ssize_t n = 0;
    int rings = 0;
    for (al_threshold *ring = beats->rings; ring != NULL; ring = ring->next) {
        rings += !al_list_is_empty(&ring->stale);
        for (al_link *at = ring->stale.next; at != &ring->stale; at = at->next)
        {
            EntryObject *entry = AL_CONTAINER_OF(at, EntryObject, beat);
            if (!untold || !entry->told) {
                found[n++] = (EntryObject *)Py_NewRef((PyObject *)entry);
            }
        }
    }
    if (rings > 1) {
        qsort(found, (size_t)n, sizeof(found[0]), entry_compare);
    }
    PyObject *list = AL_ALLOC(PyList_New(n));
    for (Py_ssize_t i = 0; i < n; i++) {
        if (list == NULL) {
            Py_DECREF(found[i]);
        }
        else {
            found[i]->told = found[i]->told || untold;
            PyList_SET_ITEM(list, i, (PyObject *)found[i]);
        }
    }
    PyMem_Free(found);
    return list;
}

/* ------------------------------------------------------ TaskMetadata */

static PyObject *
entry_vectorcall(PyObject *op, PyObject *const *args, size_t nargsf,
                 PyObject *Py_UNUSED(kwnames))
{
    EntryObject *self = (EntryObject *)op;
    if (PyVectorcall_NARGS(nargsf) != 1) {
        PyErr_SetString(PyExc_TypeError, "TaskMetadata is not for calling");
        return NULL;
    }
    if (self->ring != NULL && args[0] == self->task
        && self->ring->beats->ended(self) < 0)
    {
        return NULL;
    }
    Py_RETURN_NONE;
}

EntryObject *
al_entry_new(al_state *st, PyObject *owner, PyObject *id)
{
    EntryObject *self =
        AL_ALLOC(PyObject_GC_New(EntryObject, (PyTypeObject *)st->Entry));
    if (self == NULL) {
        return NULL;
    }
    size_t head = offsetof(EntryObject, ring);
    memset((char *)self + head, 0, sizeof(EntryObject) - head);
    self->vectorcall = entry_vectorcall;
    self->id = Py_NewRef(id);
    self->owner = Py_NewRef(owner);
    self->place = AL_NOWHERE;
    PyObject_GC_Track((PyObject *)self);
    return self;
}

/* Seconds of the entry's clock: now, or when it ended.  -1.0 with an error. */
static double
entry_now(EntryObject *self)
{
    if (self->ring == NULL) {
        return self->end;
    }
    al_heartbeats *beats = self->ring->beats;
    return al_loop_time(beats->st, beats->bound);
}

static PyObject *
entry_since(EntryObject *self, double then)
{
    double now = entry_now(self);
    if (now == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    return AL_ALLOC(PyFloat_FromDouble(now - then));
}

static PyObject *
entry_get_age(PyObject *op, void *Py_UNUSED(closure))
{
    return entry_since((EntryObject *)op, ((EntryObject *)op)->birth);
}

static PyObject *
entry_get_silence(PyObject *op, void *Py_UNUSED(closure))
{
    return entry_since((EntryObject *)op, ((EntryObject *)op)->last);
}

static PyObject *
entry_get_last_heartbeat(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    return AL_ALLOC(
        PyFloat_FromDouble(self->created + (self->last - self->birth)));
}

static PyObject *
entry_get_finished_at(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    if (!self->ended) {
        Py_RETURN_NONE;
    }
    return AL_ALLOC(
        PyFloat_FromDouble(self->created + (self->end - self->birth)));
}

static PyObject *
entry_get_state(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    al_state *st = al_state_of_type(Py_TYPE(op));
    if (st == NULL) {
        return NULL;
    }
    int started = self->ended ? 1 : al_entry_started(self);
    if (started < 0) {
        return NULL;
    }
    PyObject *const ends[] = {st->done, st->cancelled, st->failed};
    return Py_NewRef(self->ended ? ends[self->outcome]
                     : started   ? st->running
                                 : st->pending);
}

static PyObject *
entry_get_health(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    al_state *st = al_state_of_type(Py_TYPE(op));
    if (st == NULL) {
        return NULL;
    }
    if (self->ended) {
        PyObject *const ends[] = {st->healthy, st->unknown, st->health_failed};
        return Py_NewRef(ends[self->outcome]);
    }
    int started = al_entry_started(self);
    double now = entry_now(self);
    if (started < 0 || (now == -1.0 && PyErr_Occurred())) {
        return NULL;
    }
    return Py_NewRef(!started                               ? st->unknown
                     : now - self->last > self->stale_after ? st->stale
                     : self->beats == 0                     ? st->unknown
                                                            : st->healthy);
}

/* The result or the error, for the outcome that has one. */
static PyObject *
entry_value(EntryObject *self, al_outcome outcome)
{
    if (!self->ended || self->outcome != (uint8_t)outcome
        || self->value == NULL)
    {
        Py_RETURN_NONE;
    }
    return Py_NewRef(self->value);
}

static PyObject *
entry_get_result(PyObject *op, void *Py_UNUSED(closure))
{
    return entry_value((EntryObject *)op, AL_DONE);
}

static PyObject *
entry_get_error(PyObject *op, void *Py_UNUSED(closure))
{
    return entry_value((EntryObject *)op, AL_FAILED);
}

static PyObject *
entry_get_task(PyObject *op, void *Py_UNUSED(closure))
{
    PyObject *task = ((EntryObject *)op)->task;
    return Py_NewRef(task == NULL ? Py_None : task);
}

static PyObject *
entry_get_error_text(PyObject *op, void *Py_UNUSED(closure))
{
    EntryObject *self = (EntryObject *)op;
    return Py_NewRef(self->text == NULL || !self->ended ? Py_None
                                                        : self->text);
}

static PyGetSetDef entry_getset[] = {
    {"task", entry_get_task, NULL, "The Task; None once finished.", NULL},
    {"state", entry_get_state, NULL, "A TaskState.", NULL},
    {"health", entry_get_health, NULL, "A TaskHealth.", NULL},
    {"last_heartbeat", entry_get_last_heartbeat, NULL,
     "created_at plus monotonic time; created_at before the first one.", NULL},
    {"finished_at", entry_get_finished_at, NULL,
     "Wall clock; None while it runs.", NULL},
    {"age", entry_get_age, NULL,
     "Seconds since registration, or until it finished.", NULL},
    {"silence", entry_get_silence, NULL,
     "Seconds since the last heartbeat, or since registration.", NULL},
    {"result", entry_get_result, NULL, "None until DONE.", NULL},
    {"error", entry_get_error, NULL,
     "The exception, for the newest failures; else None.", NULL},
    {"error_text", entry_get_error_text, NULL,
     "'ValueError: no price', for as long as the entry lives.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef entry_members[] = {
    {"task_id", T_OBJECT_EX, offsetof(EntryObject, id), READONLY, NULL},
    {"created_at", T_DOUBLE, offsetof(EntryObject, created), READONLY,
     "Wall clock, as time.time()."},
    {"heartbeats", T_ULONGLONG, offsetof(EntryObject, beats), READONLY, NULL},
    {"stale_after", T_DOUBLE, offsetof(EntryObject, stale_after), READONLY,
     "Seconds of silence; math.inf: never."},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(EntryObject, vectorcall),
     READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static const char *const entry_fields[] = {
    "task_id",        "task",        "state",      "health",     "created_at",
    "last_heartbeat", "finished_at", "heartbeats", "age",        "silence",
    "stale_after",    "result",      "error",      "error_text",
};

PyDoc_STRVAR(entry_as_dict_doc,
"as_dict($self, /)\n--\n\n"
"Return what it says now as a dict, name to value.");

static PyObject *
entry_as_dict(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *dict = AL_ALLOC(PyDict_New());
    size_t n = sizeof(entry_fields) / sizeof(entry_fields[0]);
    for (size_t i = 0; dict != NULL && i < n; i++) {
        PyObject *name = AL_ALLOC(PyUnicode_InternFromString(entry_fields[i]));
        PyObject *value = name == NULL ? NULL : PyObject_GetAttr(op, name);
        if (value == NULL
            || AL_ALLOC_INT(PyDict_SetItem(dict, name, value)) < 0)
        {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
        Py_XDECREF(name);
    }
    return dict;
}

static PyObject *
entry_repr(PyObject *op)
{
    PyObject *state = entry_get_state(op, NULL);
    PyObject *name =
        state == NULL
            ? NULL
            : PyObject_GetAttr(state, al_state_of_type(Py_TYPE(op))->s_name);
    PyObject *repr =
        name == NULL
            ? NULL
            : AL_ALLOC(PyUnicode_FromFormat("<TaskMetadata %R %U>",
                                            ((EntryObject *)op)->id, name));
    Py_XDECREF(name);
    Py_XDECREF(state);
    return repr;
}

static int
entry_traverse(PyObject *op, visitproc visit, void *arg)
{
    EntryObject *self = (EntryObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->id);
    Py_VISIT(self->task);
    Py_VISIT(self->value);
    Py_VISIT(self->text);
    Py_VISIT(self->owner);
    Py_VISIT(self->node);
    return 0;
}

static int
entry_clear(PyObject *op)
{
    /* The lists go through the registry, so they are left first. */
    EntryObject *self = (EntryObject *)op;
    al_heartbeats_leave(self);
    al_link_unlink(&self->order);
    al_link_unlink(&self->beat);
    Py_CLEAR(self->task);
    Py_CLEAR(self->value);
    Py_CLEAR(self->text);
    Py_CLEAR(self->node);
    Py_CLEAR(self->owner);
    return 0;
}

static void
entry_dealloc(PyObject *op)
{
    /* A result may be the metadata of the task before, and so on. */
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_TRASHCAN_BEGIN(op, entry_dealloc)(void) entry_clear(op);
    Py_CLEAR(((EntryObject *)op)->id);
    type->tp_free(op);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyMethodDef entry_methods[] = {
    {"as_dict", entry_as_dict, METH_NOARGS, entry_as_dict_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(entry_doc,
"One task as the registry sees it.\n\n"
"Live and read-only: read it again and it has moved on; after the end it\n"
"says what became of the task.  Made by TaskRegistry only.");

static PyType_Slot entry_slots[] = {
    {Py_tp_doc, (void *)entry_doc},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_repr, entry_repr},
    {Py_tp_getset, entry_getset},
    {Py_tp_members, entry_members},
    {Py_tp_methods, entry_methods},
    {Py_tp_traverse, entry_traverse},
    {Py_tp_clear, entry_clear},
    {Py_tp_dealloc, entry_dealloc},
    {0, NULL},
};

static PyType_Spec entry_spec = {
    .name = "pyasynclife.TaskMetadata",
    .basicsize = sizeof(EntryObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = entry_slots,
};

int
al_entry_setup(PyObject *module, al_state *st)
{
    return al_state_add_type(module, &st->Entry, &entry_spec, true);
}
