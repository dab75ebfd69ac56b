"""Where frames come from, and what is none."""

import numpy as np
import pytest

from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.inference.sources import Broken, _names_of, open_sources
from tests.inference.blobs import picture


def names(*words):
    return [(item.name, item.image_id) for item in open_sources([str(word) for word in words]).frames(Broken())]


def test_files_and_folders_are_read_in_order(tmp_path):
    for name in ("b/2.png", "b/deep/1.png", "b/10.png", "a/2.png", "2.bmp"):
        picture(tmp_path / name, (8, 8))
    (tmp_path / "b/notes.txt").write_text("no image")
    assert names(tmp_path / "b") == [("10", 1), ("2", 2), ("deep/1", 3)]
    assert names(tmp_path / "2.bmp", tmp_path / "a", tmp_path / "b/2.png") == [("2", 1), ("2-2", 2), ("2-3", 3)]
    files = [item.file_name for item in open_sources([str(tmp_path / "b")]).frames(Broken())]
    assert files == ["10.png", "2.png", "deep/1.png"]
    with pytest.raises(InputError, match="is no crop store, whose parts --split names"):
        open_sources([str(tmp_path / "b")], split="train")


def test_frames_of_a_store_or_json_have_names_of_their_own():
    ids = ["frame.0001", "frame.0002", "d/a.jpg", "d/a.png", "../d/b.PNG", "frame.0002"]
    assert _names_of(ids) == dict(
        zip(ids, ["frame.0001", "frame.0002", "d/a", "d/a-2", "d/b", "frame.0002"], strict=True)
    )


def test_a_store_gives_its_crops_with_their_objects(tiny_store):
    split = CropStore.open(tiny_store).split("val")
    items = list(open_sources([tiny_store]).frames(Broken()))
    crops = split.read(range(len(split)))
    assert len(items) == len(split) == 16
    for item, image, row in zip(items, crops.images, range(16), strict=True):
        np.testing.assert_array_equal(item.frame.image.pixels, image)
        assert item.truth.boxes.tolist() == crops.objects.of(row)[0].tolist()
    assert len(open_sources([tiny_store], split="train")) == 64


def test_what_is_no_source_is_a_sentence(tmp_path, tiny_store):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no image")
    picture(tmp_path / "a.png", (8, 8))
    for words, message in (
        (["nothing.jpg"], "the source nothing.jpg does not exist"),
        ([str(tmp_path / "empty")], "holds no image: isod reads .jpg"),
        ([tiny_store, str(tmp_path / "a.png")], "is a crop store: predict on it alone"),
    ):
        with pytest.raises(InputError, match=message):
            open_sources(words)


def write_clip(path, values=(0, 40, 80, 120, 160), codec="ffv1", pixels="bgr0", left=None):
    """Grey frames of 32 × 16 pixels, by default lossless; ``left`` is the grey of their left half."""
    path.parent.mkdir(exist_ok=True)
    av = pytest.importorskip("av", reason="the extra video is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=5, width=32, height=16, pix_fmt=pixels)
        for value in values:
            frame = np.full((16, 32, 3), value, np.uint8)
            frame[:, :16] = value if left is None else left
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_videos_and_images_of_one_name_have_results_of_their_own(tmp_path):
    words = [write_clip(tmp_path / folder / "clip.mkv", (0, 40)) for folder in ("one", "two")]
    picture(tmp_path / "images/clip/000001.png", (8, 8))
    (tmp_path / "images/broken.png").write_bytes(b"no picture")
    assert names(*words) == [("clip/000001", 1), ("clip/000002", 2), ("clip-2/000001", 3), ("clip-2/000002", 4)]
    found = names(*words, tmp_path / "images")
    assert len({name for name, _ in found}) == len(found) == 5
    assert [number for _, number in found] == [2, 3, 4, 5, 6]  # the broken picture is number 1


def test_a_video_is_turned_as_its_display_matrix_says(tmp_path):
    """A quarter clockwise: its left half, black, is shown at the top."""
    path = write_clip(tmp_path / "clip.mp4", (200,), "mpeg4", "yuv420p", left=0)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version and flags, then 9 words, then the matrix
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 16 << 16, 0, 1 << 30)
    content[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content)
    (item,) = open_sources([str(path)]).frames(Broken())
    pixels = item.frame.image.pixels
    assert pixels.shape == (32, 16, 3)
    assert pixels[:12].mean() < 20
    assert pixels[20:].mean() > 180
    (item,) = open_sources([str(path)]).frames(Broken(), exif="ignore")
    assert item.frame.image.pixels.shape == (16, 32, 3)


def test_a_video_frame_by_frame(tmp_path):
    """Five grey frames in a lossless codec; then a file that is none, and one that is cut short."""
    path = write_clip(tmp_path / "clip.mkv")
    source = open_sources([str(path)])
    items = list(source.frames(Broken()))
    assert len(source) in (0, 5)  # a container need not know
    assert [item.name for item in items] == [f"clip/{n:06d}" for n in range(1, 6)]
    assert [np.unique(item.frame.image.pixels).tolist() for item in items] == [[0], [40], [80], [120], [160]]
    path.write_bytes(b"no video")
    with pytest.raises(InputError, match="is not a video that can be read"):
        len(open_sources([str(path)]))
