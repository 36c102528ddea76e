/* The Python stack of another thread, read without the GIL.
 *
 * While C code holds the GIL nobody else can ask the interpreter where a
 * thread is; and once the GIL is free, the thread has gone on.  faulthandler
 * walks the frames all the same, and may crash the process if they change
 * meanwhile: good enough for a process that ends, as watchdog.c has it, but
 * not for one that is only being watched.
 *
 * So nothing is dereferenced here.  The kernel copies memory of our own
 * process for us and, in place of a crash, says that there is none at an
 * address.  Of all frames the addresses of the code and of the instruction are
 * copied; whoever has the GIL later looks for them among the code objects of
 * the frames that are there then.  The innermost functions may have returned
 * by then, and code that exec() has made is gone: of these file, line and name
 * are copied as well.
 *
 * Where the frames have their fields is private, and differs between versions:
 * compat.h.  al_raw_stack_check() compares what is read with what the
 * interpreter says, for the thread that calls it.  Where they differ, or where
 * the kernel refuses, the stack is that of the moment when the GIL is free
 * again.
 */
#include "base/compat.h"
#include "base/fault.h"
#include "watch/raw_stack.h"

#ifdef __linux__
#include <sys/uio.h>
#include <unistd.h>
#endif

/* Copy memory of this process from an address that may be any.  Returns
   whether it could be copied. */
static bool
raw_stack_copy(uintptr_t from, void *to, size_t size)
{
#ifdef __linux__
    struct iovec here = {to, size};
    struct iovec there = {(void *)from, size};
    ssize_t copied = process_vm_readv(getpid(), &here, 1, &there, 1, 0);
    return copied == (ssize_t)size;
#else
    (void)from;
    (void)to;
    (void)size;
    return false;
#endif
}

/* Copy the beginning of a str. */
static void
raw_text_read(al_raw_text *self, PyObject *text)
{
    PyASCIIObject head;
    uintptr_t at = (uintptr_t)text;
    self->kind = 0;
    if (!raw_stack_copy(at, &head, sizeof(head))
        || head.ob_base.ob_type != &PyUnicode_Type || !head.state.compact
        || head.length < 0)
    {
        return;
    }
    int kind = head.state.kind;
    Py_ssize_t room = (Py_ssize_t)sizeof(self->data) / (kind == 0 ? 1 : kind);
    self->length = head.length < room ? head.length : room;
    at += head.state.ascii ? sizeof(PyASCIIObject)
                           : sizeof(PyCompactUnicodeObject);
    if (raw_stack_copy(at, self->data, (size_t)(self->length * kind))) {
        self->kind = kind;
    }
}

/* Return a number of six bits each from a location table, and go on. */
static unsigned int
raw_stack_number(const uint8_t **at, const uint8_t *end)
{
    unsigned int number = 0, shift = 0;
    while (*at < end && shift < 30) {
        uint8_t byte = *(*at)++;
        number |= (unsigned int)(byte & 63) << shift;
        shift += 6;
        if (!(byte & 64)) {
            break;
        }
    }
    return number;
}

/* Return the line of a code unit by a location table: Objects/locations.md of
   CPython.  0 if it has none. */
static int
raw_stack_line(const uint8_t *at, const uint8_t *end, int line, uintptr_t unit)
{
    uintptr_t next = 0;
    while (at < end) {
        int code = (*at >> 3) & 15;
        next += (*at++ & 7) + 1u;
        if (code == 13 || code == 14) { /* a signed difference */
            unsigned int number = raw_stack_number(&at, end);
            int half = (int)(number >> 1);
            line += number & 1 ? -half : half;
        }
        else if (code >= 10 && code <= 12) {
            line += code - 10;
        }
        if (unit < next) {
            return code == 15 ? 0 : line;
        }
        while (at < end && !(*at & 128)) {
            at++; /* the columns */
        }
    }
    return 0;
}

