"""Step, loss and gradient norm in; one line on the terminal comes out."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn


class ProgressLine:
    """A rich progress bar for a fit; silent where there is no terminal.

    Parameters
    ----------
    label : str
        Names the optimiser.
    steps : int
        The most steps that the fit takes.
    """

    def __init__(self, label: str, steps: int):
        console = Console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("step {task.completed:,}  loss {task.fields[loss]:.6g}  gradient {task.fields[norm]:.1e}"),
            TextColumn("{task.fields[rate]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
            disable=not (console.is_terminal or console.is_jupyter),
        )
        self.task = self.bar.add_task(label, total=steps, loss=float("nan"), norm=float("nan"), rate="")

    def __enter__(self) -> "ProgressLine":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def show(self, step: int, loss: float, norm: float) -> None:
        """Show where the fit is.

        Parameters
        ----------
        step : int
        loss : float
        norm : float
            Largest absolute derivative.
        """
        elapsed = self.bar.tasks[self.task].elapsed or 0.0
        rate = f"{step / elapsed:,.0f} steps/s" if elapsed > 0 and step else ""
        self.bar.update(self.task, completed=step, loss=loss, norm=norm, rate=rate)
