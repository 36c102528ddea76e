"""Objects that only we make."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

S = TypeVar("S", bound="Sealed")


class Sealed:
    """A class whose call is refused; `make` is the way round it, for ourselves."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{cls.__name__} objects are made by pyasynclife only")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if cls.__module__.partition(".")[0] != __package__:
            raise TypeError(f"{cls.__name__}: cannot be derived from")
        super().__init_subclass__(**kwargs)


def make(cls: type[S]) -> S:
    """Make an object of a sealed class; its attributes are for the caller to set."""
    return object.__new__(cls)
