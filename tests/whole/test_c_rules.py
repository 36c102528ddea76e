"""Holds csrc/ to its page, csrc/README.md, and to the laws of the C core.

A rule takes the sources, yields what is wrong, and stands in RULES; each is run on the
real sources, and shown to find its fault in a small bad tree of BAD.
"""

import re
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from support.c_source import (
    GUARDS,
    Piece,
    Source,
    Tree,
    blank,
    blank_directives,
    closing,
    core_files,
)

FILE_LINES = 800
LINE_WIDTH = 79
FUNCTION_LINES = 70
HEADER_FUNCTIONS = 10
WIDE_HEADERS = {"compat.h", "fault.h", "list.h", "loop.h", "task.h", "state.h"}
FOLDERS = {"base", "aio", "registry", "group", "batch", "signals", "watch"}
OTHERS_TYPES = {"aio/task": {"future", "coro"}}  # what a Task is, and what it runs
# Beside PyInit: what compat.h makes up for, and reads for all.
FREE_NAMES = {
    "PyInit__core",
    "PyErr_GetRaisedException",
    "PyErr_SetRaisedException",
    "al_clock",
    "al_dict_version",
    "al_wall_clock",
    "al_is_method",
}
TABLE_TYPES = {
    "PyGetSetDef",
    "PyMemberDef",
    "PyMethodDef",
    "PyModuleDef",
    "PyModuleDef_Slot",
    "PyType_Slot",
    "PyType_Spec",
}
NO_VARIABLE = re.compile(r"extern\b|(struct|enum|union)\s+\w*\s*(\{[^=]*\}\s*)?;")
# In test builds only; and what the C handler of a signal reads, which no argument
# leads to: signals belong to the process.
MUTABLE = {"fault_countdown", "fault_sites", "fault_n_sites", "fault_steps"}
MUTABLE |= {"watchdog_process"}
ALLOCATES_FREELY = {
    "fault_fail_allocation",
    "fault_failed_allocations",
    "fault_search_steps",
}
ALLOCATORS = re.compile(
    r"""\b(
      malloc | calloc | realloc | strdup
    | PyMem_(Raw)?(Malloc|Calloc|Realloc|New) | PyMem_(New|Resize)
    | PyObject_(Malloc|Calloc|Realloc|New|NewVar|GC_New|GC_NewVar)
    | PyType_(GenericNew|GenericAlloc|FromModuleAndSpec) | tp_alloc
    | Py(List|Tuple|Dict|Set|FrozenSet)_New | PyTuple_Pack | PyDict_Copy
    | PyList_Append | PyDict_SetItem(String)? | PyDict_SetDefault | PySet_Add
    | PySequence_(List|Tuple) | PyObject_Str | PyObject_Repr
    | Py(Unicode|Long|Float|Bytes)_From\w+ | PyUnicode_InternFromString
    | Py_BuildValue | PyMethod_New | PyCFunction_New\w* | PyCMethod_New
    | PyWeakref_New\w+ | PyCapsule_New | PyContext_(New|Copy|CopyCurrent)
    )\(""",
    re.VERBOSE,
)

# ------------------------------------------------------------------ rules

Rule = Callable[[Tree], Iterator[str]]


def the_page_names_every_file(tree: Tree) -> Iterator[str]:
    there = {source.file for source in tree.sources}
    for file in sorted(there.symmetric_difference(tree.named)):
        yield f"{file} is {'not on the page' if file in there else 'not there'}"
    for file in sorted({file for file in tree.named if tree.named.count(file) > 1}):
        yield f"{file} is on the page twice"


def folder_of(file: str) -> str:
    return file.rpartition("/")[0]


def stem_of(file: str) -> str:
    return file.rpartition(".")[0]


def includes_of(source: Source) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+"(.*?)"', source.text, re.MULTILINE)


