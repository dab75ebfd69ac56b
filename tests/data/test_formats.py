"""The formats that have a label file per image: the same set gives the same store, and each fault has its sentence."""

import json
import shutil

import numpy as np
import pytest

from isod.cli.main import main
from isod.data.prepare.job import prepare
from isod.data.readers import build_reader
from isod.data.readers.kitti import KittiReader
from isod.data.readers.voc import VocReader
from isod.data.readers.yolo import YoloReader
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.training.examples import labels_of
from tests.data import written_formats as written
from tests.data.written_formats import HEIGHT, WIDTH, Item

WRITERS = {
    "coco": written.write_coco,
    "yolo": written.write_yolo,
    "yolo polygons": lambda root, sets: written.write_yolo(root, sets, "polygon"),
    "voc": written.write_voc,
    "voc folders": lambda root, sets: written.write_voc(root, sets, "folders"),
    "kitti": written.write_kitti,
}


def rows(store, split):
    """Everything that a split holds, row by row."""
    crops = CropStore.open(store).split(split)
    found = crops.annotations()
    images = crops.read(range(len(crops))).images
    return [
        (frame_id, images[place].tobytes(), found.boxes[place].tolist(), found.labels[place].tolist(),
         found.dont_care[place].tolist())
        for place, frame_id in enumerate(found.frame_ids)
    ]  # fmt: skip


def prepared(tmp_path, name, sets):
    """Prepare the set as the command line does, in this process."""
    root, store = tmp_path / name.replace(" ", "-"), str(tmp_path / f"{name.replace(' ', '-')}-store")
    words = WRITERS[name](root, sets)
    assert main(["prepare", name.split()[0], *words[:1], *([] if words[1:] else [store]), *words[1:],
                 *([store] if words[1:] else [])]) == 0  # fmt: skip
    return store


@pytest.mark.parametrize("dont_care", [False, True])
def test_the_same_set_in_every_format_gives_the_same_store(tmp_path, monkeypatch, dont_care):
    monkeypatch.setattr("isod.data.prepare.job.in_processes", map)
    sets = written.made_set(dont_care=dont_care)
    names = [name for name in WRITERS if not (dont_care and name.startswith("yolo"))]  # YOLO has no don't-care
    stores = {name: prepared(tmp_path, name, sets) for name in names}
    metas = {name: CropStore.open(store).meta for name, store in stores.items()}
    for split, count in (("train", 6), ("val", 3)):
        expected = rows(stores["coco"], split)
        assert len(expected) == count
        assert expected[2][2][0] == [50, 4, WIDTH, 12]  # the one that overhangs, clipped
        assert expected[1][2] == []
        for name in names:
            assert rows(stores[name], split) == expected, name
            assert metas[name].class_names == ("bike", "car", "person")
            assert metas[name].counts == metas["coco"].counts
    assert sum(any(row[4]) for row in rows(stores["coco"], "train")) == dont_care


def test_what_was_done_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("isod.data.prepare.job.in_processes", map)
    prepared(tmp_path, "yolo", written.made_set())
    out = capsys.readouterr().out
    assert "note: train: boxes clipped, as they reach beyond their image: 1, the first in 000002.jpg" in out
    assert "train images without a label file, which have no objects: 1, the first is 000001.jpg" in out


def items(*boxes):
    return [Item(box, written.CLASSES[k]) for k, box in enumerate(boxes)]


@pytest.fixture
def yolo(tmp_path):
    """A YOLO set of one training and one validation image, whose files a test then changes."""
    sets = {"train": [("000001", items((8, 8, 16, 16)))], "val": [("000002", items((0, 0, 8, 8)))]}
    root = tmp_path / "set"
    written.write_yolo(root, sets)
    return root


