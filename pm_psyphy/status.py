"""How a fit ended, as data."""

from enum import StrEnum


class Status(StrEnum):
    """How a fit ended.

    CONVERGED: a further step promises to lower the loss by less than the tolerance. MAX_STEPS: all steps were taken. STALLED: L-BFGS found no lower
    loss, though it expected one. DIVERGED: loss or gradient were not finite. INTERRUPTED: by
    Ctrl-C or the callback. Whatever the status, the result holds the best finite parameters.
    """

    CONVERGED = "converged"
    MAX_STEPS = "max_steps"
    STALLED = "stalled"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"


def describe(status: Status, *, step: int, gradient_norm: float, stochastic: bool) -> str:
    """Say in a sentence or two how a fit ended, and what to try if it failed.

    Parameters
    ----------
    status : Status
    step : int
        The last step.
    gradient_norm : float
        Largest absolute derivative at the parameters returned.
    stochastic : bool
        Whether the loss was random, so that there is no test of convergence.

    Returns
    -------
    str
    """
    norm, count = f"{gradient_norm:.2g}", f"{step:,} step{'s' if step != 1 else ''}"
    if status is Status.MAX_STEPS and stochastic:
        return (
            f"All {count} were taken; a random loss has no test of convergence, and the one shown is the last draw's."
        )
    return {
        Status.CONVERGED: f"Converged after {count}: the gradient is {norm}.",
        Status.MAX_STEPS: f"Not converged after {count}: the gradient is {norm}. "
        "Allow more steps, see whether a parameter runs away, or take another learning_rate or optimizer='lbfgs'.",
        Status.STALLED: f"Not converged: after {count} no lower loss was found, with a gradient of {norm}. "
        "The optimum is reached to working precision, or lies at a kink or the edge of the domain: check the estimate.",
        Status.DIVERGED: f"Diverged at step {step:,}: loss or gradient were not finite. The best parameters before it "
        f"are returned, with a gradient of {norm}. Lower the learning_rate, or try optimizer='lbfgs'.",
        Status.INTERRUPTED: f"Interrupted at step {step:,}, with a gradient of {norm}. The best parameters are kept.",
    }[status]
