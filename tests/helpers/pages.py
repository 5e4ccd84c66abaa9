"""HTML pages as tests see them: parsed, and opened in a Chromium."""

import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import pytest

VOID = {"meta", "img", "source", "br", "input"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason=f"needs a browser on PATH: one of {', '.join(BROWSERS)}")
ITS_OWN = re.compile(r"https?://([^/]*\.)?(google|googleapis|gvt1)\.com/")  # what the browser itself asks for


class Page(HTMLParser):
    """Tags that are open, the text, as one and in pieces, attributes, of all and by element, and what is in scripts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.said, self.attributes, self.tags = [], "", [], Counter()
        self.elements, self.scripts, self.pieces, self.text = [], [], [], text
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        else:
            self.said += "" if self.open[-1:] == ["style"] else data
            self.pieces.append(data)

    def outside(self):
        """What the page would take from outside of itself."""
        sources = [value for name, value in self.attributes if name in {"src", "srcset", "href", "xlink:href"}]
        found = [value for value in sources if not value.startswith(("data:image/", "#"))]
        found += [tag for tag in ("link", "iframe", "object", "base") if self.tags[tag]]
        return found + re.findall(r"@import|url\((?!#)", self.text)

    def of(self, tag):
        """The attributes of each element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


class Opened(Page):
    """A page after its scripts ran. console: what they logged. requests: addresses that it asked for."""

    def __init__(self, text, console, requests):
        super().__init__(text)
        self.console, self.requests = console, requests


def opened(path, state="", driver=""):
    """A page in the browser. state: behind the address's #. driver: a script that uses it, which the page's own policy
    would not let in."""
    folder = path.parent / ".browser"
    folder.mkdir(exist_ok=True)
    if driver:
        text = re.sub(r"<meta http-equiv=.*?>", "", path.read_text())
        path = folder / "driven.html"
        path.write_text(text.replace("</body>", f"<script>{driver}</script></body>"))
    log = folder / "requests.json"
    quiet = ("no-first-run", "disable-gpu", "disable-background-networking", "disable-component-update")
    options = (*quiet, "headless", "no-sandbox", "dump-dom", "enable-logging=stderr", "virtual-time-budget=5000",
               "proxy-server=127.0.0.1:9", f"user-data-dir={folder / 'profile'}", f"log-net-log={log}")  # fmt: skip
    command = [BROWSER, *(f"--{option}" for option in options), f"file://{path}#{state}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    console = re.findall(r"CONSOLE.*?\] (.*)", ran.stderr)
    asked = {
        event["params"]["url"] for event in json.loads(log.read_text())["events"] if "url" in event.get("params", {})
    }
    return Opened(ran.stdout, console, sorted(url for url in asked if not ITS_OWN.match(url)))
