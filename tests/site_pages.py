"""What the pages of the site load, and where their links lead."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

_LOADING = {"src", "srcset", "data", "poster", "background", "xlink:href"}
_GOING = {"a", "area"}  # elements whose href loads nothing
# Relations of <link> that name a page and load nothing; browsers may load it ahead, so it is to be ours
_IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""")


@dataclass
class Page(HTMLParser):
    """A page of HTML, or a picture: ``loads``: what it loads; ``links``: where it leads; ``anchors``."""

    text: str
    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self):
        super().__init__()
        self._style = False
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        """Ids, links, and all that is loaded."""
        self._style = tag == "style"
        for name, value in attrs:
            if not value:
                continue
            if name in {"id", "name"}:
                self.anchors.add(value)
            elif name == "srcset":
                self.loads += [one.split()[0] for one in value.split(",")]
            elif name == "href" and tag in _GOING:
                self.links.append(value)
            elif name in _LOADING or name == "href":
                self.loads.append(value)
            elif name == "style":
                self.loads += in_style(value)
            elif tag == "meta" and name == "content" and "url=" in value:
                self.loads.append(value.partition("url=")[2])

    def handle_endtag(self, _):
        """What follows is no style."""
        self._style = False

    def handle_data(self, data):
        """What a style within the page loads."""
        if self._style:
            self.loads += in_style(data)


def in_style(text):
    """What a sheet of style loads; not what it has within itself."""
    return [one for one in _IN_STYLE.findall(text) if not one.startswith(("data:", "#"))]


def is_outer(address):
    """Whether it leads to another host."""
    parts = urlsplit(address)
    return bool(parts.scheme or parts.netloc)


def target(file, address):
    """The file and the anchor that a relative address means, seen from a file."""
    parts = urlsplit(address)
    found = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    return found / "index.html" if found.is_dir() else found, unquote(parts.fragment)
