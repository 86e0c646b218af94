"""The book, built by `sphinx-build -W --keep-going -b html notebooks build/book`.

Three parts of it are written at every build: the reference from the docstrings, the results from
benchmarks/results, and the outputs of the cells. `_book` holds what does that.
"""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from _book import docstrings, execution, links, mathml, reference, results

project = "manifold_jax"
author = copyright = "The manifold_jax authors"
version = release = version_of("manifold_jax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["conf.py", "_book", "images"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:(class|obj|data)", ".*")
]  # types in signatures: those of JAX, NumPy and jaxtyping

html_theme = "furo"
html_title = f"{project} {version}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}
html_static_path = ["_book/static"]
html_css_files = ["book.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
linkcheck_ignore = [r"https?://.*"]  # only links within the book are followed

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 1800
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # a warning that a reader would see is one of the build

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # `docstrings` writes the signatures
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Fields", "params_style")]
napoleon_use_rtype = False
smartquotes = False  # u' is no quotation
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"


def setup(app):
    results.write(HERE.parent, HERE)
    reference.write(HERE / "reference")
    docstrings.setup(app, reference.public_names())
    execution.setup(app)
    mathml.setup(app)
    links.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