def includes_follow_the_layers(tree: Tree) -> Iterator[str]:
    """From module.c to the features, to aio/, to base/; no feature includes another."""
    there = {source.file for source in tree.sources}
    for source in tree.sources:
        folder = folder_of(source.file)
        below = {"": FOLDERS, "base": {"base"}}.get(folder, {folder, "aio", "base"})
        for included in includes_of(source):
            if included not in there:
                yield f"{source.file} includes {included}, which is not there"
            elif folder_of(included) not in below:
                yield f"{source.file} includes {included}: an arrow the wrong way"


def headers_are_in_no_cycle(tree: Tree) -> Iterator[str]:
    headers = {
        source.file: includes_of(source)
        for source in tree.sources
        if source.file.endswith(".h")
    }
    try:
        TopologicalSorter(headers).prepare()
    except CycleError as error:
        yield f"a cycle: {' '.join(error.args[1])}"


def words_of(name: str) -> str:
    """A type's name as its functions begin: TaskGroupObject is task_group."""
    name = name.removesuffix("Object").removeprefix("al_")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def functions_follow_their_file(tree: Tree) -> Iterator[str]:
    """`al_pump_stop` is shared, `pump_begin` private to pump.c; or a type's of it."""
    types: dict[str, set[str]] = {}
    for source in tree.sources:
        names = re.findall(r"\}\s*(\w+)\s*;|\bstruct (\w+) \{", source.flat)
        found = {words_of(name) for pair in names for name in pair if name}
        own = {source.name.rpartition(".")[0]} | OTHERS_TYPES.get(source.stem, set())
        types[source.stem] = types.get(source.stem, set()) | found | own
    for piece in tree.pieces:
        begins = "|".join(types[stem_of(piece.file)])
        named = re.fullmatch(rf"(al_)?({begins})(_\w+)?", piece.name)
        if piece.is_function and not named and piece.name not in FREE_NAMES:
            yield f"{piece.where} {piece.name} is named after nothing of its file"


def files_and_functions_are_short(tree: Tree) -> Iterator[str]:
    for source in tree.sources:
        lines = source.text.count("\n")
        if lines > FILE_LINES:
            yield f"{source.file} has {lines} lines"
    for piece in tree.functions:
        lines = piece.code.count("\n") + 1
        if lines > FUNCTION_LINES:
            yield f"{piece.where} {piece.name} has {lines} lines"


def lines_are_short(tree: Tree) -> Iterator[str]:
    for source in tree.sources:
        for number, line in enumerate(source.text.splitlines(), 1):
            if len(line) > LINE_WIDTH:
                yield f"{source.file}:{number} is {len(line)} wide"


def what_the_state_holds_is_used(tree: Tree) -> Iterator[str]:
    tables = r"#define (AL_IMPORTS|AL_NAMES|AL_MADE)\(X\)((?:.*\\\n)+.*)"
    every = "\n".join(source.code for source in tree.sources)
    for source in tree.sources:
        for table, rows in re.findall(tables, source.code):
            for name in re.findall(r"\bX\((\w+)", rows):
                field = f"s_{name}" if table == "AL_NAMES" else name
                if not re.search(rf"(->|state, ){field}\b", every):
                    yield f"{source.file}: nobody uses {field}"


def is_constant(declaration: str) -> bool:
    """Whether what is declared, not just what it points at, is const."""
    flat = re.sub(r"\{.*\}", "", declaration.split("=")[0], flags=re.DOTALL)
    return bool(re.search(r"\bconst\b", flat.rpartition("*")[2]))


def nothing_mutable_is_static(tree: Tree) -> Iterator[str]:
    for piece in tree.pieces:
        if piece.is_function:
            for found in re.findall(r"(?<!^)\bstatic\b[^;]*;", piece.code):
                if not is_constant(found):
                    yield f"{piece.where} {piece.name}: {found}"
            continue
        if piece.is_typedef or piece.is_prototype or NO_VARIABLE.match(piece.code):
            continue
        words = set(re.findall(r"\w+", piece.code.split("=")[0]))
        if not words & (TABLE_TYPES | MUTABLE) and not is_constant(piece.code):
            yield f"{piece.where} is mutable: {piece.code.splitlines()[0]}"


