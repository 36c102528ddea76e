"""The base of classes that only this package may construct or subclass."""

from __future__ import annotations

from typing import Any, Self


class Sealed:
    """Base of classes that users neither construct nor subclass."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        raise TypeError(f"{cls.__name__} is made by pyasynclife; do not call it")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if cls.__module__.partition(".")[0] != __package__:
            raise TypeError(f"{cls.__name__} cannot subclass a class of pyasynclife's")
        super().__init_subclass__(**kwargs)

    @classmethod
    def _make(cls, **fields: Any) -> Self:
        """Make an object with these attributes, past ``__new__`` and ``frozen``."""
        self = object.__new__(cls)
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        return self