def yaml_of(**keys):
    return "".join(f"{key}: {value}\n" for key, value in keys.items())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("train: images/train\nval: images/val\nnc: 2\nnames: ['a', 'b']\n", ("a", "b")),  # v5
        ("train: ../images/train\nval: ../images/val\nnames:\n  0: a\n  1: b\n", ("a", "b")),  # one level too many
        ("path: .\ntrain: [images/train]\nval:\n  - images/val\nnames: {1: b, 0: a}\n", ("a", "b")),
        ("path: /nowhere/at/all\ntrain: images/train\nvalidation: images/val\nnc: 2\n", ("class_0", "class_1")),
        ("train: train.txt\nval: images/val\nnames: [no, 1]\n", ("no", "1")),  # YAML's traps: false, an integer
    ],
)
def test_every_form_of_data_yaml(yolo, text, names):
    (yolo / "data.yaml").write_text(text)
    (yolo / "train.txt").write_text("./images/train/000001.jpg\n")
    for path in (yolo, yolo / "data.yaml"):
        reader = YoloReader(path)
        assert reader.class_names == names
        (train,), (val,) = reader.frames("train"), reader.frames("val")
        assert train.objects().boxes.tolist() == [[8, 8, 16, 16]]
        assert train.objects().labels.tolist() == [1]
        assert val.objects().boxes.tolist() == [[0, 0, 8, 8]]


@pytest.mark.parametrize("where", ["working directory", "folder above"])
def test_a_data_yaml_in_a_folder_of_its_own(yolo, tmp_path, monkeypatch, where):
    """v5 took its entries relative to the working directory; the note says where the images were found."""
    configs = (tmp_path if where == "working directory" else yolo) / "configs" / "sets"
    configs.mkdir(parents=True)
    (configs / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b]\n")
    monkeypatch.chdir(yolo if where == "working directory" else tmp_path)
    reader = YoloReader(configs / "data.yaml")
    assert [len(reader.frames(split)) for split in ("train", "val")] == [1, 1]
    assert reader.notes[0].endswith(f"train names images/train, which is taken from {yolo}/images/train")
    monkeypatch.chdir(tmp_path)
    if where == "working directory":
        with pytest.raises(InputError, match="train names 'images/train', and there is neither a folder nor a file"):
            YoloReader(configs / "data.yaml")


@pytest.mark.parametrize(
    ("names", "text", "data"),
    [
        ("train/_darknet.labels", "Bulto\n", "{names: [Bulto], train: train, val: valid}"),
        ("classes.txt", "dog\ncat \n\n", "{names: [dog, cat], train: train, val: valid}"),
        ("obj.names", "行人", "{names: [行人], train: train, val: valid}"),
    ],
)
def test_a_folder_of_darknet_gets_its_data_yaml_written(tmp_path, names, text, data, capsys):
    """What the sentence says is read once it is done."""
    for split in ("train", "valid"):
        written.write_image(tmp_path / f"set/{split}/000001.jpg")
        written.write_text(tmp_path / f"set/{split}/000001.txt", "0 0.5 0.5 0.25 0.5\n")
    written.write_text(tmp_path / "set" / names, text)
    assert main(["prepare", "auto", str(tmp_path / "set"), str(tmp_path / "store")]) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(f"holds 0 files that end in .yaml. Write its data.yaml, such as {data}")
    )
    (tmp_path / "set/data.yaml").write_text(data)
    reader = YoloReader(tmp_path / "set")
    assert reader.class_names == tuple(text.split())
    assert [len(reader.frames(split)) for split in ("train", "val")] == [1, 1]


def test_labels_beside_the_images(yolo):
    shutil.move(yolo / "labels/train/000001.txt", yolo / "images/train/000001.txt")
    (frame,) = YoloReader(yolo).frames("train")
    assert frame.objects().boxes.tolist() == [[8, 8, 16, 16]]


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.5 0.5 0.25 0.5", [24, 8, 40, 24]),
        ("0.0 0.5 0.5 0.25 0.5", [24, 8, 40, 24]),  # as some tools write the number
        ("0 0.25 0.25 0.5 0.25 0.5 0.75", [16, 8, 32, 24]),  # a triangle
        ("0 0.5 0 1 0.5 0.5 1 0 0.5", [0, 0, 64, 32]),  # an oriented box: a diamond
    ],
)
def test_boxes_of_every_kind(yolo, line, box):
    (yolo / "labels/train/000001.txt").write_text(f"\n{line}  \n")
    (frame,) = YoloReader(yolo).frames("train")
    assert frame.objects().boxes.tolist() == [box]


