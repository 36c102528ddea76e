"""Random programs of tasks: writing them, showing them, and making them smaller.

A program is a tree of tuples, so that it can be printed and pasted. `Writer` has the
tables of the operations; `Player`, in differential.py, does them.

A step of a coroutine can do any operation, a callback of the loop only an act. An act
can also be done by a handler of a signal, or be scheduled from another thread.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

Op = tuple[Any, ...]
Body = tuple[Op, ...]

CONTEXTS = 2  # that tasks and callbacks of a program share
SWITCHES = ("debug", "factory", "patch")  # each turns the capture off


class Writer:
    """Writes a random program."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.left = self.random.choice((8, 20, 45, 80))  # operations

    def program(self) -> Body:
        return self.body(depth=0, groups=0)

    def body(self, depth: int, groups: int) -> Body:
        ops = []
        for _ in range(self.random.randint(1, 6 if depth else 9)):
            if self.left <= 0:
                break
            self.left -= 1
            ops.append(self.op(depth, groups))
        return tuple(ops)

    def op(self, depth: int, groups: int) -> Op:
        r = self.random
        deep = depth < 5

        def inside(more: int = 0) -> Body:
            return self.body(depth + 1, groups + more)

        table: list[tuple[int, Callable[[], Op]]] = [
            (3, lambda: ("pause", r.randint(1, 3))),
            (1, lambda: ("sleep", r.choice((0.0, 1.0, 2.0)))),
            (3, lambda: ("soon", self.act(groups))),
            (2, lambda: ("later", r.choice((0.0, 0.0, 1.0, 2.0)), self.act(groups))),
            (4, lambda: ("do", self.act(groups))),
            (1, lambda: ("await", r.randrange(99))),
            (1, lambda: ("color", r.choice("rgb"))),
            (1, lambda: ("uncancel",)),
            (1, lambda: ("own callback",)),
            (1, lambda: ("own hook",)),
        ]
        if depth:  # after these the rest of a body is not played, or too late
            table += [
                (1, lambda: ("wait", r.randrange(3))),
                (1, lambda: ("share", r.randrange(2))),
                (1, lambda: ("boom",)),
            ]
            if r.random() < 0.03:
                return (r.choice(("interrupt", "exit")),)
        if deep:
            table += [
                (3 if depth else 12, lambda: ("group", inside(1))),
                (1, lambda: ("try", inside(), r.random() < 0.5)),
                (1, lambda: ("finally", inside())),
                (1, lambda: ("timeout", r.choice((0, 1)), inside())),
                (2, lambda: ("foreign", inside())),
                (2, lambda: ("register", inside())),
                (1, lambda: ("gather", r.randrange(99), r.randrange(99))),
                (1, lambda: ("shield", self.task())),
                (1, lambda: ("wait for", self.task(), r.choice((None, 0.0, 1.0)))),
                (1, lambda: ("register in", self.context(), inside())),
            ]
        if deep and groups:
            table += [
                (9, lambda: self.child(inside(), groups)),
                (2, lambda: ("child in", self.context(), self.small())),
                (3, lambda: ("many", r.randint(2, 6), self.small())),
            ]
        weights = [weight for weight, _ in table]
        return r.choices(table, weights)[0][1]()

    def child(self, inside: Body, groups: int) -> Op:
        return ("child", self.random.randrange(groups), inside)

    def small(self) -> Body:
        r = self.random
        bodies: list[Body] = [
            (),
            (("pause", 1),),
            (("boom",),),
            (("sleep", 1.0),),
            (("wait", 0),),
            (("share", 0),),
            (("own callback",),),
            (("own callback",), ("pause", 1)),
            (("do", ("nothing",)), (r.choice(("interrupt", "exit", "boom")),)),
        ]
        return r.choice(bodies)

    def task(self) -> int:
        """A task by its number; -1 is the last, which often has not started yet."""
        return self.random.choice((-1, self.random.randrange(99)))

    def context(self) -> int:
        return self.random.randrange(CONTEXTS)

    def act(self, groups: int) -> Op:
        """Something that a callback can do, and a coroutine without awaiting."""
        r = self.random
        if r.random() < 0.01:
            return ("interrupt",)
        if r.random() < 0.1:
            return ("switch", r.choice(SWITCHES), r.randint(1, 4))
        if r.random() < 0.15:
            return (r.choice(("signal", "loop signal", "thread")), self.act(groups))
        acts: list[Op] = [
            ("nothing",),
            ("raise",),
            ("cancel", r.randrange(99)),
            ("callback", r.randrange(99)),
            ("callback", -1),
            *(2 * [("set", r.randrange(3)), ("resolve", r.randrange(2))]),
            ("register", self.small()),
            ("register", self.small()),
            ("cancel all",),
            ("spawn", self.small()),
            ("soon", ("nothing",)),
            ("look", r.randrange(99)),
            ("hook", self.task()),
            ("hook", -1),
            ("hook and callback", self.task()),
            ("hook cancel", self.task()),
            ("thread hook", self.task()),
            ("stop",),
            ("callbacks", self.task(), r.choice((1, 3, 40))),
            ("callback in", self.task(), self.context()),
            ("remove", r.choice((1, 3, 20))),
            ("color", r.choice("rgb")),
        ]
        if groups:
            acts += 5 * [("adopt", r.randrange(groups), self.small())]
            acts += 2 * [("adopt and hook", r.randrange(groups), self.small())]
            acts += [("cancel group", r.randrange(groups))]
        return r.choice(acts)


def smaller(body: Body) -> Iterator[Body]:
    """Smaller programs, those without a whole operation first."""
    for i, op in enumerate(body):
        yield body[:i] + body[i + 1 :]
        for part in filter(is_body, op):
            yield body[:i] + part + body[i + 1 :]
        for less in smaller_op(op):
            yield (*body[:i], less, *body[i + 1 :])


def smaller_op(op: Op) -> Iterator[Op]:
    """The operation with less in it; of acts in an act the inner one alone."""
    for j, part in enumerate(op):
        if is_body(part):
            inside = smaller(part)
        elif isinstance(part, tuple):
            acts = (act for act in part if isinstance(act, tuple) and not is_body(act))
            inside = itertools.chain(acts, smaller_op(part))
        else:
            continue
        for less in inside:
            yield (*op[:j], less, *op[j + 1 :])


def is_body(part: Any) -> bool:
    return isinstance(part, tuple) and (not part or isinstance(part[0], tuple))


def shrink(program: Body, fails: Callable[[Body], bool]) -> Body:
    tries = 3000
    while tries:
        for less in smaller(program):
            tries -= 1
            if fails(less):
                program = less
                break
            if not tries:
                break
        else:
            break
    return program


def show(program: Body, mark: str = "") -> str:
    lines = []
    for op in program:
        parts = [part for part in op if not isinstance(part, tuple) or part == ()]
        acts = [p for p in op if isinstance(p, tuple) and p and isinstance(p[0], str)]
        lines.append(f"{mark}{' '.join(map(str, [*parts, *acts]))}")
        for part in op:
            if isinstance(part, tuple) and part and isinstance(part[0], tuple):
                lines.append(show(part, mark + "    "))
    return "\n".join(lines)