def members(piece: Piece) -> Iterator[tuple[str, str, str]]:
    """Type with its stars, name, and comment of each member of a struct."""
    inside = piece.raw[piece.raw.index("{") + 1 : piece.raw.rindex("}")]
    code, start = blank_directives(blank(inside)), 0
    for match in re.finditer(";", code):
        declaration = code[start : match.start()].replace("PyObject_HEAD", "")
        start = match.end()
        said = re.match(r"[ \t]*(/\*.*?\*/)?", inside[start:], re.DOTALL)
        comment = said[0] if said else ""
        kind, _, names = declaration.strip().removeprefix("struct ").partition(" ")
        for name in names.split(","):
            stars = "*" * name.count("*")
            yield kind + stars, re.sub(r"\[.*\]|[*\s]", "", name), comment


def code_of(pieces: list[Piece], name: str) -> str:
    return "\n".join(piece.code for piece in pieces if re.search(name, piece.name))


def members_are_visited_and_cleared(tree: Tree) -> Iterator[str]:
    structs = [piece for piece in tree.pieces if piece.struct]
    objects = {"PyObject", "PyTypeObject"} | {piece.struct for piece in structs}
    visitable = {
        piece.name.removesuffix("_visit")
        for piece in tree.shared
        if piece.name.endswith("_visit")
    }
    for struct in structs:
        stem = stem_of(struct.file)
        file = [piece for piece in tree.functions if piece.file.startswith(f"{stem}.")]
        prefix = words_of(struct.struct)
        own = [
            piece
            for piece in file
            if re.fullmatch(f"{prefix}_(traverse|clear|dealloc)", piece.name)
        ]
        collected = not own or any(piece.name.endswith("traverse") for piece in own)
        for kind, member, comment in members(struct):
            of_its_own = kind.rstrip("*") == struct.struct and "owned" in comment
            if not collected and (of_its_own or "exact str" in comment):
                # a chain of objects that own nothing else is in no cycle
                visits, clears = "", rf"Py_X?DECREF\([^;]*\b{member}\b"
            elif kind.rstrip("*") in objects and "borrowed" not in comment:
                visits = rf"Py_VISIT\([^;]*\b{member}\b"
                clears = rf"Py_(CLEAR|X?SETREF)\([^;]*\b{member}\b"
            elif kind in visitable:
                visits = rf"\b{kind}_visit\([^;]*\b{member}\b"
                clears = rf"\b{kind}_clear\([^;]*\b{member}\b"
            else:
                continue
            # an exact str is in no cycle
            clearing = "clear|dealloc" if "exact str" in comment else "clear"
            clearing = clearing if collected else "dealloc"
            if not re.search(visits, code_of(own or file, "traverse|visit")):
                yield f"{struct.where} {struct.struct}.{member} is not visited"
            if not re.search(clears, code_of(own or file, clearing)):
                yield f"{struct.where} {struct.struct}.{member} is not cleared"


def only_compat_names_a_version(tree: Tree) -> Iterator[str]:
    for source in tree.sources:
        for match in re.finditer(r"\bPY_(VERSION_HEX|MAJOR|MINOR)\w*", source.code):
            if source.name != "compat.h":
                yield f"{source.file}:{source.line_of(match.start())} {match[0]}"


def shared_functions_say_what_they_run(tree: Tree) -> Iterator[str]:
    for piece in tree.shared:
        comment = " ".join(piece.comment.split())
        if not re.search(r"Runs Python\.|Pure C\.", comment):
            yield f"{piece.where} {piece.name} says neither Runs Python. nor Pure C."


def headers_are_narrow(tree: Tree) -> Iterator[str]:
    for source in tree.sources:
        names = [
            piece.name
            for piece in tree.shared
            if piece.file == source.file and not piece.is_static
        ]
        if len(names) > HEADER_FUNCTIONS and source.name not in WIDE_HEADERS:
            yield f"{source.file} hands out {len(names)} functions"


