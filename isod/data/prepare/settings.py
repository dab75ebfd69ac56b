"""The settings of a prepare job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from isod.data.prepare.region import Region
from isod.errors import require
from isod.files import MAX_PIXELS

MAX_TILES = 1024  # per frame
Exif = Literal["auto", "apply", "ignore"]  # what decides whether a picture is turned as its orientation tag says
EXIF: tuple[Exif, ...] = ("auto", "apply", "ignore")


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How a frame becomes crops: it is cut first, then resized."""

    roi: Region | None = None  # region of interest, full-image pixels; None: the whole image
    tiles: tuple[int, int] | None = None  # (columns, rows) of crops that the region, or the whole image, is cut into
    resize: tuple[int, int] | None = None  # (width, height) that each crop becomes, so each tile where there are tiles
    min_visible: float = 0.25  # an object stays in a crop if this share of its box's area lies in it
    jpeg_quality: int = 95  # 1…100, where a crop has to be encoded again
    exif: Exif = "auto"  # whether a picture's orientation tag turns it; see ``decode_image``
    lenient: bool = False  # whether a damaged JPEG is kept as far as it decodes
    chunk_frames: int | None = None  # frames per unit of work that is redone after an interruption; None: by size

    def __post_init__(self) -> None:
        if self.tiles is not None:
            require(min(self.tiles) >= 1 and self.tiles_per_frame <= MAX_TILES,
                    f"tiles is COLUMNS ROWS, both ≥ 1 and {MAX_TILES} tiles at most", self.tiles)  # fmt: skip
            if self.roi is not None:
                self.roi.tiles(*self.tiles)  # rejects more tiles than pixels
        if self.resize is not None:
            require(min(self.resize) >= 1, "resize is W H, both ≥ 1 pixel", self.resize)
            require(self.resize[0] * self.resize[1] <= MAX_PIXELS, f"resize makes at most {MAX_PIXELS} pixels",
                    self.resize)  # fmt: skip
        require(0 <= self.min_visible <= 1, "min_visible must be in [0, 1]", self.min_visible)
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality must be in 1…100", self.jpeg_quality)
        require(self.exif in EXIF, f"exif must be one of {', '.join(EXIF)}", self.exif)
        require(self.chunk_frames is None or self.chunk_frames >= 1, "chunk_frames must be ≥ 1", self.chunk_frames)

    @property
    def tiles_per_frame(self) -> int:
        """Number of rows in the store for each frame."""
        return 1 if self.tiles is None else self.tiles[0] * self.tiles[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON can hold, without chunk_frames, which does not change the store."""
        roi = self.roi
        return {
            "roi": None if roi is None else [roi.x0, roi.y0, roi.x1, roi.y1],
            "tiles": None if self.tiles_per_frame == 1 else list(self.tiles or ()),
            "resize": None if self.resize is None else list(self.resize),
            "min_visible": self.min_visible,
            "jpeg_quality": self.jpeg_quality,
            # not in the stores of an earlier isod, which can still be resumed
            **({} if self.exif == "auto" else {"exif": self.exif}),
            **({"lenient": True} if self.lenient else {}),
        }
