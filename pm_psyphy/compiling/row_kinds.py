"""What the rows of a variable may be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rows:
    """The n-th element along the axis follows from the n-th rows alone."""

    axis: int


@dataclass(frozen=True)
class Numbers:
    """The n-th element along the axis is n."""

    axis: int


@dataclass(frozen=True)
class Count:
    """A scalar, the number of rows."""


@dataclass(frozen=True)
class Lengths:
    """A vector of lengths, of which those at these places are the number of rows."""

    at: frozenset[int]


@dataclass(frozen=True)
class Mixed:
    """Some element needs several rows, or their number; `op` and `variable` are what mixes what."""

    op: str
    variable: str


type Kind = Rows | Numbers | Count | Lengths | Mixed | None
"""None: without rows, the same for all of them."""
