"""The formats of ``isod prepare``, and a reader of somebody else's."""

import subprocess
import sys

import pytest

from isod.cli.main import main
from isod.cli.prepare import format_parser
from isod.data.prepare.job import prepare
from isod.data.readers import READERS, build_reader
from isod.data.readers.zod import ANONYMIZATIONS, VERSIONS, ZodReader
from isod.data.store.split import CropStore
from isod.errors import InputError
from tests.data import made_reader

OUTSIDE = "tests.data.made_reader:reader"


def test_an_outside_reader_end_to_end(tmp_path, capsys):
    store = str(tmp_path / "store")
    arguments = ["prepare", OUTSIDE, store, "--arg", f"root={tmp_path / 'data'}", "--arg", "train=3"]
    assert main([*arguments, "--resize", "15", "10"]) == 0
    out = capsys.readouterr().out
    assert "3 train + 4 val crops of 15×10" in out
    assert "note: all images are the same" in out
    meta = CropStore.open(store).meta
    assert (meta.source, meta.class_names, meta.demo) == ("made", ("car", "boat"), False)
    rows = CropStore.open(store).split("train").annotations()
    assert rows.frame_ids == ["000", "001", "002"]
    assert [boxes.tolist() for boxes in rows.boxes] == [[[x / 2, 0, 10, 5]] for x in range(3)]
    assert [labels.tolist() for labels in rows.labels] == [[1], [2], [1]]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["creme", "STORE"], "unknown dataset format 'creme'; choose one of zod, coco, yolo, voc, kitti, auto"),
        (["Zod", "STORE"], "unknown dataset format 'Zod'; did you mean 'zod'?"),
        (["no_such_package:reader", "STORE"], "'no_such_package:reader' cannot be imported (No module named"),
        (["..relative:reader", "STORE"], "'..relative:reader' cannot be imported ("),
        (["tests.data.made_reader:nothing", "STORE"], "cannot be imported (module 'tests.data.made_reader' has no"),
        ([OUTSIDE, "STORE"], "does not take these arguments (missing a required argument: 'root')"),
        ([OUTSIDE, "STORE", "--arg", "roots=x"], f"reader {OUTSIDE} does not take these arguments ("),
        ([OUTSIDE, "STORE", "--arg", "root"], "--arg is NAME=VALUE, with each name once, got 'root'"),
        ([OUTSIDE, "STORE", "--arg", "root=a", "--arg", "root=b"], "with each name once, got 'root=b'"),
        (["builtins:list", "STORE"], "reader builtins:list returned a list without class_names, source, demo, sett"),
    ],
)
def test_a_reader_that_there_is_not_is_a_sentence(words, sentence, capsys):
    assert main(["prepare", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


@pytest.mark.parametrize("name", READERS)
def test_a_row_has_its_help(name, capsys):
    with pytest.raises(SystemExit):
        main(["prepare", name, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in (READERS[name].example, READERS[name].roi_name, *READERS[name].arguments):
        assert words in said.replace("ROOT", "root")
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    said = capsys.readouterr().out
    assert READERS[name].summary in said
    assert READERS[name].example in said
    example = READERS[name].example.split()
    assert example[:3] == ["isod", "prepare", name]
    format_parser(name).parse_args(example[3:])  # it is a command line


def test_the_help_of_zod_names_what_the_reader_takes():
    texts = [str(options["help"]) for options in READERS["zod"].arguments.values()]
    assert all(version in texts[1] for version in VERSIONS)
    assert all(anonymization in texts[2] for anonymization in ANONYMIZATIONS)


def test_a_missing_devkit_is_a_sentence(demo_root, monkeypatch):
    monkeypatch.setitem(sys.modules, "zod", None)
    with pytest.raises(InputError, match=r"^reading ZOD needs the package zod: pip install 'isod\[zod\]'$"):
        ZodReader(demo_root, "mini")
    monkeypatch.undo()
    (ref, *_) = ZodReader(demo_root, "mini").frames("train")
    monkeypatch.setitem(sys.modules, "zod.anno.parser", None)
    with pytest.raises(InputError, match=r"needs the package zod\.anno\.parser"):
        ref.objects()


def test_the_rows_import_no_reader():
    """The command line reads them at every start."""
    program = "import sys, isod.cli.prepare; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = sorted(name for name in done.stdout.split() if name.startswith(("isod.data.readers", "zod")))
    assert loaded == ["isod.data.readers", "isod.data.readers.base"]


class Bad(made_reader.MadeReader):
    """A reader that breaks a rule."""

    @property
    def settings(self):
        return {"root": object()} if self.trap == "settings" else super().settings


@pytest.mark.parametrize(
    ("names", "trap", "sentence"),
    [
        ((), None, r"the reader's classes are \[\]: there must be at least one"),
        (("car", "car"), None, r"the reader's classes are \['car', 'car'\]: .* all of different names"),
        (("dont_care",), None, r"none called 'dont_care'"),
        (("car",), None, r"frame '001' has the labels \[2\], and its reader has the classes 1…1"),
        (
            ("car", "boat"),
            "settings",
            r"the reader's settings are not values that JSON can hold \(Object of",
        ),
    ],
)
def test_a_reader_that_breaks_a_rule_is_told_so(tmp_path, names, trap, sentence):
    made = build_reader(OUTSIDE, {"root": str(tmp_path / "data")})
    with pytest.raises(InputError, match=sentence):
        prepare(Bad(made.root, 2, trap, names), tmp_path / "store", progress=False, map_chunks=map)
