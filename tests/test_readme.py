"""Every Python block of the README runs; those of the docs' pages run when these are built."""

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

mpl.use("Agg")
README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, namespace = README.read_text(), {"__name__": "page"}
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= 3
    for match in blocks:
        line = text[: match.start()].count("\n") + 2
        exec(compile("\n" * (line - 1) + match.group(1), str(README), "exec"), namespace)
    plt.close("all")
