"""Chromium for tests: a page opened as a user opens it, driven by the DevTools protocol over a pipe.

Messages are JSON, each with a zero byte behind it; Chromium reads descriptor 3 and writes descriptor 4.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PROGRAM = shutil.which("chromium")
_WAIT_S = 60
_TROUBLE = (
    "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Audits.issueAdded",
)  # fmt: skip
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--force-color-profile=srgb", "--hide-scrollbars",
)  # fmt: skip


class Chromium:
    """A browser; a context manager."""

    def __enter__(self):
        self._files = contextlib.ExitStack()
        self._home = self._files.enter_context(
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        )
        theirs, self._to = os.pipe()
        self._from, their_out = os.pipe()
        command = [PROGRAM, *_OPTIONS, f"--user-data-dir={self._home}", "about:blank"]

        def descriptors():
            os.dup2(os.dup(theirs), 3)
            os.dup2(os.dup(their_out), 4)

        # High numbers, so that neither is 3 or 4 before the other is in its place.
        theirs, their_out = (_high(one) for one in (theirs, their_out))
        self._process = subprocess.Popen(
            command, preexec_fn=descriptors, close_fds=False,  # noqa: PLW1509
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": self._home},
        )  # fmt: skip
        os.close(theirs)
        os.close(their_out)
        self._number = 0
        self._rest = b""
        self._messages = []
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self.ask("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._files.close()

    def ask(self, method, session=None, **parameters):
        """Send a command; its answer."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        _write(self._to, json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda one: one.get("id") == number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def wait(self, wanted):
        """The next message that is wanted; all others are kept (`told`)."""
        until = time.monotonic() + _WAIT_S
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                message = json.loads(line)
                if wanted(message):
                    return message
                self._messages.append(message)
            left = until - time.monotonic()
            assert left > 0, "chromium does not answer"
            if select.select([self._from], [], [], left)[0]:
                data = os.read(self._from, 1 << 20)
                assert data, "chromium ended"
                self._rest += data

    def told(self, method, session):
        """What came of a kind of event, for a page."""
        return [
            one["params"]
            for one in self._messages
            if one.get("method") == method and one.get("sessionId") == session
        ]

    def open(self, address, *, dark=False, width=1280, height=900):
        """A page, once its script has run."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, address, dark=dark, size=(width, height))


class Page:
    """A page, and what went wrong in it."""

    def __init__(self, browser, session, address, *, dark, size):
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.ask(f"{domain}.enable")
        width, height = size
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme, motion])
        self.address = address
        self.ask("Page.navigate", url=address)
        self._browser.wait(
            lambda one: (
                one.get("method") == "Page.loadEventFired" and one.get("sessionId") == session
            )
        )

    def ask(self, method, **parameters):
        """Of this page."""
        return self._browser.ask(method, self._session, **parameters)

    def run(self, expression):
        """The value of an expression of JavaScript."""
        found = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key):
        """A key, as a user presses it."""
        codes = {"Enter": 13, "Tab": 9}
        more = {"text": "\r"} if key == "Enter" else {}
        more["windowsVirtualKeyCode"] = codes[key]
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                **more,
            )

    def type(self, text):
        """Into what has the focus."""
        self.ask("Input.insertText", text=text)

    def click(self, selector):
        """The middle of an element, with the mouse."""
        where = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        x, y = where
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def wrong(self):
        """What a page that is alone and whole has none of: requests, errors, violations of its policy."""
        self.run("1")
        found = [
            f"request: {one['request']['url']}"
            for one in self._browser.told("Network.requestWillBeSent", self._session)
            if one["request"]["url"] != self.address
        ]
        for kind in (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Audits.issueAdded",
        ):
            found += [
                f"{kind}: {json.dumps(one)}" for one in self._browser.told(kind, self._session)
            ]
        found += [
            f"left: {one['frame']['url']}"
            for one in self._browser.told("Page.frameNavigated", self._session)
            if one["frame"]["url"] not in (self.address, "about:blank")
        ]
        return found

    def picture(self, path, *, whole=True):
        """A PNG of it."""
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(data["data"]))


def _high(descriptor):
    """The same file under a number that is in nobody's way."""
    import fcntl

    found = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(descriptor)
    return found


def _write(descriptor, data):
    while data:
        data = data[os.write(descriptor, data) :]
