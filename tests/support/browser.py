"""A real headless browser, and what a script in a page has to tell."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser on PATH: {', '.join(BROWSERS)}")

WATCH = """<head><script>
window.failures = [];
window.onerror = (text) => { window.failures.push(String(text)); };
window.alert = (text) => { window.failures.push("alert: " + text); };
document.addEventListener("securitypolicyviolation", (event) => { window.failures.push(event.violatedDirective); });
</script>"""
"""Put first, so that it sees the page's own scripts fail and the texts' scripts run."""


def browse(page: str, report: str, folder: Path) -> Any:
    """Open a copy of a page in which `report`, a script, writes JSON into `<pre id="found">`; return it, read."""
    copy = folder / "copy.html"
    assert page.count("<head>") == 1
    assert page.count("\n</body>") == 1
    copy.write_text(page.replace("<head>", WATCH).replace("\n</body>", report), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [str(BROWSER), *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    written = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert written, done.stderr[-2000:]
    return json.loads(html.unescape(written[1]))