def a_type_is_counted(tree: Tree) -> Iterator[str]:
    traverses, deallocs = tree.slot("Py_tp_traverse"), tree.slot("Py_tp_dealloc")
    for piece in tree.functions:
        if piece.name in traverses and "Py_VISIT(Py_TYPE(" not in piece.code:
            yield f"{piece.where} {piece.name} does not visit its type"
        if piece.name in deallocs:
            found = re.search(r"(\w+) = Py_TYPE\(", piece.code)
            if found is None or f"Py_DECREF({found[1]})" not in piece.code:
                yield f"{piece.where} {piece.name} does not drop its type"


def nothing_dying_reads_the_state(tree: Tree) -> Iterator[str]:
    dying = tree.slot("Py_tp_traverse") | tree.slot("Py_tp_clear")
    dying |= tree.slot("Py_tp_dealloc") | tree.slot("Py_tp_finalize")
    for piece in tree.functions:
        if piece.name in dying - tree.slot("Py_tp_finalize"):
            for found in re.findall(r"\bal_state_of\w*\(|\bst->|->st->", piece.code):
                yield f"{piece.where} {piece.name} reads the state: {found}"


def allocations_are_guarded(tree: Tree) -> Iterator[str]:
    for source in tree.sources:
        spans = [
            (match.end(), closing(source.flat, match.end() - 1))
            for match in GUARDS.finditer(source.flat)
        ]
        free = [
            range(piece.line, piece.line + piece.code.count("\n") + 1)
            for piece in source.pieces
            if piece.name in ALLOCATES_FREELY
        ]
        for match in ALLOCATORS.finditer(source.flat):
            place, line = match.start(), source.line_of(match.start())
            guarded = any(start <= place < end for start, end in spans)
            if not guarded and not any(line in lines for lines in free):
                yield f"{source.file}:{line} {match[1]} is not in AL_ALLOC"


RULES: list[Rule] = [
    the_page_names_every_file,
    includes_follow_the_layers,
    headers_are_in_no_cycle,
    functions_follow_their_file,
    files_and_functions_are_short,
    lines_are_short,
    what_the_state_holds_is_used,
    nothing_mutable_is_static,
    members_are_visited_and_cleared,
    only_compat_names_a_version,
    shared_functions_say_what_they_run,
    headers_are_narrow,
    a_type_is_counted,
    nothing_dying_reads_the_state,
    allocations_are_guarded,
]


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree(core_files())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_core_keeps_the_rule(tree: Tree, rule: Rule) -> None:
    assert list(rule(tree)) == []


def test_the_parser_sees_the_whole_core(tree: Tree) -> None:
    assert tree.named
    assert len(tree.functions) > 20
    files = {source.name for source in tree.sources if source.pieces}
    assert files >= {"module.c", "loop.c", "list.h"}
    assert "PyInit__core" in {piece.name for piece in tree.functions}
    assert "al_loop_bind" in {piece.name for piece in tree.shared}
    assert tree.slot("Py_tp_dealloc")


# ------------------------------------------------------------------ the rules can fail

PAGE = """
| folder | file | what it is |
| --- | --- | --- |
| base | `base/compat.h` | versions |
| | `base/state.c` `.h` | state |
| registry | `registry/entry.c` `.h` | one entry |
| | `registry/registry.c` | many |
| batch | `batch/pump.c` | nothing here |
| | `module.c` | all |
"""

ENTRY_H = """
#include "base/state.h"
typedef struct {
    PyObject_HEAD
    PyObject *key; /* owned */
    PyObject *id;  /* owned: an exact str */
    struct EntryObject *map; /* borrowed */
    al_loop bound;
    long count;
} EntryObject;

/* Make one.  Runs Python. */
PyObject *al_entry_new(PyObject *key);
"""