def test_a_line_that_is_there_twice_is_one_object(yolo):
    """Two objects in one place could not both be found: NMS keeps one detection."""
    same, other = "0 0.5 0.5 0.25 0.5", "1 0.5 0.5 0.25 0.5"
    (yolo / "labels/train/000001.txt").write_text(f"{same}\n{other}\n{same}\n0 0.5 0.50 .25 0.5\n")
    reader = YoloReader(yolo)
    (frame,) = reader.frames("train")
    assert frame.objects().labels.tolist() == [1, 2]
    assert any(
        "lines that repeat another one of their file, which count once: 2, the first is " in note
        and note.endswith("000001.txt, line 3")
        for note in reader.notes
    )


def test_keypoints_are_no_polygon(yolo):
    """Two keypoints of two values each look like the points of a polygon; data.yaml says what they are."""
    with (yolo / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 2]\n")
    (yolo / "labels/train/000001.txt").write_text("0 0.5 0.5 0.25 0.5 0.1 0.1 0.9 0.9\n")
    (yolo / "labels/val/000002.txt").unlink()
    with pytest.raises(InputError, match="none of the 1 images of val has a label file; the first one looked for is "):
        YoloReader(yolo)
    (yolo / "labels/val/000002.txt").write_text("")
    (frame,) = YoloReader(yolo).frames("train")
    assert frame.objects().boxes.tolist() == [[24, 8, 40, 24]]


