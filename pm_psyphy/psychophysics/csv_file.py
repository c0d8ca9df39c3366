"""A CSV file in; its table, the line on which each row stands, and advice where it is no table of trials, come out."""

import bz2
import difflib
import gzip
import io
import lzma
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pm_psyphy.psychophysics.columns import is_missing, read_column

# Of the beginning of a file at most so often, to find the line of a row.
MOST_READS = 100
MOST_NAMES = 20
# Lines of units or questions under the header are at most so many.
MOST_UNITS = 5
SEPARATORS = {";": "';'", "\t": "'\\t'", "|": "'|'"}
BOMS = ("\ufeff", "ï»¿")
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+\s*")
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def read_csv_file(path: Any, options: Mapping[str, Any]) -> Any:
    """Return a CSV file as a pandas data frame.

    Parameters
    ----------
    path : path, address or file
    options : dict
        Options of `pandas.read_csv`.

    Raises
    ------
    ValueError
        If the file is empty, of another format or encoding, or its rows have more fields than its header.
    """
    import pandas as pd

    for name in ("chunksize", "iterator"):
        if options.get(name):
            raise ValueError(f"A table of trials is read as a whole. Drop {name}.")
    try:
        frame = pd.read_csv(path, **options)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{_say(path)} is empty. Pass a file with a header and a line for each trial.") from None
    except UnicodeError as error:
        raise ValueError(f"{_say(path)} cannot be read as text ({error}). {_advise_encoding(path)}") from None
    except pd.errors.ParserError as error:
        found = str(error).strip()
        raise ValueError(f"{_say(path)} cannot be read as a table: {found}. {_advise_rows(path, options)}") from None
    if len(frame) and options.get("index_col") is None and not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(
            f"The lines of {_say(path)} have more fields than its header has names, {', '.join(_list_names(frame))}. "
            f"{_advise_fields(path, frame, options)}"
        )
    return frame


def pick_columns(frame: Any, names: Any, options: Mapping[str, Any] | None = None) -> Any:
    """Return one column of a data frame, (N,), or several, (N, D).

    Parameters
    ----------
    frame : pandas.DataFrame
    names : label, or sequence of labels
    options : dict, optional
        By which the frame was read from a file, for advice.

    Raises
    ------
    ValueError
        If there is no such column, or there are several.
    """
    held = list(getattr(frame, "columns", frame))
    chosen = _as_list(names, held)
    if not chosen:
        raise ValueError("A list of columns is empty. Name one column for each dimension.")
    for name in chosen:
        count = sum(name == other for other in held)
        if count == 0:
            raise ValueError(_explain_missing(frame, held, name, options))
        if count > 1:
            raise ValueError(f"There are {count} columns called {name!r}. Rename them in the file.")
    columns = [read_column(str(name), frame[name]) for name in chosen]
    return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)


def name_lines(path: Any, options: Mapping[str, Any], frame: Any) -> Callable[[int], str]:
    """Return a function that says where a row of the table stands: its line, where that is certain, or its number.

    Parameters
    ----------
    path, options
        As for `read_csv_file`.
    frame : pandas.DataFrame
        What it returned.
    """

    def name_row(row):
        line = find_line(path, options, frame, int(row))
        return f"row {row} of the table" if line is None else f"line {line} of {path}"

    return name_row


def find_line(path: Any, options: Mapping[str, Any], frame: Any, row: int) -> int | None:
    """Return the line, counted from 1, on which a row begins; None where that is not certain.

    Pandas itself decides it: the line is the last one without which the beginning of the file has fewer rows. Comments,
    blank lines, line breaks in quotes and lines that are skipped thus need no rules of their own.
    """
    lines = _read_lines(path, options)
    if lines is None:
        return None
    left_out = ("compression", "encoding", "encoding_errors", "skipfooter", "memory_map", "storage_options")
    kept = {name: value for name, value in options.items() if name not in left_out}
    if not {"engine", "sep", "delimiter"} & set(kept):
        # Saves time. The Python engine would count blank lines.
        kept["nrows"] = row + 1
    reads = iter(range(MOST_READS))

    def holds_row(n_lines):
        for n in range(n_lines, len(lines) + 1):
            next(reads)
            beginning = _read_text("".join(lines[:n]), kept)
            # A beginning that ends within quotes is no table; with some lines more it is one.
            if beginning is not None:
                return len(beginning) > row
        return False

    try:
        low, high = row, row + 1
        while not holds_row(min(high, len(lines))):
            if high >= len(lines):
                return None
            low, high = high, 2 * high - row
        high = min(high, len(lines))
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds_row(middle) else (middle, high)
        # Its row is whole with the last of its lines.
        for n in range(high, len(lines) + 1):
            next(reads)
            beginning = _read_text("".join(lines[:n]), kept)
            if beginning is not None and _is_same(beginning.iloc[row], frame.iloc[row]):
                return high
    except StopIteration:
        pass
    return None


