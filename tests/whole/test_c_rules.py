"""Holds csrc/ to csrc/ROOMS.md and to the laws of the C core.

A rule takes the sources, yields what is wrong, and stands in RULES; each is run on
the real sources, and shown to find its fault in a small bad tree of BAD.
"""

import re
from collections.abc import Callable, Iterator

import pytest

from support.c_source import (
    GUARDS,
    Piece,
    Tree,
    blank,
    blank_directives,
    closing,
    core_files,
)

FILE_LINES = 800
LINE_WIDTH = 80
FUNCTION_LINES = 70
HEADER_FUNCTIONS = 10
WIDE_HEADERS = {"compat.h", "fault.h", "list.h", "loop.h", "state.h"}
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
# Test builds only.
MUTABLE = {"fault_countdown", "fault_sites", "fault_n_sites"}
ALLOCATES_FREELY = {"fault_fail_allocation", "fault_failed_allocations"}
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

# ------------------------------------------------------------------ reading C


# ------------------------------------------------------------------ rules

Rule = Callable[[Tree], Iterator[str]]


def the_table_names_every_file(tree: Tree) -> Iterator[str]:
    there = {source.file for source in tree.sources}
    named = [file for _, file in tree.rows]
    for file in sorted(there.symmetric_difference(named)):
        yield f"{file} is {'not in the table' if file in there else 'not there'}"
    for file in sorted({file for file in named if named.count(file) > 1}):
        yield f"{file} is in the table twice"


def stem_of(file: str) -> str:
    return file.rpartition(".")[0]


def includes_go_down(tree: Tree) -> Iterator[str]:
    stems = [stem_of(file) for _, file in tree.rows]
    layers = {stem_of(file): layer for layer, file in tree.rows}
    for source in tree.sources:
        for included in re.findall(r'^#\s*include\s+"(.*?)"', source.text, re.M):
            room = stem_of(tree.path_of(included, source.file))
            if room == source.stem or source.stem not in stems:
                continue
            if room not in stems or stems.index(room) > stems.index(source.stem):
                yield f"{source.file} includes {included}, which is not above it"
            elif (
                layers[room] == layers[source.stem] == "rooms"
                and (source.stem, room) not in tree.sideways
            ):
                yield f"{source.file} includes {included}, which is beside it"


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
        room = [piece for piece in tree.functions if piece.file.startswith(f"{stem}.")]
        name = struct.struct.removesuffix("Object").removeprefix("al_")
        prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        own = [
            piece
            for piece in room
            if re.fullmatch(f"{prefix}_(traverse|clear|dealloc)", piece.name)
        ]
        for kind, member, comment in members(struct):
            if kind.rstrip("*") in objects and "borrowed" not in comment:
                visits = rf"Py_VISIT\([^;]*\b{member}\b"
                clears = rf"Py_(CLEAR|X?SETREF)\([^;]*\b{member}\b"
            elif kind in visitable:
                visits = rf"\b{kind}_visit\([^;]*\b{member}\b"
                clears = rf"\b{kind}_clear\([^;]*\b{member}\b"
            else:
                continue
            # an exact str is in no cycle
            clearing = "clear|dealloc" if "exact str" in comment else "clear"
            if not re.search(visits, code_of(own or room, "traverse|visit")):
                yield f"{struct.where} {struct.struct}.{member} is not visited"
            if not re.search(clears, code_of(own or room, clearing)):
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
    the_table_names_every_file,
    includes_go_down,
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
def test_rooms_keep_the_rule(tree: Tree, rule: Rule) -> None:
    assert [] == list(rule(tree))


def test_the_parser_sees_the_whole_core(tree: Tree) -> None:
    assert tree.rows
    assert len(tree.functions) > 20
    files = {source.name for source in tree.sources if source.pieces}
    assert files >= {"module.c", "loop.c", "list.h"}
    assert "PyInit__core" in {piece.name for piece in tree.functions}
    assert "al_loop_bind" in {piece.name for piece in tree.shared}
    assert tree.slot("Py_tp_dealloc")


# ------------------------------------------------------------------ the rules can fail

PAGE = """
| layer | file | caption |
| --- | --- | --- |
| ground | `compat.h` | versions |
| outside | `state.c` `.h` | state |
| rooms | `entry.c` `.h` | one entry |
| | `other.c` | not to be met |
| | `registry.c` | many |

Sideways: `registry` to `entry`.
"""

