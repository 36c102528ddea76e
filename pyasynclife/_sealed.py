"""Classes whose objects only this package makes."""

from __future__ import annotations

from typing import Any, Self


class Sealed:
    """Base of classes that users read but neither construct nor derive from."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        raise TypeError(f"{cls.__name__} is made by pyasynclife, not by calling it")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if cls.__module__.partition(".")[0] != __package__:
            raise TypeError(f"{cls.__name__} cannot be derived from a sealed class")
        super().__init_subclass__(**kwargs)

    @classmethod
    def _make(cls, **fields: Any) -> Self:
        self = object.__new__(cls)
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        return self
