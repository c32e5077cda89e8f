"""A headless Chromium, driven by its DevTools protocol through a pipe, which needs no port and no library."""

from __future__ import annotations

import base64
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres.debian import unpacked

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
PATIENCE = 30


def _program() -> tuple[str, str]:
    """Return the program and the directories of its libraries, from this machine or from Debian's packages."""
    if found := next(filter(None, map(shutil.which, PROGRAMS)), None):
        return found, ""
    tree = unpacked("chromium", re.compile("chromium-headless-shell"), dependencies=True)
    if tree is None:
        pytest.fail("Chromium is not installed, and its Debian packages cannot be fetched")
    libraries = {str(path.parent) for path in tree.glob("usr/lib/*/**/*.so*")}
    return str(tree / "usr/lib/chromium/chromium-headless-shell"), os.pathsep.join(libraries)


class Refused(Exception):
    """The browser cannot do what it is told, such as while it goes to another page."""


class Browser:
    """One tab. Commands are objects that end with a zero byte, and so are replies and events."""

    def __init__(self, commands: int, replies: int) -> None:
        self._commands = commands
        self._replies = replies
        self._buffer = b""
        self._last = 0
        # What the page has told of errors: exceptions, messages of the console, and what was not loaded.
        self.errors: list[str] = []
        # Without one, a command is for the browser and not for its tab.
        self._session: str | None = None
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command to the tab, and return its result. Raises Refused; fails when it takes half a minute."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (reply := self._read()).get("id") != self._last:
            pass
        if "error" in reply:
            raise Refused(f"{method}: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._replies], [], [], PATIENCE)[0]:
                pytest.fail("the browser does not reply")
            if not (part := os.read(self._replies, 1 << 16)):
                pytest.fail("the browser has ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, event: dict[str, Any]) -> None:
        """Keep an event that tells of an error."""
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["exceptionDetails"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(event["args"]))

    def close(self) -> None:
        """End the browser."""
        self._session = None
        self.command("Browser.close")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression on the page."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            pytest.fail(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Open a page, and wait until it has loaded, in place of one that may have the same address."""
        self.evaluate("window.isLeft = true")
        self.command("Page.navigate", url=url)
        self.wait("!window.isLeft && document.readyState == 'complete'")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript condition holds on the page, whichever that is by then."""
        deadline = time.monotonic() + PATIENCE
        while not self._holds(condition):
            if time.monotonic() > deadline:
                pytest.fail(f"never true: {condition}; the page says:\n{self.evaluate('document.body.innerText')}")
            time.sleep(0.02)

    def _holds(self, condition: str) -> bool:
        try:
            return bool(self.evaluate(condition))
        except Refused:
            return False

    def type(self, selector: str, text: str) -> None:
        """Replace the text of a field by keys that a person would press."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self.command("Input.insertText", text=text)

    def size(self, width: int, height: int = 900) -> None:
        """Give the tab a size."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def prefer(self, scheme: str) -> None:
        """Prefer ``light`` or ``dark`` colours."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, key: str, code: int) -> None:
        """Press a key, and release it."""
        for kind in ("rawKeyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def awaited(self, expression: str) -> Any:
        """Return what a promise of the page becomes."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            pytest.fail(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def screenshot(self) -> bytes:
        """Return what the tab shows, as PNG."""
        data: str = self.command("Page.captureScreenshot", format="png")["data"]
        return base64.b64decode(data)

    def click(self, selector: str, count: int = 1) -> None:
        """Press the mouse in the middle of an element, and release it; twice in a double click."""
        box = "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        x, y = self.evaluate(f"{box}(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        for n in range(1, count + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=n)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, which ends with the context."""
    program, libraries = _program()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgq-", ignore_cleanup_errors=True))
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        for end in (our_in, our_out):
            stack.callback(os.close, end)
        log = stack.enter_context((Path(directory) / "log").open("wb"))
        # The protocol is spoken on descriptors 3 and 4. Not every sh can copy those above 9.
        process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{their_in} 4>&{their_out}', "bash", program, *_options(directory)],
            env={"PATH": os.defpath, "HOME": directory, "LD_LIBRARY_PATH": libraries},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[their_in, their_out],
        )
        for end in (their_in, their_out):
            os.close(end)
        stack.callback(process.wait)
        stack.callback(process.kill)
        tab = Browser(our_out, our_in)
        yield tab
        # Killed, it would leave its children behind.
        tab.close()
        process.wait(PATIENCE)


def _options(directory: str) -> list[str]:
    """Return the options: nothing outside is called, and no sandbox, which root and many containers lack."""
    options = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking")
    return [f"--{name}" for name in (*options, "remote-debugging-pipe", f"user-data-dir={directory}")]
