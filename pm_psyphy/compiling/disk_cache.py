"""A folder in; what XLA compiles is kept in it, for other processes."""

from pathlib import Path

import jax

from pm_psyphy.native.kernels import keep_kernels


def cache_compilation(folder: str | Path) -> None:
    """Keep compiled programs in a folder, so that another process finds them instead of compiling.

    Call it before the first fit. A program is found again for the same model, shapes, settings, versions of the
    packages and kind of device. Building the graph is not saved: that is PyMC's and PyTensor's part.

    Parameters
    ----------
    folder : path
        Made if it is not there. It grows; delete it to make room.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    keep_kernels(folder / "machine_code")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Everything, however quick: a fit has a few small programs beside its loop.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
