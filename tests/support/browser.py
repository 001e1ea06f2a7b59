"""A real browser without a window, steered through WebDriver: what it draws, complains of and fetches."""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import urllib.request

import pytest

_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--window-size=1100,2000",
    "--disable-dev-shm-usage",
]


@functools.cache
def missing():
    """Why there is no browser, or None."""
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        return "there is no chromium"
    return None if shutil.which("chromedriver") else "there is no chromedriver"


def need_browser():
    """Skip the calling test where there is none, or fail where PYCONVNET_REQUIRE asks for it."""
    reason = missing()
    if reason is None:
        return
    if "browser" in os.environ.get("PYCONVNET_REQUIRE", ""):
        pytest.fail(f"PYCONVNET_REQUIRE asks for a browser, but {reason}")
    pytest.skip(f"{reason}; on Debian: apt-get install chromium chromium-driver")


class Browser:
    def __init__(self, base):
        self._base = base
        options = {"binary": shutil.which("chromium") or shutil.which("google-chrome"), "args": _FLAGS}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{made['sessionId']}"

    def _call(self, method, path, content=None):
        data = None if content is None else json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._base + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url):
        """Load a page, and forget what was logged before."""
        self.log("browser")
        self.log("performance")
        self._call("POST", "/url", {"url": url})

    def log(self, kind):
        return self._call("POST", "/se/log", {"type": kind})

    def console(self):
        """What the page's console says: errors, warnings and all else."""
        return [entry["message"] for entry in self.log("browser")]

    def requests(self):
        """All addresses asked for."""
        told = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [m["params"]["request"]["url"] for m in told if m["method"] == "Network.requestWillBeSent"]
        return sent

    def run(self, script):
        """The value of a JavaScript expression in the page."""
        return self._call("POST", "/execute/sync", {"script": f"return {script}", "args": []})

    def close(self):
        self._call("DELETE", "")


@contextlib.contextmanager
def browser():
    """A browser of its own, with a profile that is thrown away."""
    with tempfile.TemporaryDirectory() as home:
        process = subprocess.Popen(
            ["chromedriver", "--port=0"],
            env={**os.environ, "HOME": home},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            port = None
            for line in process.stdout:
                if found := re.search(r"started successfully on port (\d+)", line):
                    port = found[1]
                    break
            assert port, "chromedriver did not start"
            page = Browser(f"http://127.0.0.1:{port}")
            try:
                yield page
            finally:
                page.close()
        finally:
            process.terminate()
            process.communicate(timeout=30)
