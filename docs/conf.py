"""Sphinx settings. The pages are Markdown; their Python blocks are run and their output is shown (run_blocks.py)."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "pm_psyphy"
author = "The pm_psyphy developers"
copyright = author
version = release = installed_version("pm_psyphy")

extensions = ["myst_parser", "numpydoc", "run_blocks", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build", "oddity_accuracy.md"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False

html_theme = "alabaster"
html_title = f"pm_psyphy {version}"
html_static_path = ["_static"]
html_sidebars = {"**": ["about.html", "searchbox.html", "navigation.html"]}
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    "description": "Fit PyMC models by MAP, compiled by JAX",
    "fixed_sidebar": True,
    "show_powered_by": False,
    "page_width": "1280px",
    "body_max_width": "none",
    "sidebar_width": "230px",
    "font_family": "'Source Sans 3', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif",
    "head_font_family": "'Source Sans 3', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif",
    "code_font_family": "'JetBrains Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace",
    "font_size": "16px",
    "code_font_size": "0.8em",
    "link": "#1f5fa8",
    "link_hover": "#d8762a",
    "pre_bg": "#f6f8fa",
    "body_text": "#222222",
    "sidebar_list": "#444444",
}
