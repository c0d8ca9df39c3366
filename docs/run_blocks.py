"""A page's Markdown comes in; the same page, with the output of its Python blocks, comes out.

The blocks of a page run from top to bottom in one namespace. What they print is shown below them, and so is the value
of a block's last line, if it is an expression. A block that fails stops the build.
"""

import ast
import contextlib
import io
import re
import warnings
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

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
        return f"{match[0]}\n```{{code-block}} text\n:class: output\n\n{printed}\n```\n" if printed else match[0]

    source[0] = BLOCK.sub(show, source[0])


def run_block(code: str, namespace: dict[str, Any]) -> str:
    """Run one block, and return what it printed and the value of its last line."""
    body = ast.parse(code).body
    last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), warnings.catch_warnings():
        exec(compile(ast.Module(body, []), "<block>", "exec"), namespace)
        value = eval(compile(last, "<block>", "eval"), namespace) if last else None
    shown = printed.getvalue().rstrip()
    return "\n".join(part for part in (shown, "" if value is None else repr(value)) if part)