ENTRY_C = """
#include "registry/entry.h"
static const char *const names[] = {"a", "b"};
static PyMethodDef entry_methods[] = {{NULL, NULL, 0, NULL}};

PyObject *
al_entry_new(PyObject *key)
{
    static const int one = 1;
    use(st->ready, st->s_one);
    return AL_ALLOC(PyList_New(one)); /* not a PyDict_New() */
}

static int
entry_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((EntryObject *)op)->key);
    Py_VISIT(((EntryObject *)op)->id);
    return al_loop_visit(&((EntryObject *)op)->bound, visit, arg);
}

static int
entry_clear(PyObject *op)
{
    Py_CLEAR(((EntryObject *)op)->key);
    al_loop_clear(&((EntryObject *)op)->bound);
    return 0;
}

static void
entry_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    (void)entry_clear(op);
    Py_CLEAR(((EntryObject *)op)->id);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot entry_slots[] = {
    {Py_tp_traverse, entry_traverse},
    {Py_tp_clear, entry_clear},
    {Py_tp_dealloc, entry_dealloc},
    {0, NULL},
};
"""

CHAIN_C = """
typedef struct PumpObject {
    PyObject_HEAD
    PyObject *id;              /* owned: an exact str */
    struct PumpObject *before; /* owned, or NULL */
} PumpObject;

static void
pump_dealloc(PyObject *op)
{
    Py_DECREF(((PumpObject *)op)->id);
}
"""

GOOD = {
    "README.md": PAGE,
    "base/compat.h": "#if PY_VERSION_HEX < 0x030C0000\n#endif\n",
    "base/state.h": """
        #include "base/compat.h"
        #define AL_NAMES(X) \\
            X(one)
        #define AL_MADE(X) \\
            X(ready)
        typedef struct { int a; } al_loop;
        /* Visit one.  Pure C. */
        static inline int
        al_loop_visit(al_loop *bound, visitproc visit, void *arg)
        {
            return 0;
        }
        """,
    "base/state.c": '#include "base/state.h"\n',
    "registry/entry.h": ENTRY_H,
    "registry/entry.c": ENTRY_C,
    "registry/registry.c": '#include "registry/entry.h"\n#include "base/state.h"\n',
    "batch/pump.c": "",
    "module.c": '#include "registry/entry.h"\n',
}

ENTRY, HEADER = "registry/entry.c", "registry/entry.h"
STATE, PUMP = "base/state.h", "batch/pump.c"

