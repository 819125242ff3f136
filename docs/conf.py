"""How Sphinx builds these pages: python -m sphinx -W -b html docs build/docs. No network is asked for."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

import analogsim  # noqa: E402

project = "analogsim"
version = release = analogsim.__version__
copyright = "the analogsim authors, Apache-2.0"

extensions = ["sphinx.ext.autodoc", "myst_nb", "docstrings", "mathml", "keys", "commands"]
exclude_patterns = ["extensions"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # as on GitHub: a heading is a place to link to
nb_execution_mode = "off"  # the notebook carries its outputs; the tests run it

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
autodoc_use_legacy_class_based = False
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries = False

smartquotes = False  # `--set` stays as it is

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "analogsim"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_copy_source = False
