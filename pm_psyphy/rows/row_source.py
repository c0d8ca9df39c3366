"""Rows that need not fit into memory in; batches of them, in an order that a seed decides, come out ahead of time."""

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import numpy as np

# Rows are shuffled within windows of so many numbers, each of blocks from all over the data: what lies on a disk is
# read in long runs. Data that fit into one window are shuffled as a whole.
NUMBERS_OF_WINDOW, BLOCKS_OF_WINDOW = 16_000_000, 64
# So many numbers at most are given to the device at once, for as many steps as they last.
NUMBERS_OF_CHUNK, STEPS_OF_CHUNK = 1_000_000, 256
# Chunks that are ready while the device works on one.
AHEAD = 2


@dataclass(frozen=True)
class Chunk:
    """Batches for the next steps of a fit."""

    arrays: dict[str, np.ndarray]
    """Each (K, B, ...), for K steps."""
    n_real: np.ndarray
    """(K,) How many rows of each batch are real; the others repeat one of them."""
    n_steps: int
    """How many of the K steps are to be taken."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Arrays with N rows, of which some are read at a time: NumPy's, memory-mapped, zarr's, xarray's or Dask's."""

    arrays: Mapping[str, Any]
    axes: Mapping[str, int]
    """The axis of each along the rows."""
    convert: Callable[[dict[str, Any], int], dict[str, np.ndarray]]
    """Checks rows, of which the first has this number, and returns them in the model's types, along the first axis."""

    def sign(self) -> str:
        """Return a text that equal rows share; all of them are read for it."""
        digest = hashlib.blake2b(digest_size=16)
        size = max(1, NUMBERS_OF_WINDOW // _count_numbers(self.read(0, 1)))
        for start in range(0, self.n_rows, size):
            for name, rows in sorted(self.read(start, min(start + size, self.n_rows)).items()):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(rows).data)
        return digest.hexdigest()

    @property
    def n_rows(self) -> int:
        """N."""
        return next(int(self.arrays[name].shape[axis]) for name, axis in self.axes.items())

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the rows from `start` to `stop`, along the first axis."""
        found = {}
        for name, axis in self.axes.items():
            try:
                found[name] = self.arrays[name][(slice(None),) * axis + (slice(start, stop),)]
                if not isinstance(found[name], np.ndarray):
                    found[name] = np.asarray(found[name])
            except (OSError, ValueError, RuntimeError) as error:
                raise OSError(
                    f"Rows {start} to {stop - 1} of {name!r} cannot be read ({error}). Repair or replace the file; "
                    "with checkpoint=... the fit continues where it was."
                ) from error
        return self.convert(found, start)

    def example(self, batch_size: int) -> Chunk:
        """Return a chunk of the shapes that `draw` yields."""
        return _cut(self.read(0, batch_size), batch_size, self._size(batch_size))

    def _size(self, batch_size: int) -> int:
        return _count_steps(batch_size * _count_numbers(self.read(0, 1)), self.count_batches(batch_size))

    def count_batches(self, batch_size: int) -> int:
        """Return how many batches an epoch has."""
        return -(-self.n_rows // batch_size)

    def draw(self, batch_size: int, seed: int, first_step: int) -> Iterator[Chunk]:
        """Yield batches without end, from a step on; in each epoch every row is in one of them.

        Parameters
        ----------
        batch_size : int
        seed : int
            The order of an epoch follows from it and the epoch's number.
        first_step : int
            Batches of the steps before it are not read.

        Yields
        ------
        Chunk
        """
        per_batch = batch_size * _count_numbers(self.read(0, 1))
        block = batch_size * max(1, NUMBERS_OF_WINDOW // (BLOCKS_OF_WINDOW * per_batch))
        of_window = max(1, NUMBERS_OF_WINDOW * batch_size // (per_batch * block))
        n_batches, per_window = self.count_batches(batch_size), of_window * block // batch_size
        size = self._size(batch_size)
        epoch, step = divmod(first_step, n_batches)
        while True:
            whole, rest = divmod(self.n_rows, block)
            # The last block may be shorter, and so comes last.
            order = np.append(np.random.default_rng([seed, epoch]).permutation(whole), [whole] * (rest > 0)).astype(int)
            while step < n_batches:
                window, first = divmod(step, per_window)
                blocks = order[window * of_window : (window + 1) * of_window]
                parts = [self.read(int(b) * block, min((int(b) + 1) * block, self.n_rows)) for b in blocks]
                held = {name: np.concatenate([part[name] for part in parts]) for name in self.axes}
                n_held = len(next(iter(held.values())))
                turned = np.random.default_rng([seed, epoch, window]).permutation(n_held)
                last = -(-n_held // batch_size)
                for begin in range(first, last, size):
                    chosen = turned[begin * batch_size : (begin + size) * batch_size]
                    yield _cut({name: array[chosen] for name, array in held.items()}, batch_size, size)
                step += last - first
            epoch, step = epoch + 1, 0


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows that come in blocks, as a generator reads them from files; batches take them as they come."""

    blocks: Callable[[], Iterable[Mapping[str, Any]]]
    """Called for each epoch."""
    first: Mapping[str, Any]
    """The first block, for its shapes."""
    n_rows: int
    axes: Mapping[str, int]
    convert: Callable[[dict[str, Any], int], dict[str, np.ndarray]]
    """As of `Rows`."""

    def sign(self) -> str:
        """Return a text that the same blocks share, by the first of them."""
        digest = hashlib.blake2b(digest_size=16)
        for name, rows in sorted(self._convert(self.first, 0).items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(rows).data)
        return digest.hexdigest()

    def example(self, batch_size: int) -> Chunk:
        """Return a chunk of the shapes that `draw` yields."""
        block = self._convert(self.first, 0)
        return _cut({name: rows[:batch_size] for name, rows in block.items()}, batch_size, self._size(batch_size))

    def _size(self, batch_size: int) -> int:
        block = self._convert(self.first, 0)
        n = len(next(iter(block.values())))
        return _count_steps(batch_size * _count_numbers(block, n), n // batch_size)

    def draw(self, batch_size: int, seed: int, first_step: int) -> Iterator[Chunk]:
        """Yield batches until nothing comes any more; blocks that can be iterated again begin anew.

        Parameters
        ----------
        batch_size : int
        seed : int
            Has no effect.
        first_step : int
            Rows of the batches before it are read and dropped.

        Yields
        ------
        Chunk
        """
        passed, size = 0, self._size(batch_size)
        while True:
            held: dict[str, np.ndarray] = {}
            n_read = 0
            for given in chain(self.blocks(), [None]):
                if given is not None:
                    block = self._convert(given, n_read)
                    n_read += len(next(iter(block.values())))
                    held = {n: np.concatenate([held[n], rows]) for n, rows in block.items()} if held else block
                elif not held:
                    return
                n_held = len(next(iter(held.values())))
                n_batches = -(-n_held // batch_size) if given is None else n_held // batch_size
                first = min(n_batches, first_step - passed)
                passed += first
                for begin in range(first, n_batches, size):
                    end = min(begin + size, n_batches) * batch_size
                    yield _cut({n: rows[begin * batch_size : end] for n, rows in held.items()}, batch_size, size)
                held = {n: rows[n_batches * batch_size :] for n, rows in held.items()}

    def _convert(self, given: Mapping[str, Any], first: int) -> dict[str, np.ndarray]:
        missing = [name for name in self.axes if name not in given]
        if missing:
            raise ValueError(f"A block of rows holds {', '.join(given)}. It lacks {', '.join(missing)}.")
        block = self.convert({name: given[name] for name in self.axes}, first)
        if len({len(rows) for rows in block.values()}) > 1:
            lengths = ", ".join(f"{name} {len(rows)}" for name, rows in block.items())
            raise ValueError(f"The rows of a block are {lengths}. Give each array as many.")
        return block


def run_ahead(chunks: Iterator[Chunk], place: Callable[[Chunk], Any]) -> Generator[Any]:
    """Yield what `place` makes of chunks, while a thread reads and places the next ones.

    Parameters
    ----------
    chunks : iterator of Chunk
    place : callable

    Yields
    ------
    object
    """
    ready: Queue[tuple[Any, BaseException | None]] = Queue(AHEAD)
    stop = Event()

    def offer(item: tuple[Any, BaseException | None]) -> None:
        while not stop.is_set():
            with suppress(Full):
                ready.put(item, timeout=0.1)
                return

    def fill() -> None:
        try:
            for chunk in chunks:
                offer((place(chunk), None))
                if stop.is_set():
                    return
            offer((None, StopIteration()))
        except BaseException as error:  # whatever it is, it belongs to the reader
            offer((None, error))

    Thread(target=fill, daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stop.set()


def _count_numbers(held: Mapping[str, np.ndarray], n_rows: int = 1) -> int:
    """Return how many numbers a row has."""
    return max(1, sum(array.size for array in held.values()) // max(n_rows, 1))


def _count_steps(numbers_of_batch: int, n_batches: int) -> int:
    """Return how many batches a chunk has."""
    return max(1, min(STEPS_OF_CHUNK, n_batches, NUMBERS_OF_CHUNK // numbers_of_batch))


def _cut(rows: dict[str, np.ndarray], batch_size: int, size: int) -> Chunk:
    """Cut rows into a chunk of `size` batches, which are filled up with the last row."""
    n = len(next(iter(rows.values())))
    index = np.minimum(np.arange(size * batch_size), n - 1)
    arrays = {name: array[index].reshape(size, batch_size, *array.shape[1:]) for name, array in rows.items()}
    n_real = np.clip(n - np.arange(size) * batch_size, 0, batch_size)
    return Chunk(arrays, n_real, -(-n // batch_size))
