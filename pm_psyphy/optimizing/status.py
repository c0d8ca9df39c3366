"""How a fit ended, as data."""

from enum import StrEnum


class Status(StrEnum):
    """How a fit ended.

    CONVERGED: a further step would lower the loss by less than the tolerance. MAX_STEPS: all steps were taken.
    STALLED: L-BFGS found no lower loss, though it expected one. DIVERGED: loss or gradient were not finite.
    INTERRUPTED: by Ctrl-C or the callback. UNBOUNDED: there is no optimum, the loss stays as low however far a variable
    goes. PLATEAU: the loss does not depend on a variable near its start. Whatever the status, the result holds the best
    finite parameters.
    """

    CONVERGED = "converged"
    MAX_STEPS = "max_steps"
    STALLED = "stalled"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    UNBOUNDED = "unbounded"
    PLATEAU = "plateau"


def describe(status: Status, *, step: int, gradient_norm: float, stochastic: bool, optimizer: str = "") -> str:
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
    optimizer : str
        Its name; what was done already is not advised.

    Returns
    -------
    str
    """
    norm, count = f"{gradient_norm:.2g}", f"{step:,} step{'s' if step != 1 else ''}"
    if status is Status.MAX_STEPS and stochastic:
        return f"All {count} were taken. A random loss has no test of convergence; the one shown is of the last draw."
    is_lbfgs = optimizer == "L-BFGS"
    other = "" if is_lbfgs or stochastic else ", or take optimizer='lbfgs'"
    lower = "Give other initvals." if is_lbfgs else f"Lower the learning_rate{other}."
    return {
        Status.CONVERGED: f"Converged after {count}: the gradient is {norm}.",
        Status.MAX_STEPS: f"Not converged after {count}: the gradient is {norm}. Allow more steps"
        f"{'' if is_lbfgs else ', or another learning_rate'}{other}; check whether a parameter grows without bound.",
        Status.STALLED: f"Not converged: after {count} no lower loss was found, with a gradient of {norm}. "
        "Either the optimum is reached as closely as rounding allows, or it lies at a kink or at the edge of the "
        "domain: check the estimate.",
        Status.DIVERGED: f"Diverged at step {step:,}: loss or gradient were not finite. The best parameters before it "
        f"are returned, with a gradient of {norm}. {lower}",
        Status.INTERRUPTED: f"Interrupted at step {step:,}, with a gradient of {norm}. The best parameters are kept.",
        Status.UNBOUNDED: f"Not converged: the search ended after {count}, with a gradient of {norm}.",
        Status.PLATEAU: f"Not converged: the search ended after {count}, with a gradient of {norm}.",
    }[status]
