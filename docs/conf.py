"""Sphinx configuration; site.md says why these tools."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "extensions")]

project = "da_lightning"
release = re.findall(r'__version__ = "(.+)"', (ROOT / "da_lightning" / "__init__.py").read_text())[0]
copyright = "the authors of da_lightning; Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "options"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "da_lightning"
html_math_renderer = "mathml"
html_static_path, html_css_files = ["static"], ["site.css"]
html_copy_source = html_show_sourcelink = False

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # Lightning's are long, and refer to pages of its own
autodoc_preserve_defaults = True
toc_object_entries = False  # a thousand entries in each page's navigation, and a fifth of the time
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def help_as_it_is(app: Sphinx, what: str, name: str, module: Any, options: Any, lines: list[str]) -> None:
    """The docstring of a command is what its ``--help`` prints, and not reStructuredText."""
    if what == "module" and hasattr(module, "main"):
        lines[:] = ["::", "", *(f"    {line}" for line in lines), ""]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", help_as_it_is)
