"""A packet in a notebook: the text of `iptrec show`, coloured, and safe whatever a recording holds."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final

from iptrec.views.show import as_text
from iptrec.views.text import Layout

if TYPE_CHECKING:
    from iptrec.packets.model import Traversal

_SGR: Final = re.compile(r"\x1b\[([0-9]+)m(.*?)\x1b\[0m")
_STYLES: Final = {
    "2": "opacity: 0.6", "31": "color: #c62828", "32": "color: #2e7d32", "33": "color: #b26a00",
}  # fmt: skip


def as_html(packet: Traversal) -> str:
    """One <pre> element.

    The text has no escape characters but those of its own colours, since `printable` took all others.
    """
    text = html.escape(as_text(packet, Layout(colour=True)))
    return f'<pre style="tab-size: 4">{_SGR.sub(_span, text)}</pre>'


def _span(found: re.Match[str]) -> str:
    return f'<span style="{_STYLES[found[1]]}">{found[2]}</span>'
