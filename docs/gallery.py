"""The order of the examples in the gallery, and how each is run."""

import builtins
import warnings
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent / "_build" / "examples"

ORDER = [
    "psychometric_function",
    "wppm_quickstart",
    "oddity_geometry",
    "weber_law",
    "wppm_field",
    "color_field_3d",
    "hierarchical_wppm",
    "hong2025",
    "laplace_intervals",
    "bootstrap_contours",
    "choose_hyperparameters",
    "from_map_to_nuts",
    "normal_model",
    "hierarchical_regression",
    "eight_schools",
    "minibatch",
    "offline_fit_mvp_with_map_optimizer",
    "your_own_optimizer",
    "digits_classifier",
    "state_space",
]


class Order:
    """Sort key of an example's file name."""

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self, name: str) -> int:
        """Return the place of a script; one that is not in the list is an error."""
        return ORDER.index(name.removesuffix(".py"))


def prepare(_gallery: dict[str, Any], script: str) -> None:
    """Let an example find its folder, for it is run without `__file__`, and stop it where it is warned."""
    warnings.simplefilter("error", UserWarning)
    # How many draws diverge hangs on the last digits of the machine; the page shows it.
    warnings.filterwarnings("default", ".* draws diverged")
    builtins.__file__ = str(EXAMPLES / Path(script).name)  # type: ignore[attr-defined]