/* Read file, function and line of a frame. */
static void
raw_stack_name(al_raw_stack *self, int frame)
{
    PyCodeObject code;
    PyVarObject head;
    uint8_t table[4096];
    uintptr_t at = self->frames[frame].code;
    size_t before = offsetof(PyCodeObject, co_code_adaptive);
    self->named[frame].line = 0;
    if (!raw_stack_copy(at, &code, before)
        || code.ob_base.ob_base.ob_type != &PyCode_Type)
    {
        return;
    }
    raw_text_read(&self->named[frame].file, code.co_filename);
    raw_text_read(&self->named[frame].function, code.co_qualname);
    int line = 0;
    uintptr_t lines = (uintptr_t)code.co_linetable;
    uintptr_t unit = (self->frames[frame].instruction - at - before) / 2;
    if (raw_stack_copy(lines, &head, sizeof(head))
        && head.ob_base.ob_type == &PyBytes_Type && head.ob_size >= 0)
    {
        size_t size = (size_t)head.ob_size;
        size = size < sizeof(table) ? size : sizeof(table);
        if (raw_stack_copy(lines + offsetof(PyBytesObject, ob_sval), table,
                           size))
        {
            line =
                raw_stack_line(table, table + size, code.co_firstlineno, unit);
        }
    }
    self->named[frame].line = line > 0 ? line : code.co_firstlineno;
}

void
al_raw_stack_read(al_raw_stack *self, const PyThreadState *thread)
{
    static const size_t path[] = {AL_FRAME_PATH};
    uintptr_t at = (uintptr_t)thread;
    uintptr_t words[AL_FRAME_WORDS];
    self->n = 0;
    for (size_t i = 0; i < sizeof(path) / sizeof(path[0]); i++) {
        if (!raw_stack_copy(at + path[i], &at, sizeof(at))) {
            return;
        }
    }
    while (at != 0 && self->n < AL_RAW_STACK_FRAMES
           && raw_stack_copy(at, words, sizeof(words)))
    {
        al_raw_frame *frame = &self->frames[self->n++];
        /* from 3.14 on the lowest bits of a reference are a tag */
        frame->code = words[AL_FRAME_CODE] & ~(uintptr_t)7;
        frame->instruction = words[AL_FRAME_INSTRUCTION];
        at = words[AL_FRAME_CALLER];
    }
    for (int i = 0; i < self->n && i < AL_RAW_STACK_NAMED; i++) {
        raw_stack_name(self, i);
    }
}

PyObject *
al_raw_stack_place(const al_raw_stack *self, int frame)
{
    const al_raw_text *file = &self->named[frame].file;
    const al_raw_text *name = &self->named[frame].function;
    if (self->named[frame].line == 0 || file->kind == 0 || name->kind == 0) {
        return NULL;
    }
    PyObject *function = NULL, *place = NULL;
    PyObject *path = AL_ALLOC(
        PyUnicode_FromKindAndData(file->kind, file->data, file->length));
    if (path != NULL) {
        function = AL_ALLOC(
            PyUnicode_FromKindAndData(name->kind, name->data, name->length));
    }
    if (function != NULL) {
        place = AL_ALLOC(
            Py_BuildValue("(OiO)", path, self->named[frame].line, function));
    }
    Py_XDECREF(path);
    Py_XDECREF(function);
    return place;
}

bool
al_raw_stack_check(al_raw_stack *self)
{
    PyThreadState *thread = PyThreadState_Get();
    al_raw_stack_read(self, thread);
    int found = 0;
    PyFrameObject *frame = PyThreadState_GetFrame(thread);
    /* Between them are frames of the interpreter's own, which have no code. */
    for (int i = 0; i < self->n && frame != NULL; i++) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        uintptr_t lasti = (uintptr_t)(long)PyFrame_GetLasti(frame);
        uintptr_t at = (uintptr_t)code->co_code_adaptive + lasti;
        if (self->frames[i].code == (uintptr_t)code) {
            bool right = self->frames[i].instruction == at;
            if (i < AL_RAW_STACK_NAMED) {
                int line = PyFrame_GetLineNumber(frame);
                right = right && self->named[i].line == line;
            }
            found = right ? found + 1 : -AL_RAW_STACK_FRAMES;
            PyFrameObject *outer = PyFrame_GetBack(frame);
            Py_DECREF((PyObject *)frame);
            frame = outer;
        }
        Py_DECREF((PyObject *)code);
    }
    bool all = frame == NULL || self->n == AL_RAW_STACK_FRAMES;
    Py_XDECREF((PyObject *)frame);
    return all && found > 0;
}