ENTRY_H = """
#include "state.h"
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
#include "entry.h"
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

GOOD = {
    "ROOMS.md": PAGE,
    "compat.h": "#if PY_VERSION_HEX < 0x030C0000\n#endif\n",
    "state.h": """
        #include "compat.h"
        #define AL_NAMES(X) \\
            X(one)
        #define AL_MADE(X) \\
            X(ready)
        /* Visit one.  Pure C. */
        static inline int
        al_loop_visit(al_loop *bound, visitproc visit, void *arg)
        {
            return 0;
        }
        """,
    "state.c": '#include "state.h"\n',
    "entry.h": ENTRY_H,
    "entry.c": ENTRY_C,
    "other.c": "",
    "registry.c": '#include "entry.h"\n#include "state.h"\n',
}

# Rule, file, what stands there, what stands there instead, what is said.
BAD: list[tuple[Rule, str, str, str, str]] = [
    (
        the_table_names_every_file,
        "ROOMS.md",
        "| | `other.c` |",
        "| | other |",
        "other.c",
    ),
    (
        the_table_names_every_file,
        "ROOMS.md",
        "`other.c`",
        "`other.c` `.h`",
        "not there",
    ),
    (includes_go_down, "state.c", "state.h", "entry.h", "not above it"),
    (includes_go_down, "state.c", "state.h", "unknown.h", "not above it"),
    (includes_go_down, "ROOMS.md", "Sideways", "Formerly", "beside it"),
    (files_and_functions_are_short, "other.c", "", "\n" * 801, "801 lines"),
    (files_and_functions_are_short, "entry.c", "return 0;", "\n" * 70, "entry_clear"),
    (lines_are_short, "other.c", "", "/*" + 78 * " " + "*/", "other.c:1 is 82"),
    (what_the_state_holds_is_used, "state.h", "X(one)", "X(one) X(two)", "s_two"),
    (what_the_state_holds_is_used, "entry.c", "st->ready", "st", "nobody uses ready"),
    (nothing_mutable_is_static, "other.c", "", "static PyObject *x;", "mutable"),
    (nothing_mutable_is_static, "other.c", "", "static PyObject *x = NULL;", "mutable"),
    (nothing_mutable_is_static, "other.c", "", "int counter;", "counter"),
    (nothing_mutable_is_static, "other.c", "", "static const char *s;", "mutable"),
    (nothing_mutable_is_static, "other.c", "", "static struct {int a;} s;", "mutable"),
    (nothing_mutable_is_static, "other.c", "", "static int t[] = {1};", "mutable"),
    (nothing_mutable_is_static, "entry.c", "static const int", "static int", "one"),
    (members_are_visited_and_cleared, "entry.h", "borrowed", "owned", "map is not"),
    (members_are_visited_and_cleared, "entry.h", "an exact str", "own", "id is not c"),
    (members_are_visited_and_cleared, "entry.c", "Py_VISIT((", "((", "not visited"),
    (
        members_are_visited_and_cleared,
        "entry.c",
        "Py_CLEAR",
        "Py_DECREF",
        "not cleared",
    ),
    (members_are_visited_and_cleared, "entry.c", "loop_visit", "x", "bound is not v"),
    (members_are_visited_and_cleared, "entry.c", "loop_clear", "x", "bound is not c"),
    (only_compat_names_a_version, "other.c", "", "#if PY_MINOR_VERSION\n", "other.c:1"),
    (shared_functions_say_what_they_run, "entry.h", "Runs Python.", "", "al_entry_new"),
    (shared_functions_say_what_they_run, "state.h", "Pure C.", "", "al_loop_visit"),
    (
        headers_are_narrow,
        "entry.h",
        "/* Make",
        "".join(f"int f{n}(int a);\n" for n in range(10)) + "/* Make",
        "11 functions",
    ),
    (a_type_is_counted, "entry.c", "Py_VISIT(Py_TYPE(op));", "", "does not visit"),
    (a_type_is_counted, "entry.c", "Py_DECREF(type);", "", "does not drop"),
    (nothing_dying_reads_the_state, "entry.c", "return 0;", "st->x;", "entry_clear"),
    (allocations_are_guarded, "entry.c", "AL_ALLOC", "", "PyList_New"),
    (allocations_are_guarded, "other.c", "", "void f(void) { malloc(1); }", "malloc"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_tree_passes(rule: Rule) -> None:
    assert [] == list(rule(Tree(GOOD)))


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
