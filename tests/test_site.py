"""The site of the documentation: it loads nothing from elsewhere, and its links lead somewhere."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import documents
import pytest
import site_pages
from chromium import PROGRAM, Chromium

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Where its links may lead to: the sources of what it says, and who made the generator.
HOSTS = {
    "docs.docker.com", "firewalld.org", "github.com", "man7.org", "pradyunsg.me", "retis.readthedocs.io",
    "wiki.nftables.org", "www.batfish.org", "www.kernel.org", "www.netfilter.org", "www.sphinx-doc.org",
}  # fmt: skip
SCENES = {  # of the animation: time in s, what is seen then
    0.1: ("scene1", "cursor1"),
    4: ("scene1", "output1"),
    9.1: ("scene2", "cursor2"),
    13: ("scene2", "output2"),
    26.9: ("scene3", "output3"),
}


def without_network():
    """What a program is started with so that it finds none; nothing where that is not allowed."""
    command = ["unshare", "--map-root-user", "--net"]
    allowed = (
        shutil.which("unshare")
        and not subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    )
    return command if allowed else []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, as make site builds it."""
    to = tmp_path_factory.mktemp("site")
    build = ["-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", DOCS, to]
    made = subprocess.run(
        [*without_network(), sys.executable, *build], capture_output=True, text=True, check=False
    )
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    return to


@functools.cache
def read(file):
    """A page, or a picture."""
    return site_pages.Page(file.read_text())


def pages(site):
    """All of HTML, but for what belongs to the theme."""
    return sorted(one for one in site.rglob("*.html") if "_static" not in one.parts)


def test_every_page_is_there(site):
    """Of each source one, in the tree of the front page."""
    sources = {one.relative_to(DOCS).with_suffix("") for one in DOCS.rglob("*.md")}
    made = {one.relative_to(site).with_suffix("") for one in pages(site)}
    assert sources <= made
    front = {
        site_pages.target(site / "index.html", one)[0] for one in read(site / "index.html").links
    }
    assert {site / f"{one}.html" for one in sources} <= front


def test_it_loads_nothing_from_elsewhere(site):
    """No script, style, font, picture; what it loads is there."""
    loads = [
        (file, one)
        for file in (*pages(site), *site.rglob("*.svg"))
        for one in read(file).loads
        if not one.startswith("data:")
    ]
    loads += [
        (file, one) for file in site.rglob("*.css") for one in site_pages.in_style(file.read_text())
    ]
    assert len(loads) > 100
    assert [one for one in loads if site_pages.is_outer(one[1])] == []
    assert [one for one in loads if not site_pages.target(*one)[0].exists()] == []


def test_inner_links_lead_somewhere(site):
    """To a file that is there, and an anchor within it."""
    broken = []
    for file in pages(site):
        inner = [one for one in read(file).links if not site_pages.is_outer(one)]
        for link in inner:
            to, anchor = site_pages.target(file, link)
            if not to.exists() or (anchor and anchor not in read(to).anchors):
                broken.append((file.name, link))
    assert broken == []


def test_outer_links(site):
    """They are https, to few hosts."""
    outer = {one for file in pages(site) for one in read(file).links if site_pages.is_outer(one)}
    assert {one for one in outer if not one.startswith("https://")} == set()
    assert {urlsplit(one).netloc for one in outer} <= HOSTS
    assert len(outer) > 10


def test_no_link_of_a_page_leads_into_the_void():
    """Of those that are read in the repository, too: README and its like name files that are there."""
    parser = documents.MarkdownIt().enable("table")
    broken = [
        (page.name, link)
        for page in documents.PAGES
        for link in site_pages.Page(parser.render(page.read_text())).links
        if not site_pages.is_outer(link) and not site_pages.target(page, link)[0].exists()
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("text", "loads", "links"),
    [
        ('<script src="https://x.org/a.js"></script>', ["https://x.org/a.js"], []),
        ('<link rel="stylesheet" href="//x.org/a.css">', ["//x.org/a.css"], []),
        ('<img srcset="a.png 1x, http://x.org/b.png 2x">', ["a.png", "http://x.org/b.png"], []),
        ("<style>@import 'https://x.org/a'; b { c: url(d) }</style>", ["https://x.org/a", "d"], []),
        ('<p style="background: url(https://x.org/b)">', ["https://x.org/b"], []),
        ('<meta http-equiv="refresh" content="0; url=https://x.org/">', ["https://x.org/"], []),
        ('<image href="https://x.org/a"/><use xlink:href="b"/>', ["https://x.org/a", "b"], []),
        ('<a href="http://x.org/">x</a> url(z)', [], ["http://x.org/"]),
    ],
)  # fmt: skip
def test_what_a_page_loads_is_seen(text, loads, links):
    """Each way in which it may be."""
    page = site_pages.Page(text)
    assert (page.loads, page.links) == (loads, links)
    assert any(map(site_pages.is_outer, [*loads, *links]))


def test_help_is_that_of_the_commands(site):
    """Each command has its section, with all its options."""
    text = (site / "help.html").read_text()
    for name, _ in documents.commands():
        assert f'id="iptrec-{name.replace(" ", "-")}"' in text
    assert "--stop-on EXPR" in text


def test_the_animation_is_that_of_today(tmp_path):
    """It is what the commands print: make pictures."""
    made = tmp_path / "terminal.svg"
    subprocess.run([sys.executable, ROOT / "tools/animation", made], check=True)
    assert made.read_text() == (DOCS / "terminal.svg").read_text(), "run make pictures"


@pytest.fixture(scope="module")
def chromium():
    if PROGRAM is None:
        pytest.skip("chromium: not installed")
    with Chromium() as browser:
        yield browser


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Does not tell what it is asked for."""

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="module")
def served(site):
    """Where the site is, as a server of this host has it."""
    made = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["index.html", "search.html?q=ring", "help.html"])
def test_it_asks_nobody(served, chromium, name):
    """In a browser: all that is asked for is a file of it, or in the page itself, and nothing goes wrong."""
    page = chromium.open(served + name)
    if "search" in name:
        found = "document.querySelectorAll('#search-results li').length"
        page.run(
            f"new Promise(done => {{ const wait = () => {found} ? done() : setTimeout(wait, 50); wait(); }})"
        )
    asked = [one.removeprefix("request: ") for one in page.wrong()]
    assert asked
    assert [one for one in asked if not one.startswith((served, "data:"))] == []


@pytest.mark.parametrize("width", [360, 1280])
def test_it_is_as_wide_as_the_window(site, chromium, width):
    """Long lines are moved within their block, not the page."""
    for name in ("index", "reading", "comparison", "limits"):
        page = chromium.open(f"{site.as_uri()}/{name}.html", width=width)
        assert page.run("document.documentElement.scrollWidth") <= width, name


def test_the_animation_moves(chromium):
    """One scene at a time: the command is typed, then its output stands; without motion the first one."""
    page = chromium.open((DOCS / "terminal.svg").as_uri())
    seen = (
        "['scene', 'cursor', 'output'].flatMap(one => [1, 2, 3].map(at => one + at)).filter(name =>"
        " getComputedStyle(document.getElementById(name)).visibility == 'visible')"
    )
    assert page.run(seen) == ["scene1", "output1"]
    page.ask(
        "Emulation.setEmulatedMedia",
        features=[{"name": "prefers-reduced-motion", "value": "no-preference"}],
    )
    for time_s, expected in SCENES.items():
        page.run(
            "document.getAnimations().forEach(one => { one.pause();"
            f" one.currentTime = {1000 * time_s}; }})"
        )
        assert tuple(page.run(seen)) == expected, time_s
