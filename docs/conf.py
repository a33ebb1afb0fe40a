"""How Sphinx makes the site of these pages: make site.

Nothing is asked of the network, and a page asks nothing of another host: tests/test_site.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from iptrec.cli import app as command_line
from iptrec.version import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "iptrec"
release = version = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
nitpicky = True
highlight_language = "text"
myst_heading_anchors = 3

html_theme = "furo"
html_title = "iptrec"
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"top_of_page_buttons": []}  # none leads to a place of ours that may move


class HelpTexts(SphinxDirective):
    """A section for each command of iptrec, with what its --help prints on 80 columns."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        command = get_command(command_line)
        top = command.context_class(command, info_name="iptrec", help_option_names=["-h", "--help"])
        return [_section(one) for one in _contexts(top)]


def _contexts(context):  # noqa: ANN001, ANN202
    """That of a command, and of all commands within it."""
    within = getattr(context.command, "commands", {})
    below = [type(context)(within[one], info_name=one, parent=context) for one in within]
    return [context, *(one for each in below for one in _contexts(each))]


def _section(context) -> nodes.section:  # noqa: ANN001
    context.max_content_width = context.terminal_width = 80
    name = context.command_path
    section = nodes.section(ids=[nodes.make_id(name)], names=[nodes.fully_normalize_name(name)])
    section += nodes.title(text=name)
    text = context.command.get_help(context)
    section += nodes.literal_block(text, text, language="text")
    return section


def _style_blocks(_: Sphinx, doctree: nodes.document) -> None:
    """Programs are Python; lines about packets go on in the next one. Nobody has to say so of each block."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext()
        if text.startswith(("import ", "from ", "with ")):
            block["language"] = "python"
        if text.startswith(("$ iptrec show", "$ iptrec why", "$ iptrec paths", "#")):
            block["classes"].append("wraps")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("help-texts", HelpTexts)
    app.connect("doctree-read", _style_blocks)
