"""What results have in common that hold a compiled program: they are themselves, and neither copied nor pickled."""

from typing import Any, NoReturn, Self


class ByIdentity:
    """A result that is equal to itself only, and says what to use in place of a copy or a pickle."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __copy__(self) -> Self:
        # Nothing of it can be changed, so that one is as good as two.
        return self

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self._refuse("deeply copied")

    def __reduce__(self) -> NoReturn:
        self._refuse("pickled")

    def _refuse(self, what: str) -> NoReturn:
        name = type(self).__name__
        saves = "Save it by `.save(path)`." if hasattr(self, "save") else "Save what `.to_datatree()` gives."
        saves = saves if hasattr(self, "to_datatree") else "Pass the model, and compile it there."
        raise TypeError(f"{name} holds a compiled program and cannot be {what}. {saves}")
