"""Debian's chromium without a window, driven over the DevTools protocol, and `mlflow server`.

The protocol's messages go through two pipes: no driver program, no websocket library, no open port.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for found in map(shutil.which, _NAMES) if found), None)
# A busy machine takes minutes; nothing waits longer than it must.
PATIENCE = 240.0

# Whoever opens MLflow for the first time meets a chat beside the page, and its menu for prompts.
_AS_A_REGULAR_READER = """try {
    localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    localStorage.setItem("mlflow.workflowType_v1", JSON.stringify("machine_learning"));
} catch {}"""


class Browser:
    """One headless page."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        self._log = (folder / "chromium.log").open("w")
        options = [
            "--headless",
            "--no-sandbox",  # which root cannot have, and a container may not
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={folder / 'profile'}",
            "--remote-debugging-pipe",  # reads file descriptor 3, writes 4
        ]
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2', "sh", CHROMIUM, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
        )
        self._number = 0
        self._unread = b""
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=_AS_A_REGULAR_READER)
        self.size(1600, 1000)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Returns what the browser answers to one command."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:  # the rest are events
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def size(self, width: int, height: int) -> None:
        """Of the window, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str) -> None:
        """Loads a page afresh, whatever differs behind its #."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """Returns what a reader of the page sees."""
        return str(self.value("document.body ? document.body.innerText : ''"))

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        # Before there is anything to look at, looking fails.
        asked = f"(() => {{ try {{ return !!({condition}); }} catch {{ return false; }} }})()"
        while not self.value(asked):
            assert time.monotonic() < end, f"{condition} is not so on:\n{self.text()}"
            time.sleep(0.2)

    def press(self, selector: str) -> None:
        """Presses the left button over the first element that a CSS selector finds."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.wait(element)
        x, y = self.value(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path) -> Path:
        """Saves what is seen as a PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def close(self) -> None:
        """Ends it, and everything it started."""
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(timeout=30)
        finally:
            self._process.kill()
            for stream in (self._process.stdin, self._process.stdout, self._log):
                assert stream is not None
                stream.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
            data = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            assert data, f"chromium says nothing: {Path(self._log.name).read_text()}"
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yields a headless browser."""
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian: chromium-headless-shell)")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
