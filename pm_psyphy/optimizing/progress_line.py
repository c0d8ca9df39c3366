"""Step, loss and gradient norm in; one line on the terminal comes out."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class ProgressLine:
    """One live line about a fit; silent where there is no terminal.

    Parameters
    ----------
    label : str
        Names the optimiser.
    """

    def __init__(self, label: str):
        console = Console()
        columns = SpinnerColumn(finished_text=" "), TextColumn("{task.description}"), TimeElapsedColumn()
        self.line = Progress(*columns, console=console, disable=not (console.is_terminal or console.is_jupyter))
        self.label = label.split(" (")[0]
        self.first: tuple[int, float] | None = None
        self.task = self.line.add_task(f"{self.label}  compiling", total=1)

    def __enter__(self) -> "ProgressLine":
        self.line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.line.update(self.task, completed=1)
        self.line.stop()

    def show(self, step: int, loss: float, norm: float) -> None:
        """Show where the fit is.

        Parameters
        ----------
        step : int
        loss : float
        norm : float
            Largest absolute derivative.
        """
        now = time.perf_counter()
        first_step, first_time = self.first = self.first or (step, now)
        # The clock of the rate begins with the first report, behind the compilation.
        rate = f"  {(step - first_step) / (now - first_time):,.0f} steps/s" if step > first_step else ""
        text = f"{self.label}  step {step:,}  loss {loss:.6g}  gradient {norm:.1e}{rate}"
        self.line.update(self.task, description=text)