def explain_text(frame: Any, names: list[Any], options: Mapping[str, Any], name_row: Callable[[int], str]) -> str:
    """Return advice for a table whose columns hold text where numbers should be; empty if there is none.

    Parameters
    ----------
    frame : pandas.DataFrame
    names : list
        The columns that are used.
    options : dict
        By which it was read.
    name_row : callable
        See `name_lines`.
    """
    import pandas as pd

    held = list(frame.columns)
    used = [name for entry in names for name in _as_list(entry, held) if name in held]
    for name in used:
        text = [value for value in frame[name] if isinstance(value, str) and not _is_number(value)]
        if text and all(DECIMAL_COMMA.fullmatch(value) for value in text):
            return _advise_decimal(options)
    for name in used:
        found: Any = pd.to_numeric(frame[name], errors="coerce")
        numbers = found.notna().to_numpy()
        first = int(np.argmax(numbers)) if numbers.any() else 0
        if 0 < first <= MOST_UNITS and numbers[first:].all():
            places = ", ".join(name_row(row) for row in range(first))
            matches = [re.match(r"line (\d+) of ", name_row(row)) for row in range(first)]
            lines = [int(match[1]) - 1 for match in matches if match]
            if len(lines) == first and "skiprows" not in options:
                return f"If these lines are not trials, skip them: skiprows={lines}."
            return f"If {places} are not trials, skip them, or pass the rest to Trials.from_frame."
    return ""


def check_decimals(frame: Any, names: list[Any], options: Mapping[str, Any], name_row: Callable[[int], str]) -> None:
    """Raise if numbers with a decimal comma would be read as points of two dimensions.

    Parameters
    ----------
    frame, names, options, name_row
        As for `explain_text`.
    """
    if "decimal" in options:
        return
    separator = options.get("sep", options.get("delimiter", ","))
    held = list(frame.columns)
    for chosen in (_as_list(entry, held) for entry in names):
        if len(chosen) != 1 or held.count(chosen[0]) != 1:
            continue
        values = list(frame[chosen[0]])
        text = [value for value in values if isinstance(value, str)]
        commas = [DECIMAL_COMMA.fullmatch(value) is not None for value in text]
        zeros = [row for row, v in enumerate(values) if isinstance(v, str) and re.fullmatch(r"\s*[-+]?\d*,0\d+\s*", v)]
        if text and all(commas) and (separator != "," or zeros):
            row = zeros[0] if zeros else next(row for row, value in enumerate(values) if isinstance(value, str))
            raise ValueError(
                f"The column {chosen[0]!r} in {name_row(row)} holds {values[row]!r}, which may be the number "
                f"{values[row].strip().replace(',', '.')} or the point ({values[row].strip().replace(',', ', ')}). "
                f"{_advise_decimal(options)} If they are points of two dimensions, write them as '(0,5)'."
            )


def _as_list(names: Any, held: list[Any]) -> list[Any]:
    """Return labels as a list; a tuple may be one label, as of a header of several lines."""
    is_one = isinstance(names, str) or not hasattr(names, "__iter__") or (isinstance(names, tuple) and names in held)
    return [names] if is_one else list(names)


