"""The site of `make docs`: the repository's Markdown as it lies, docstrings, and the flags of the jobs."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import flags  # noqa: E402 - docs/flags.py

# The repository is the source: links between README, docs/ and benchmarks/ mean the same here and on a code host.
project, author, root_doc = "posec3d", "", "docs/index"
include_patterns = ["docs/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/results/*.md"]
exclude_patterns = [".*", "build", "dist", "runs", "posec3d", "pipelines", "jobs", "tests", "*.egg-info"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"  # notebooks are shown with what they hold
myst_heading_anchors = 4  # by the names that a code host gives them
default_role = "py:obj"  # `name` in docstrings: a link where something has that name, else code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_rtype = False

html_theme, html_title, html_show_copyright, html_copy_source = "furo", "posec3d", False, False
html_static_path, html_css_files = ["_static"], ["site.css"]

WIDE = 'class="table-wrapper'
ENTRANCE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>posec3d</title>
<meta http-equiv="refresh" content="0; url=docs/index.html"><a href="docs/index.html">posec3d</a></html>
"""


def setup(app):
    """Add the flags to their page, keep docstrings of fields as they are, and mend what the theme leaves open."""

    def add_flags(app, docname, source):
        if docname == "docs/flags":
            source[0] += flags.markdown()

    def replacing(old, new):
        # Napoleon takes what is before the first colon of a field's docstring for its type.
        def replace(app, what, name, obj, options, lines):
            if what in ("attribute", "data", "property"):
                lines[:] = [line.replace(old, new) for line in lines]

        return replace

    def mend(app, pagename, templatename, context, doctree):
        # What axe-core minds in the theme: headings of no level, and wide tables that no key scrolls.
        for part in {"furo_navigation_tree", "body"} & context.keys():
            for old, new in (('role="heading"', 'role="heading" aria-level="2"'), (WIDE, f'tabindex="0" {WIDE}')):
                context[part] = context[part].replace(old, new)

    def add_entrance(app, error):
        if error is None and app.builder.name == "html":
            Path(app.outdir, "index.html").write_text(ENTRANCE)

    app.connect("source-read", add_flags)
    app.connect("autodoc-process-docstring", replacing(":", "\x1f"), priority=400)
    app.connect("autodoc-process-docstring", replacing("\x1f", ":"), priority=600)
    app.connect("html-page-context", mend, priority=900)
    app.connect("build-finished", add_entrance)
