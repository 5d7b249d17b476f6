"""Sphinx's settings. Nothing is downloaded while the pages are built."""

import os
import re

import sklearn.experimental.enable_halving_search_cv  # noqa: F401 - a page uses it
from docutils import nodes
from docutils.utils.math import latex2mathml

import skmlp
from skmlp.versions import HOME_PAGE

project = "skmlp"
author = "skmlp developers"
copyright = "2026, skmlp developers"
release = skmlp.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "matplotlib.sphinxext.plot_directive",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "numpydoc",
]
# All pages run while the docs are built, so their output is that of this version.
# ``-D plot_gallery=0`` leaves it out.
sphinx_gallery_conf = {
    "examples_dirs": ["../examples", "../how_to"],
    "gallery_dirs": ["gallery", "how_to"],
    # The cluster that loses workers takes long: its page has stored output.
    "filename_pattern": r"/(?!04)\d\d_",
    "within_subsection_order": "FileNameSortKey",
    "min_reported_time": 1e9,
    "download_all_examples": False,
    "show_signature": False,
    "capture_repr": (),
    "remove_config_comments": True,
}
# What the pages show are fits of moments.
os.environ["PYTHONWARNINGS"] = "ignore"
plot_formats = ["svg"]
plot_html_show_formats = False
plot_html_show_source_link = False
exclude_patterns = ["_build", "**sg_execution_times.rst"]

autosummary_generate = True
numpydoc_show_class_members = False  # the class template lists them
autodoc_typehints = "none"  # the parameters are described in words
templates_path = ["_templates"]

# What is copied is what one types.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["skmlp.css"]
html_theme_options = {
    "logo": {"text": "skmlp"},
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "icon_links": [
        {"name": "Home page", "url": HOME_PAGE, "icon": "fa-solid fa-house"},
    ]
    if HOME_PAGE
    else [],
}
html_sidebars = {"**": ["all_pages.html"]}
html_show_sourcelink = False
html_math_renderer = "mathml"


def leave_as_text(app, env, node, contnode):
    """Print references in docstrings inherited from scikit-learn as plain text.

    They point into its manual; to look them up would need the network.
    """
    if "docstring of sklearn." in (node.source or ""):
        return nodes.inline("", contnode.astext())
    return None


def link_each_parameter(app, what, name, obj, options, lines):
    """Link each parameter to the section that the first one of its group links to."""
    if what != "class" or "Parameters" not in lines:
        return
    begin, link = lines.index("Parameters") + 2, ""
    end = lines.index("Attributes") if "Attributes" in lines else len(lines)
    entries = re.split(r"\n(?=\S)", "\n".join(lines[begin:end]).rstrip())
    for k, entry in enumerate(entries):
        if found := re.search(r"\(:ref:`guide <[\w-]+>`\)", entry):
            link = found[0]
        elif link:
            entries[k] = f"{entry}\n    {link}"
    lines[begin:end] = [*"\n".join(entries).splitlines(), ""]


def visit_math(translator, node):
    """A formula as MathML: browsers draw it without a script, and offline."""
    block = isinstance(node, nodes.math_block)
    found = latex2mathml.tex2mathml(node.astext().strip(), as_block=block)
    translator.body.append(f'<div class="math">{found}</div>' if block else found)
    raise nodes.SkipNode


def setup(app):
    app.connect("missing-reference", leave_as_text)
    # Before numpydoc.
    app.connect("autodoc-process-docstring", link_each_parameter, priority=400)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