def _explain_missing(frame: Any, held: list[Any], name: Any, options: Mapping[str, Any] | None) -> str:
    found = f"There is no column {name!r}. The table has {', '.join(_list_names(frame))}."
    texts = {str(other): other for other in held}
    if len(held) == 1 and (inside := next((s for s in SEPARATORS if s in str(held[0])), None)):
        start = str(held[0])
        if start.lower().startswith("sep="):
            return f"{found} Its first line is a note for Excel: pass sep={SEPARATORS[inside]}, skiprows=1."
        return f"{found} Pass sep={SEPARATORS[inside]}; if its numbers have a decimal comma, decimal=',', too."
    bom = next((b for b in BOMS if str(held[0]).startswith(b)), None) if held else None
    if bom and str(held[0]).removeprefix(bom).strip("\"' ") == str(name):
        return f"{found} The file begins with a byte-order mark: pass encoding='utf-8-sig'."
    plain = {_simplify(text): other for text, other in texts.items()}
    near = difflib.get_close_matches(_simplify(str(name)), plain, n=1, cutoff=0.7)
    if near:
        return f"{found} Did you mean {plain[near[0]]!r}?"
    if options is None:
        return found
    for row in range(min(len(frame), MOST_NAMES)):
        if any(isinstance(v, str) and v.strip() == str(name) for v in frame.iloc[row]):
            return f"{found} Row {row} of it holds this name: leave the lines above out by skiprows or header."
    if options.get("header", "infer") == "infer" and all(_is_number(text) for text in texts):
        return f"{found} These are numbers: if the file has no header, pass names=[...]."
    return found


def _advise_decimal(options: Mapping[str, Any]) -> str:
    semicolon = "" if {"sep", "delimiter"} & set(options) else " (and sep=';' if semicolons stand between the columns)"
    return f"If its numbers have a decimal comma, pass decimal=','{semicolon}."


def _advise_encoding(path: Any) -> str:
    start = _read_start(path)
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        return "It seems to be a workbook: save it as CSV, or pass pandas.read_excel(path) to Trials.from_frame."
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "Pass encoding='utf-16'."
    return "Pass its encoding, for instance encoding='cp1252' for files of Excel on Windows."


def _advise_fields(path: Any, frame: Any, options: Mapping[str, Any]) -> str:
    if frame.index.nlevels > 1 or any(s in str(name) for s in SEPARATORS for name in frame.columns):
        return _advise_rows(path, options)
    return "Pass index_col=0 if the first field is the name of the row, or index_col=False if the last one is empty."


def _advise_rows(path: Any, options: Mapping[str, Any]) -> str:
    start = _read_start(path)
    if start.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        return _advise_encoding(path)
    text = start.decode("latin-1")
    inside = next((s for s in SEPARATORS if text.count(s) >= max(len(LINE.findall(text)), 2)), None)
    if inside and not {"sep", "delimiter"} & set(options):
        return f"Pass sep={SEPARATORS[inside]}; if its numbers have a decimal comma, decimal=',', too."
    return "If lines of text stand above the header, pass skiprows with their number; for comments, comment='#'."


def _read_start(path: Any) -> bytes:
    if not _is_file(path):
        return b""
    with Path(path).open("rb") as file:
        return file.read(4096)


def _is_file(path: Any) -> bool:
    return isinstance(path, str | os.PathLike) and Path(path).is_file()


def _read_lines(path: Any, options: Mapping[str, Any]) -> list[str] | None:
    """Return the lines of a file, with their ends; None if they cannot be told."""
    compression = options.get("compression", "infer")
    if not _is_file(path) or options.get("lineterminator") or compression not in ("infer", None):
        return None
    suffix = Path(path).suffix.lower()
    if compression == "infer" and suffix in (".zip", ".zst", ".tar"):
        return None
    opener = OPENERS.get(suffix, open) if compression == "infer" else open
    try:
        with opener(path, "rb") as file:
            encoding = options.get("encoding") or "utf-8"
            text = file.read().decode(encoding, options.get("encoding_errors") or "strict")
    except (OSError, EOFError, ValueError, LookupError):
        return None
    return LINE.findall(text.removeprefix(BOMS[0]))


def _read_text(text: str, options: Mapping[str, Any]) -> Any:
    """Return a table, without rows if there is not even a header; None if the text is none."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return pd.read_csv(io.StringIO(text), **options)
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
        except Exception:
            # Whatever pandas and its engines raise for half a table.
            return None


def _is_same(first: Any, second: Any) -> bool:
    """Whether two rows hold the same; types may differ, which depend on the rows below."""

    def same(a, b):
        if is_missing(a) or is_missing(b):
            return is_missing(a) and is_missing(b)
        return str(a) == str(b) or (_is_number(a) and _is_number(b) and float(a) == float(b))

    return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _simplify(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def _list_names(frame: Any) -> list[str]:
    names = [str(name) for name in getattr(frame, "columns", frame)]
    return names if len(names) <= MOST_NAMES else [*names[:MOST_NAMES], f"... ({len(names)} columns)"]


def _say(path: Any) -> str:
    return str(path) if isinstance(path, str | os.PathLike) else "The file"
