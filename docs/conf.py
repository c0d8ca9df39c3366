"""Sphinx settings. The pages are Markdown; their Python blocks are run and their output is shown (run_blocks.py)."""

import os
import shutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from urllib.request import urlopen

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
# The examples draw their pictures beside themselves. A copy of them does, so that no file of the repository changes.
shutil.rmtree(HERE / "_build" / "examples", ignore_errors=True)
shutil.copytree(HERE.parent / "examples", HERE / "_build" / "examples")

# A PyTensor cache of the pages' own.
FLAGS = f"{os.environ.get('PYTENSOR_FLAGS', '')},base_compiledir={HERE / '_build' / 'pytensor'}"
os.environ["PYTENSOR_FLAGS"] = FLAGS.lstrip(",")

project = "pm_psyphy"
author = "The pm_psyphy developers"
copyright = author
version = release = installed_version("pm_psyphy")

extensions = ["mathml", "myst_parser", "numpydoc", "run_blocks", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
extensions += ["sphinx.ext.intersphinx", "sphinx_gallery.gen_gallery"]
exclude_patterns = [
    "_build",
    "oddity_accuracy.md",
    "oddity_fitted.md",
    "gallery/sg_execution_times.rst",
    "sg_execution_times.rst",
]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autosummary_generate = False
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False

INVENTORIES = {
    "pymc": "https://www.pymc.io/projects/docs/en/stable/",
    "arviz": "https://python.arviz.org/en/stable/",
    "xarray": "https://docs.xarray.dev/en/stable/",
    "optax": "https://optax.readthedocs.io/en/latest/",
}


def can_reach(address: str) -> bool:
    """Whether the network is there; without it the pages have no links to other projects."""
    try:
        with urlopen(f"{address}objects.inv", timeout=3):
            return True
    except OSError:
        return False


intersphinx_mapping = {name: (address, None) for name, address in INVENTORIES.items() if can_reach(address)}

sphinx_gallery_conf = {
    "examples_dirs": "_build/examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "gallery.Order",
    "reset_modules": ("matplotlib", "gallery.prepare"),
    "abort_on_example_error": True,
    "parallel": 2,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
}

html_theme = "furo"
html_title = "pm_psyphy"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fa8", "color-brand-content": "#1f5fa8"},
    "dark_css_variables": {"color-brand-primary": "#7fb2e8", "color-brand-content": "#7fb2e8"},
}
