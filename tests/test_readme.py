"""Every Python block of the README and the docs pages runs, page by page, in one namespace."""

import re
import shutil
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

mpl.use("Agg")
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text())]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    for table in (ROOT / "docs").glob("*.csv"):
        shutil.copy(table, tmp_path)
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace = {"__name__": "page"}
    for match in BLOCK.finditer(text):
        line = text[: match.start()].count("\n") + 2
        exec(compile("\n" * (line - 1) + match.group(1), str(page), "exec"), namespace)
    plt.close("all")


def test_the_pages_that_should_have_code_do():
    assert {"README.md", "tutorial.md", "how_to.md"} <= {page.name for page in WITH_CODE}
