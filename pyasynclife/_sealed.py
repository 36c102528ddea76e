"""The bases of classes that only this package may construct or subclass."""

from __future__ import annotations

from typing import Any, NoReturn, Self


class Sealed:
    """Base of classes that users neither construct nor subclass.

    Their objects belong to a running loop, so they are neither pickled nor copied.
    """

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

    def __reduce__(self) -> Any:
        refuse_pickling(self)


class SealedValue(Sealed):
    """Base of sealed classes whose objects are values: they are pickled and copied."""

    __slots__: tuple[str, ...] = ()

    def __reduce__(self) -> Any:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return _restore, (type(self), fields)


def _restore(cls: type[SealedValue], fields: dict[str, Any]) -> SealedValue:
    return cls._make(**fields)


def refuse_pickling(thing: object) -> NoReturn:
    """Refuse to pickle or copy an object, which its ``__reduce__`` is asked for."""
    raise TypeError(
        f"a {type(thing).__name__} can be neither pickled nor copied: it belongs to a "
        "running event loop"
    )
