"""A figure as the page shows it: an SVG that is part of the page."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

PIXELS_PER_INCH = (57, 125)  # of the figure's own width: below the first it scrolls, above the second it does not grow
RASTER_DPI = 150  # of the binned parts; the rest are lines


@dataclass(frozen=True)
class Picture:
    """A figure's SVG, and the widths at which it can be read."""

    source: str  # data: URI of the SVG
    min_width: int  # pixels below which it scrolls instead of shrinking
    max_width: int  # pixels above which it does not grow


def picture_of(figure: Figure) -> Picture:
    """Return the figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "isod"}):
        figure.savefig(buffer, format="svg", dpi=RASTER_DPI, metadata={"Date": None})
    source = "data:image/svg+xml;base64," + base64.b64encode(_rounded(buffer.getvalue())).decode()
    narrow, wide = (round(pixels * figure.get_figwidth()) for pixels in PIXELS_PER_INCH)
    return Picture(source, min_width=narrow, max_width=wide)


def _rounded(svg: bytes) -> bytes:
    """Cut path coordinates to a hundredth of a point: matplotlib writes a millionth, which is half of the file."""
    return re.sub(rb'\bd="[^"]*"', lambda path: re.sub(rb"(?<=\.\d\d)\d+", b"", path[0]), svg)
