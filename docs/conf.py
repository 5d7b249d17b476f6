"""Sphinx's settings. Nothing is downloaded while the pages are built."""

from pathlib import Path

from docutils import nodes

import skmlp

project = "skmlp"
author = "skmlp developers"
copyright = "2026, skmlp developers"
release = skmlp.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "matplotlib.sphinxext.plot_directive",
    "sphinx_gallery.gen_gallery",
    "numpydoc",
]
# Only what draws is run here; the tests run all examples.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"05_",
    "within_subsection_order": "FileNameSortKey",
    "min_reported_time": 1e9,
    "download_all_examples": False,
    "show_signature": False,
}
plot_formats = ["svg"]
plot_html_show_formats = False
plot_html_show_source_link = False
exclude_patterns = ["_build", "sg_execution_times.rst"]

autosummary_generate = True
numpydoc_show_class_members = False  # the class template lists them
autodoc_typehints = "none"  # the parameters are described in words
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "logo": {"text": "skmlp"},
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 4,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
# Pages of the first level have nothing to list beside them.
html_sidebars = {page.stem: [] for page in Path(__file__).parent.glob("*.rst")}
html_show_sourcelink = False


def leave_as_text(app, env, node, contnode):
    """Print references in docstrings inherited from scikit-learn as plain text.

    They point into its manual; to look them up would need the network.
    """
    if "docstring of sklearn." in (node.source or ""):
        return nodes.inline("", contnode.astext())
    return None


def setup(app):
    app.connect("missing-reference", leave_as_text)
