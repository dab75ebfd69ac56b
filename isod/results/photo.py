"""A photograph as a part of a page."""

from __future__ import annotations

import base64
import io

from PIL import Image


def jpeg_uri(picture: Image.Image, quality: int) -> str:
    """Return a picture as a data: URI of a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
