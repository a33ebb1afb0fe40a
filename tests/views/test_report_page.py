"""The page of ``iptrec report`` in Chromium, as a user opens it: from a file, with mouse and keys."""

from __future__ import annotations

from pathlib import Path

import chromium
import pytest
from command import iptrec
from hostile_names import HOSTILE, hostile_recording

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
pytestmark = pytest.mark.skipif(
    chromium.PROGRAM is None, reason="no chromium here (Debian: apt-get install chromium)"
)
SHOWN = (
    "[...document.querySelectorAll('#packets tbody tr.choice')].filter((one) => !one.hidden).length"
)
LIT = "[...document.querySelectorAll('#chart .lit.station')].map((one) => one.textContent)"
MADE, ELSEWHERE = "document.head.append(Object.assign(document.createElement", "http://127.0.0.1:9/"
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
REFUSED = """new Promise((done) => {
  document.addEventListener('securitypolicyviolation', (one) => done(one.effectiveDirective));
  const one = document.createElement('script');
  %s
  document.head.append(one);
  setTimeout(() => done('none'), 5000);
})"""


@pytest.fixture(scope="module")
def browser():
    with chromium.Chromium() as found:
        yield found


def opened(browser, path, tmp_path, **look):
    """The page of a recording."""
    output = tmp_path / "report.html"
    assert iptrec("report", "-q", path, "-o", output, "--force").returncode == 0
    page = browser.open(f"file://{output}", **look)
    assert page.run("document.documentElement.dataset.ready") == "yes"
    return page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_each_sample(browser, tmp_path, path, dark):
    """It is whole, asks for nothing, breaks no rule of its policy; all packets open, and fit the page."""
    page = opened(browser, path, tmp_path, dark=dark)
    wide, there = page.run(WIDTHS)
    assert wide <= there
    count = page.run("document.querySelectorAll('#packets tbody tr.choice').length")
    for number in range(1, count + 1):
        page.run(f"document.querySelectorAll('#packets tr.choice button')[{number - 1}].click()")
        assert page.run("document.querySelectorAll('#packets tr.opened pre').length") == 2 * number
    wide, there = page.run(WIDTHS)
    assert wide <= there
    paper = page.run("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == ("rgb(20, 24, 27)" if dark else "rgb(255, 255, 255)")
    assert page.wrong() == []


def test_a_path_lights_up(browser, tmp_path):
    """By the mouse: the base chains that it passes, the one that decided last; again, and it is dark."""
    page = opened(browser, ROOT / "samples" / "docker_hairpin.db", tmp_path)
    page.click("#paths tbody button")
    assert page.run(LIT) == []  # it was lit from the beginning
    page.click("#paths tbody button")
    assert len(page.run(LIT)) == 3
    assert page.run("document.querySelector('#chart .last.bad title').textContent").startswith(
        "filter/FORWARD"
    )
    assert "DOCKER-ISOLATION-STAGE-2" in page.run(
        "document.querySelector('#way .decided').textContent"
    )
    assert page.run("document.querySelector('#way ol').lastChild.className") == "decided"
    assert page.wrong() == []


def test_a_packet_opens_by_keys(browser, tmp_path):
    """What a mouse can do the keyboard can; the reader is told what is open."""
    page = opened(browser, ROOT / "samples" / "both.db", tmp_path)
    button = "document.querySelectorAll('#packets tr.choice button')[1]"
    page.run(f"{button}.focus()")
    page.press("Enter")
    assert page.run(f"{button}.getAttribute('aria-expanded')") == "true"
    assert "Packet #2 " in page.run("document.querySelector('#packets tr.opened p').textContent")
    assert page.run("document.querySelector('#way h3').textContent").startswith("Packet 2,")
    page.press("Enter")
    assert page.run(f"{button}.getAttribute('aria-expanded')") == "false"
    assert page.run("document.querySelectorAll('#packets tr.opened').length") == 0
    assert page.wrong() == []


def test_filtering(browser, tmp_path):
    """By words, all of which must be there, and by the verdict; how many there are is told."""
    page = opened(browser, ROOT / "samples" / "both.db", tmp_path)
    assert page.run(SHOWN) == 23
    page.click("#words")
    page.type("udp 10.0.2.2")
    some = page.run(SHOWN)
    assert 0 < some < 23
    assert page.run("document.querySelector('#count').textContent") == f"{some} of 23 packets"
    page.run("document.querySelector('#verdict').value = 'DROP'")
    page.run("document.querySelector('#verdict').dispatchEvent(new Event('change'))")
    assert 0 < page.run(SHOWN) < some
    page.type(" nothing-has-this")
    assert page.run(SHOWN) == 0
    assert page.wrong() == []


def test_a_rule_leads_to_its_packet(browser, tmp_path):
    """Its first one is opened, and has the focus."""
    page = opened(browser, ROOT / "samples" / "docker_hairpin.db", tmp_path)
    page.click("#rules tr.hit button")
    assert page.run("document.activeElement.closest('section').id") == "packets"
    assert page.run("document.querySelectorAll('#packets tr.opened').length") == 1


def test_what_a_screen_reader_finds(browser, tmp_path):
    """Every section has its heading, each table its heads, each control its name, each drawing its words."""
    page = opened(browser, ROOT / "samples" / "both.db", tmp_path)
    page.ask("Accessibility.enable")
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    told = [
        (one["role"]["value"], one.get("name", {}).get("value", ""))
        for one in nodes
        if not one.get("ignored")
    ]
    nameless = [
        role
        for role, name in told
        if role in ("button", "link", "searchbox", "combobox", "image") and not name
    ]
    assert nameless == []
    headings = [name for role, name in told if role == "heading"]
    assert headings[0] == "both.db"
    assert [one for one in headings if not one.startswith(("Path ", "both"))][:5] == [
        "What was recorded",
        "Verdicts over time",
        "Way through hooks and tables",
        "Paths",
        "Packets",
    ]
    assert page.run("document.documentElement.lang") == "en"


def test_it_can_be_printed(browser, tmp_path):
    """On paper there is the same, without what only a screen can do."""
    page = opened(browser, ROOT / "samples" / "both.db", tmp_path, dark=True)
    page.ask("Emulation.setEmulatedMedia", media="print")
    assert page.run("getComputedStyle(document.querySelector('.filter')).display") == "none"
    assert (
        page.run("getComputedStyle(document.documentElement).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert page.ask("Page.printToPDF", printBackground=True)["data"].startswith("JVBERi0")


def test_losses_stand_where_they_are(browser, tmp_path):
    """Behind the bars, and between the packets; below they are told once more."""
    page = opened(browser, hostile_recording(tmp_path, "plain"), tmp_path)
    assert page.run("document.querySelector('#times .hole title').textContent").startswith(
        "3 between"
    )
    rows = page.run(
        "[...document.querySelectorAll('#packets tbody tr')].map((one) => one.className)"
    )
    assert rows == ["gap", "choice"]
    assert "3 between" in page.run("document.querySelector('#losses li').textContent")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_recordings(browser, tmp_path, text):
    """They run nothing, ask for nothing, and lead nowhere; they can be read."""
    page = opened(browser, hostile_recording(tmp_path, text), tmp_path)
    page.run("document.querySelectorAll('#packets tr.choice button').forEach((one) => one.click())")
    assert page.run("document.querySelectorAll('img, iframe, object, embed, base').length") == 0
    assert page.run("document.querySelectorAll('script').length") == 2
    assert page.run("document.title").endswith(" - iptrec report")
    wide, there = page.run(WIDTHS)
    assert wide <= there
    assert page.wrong() == []


@pytest.mark.parametrize(
    ("deed", "refused"),
    [
        ("one.textContent = 'document.title = 1';", "require-trusted-types-for"),
        (f"{MADE}('img'), {{src: '{ELSEWHERE}'}}));", "img-src"),
        (f"fetch('{ELSEWHERE}').catch(() => 0);", "connect-src"),
        (f"{MADE}('style'), {{textContent: 'a{{}}'}}));", "style-src-elem"),
    ],
    ids=["script", "image", "request", "style"],
)  # fmt: skip
def test_the_policy_holds(browser, tmp_path, deed, refused):
    """The tests above can fail: what a page may not do, the browser refuses and reports."""
    page = opened(browser, ROOT / "samples" / "ipsets.db", tmp_path)
    try:
        assert page.run(REFUSED % deed) == refused
    except AssertionError as error:
        assert "TrustedScript" in str(error), error  # noqa: PT017 - thrown in the page
    assert page.wrong() != []
