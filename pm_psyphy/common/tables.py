"""What a result has to show in; its lines in a terminal, and a small table in a notebook, come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

import numpy as np
import pandas as pd

# Of a line of a sentence in a terminal.
WIDTH = 108
# Rows of a table; how many more there are is said below.
MOST_ROWS = 10


@dataclass(frozen=True)
class Table:
    """A title, rows of text with or without a head, and what stands below."""

    title: str
    rows: Sequence[Sequence[str]] = ()
    head: Sequence[str] = ()
    foot: str = ""

    def as_text(self) -> str:
        """Return lines: columns under a head stand at the right, names and values without one at the left."""
        lines = [row for row in (self.head, *self.rows) if row]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        align = str.rjust if self.head else str.ljust
        body = ["  " + "  ".join(map(align, line, widths)).rstrip() for line in lines]
        title = wrap(self.title, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        foot = wrap(self.foot, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        return "\n".join([*title, *body, *foot])

    def as_html(self) -> str:
        """Return the same as an HTML table."""
        frame = pd.DataFrame([list(row) for row in self.rows], columns=list(self.head) or None)
        table = frame.to_html(index=False, header=bool(self.head), border=0) if self.rows else ""
        return f"<div><p>{escape(self.title)}</p>{table}<p><small>{escape(self.foot)}</small></p></div>"


class ShownAsTable:
    """A result that shows itself by what `_tabulate` returns."""

    def _tabulate(self) -> Table:
        raise NotImplementedError

    def __repr__(self) -> str:
        return self._tabulate().as_text()

    def _repr_html_(self) -> str:
        return self._tabulate().as_html()


def say_left_out(n: int) -> str:
    """Return a table's foot where it holds the first of n rows."""
    return f"... and {n - MOST_ROWS:,} more" if n > MOST_ROWS else ""


def abridge(value: np.ndarray) -> str:
    """Return an array's first numbers and its shape."""
    if value.ndim == 0:
        return f"{value:.5g}"
    numbers = np.array2string(value.ravel()[:5], precision=4, separator=", ", max_line_width=1000)
    shape = " x ".join(str(n) for n in value.shape)
    return f"{numbers[:-1]}, ...] ({shape})" if value.size > 5 else f"{numbers} ({shape})"
