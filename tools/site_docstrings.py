"""An extension of griffe, from which mkdocstrings has what it shows in the reference.

- The types of the native core have their signatures from `_core.pyi`, and get their
  docstrings from the compiled module.
- Names of private type aliases and constants are replaced by their values.
- `name` in a docstring becomes a link if the name is public.
- An indented block after "::" becomes a block of Python.
"""

import dataclasses
import importlib
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any

import griffe

BLOCK = re.compile(r"^( *)(\S.*):: *\n\n((?:\1 +.*\n*)+)", re.MULTILINE)
PRIVATE = re.compile(r"pyasynclife\.(\w+\.)*_\w+(\.\w+)?")
NAME = re.compile(r"(?<![`\[\w])`([A-Za-z_][\w.]*)(\(\))?`(?!`)")


def own_members(one: Any) -> list[Any]:
    """Return the members that are defined in a module or class itself."""
    return [member for member in one.members.values() if not member.is_alias]


def public_modules(module: griffe.Module) -> Iterator[griffe.Module]:
    """Yield a module and the modules in it whose names are public."""
    yield module
    for one in own_members(module):
        if one.is_module and not one.name.startswith("_"):
            yield from public_modules(one)


class Docstrings(griffe.Extension):
    """Complete what griffe has read, before mkdocstrings renders it."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Complete the objects of a package that has been loaded."""
        if pkg.path != "pyasynclife":
            return
        take_from_core(pkg["_core"])
        public: dict[str, Any] = {}
        for module in public_modules(pkg):
            names = module.exports or [one.name for one in own_members(module)]
            for name in map(str, names):
                one = module.members[name]
                if not name.startswith("_") and not one.is_module:
                    found = one.final_target if one.is_alias else one
                    public[f"{module.path}.{name}"] = found
        links = {path.rpartition(".")[2]: path for path in public}
        for path, one in public.items():
            if one.is_class:
                links |= {f"{one.name}.{name}": to for name, to in own(path, one)}
        for path, one in public.items():
            bases = one.mro() if one.is_class else []
            if any(base.name == "Sealed" for base in bases):  # nobody constructs it
                one.decorators.clear()
                one.labels.discard("dataclass")
            for part in [one, *bases]:
                for each in [part, *own_members(part)]:
                    expand(each, pkg)
                    mend(each, links | dict(own(path, one)))


def own(path: str, one: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of the documented members of a public object, and their paths."""
    for name, member in one.all_members.items() if one.is_class else ():
        if member.has_docstring and not name.startswith("_"):
            yield name, f"{path}.{name}"


def take_from_core(core: griffe.Module) -> None:
    """Give the types of the core, which a stub describes, their docstrings."""
    compiled = importlib.import_module("pyasynclife._core")
    style = {
        "parser": core.docstring.parser,
        "parser_options": core.docstring.parser_options,
    }
    for cls in own_members(core):
        if not cls.is_class:
            continue
        live = getattr(compiled, cls.name)
        for one in [cls, *own_members(cls)]:
            found = live if one is cls else vars(live).get(one.name)
            # a slot has the docstring that Python gives to it
            if found is not None and not isinstance(found, types.WrapperDescriptorType):
                text = found.__doc__
                one.docstring = text and griffe.Docstring(text, parent=one, **style)
        if "__new__" in cls.members:
            cls.set_member("__init__", cls.members.pop("__new__"))


def expand(one: Any, package: griffe.Module) -> None:
    """Replace private names in the signature of a function or attribute."""
    if one.is_attribute:
        one.annotation = expanded(one.annotation, package)
        one.value = expanded(one.value, package)
    elif one.is_function:
        for parameter in one.parameters:
            parameter.annotation = expanded(parameter.annotation, package)
            parameter.default = expanded(parameter.default, package)
        one.returns = expanded(one.returns, package)


def expanded(part: Any, package: griffe.Module) -> Any:
    """Return an expression with the values of private aliases and constants."""
    if isinstance(part, list):
        return [expanded(one, package) for one in part]
    if not isinstance(part, griffe.Expr):
        return part
    name = part.left if isinstance(part, griffe.ExprSubscript) else part
    if isinstance(name, griffe.ExprName) and PRIVATE.fullmatch(name.canonical_path):
        found = package.modules_collection.get_member(name.canonical_path)
        if found.is_attribute and not str(found.value).startswith("TypeVar"):
            return found.value
    for field in dataclasses.fields(part):
        if field.name != "parent":
            value = expanded(getattr(part, field.name), package)
            setattr(part, field.name, value)
    return part


def mend(one: Any, links: dict[str, str]) -> None:
    """Make links and blocks in a docstring."""
    if one.docstring is None:
        return

    def link(match: re.Match[str]) -> str:
        path = links.get(match[1])
        return f"[{match[0]}][{path}]" if path else match[0]

    def block(match: re.Match[str]) -> str:
        indent, text = match[1], match[2]
        code = textwrap.indent(textwrap.dedent(match[3]).strip("\n"), indent)
        return f"{indent}{text}:\n\n{indent}```python\n{code}\n{indent}```\n\n"

    one.docstring.value = NAME.sub(link, BLOCK.sub(block, one.docstring.value))