BAD_LINES = {
    "pixels": ("0 12 8 30 9", r"the values 12 8 30 9 are no shares of an image\. Write each line as CLASS X Y WIDTH"),
    "class": ("3 0.5 0.5 0.1 0.1", r"it has the class 3, and .*data\.yaml names 3, 0 to 2\. Correct the number"),
    "part of a class": ("0.5 0.5 0.5 0.1 0.1", r"it has the class 0\.5"),
    "negative class": ("-1 0.5 0.5 0.1 0.1", r"it has the class -1"),
    "name": ("car 0.5 0.5 0.1 0.1", r"'car 0\.5 0\.5 0\.1 0\.1' is not 5 finite numbers"),
    "nan": ("0 nan 0.5 0.1 0.1", r".*is not 5 finite numbers"),
    "four": ("0 0.5 0.5 0.1", r"it has 4 values\. Write each line as"),
    "a score": ("0 0.5 0.5 0.1 0.1 0.9", r"it has 6 values\. Write each line as"),
    "negative": ("0 0.5 0.5 -0.1 0.1", r"it has the width -0\.1 and the height 0\.1\. Write each line"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_named(yolo, name):
    line, message = BAD_LINES[name]
    (yolo / "labels/train/000001.txt").write_text(f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    with pytest.raises(InputError, match=rf"labels/train/000001\.txt, line 3: {message}"):
        YoloReader(yolo)


BAD_YAML = {
    "no names": (yaml_of(train="images/train", val="images/val"), r'it has no key "names"; its keys are'),
    "no train": (yaml_of(val="images/val", names="[a]"), r'it has no key "train"\. Name the folder'),
    "nc": (yaml_of(train="images/train", nc=2, names="[a]"), r'nc is 2, and "names" has 1 classes\. Make them agree'),
    "twice": (yaml_of(train="images/train", names="[a, a]"), r"two classes have the name 'a'\. Rename one"),
    "gap": (yaml_of(train="images/train", names="{0: a, 2: b}"), r'"names" has the numbers \[0, 2\]\. Number the'),
    "no folder": (yaml_of(train="images/none", names="[a]"), r"train names 'images/none', and there is neither a fold"),
    "not yaml": ("train: [", r"line 1: it is not YAML"),
    "key twice": ("train: a\ntrain: b\n", r"line 1: it is not YAML \(the key 'train' is there twice\)"),
    "a list": ("- a\n", r'it has no keys such as "train" and "names"'),
    "own word": (yaml_of(train="images/train", names="[dont_care]"), r"a class has the name 'dont_care', under which"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_a_bad_data_yaml_is_named(yolo, name):
    text, message = BAD_YAML[name]
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"data\.yaml(, |: ){message}"):
        YoloReader(yolo)


def test_a_link_out_of_a_folder_needs_the_option(yolo, tmp_path):
    shutil.move(yolo / "images/train/000001.jpg", tmp_path / "elsewhere.jpg")
    (yolo / "images/train/000001.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(InputError, match=r"000001\.jpg is a link to .*elsewhere\.jpg, .* or pass --follow-links"):
        YoloReader(yolo)
    assert len(YoloReader(yolo, follow_links=True).frames("train")) == 1


@pytest.fixture
def voc(tmp_path):
    sets = {"train": [("000001", items((8, 8, 16, 16)))], "val": [("000002", items((0, 0, 8, 8)))]}
    written.write_voc(tmp_path / "set", sets)
    return tmp_path / "set"


def test_voc_of_one_based_pixels(voc):
    (frame,) = VocReader(voc, one_based=True).frames("train")
    assert frame.objects().boxes.tolist() == [[7, 7, 16, 16]]


def test_vocs_own_sets_are_recognized(voc):
    path = voc / "Annotations/000001.xml"
    source = "<source><database>The VOC2007 Database</database></source>"
    path.write_text(path.read_text().replace("<size>", f"{source}<size>"))
    told = f"VOC's own sets, whose first pixel is 1 (--one-based): 1, the first is 'The VOC2007 Database' in {path}"
    assert any(note.endswith(told) for note in VocReader(voc).notes)
    assert not any("--one-based" in note for note in VocReader(voc, one_based=True).notes)


def test_voc_of_stated_classes(voc):
    (voc / "Annotations/000001.xml").write_text(
        written.voc_xml("000001", [Item((0, 0, 9, 9), "b"), Item((1, 1, 9, 9), "a"), Item((2, 2, 9, 9), "c")])
    )
    (voc / "Annotations/000002.xml").write_text(written.voc_xml("000002", [Item((0, 0, 9, 9), "a")]))
    assert VocReader(voc).class_names == ("a", "b", "c")
    reader = VocReader(voc, classes=["b", "a"])
    assert reader.class_names == ("b", "a")
    assert reader.frames("train")[0].objects().labels.tolist() == [1, 2, 0]
    assert "which are don't-care: 1 of c" in reader.notes[0]
    with pytest.raises(InputError, match=r"--classes names 'x', of which .* has no object\. Its classes are a, b, c"):
        VocReader(voc, classes=["x"])


def test_voc_where_the_size_is_missing_reads_it_from_the_image(voc):
    (voc / "Annotations/000001.xml").write_text(written.voc_xml("000001", items((50, 8, 80, 40)), size=(0, 0)))
    (frame,) = VocReader(voc).frames("train")
    assert frame.size is None
    assert frame.objects().boxes.tolist() == [[50, 8, WIDTH, HEIGHT]]


BAD_XML = {
    "not xml": ("<annotation>", r", line 1: it is not XML"),
    "another": ("<labels/>", r": its outermost element is <labels>, not <annotation>"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', r": it declares entities"),
    "no name": ("<annotation><object/></annotation>", r": object 1 has no name\. Name its class"),
    "no box": ("<annotation><object><name>a</name></object></annotation>",
               r": object 1 has the bndbox '.*'\. Make it four finite numbers"),
    "exchanged": (written.voc_xml("x", [Item((9, 1, 3, 4), "a")]), r": object 1 .* whose xmax is below xmin"),
    "difficult": (written.voc_xml("x", items((1, 1, 3, 4))).replace("difficult>0", "difficult>7"),
                  r": object 1 \(bike\) has difficult '7'\. Make it 0 or 1"),
    "size": (written.voc_xml("x", [], ("wide", 3)), r": it has the size 'wide' × '3'\. Make it width and height"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_XML)
def test_a_bad_xml_is_named(voc, name):
    text, message = BAD_XML[name]
    (voc / "Annotations/000001.xml").write_text(text)
    with pytest.raises(InputError, match=rf"Annotations/000001\.xml{message}"):
        VocReader(voc)


def test_a_class_that_the_training_part_lacks(voc):
    (voc / "Annotations/000002.xml").write_text(written.voc_xml("000002", [Item((0, 0, 9, 9), "cow")]))
    with pytest.raises(InputError, match=r"validation part of .* has the class 'cow', which the training part lack"):
        VocReader(voc)


@pytest.fixture
def kitti(tmp_path):
    root = tmp_path / "set"
    written.write_kitti(root, {"train": [("000001", [])], "val": [("000002", items((0, 0, 8, 8)))]})
    (root / "training/label_2/000001.txt").write_text(
        "bike 0.00 0 -1.57 8 8 16 16 1 1 1 1 1 1 1\n"
        "bike 0.80 0 -1.57 8 8 16 16 1 1 1 1 1 1 1\n"
        "bike 0.00 2 -1.57 8 8 16 16 1 1 1 1 1 1 1\n"
        "DontCare -1 -1 -10 1 1 2 2 -1 -1 -1 -1000 -1000 -1000 -10\n"
    )
    return root


def test_kitti_hidden_objects(kitti):
    def labels(**options):
        return KittiReader(kitti, **options).frames("train")[0].objects().labels.tolist()

    assert labels() == [1, 1, 1, 0]
    assert labels(max_truncated=0.5) == [1, 0, 1, 0]
    assert labels(max_occluded=1) == [1, 1, 0, 0]
    notes = KittiReader(kitti, max_occluded=1).notes
    assert any("don't-care: 1, the first is " in note and note.endswith("000001.txt, line 3") for note in notes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bike 0 0 0 8 8 16", r"it has 7 values\. Write KITTI's 15"),
        ("bike 0 0 0 8 x 16 16 1 1 1 1 1 1 1", r"'0 0 0 8 x 16 16' is not 7 finite numbers"),
        ("bike 0 0 0 8 8 6 16 1 1 1 1 1 1 1", r"it has the box '8 8 6 16', whose x1 is below x0"),
    ],
)
def test_a_bad_line_of_kitti_is_named(kitti, line, message):
    (kitti / "training/label_2/000001.txt").write_text(f"{line}\n")
    with pytest.raises(InputError, match=rf"label_2/000001\.txt, line 1: {message}"):
        KittiReader(kitti)


def test_a_set_of_ids_of_another_kind(kitti):
    (kitti / "ImageSets/train.txt").write_text("../000001\n")
    with pytest.raises(InputError, match=r"train\.txt, line 1: '\.\./000001' is not the id of an image"):
        KittiReader(kitti)
    (kitti / "ImageSets/train.txt").write_text("000001\n000001\n")
    with pytest.raises(InputError, match=r"train\.txt, line 2: the id '000001' is that of line 1"):
        KittiReader(kitti)
    (kitti / "ImageSets/train.txt").write_text("000009\n")
    with pytest.raises(InputError, match=r"none of the 1 train images of .*image_2 has a label file"):
        KittiReader(kitti)


# --- a validation part -----------------------------------------------------------------------------------------------


def one_split(tmp_path, stems):
    sets = {"train": [(stem, items((8, 8, 16, 16))) for stem in stems], "val": []}
    root = tmp_path / "set"
    for number, (stem, _) in enumerate(sets["train"]):
        (root / "images/train").mkdir(parents=True, exist_ok=True)
        written.write_image(tmp_path / f"{number}.jpg")
        shutil.move(tmp_path / f"{number}.jpg", root / f"images/train/{stem}.jpg")
        written.write_text(root / f"labels/train/{stem}.txt", "0 0.5 0.5 0.25 0.5\n")
    written.write_text(root / "data.yaml", "train: images/train\nnames: [a]\n")
    return YoloReader(root)


def test_a_part_is_cut_by_a_stable_hash(tmp_path):
    from isod.data.readers.validation_part import ValidationPartReader

    stems = [f"{i:04d}" for i in range(200)]
    reader = one_split(tmp_path, stems)
    part = ValidationPartReader(reader, 0.2)
    val = {frame.frame_id for frame in part.frames("val")}
    train = {frame.frame_id for frame in part.frames("train")}
    assert val | train == {f"{stem}.jpg" for stem in stems}
    assert not val & train
    assert 25 <= len(val) <= 55  # 40 ± 2.7 of the binomial's deviations, and the same every time
    for stem in stems[::2]:
        (tmp_path / f"set/images/train/{stem}.jpg").unlink()
        (tmp_path / f"set/labels/train/{stem}.txt").unlink()
    fewer = ValidationPartReader(YoloReader(tmp_path / "set"), 0.2)
    assert {frame.frame_id for frame in fewer.frames("val")} == {name for name in val if int(name[:4]) % 2}
    assert fewer.settings["val_share"] == 0.2
    assert any("validation part: " in note for note in fewer.notes)


def test_neighbours_stay_together(tmp_path):
    from isod.data.readers.validation_part import ValidationPartReader

    reader = one_split(tmp_path, [f"drive{s}_{i:03d}" for s in "abcdef" for i in range(5)])
    part = ValidationPartReader(reader, 0.3, "sequence")
    parts = [{frame.frame_id[:6] for frame in part.frames(split)} for split in ("train", "val")]
    assert not parts[0] & parts[1]
    assert len(parts[0]) + len(parts[1]) == 6
    assert all(parts)


def test_a_part_is_cut_by_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("isod.data.prepare.job.in_processes", map)
    one_split(tmp_path, [f"drive{s}_{i:03d}" for s in "abcdef" for i in range(5)])
    words = ["--val-share", "0.3", "--val-by", "sequence"]
    assert main(["prepare", "auto", str(tmp_path / "set"), str(tmp_path / "store"), *words]) == 0
    store = CropStore.open(str(tmp_path / "store"))
    drives = [{frame[:6] for frame in store.split(split).annotations().frame_ids} for split in ("train", "val")]
    assert all(drives)
    assert not drives[0] & drives[1]
    assert store.meta.settings["dataset"]["val_by"] == "sequence"
    assert f"note: validation part: {5 * len(drives[1])} of 30 frames, chosen by sequence" in capsys.readouterr().out


def coco_clips(folder, *, field="clip"):
    """Twelve images of four clips, which their names do not show."""
    categories = [{"id": 1, "name": "a"}]
    images = [{"id": i, "file_name": f"{i:02d}.jpg", "width": 64, "height": 32, field: f"c{i % 4}"} for i in range(12)]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 8, 8]} for i in range(12)]
    for image in images:
        written.write_image(folder / image["file_name"])
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(content))
    return str(folder), str(folder / "all.json")


def test_a_store_keeps_the_sequences_that_a_coco_json_names(tmp_path, capsys, monkeypatch):
    """The cut by sequence, and the prior "segments", use them: of three images each, in two tiles."""
    monkeypatch.setattr("isod.data.prepare.job.in_processes", map)
    words = ["--val-share", "0.3", "--val-by", "sequence", "--sequence-field", "clip", "--tiles", "2", "1"]
    files = coco_clips(tmp_path)
    assert main(["prepare", "coco", "--train", *files, *words, str(tmp_path / "store")]) == 0
    assert "note: 4 sequences, by the images' 'clip'" in capsys.readouterr().out
    store = CropStore.open(str(tmp_path / "store"))
    clips = {}
    for name in ("train", "val"):
        split = store.split(name)
        frames = split.annotations().frame_ids
        assert split.sequences() == [f"c{int(frame[:2]) % 4}" for frame in frames]
        clips[name] = set(split.sequences())
    assert clips["train"] | clips["val"] == {"c0", "c1", "c2", "c3"}
    assert not clips["train"] & clips["val"]
    train = store.split("train")
    labels = labels_of(train, train.readable)
    assert np.bincount(labels.segments).tolist() == [6] * len(clips["train"])
    (tmp_path / "store" / "sequences.json").write_text('{"train": ["a"], "val": []}')
    with pytest.raises(InputError, match=r"sequences.json is damaged \(ValueError: it does not have a text for each"):
        train.sequences()


def test_a_test_split_is_said_to_be_left_out(yolo):
    with (yolo / "data.yaml").open("a") as file:
        file.write("test: images/none\n")
    assert f"note: {yolo}/data.yaml: its split test is not read" in YoloReader(yolo).notes


def test_a_part_that_cannot_be_cut(tmp_path, yolo):
    from isod.data.readers.validation_part import ValidationPartReader

    with pytest.raises(InputError, match="--val-share is for a dataset without a validation split"):
        ValidationPartReader(YoloReader(yolo), 0.2)
    reader = one_split(tmp_path / "other", ["0001", "0002", "0003"])
    with pytest.raises(InputError, match="--val-by sequence needs at least two sequences, and the 3 frames show"):
        ValidationPartReader(reader, 0.2, "sequence")
    with pytest.raises(InputError, match=r"--val-share must be in \(0, 1\), got 1.5"):
        ValidationPartReader(reader, 1.5)
    with pytest.raises(InputError, match=r"split 'val' of the dataset has no frames; --val-share 0\.2 cuts them off"):
        prepare(reader, tmp_path / "store", map_chunks=map, progress=False)


# --- auto ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_auto_finds_what_there_is(tmp_path, name, capsys, monkeypatch):
    monkeypatch.setattr("isod.data.prepare.job.in_processes", map)
    root = tmp_path / "set"
    WRITERS[name](root, written.made_set())
    assert main(["prepare", "auto", str(root), str(tmp_path / "store"), "--resize", "32", "16"]) == 0
    out = capsys.readouterr().out
    assert f"isod prepare {name.split()[0]} " in out
    assert "6 train + 3 val crops of 32×16" in out


def test_auto_looks_into_folders(tmp_path, capsys):
    """A data.yaml some folders down; a json whose first image is missing."""
    written.write_yolo(tmp_path / "one/data/configs", written.made_set())
    assert main(["prepare", "auto", str(tmp_path / "one")]) == 2
    assert f"isod prepare yolo {tmp_path}/one/data/configs/data.yaml STORE" in capsys.readouterr().err
    written.write_coco(tmp_path / "two", written.made_set())
    shutil.move(tmp_path / "two/images", tmp_path / "two/pictures")
    (tmp_path / "two/pictures/000006.jpg").unlink()
    assert main(["prepare", "auto", str(tmp_path / "two")]) == 2
    assert f"--val {tmp_path}/two/pictures {tmp_path}/two/val.json STORE" in capsys.readouterr().err


def test_auto_asks_where_it_is_not_sure(tmp_path, capsys):
    root = tmp_path / "set"
    written.write_yolo(root, {"train": [("000001", items((8, 8, 16, 16)))], "val": []})
    store = str(tmp_path / "store")
    assert main(["prepare", "auto", str(root), store]) == 2
    assert "has no validation split; to cut one off, isod prepare yolo " in capsys.readouterr().err
    written.write_voc(root, written.made_set())
    assert main(["prepare", "auto", str(root), store]) == 2
    assert "may be read in 2 ways, choose one: isod prepare yolo" in capsys.readouterr().err
    assert main(["prepare", "auto", str(tmp_path / "nothing"), store]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["prepare", "auto", str(tmp_path / "empty"), store]) == 2
    assert "holds no dataset of the formats zod, coco, yolo, voc, kitti" in capsys.readouterr().err
    assert main(["prepare", "auto"]) == 2


def test_a_reader_of_each_format_is_built_from_its_row(tmp_path):
    arguments = {"root": str(tmp_path / "set")}
    written.write_voc(tmp_path / "set", written.made_set())
    assert len(build_reader("voc", arguments).frames("train")) == 6
