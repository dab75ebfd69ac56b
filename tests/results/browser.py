"""Headless Chromium, where it is installed."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def dump_dom(url, *, width=1280, height=900, milliseconds=5000):
    """The page's HTML after its scripts have had that much of the browser's own time."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}",
                   f"--virtual-time-budget={milliseconds}", "--dump-dom", url]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def widths_of(page, folder, width):
    """(width that the page needs, width that it has) in a frame ``width`` pixels wide, which a window cannot be."""
    tell = "<script>addEventListener('load', () => parent.postMessage(document.documentElement.scrollWidth + ' ' + document.documentElement.clientWidth, '*'))</script>"  # noqa: E501
    (Path(folder) / "told.html").write_text(page.read_text(encoding="utf-8").replace("</body>", tell + "</body>"))
    frame = Path(folder) / f"frame-{width}.html"
    frame.write_text(
        "<body><script>addEventListener('message', e => document.body.dataset.widths = e.data)</script>"
        f'<iframe src="told.html" style="width: {width}px; height: 900px; border: 0"></iframe></body>'
    )
    dom = dump_dom(frame.as_uri(), width=width + 100)
    assert "data-widths=" in dom, dom[:500]
    return tuple(map(int, dom.split('data-widths="')[1].split('"')[0].split()))