# Rule, file, what stands there, what stands there instead, what is said.
BAD: list[tuple[Rule, str, str, str, str]] = [
    (
        the_page_names_every_file,
        "README.md",
        "`batch/pump.c`",
        PUMP,
        "batch/pump.c is not on the page",
    ),
    (the_page_names_every_file, "README.md", "pump.c`", "pump.c` `.h`", "not there"),
    (the_page_names_every_file, "README.md", "e/compat.h", "e/state.h", "e/"),
    (
        includes_follow_the_layers,
        "base/state.c",
        STATE,
        HEADER,
        "wrong way",
    ),
    (
        includes_follow_the_layers,
        PUMP,
        "",
        f'#include "{HEADER}"\n',
        "wrong way",
    ),
    (includes_follow_the_layers, "module.c", "registry/", "", "not there"),
    (
        headers_are_in_no_cycle,
        "base/compat.h",
        "#if",
        f'#include "{STATE}"\n#if',
        "a cycle: base/",
    ),
    (
        functions_follow_their_file,
        ENTRY,
        "entry_clear(PyObject *op)\n{",
        "book_clear(PyObject *op)\n{",
        "book_clear is named",
    ),
    (
        functions_follow_their_file,
        STATE,
        "} al_loop;",
        "} al_thing;",
        "al_loop_visit is named",
    ),
    (files_and_functions_are_short, PUMP, "", "\n" * 801, "801 lines"),
    (
        files_and_functions_are_short,
        ENTRY,
        "return 0;",
        "\n" * 70,
        "entry_clear",
    ),
    (
        lines_are_short,
        PUMP,
        "",
        "/*" + 76 * " " + "*/",
        "is 80",
    ),
    (what_the_state_holds_is_used, STATE, "X(one)", "X(one) X(two)", "s_two"),
    (
        what_the_state_holds_is_used,
        ENTRY,
        "st->ready",
        "st",
        "nobody uses ready",
    ),
    (nothing_mutable_is_static, PUMP, "", "static PyObject *x;", "mutable"),
    (
        nothing_mutable_is_static,
        PUMP,
        "",
        "static PyObject *x = NULL;",
        "mutable",
    ),
    (nothing_mutable_is_static, PUMP, "", "int counter;", "counter"),
    (nothing_mutable_is_static, PUMP, "", "static const char *s;", "mutable"),
    (
        nothing_mutable_is_static,
        PUMP,
        "",
        "static struct {int a;} s;",
        "mutable",
    ),
    (nothing_mutable_is_static, PUMP, "", "static int t[] = {1};", "mutable"),
    (
        nothing_mutable_is_static,
        ENTRY,
        "static const int",
        "static int",
        "one",
    ),
    (
        members_are_visited_and_cleared,
        HEADER,
        "borrowed",
        "owned",
        "map is not",
    ),
    (
        members_are_visited_and_cleared,
        HEADER,
        "an exact str",
        "own",
        "id is not c",
    ),
    (
        members_are_visited_and_cleared,
        ENTRY,
        "Py_VISIT((",
        "((",
        "not visited",
    ),
    (
        members_are_visited_and_cleared,
        ENTRY,
        "Py_CLEAR",
        "Py_DECREF",
        "not cleared",
    ),
    (
        members_are_visited_and_cleared,
        ENTRY,
        "loop_visit",
        "x",
        "bound is not v",
    ),
    (
        members_are_visited_and_cleared,
        ENTRY,
        "loop_clear",
        "x",
        "bound is not c",
    ),
    (members_are_visited_and_cleared, PUMP, "", CHAIN_C, "before is not c"),
    (
        only_compat_names_a_version,
        PUMP,
        "",
        "#if PY_MINOR_VERSION\n",
        "batch/pump.c:1",
    ),
    (
        shared_functions_say_what_they_run,
        HEADER,
        "Runs Python.",
        "",
        "al_entry_new",
    ),
    (
        shared_functions_say_what_they_run,
        STATE,
        "Pure C.",
        "",
        "al_loop_visit",
    ),
    (
        headers_are_narrow,
        HEADER,
        "/* Make",
        "".join(f"int f{n}(int a);\n" for n in range(10)) + "/* Make",
        "11 functions",
    ),
    (
        a_type_is_counted,
        ENTRY,
        "Py_VISIT(Py_TYPE(op));",
        "",
        "does not visit",
    ),
    (a_type_is_counted, ENTRY, "Py_DECREF(type);", "", "does not drop"),
    (
        nothing_dying_reads_the_state,
        ENTRY,
        "return 0;",
        "st->x;",
        "entry_clear",
    ),
    (allocations_are_guarded, ENTRY, "AL_ALLOC", "", "PyList_New"),
    (
        allocations_are_guarded,
        PUMP,
        "",
        "void f(void) { malloc(1); }",
        "malloc",
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_tree_passes(rule: Rule) -> None:
    assert list(rule(Tree(GOOD))) == []


@pytest.mark.parametrize(("rule", "file", "old", "new", "said"), BAD)
def test_a_bad_tree_is_found(
    rule: Rule, file: str, old: str, new: str, said: str
) -> None:
    assert old in GOOD[file]
    bad = Tree(GOOD | {file: GOOD[file].replace(old, new, 1)})
    problems = list(rule(bad))
    assert problems
    assert all(said in problem for problem in problems), problems


def test_every_rule_is_shown_to_fail() -> None:
    assert {rule for rule, *_ in BAD} == set(RULES)
