"""A page's Markdown comes in; the same page, with the output of its Python blocks, comes out.

The blocks of a page run from top to bottom in one namespace. What they print is shown below them, and so is the value
of a block's last line, if it is an expression; then the figure it drew. A block that fails stops the build.
"""

import ast
import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", run_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def run_page(app: Sphinx, page: str, source: list[str]) -> None:
    if app.builder.format != "html":
        return
    namespace: dict[str, Any] = {"__name__": page}

    def show(match: re.Match[str]) -> str:
        try:
            printed = run_block(match[1], namespace)
        except Exception as error:
            raise ExtensionError(f"A Python block of {page} fails: {error!r}\n{match[1]}") from error
        text = f"\n```{{code-block}} text\n:class: output\n\n{printed}\n```\n" if printed else ""
        return match[0] + text + save_figure(Path(app.srcdir), page)

    # A page names files as they lie beside it.
    with contextlib.chdir(app.srcdir), plt.style.context(ROOT / "examples" / "pictures.mplstyle"):
        source[0] = BLOCK.sub(show, source[0])


def save_figure(folder: Path, page: str) -> str:
    """Save the figure that a block drew, and return the Markdown that shows it, described by its title."""
    if not plt.get_fignums():
        return ""
    figure = plt.gcf()
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    # The style of the pictures puts titles on the left.
    title = next(filter(None, (figure.axes[0].get_title(loc=side) for side in ("left", "center", "right"))), "")
    path = pictures / f"{page}_{re.sub(r'[^a-z0-9]+', '_', title.lower())}.png"
    figure.savefig(path)
    plt.close("all")
    return f"\n![{title}](pictures/{path.name})\n"


def run_block(code: str, namespace: dict[str, Any]) -> str:
    """Run one block, and return what it printed and the value of its last line."""
    body = ast.parse(code).body
    last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        exec(compile(ast.Module(body, []), "<block>", "exec"), namespace)
        value = eval(compile(last, "<block>", "eval"), namespace) if last else None
    shown = printed.getvalue().rstrip()
    # What draws returns an artist, which says nothing beside the picture.
    value = None if plt.get_fignums() else value
    return "\n".join(part for part in (shown, "" if value is None else repr(value)) if part)
