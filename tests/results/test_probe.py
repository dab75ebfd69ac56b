"""isod probe: its numbers by hand, its laws, and the command on real stores with a real browser."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from isod.cli.main import main
from isod.data.store.split import CropStore
from isod.files import folder_lock
from isod.results.probe.ceilings import (
    RULE,
    effective_draws,
    effective_share,
    label_ceilings,
    percent,
    toy_map,
    toy_speedup,
    unbiased_ceiling,
    verdict,
)
from isod.results.probe.duplicates import Fingerprints, difference_hash, fingerprints, group_count, near_identical
from isod.results.probe.labels import Boxes, boxes_of, count_classes, find_suspects
from isod.results.probe.probe import count_sequences
from isod.results.probe.scores import SCORED, Scores, rank_correlation, score_rows
from isod.sampling.priors import Labels
from tests.results.browser import needs_chromium, widths_of
from tests.results.made_store import SIZE, scene, write_store

NAMES = ("car", "bike")


# --- labels ----------------------------------------------------------------------------------------------------------


def boxes(objects, images=None):
    """Boxes of crops of ``SIZE``: a row (label, x0, y0, x1, y1) each, all in crop 0 unless told otherwise."""
    rows = np.array(objects, float).reshape(-1, 5)
    images = np.zeros(len(rows), np.int64) if images is None else np.array(images)
    sizes = np.tile(SIZE, (len(rows), 1))
    return Boxes(rows[:, 1:].astype(np.float32), rows[:, 0].astype(np.int64), images, sizes)


def test_class_counts_by_hand():
    # car: 2 of 4 crops, 3 objects; bike: 1 crop. Of 3072 pixels 0.33 % are 10.1 and 3 % are 92.2.
    train = boxes([(1, 5, 5, 8, 8), (1, 9, 9, 18, 18), (2, 0, 0, 40, 40), (1, 5, 5, 15, 15)], [0, 0, 0, 2])
    val = boxes([(2, 0, 0, 40, 40), (2, 1, 1, 9, 9)], [1, 1])
    car, bike = count_classes(train, val, NAMES, 4)
    assert (car.name, car.images, car.share, car.objects, car.val_images, car.val_objects) == ("car", 2, 0.5, 3, 0, 0)
    assert (car.small, car.medium, car.large) == (1, 1, 1)  # 9, 81 and 100 pixels²
    assert (bike.images, bike.share, bike.large, bike.val_images, bike.val_objects) == (1, 0.25, 1, 1, 2)


def test_suspect_boxes_by_hand():
    found = boxes(
        [
            (1, 5, 5, 5.5, 20),  # half a pixel wide
            (1, 5, 30, 25, 32),  # 20 × 2, ten to one
            (1, 0, 40, 20, 42),  # likewise, but cut by the crop's edge
            (1, 10, 10, 20, 20),
            (1, 10, 10, 20, 20.5),  # IoU 100/105 = 0.95
            (2, 10, 10, 20, 20),  # the same as a bike
            (1, 30, 10, 40, 20),
            (1, 31, 10, 41, 20),  # IoU 90/110 = 0.82
        ]
    )
    problems = find_suspects(found, ["frame0"], NAMES)
    assert {name: [item.box for item in items] for name, items in problems.items()} == {
        "no area": [(5, 5, 5.5, 20)],
        "extreme shape": [(5, 30, 25, 32)],
        "same box twice": [(10, 10, 20, 20.5)],
        "two classes on one box": [(10, 10, 20, 20)],
        "unusual size": [],
    }
    (same,) = problems["same box twice"]
    assert (same.index, same.frame_id, same.class_name) == (0, "frame0", "car")
    apart = boxes([(1, 10, 10, 20, 20), (1, 10, 10, 20, 20)], [0, 1])
    assert not find_suspects(apart, ["a", "b"], NAMES)["same box twice"]


@pytest.mark.parametrize(("side", "others", "found"), [(41, 20, 1), (39, 20, 0), (2.4, 20, 1), (41, 18, 0)])
def test_a_class_far_from_its_usual_size(side, others, found):
    """Twenty boxes of 10×10, at 18 of them nobody knows what is usual; four times the side is unusual."""
    usual = [(1, 2, 2, 12, 12)] * others
    problems = find_suspects(boxes([*usual, (1, 2, 2, 2 + side, 2 + side)], range(others + 1)), ["f"] * 21, NAMES)
    assert len(problems["unusual size"]) == found


def test_no_boxes_at_all():
    assert not any(find_suspects(boxes([]), [], NAMES).values())


# --- near-duplicates -------------------------------------------------------------------------------------------------


def test_hashes_by_hand():
    rising = np.tile(np.arange(9, dtype=np.uint8), 8)
    single = np.zeros((8, 9), np.uint8)
    single[0, 1] = single[2, 8] = 1  # brighter than its left neighbour: bit 0, and 2 · 8 + 7
    hashes = difference_hash(np.array([rising, rising[::-1], single.ravel()]))
    assert hashes.tolist() == [2**64 - 1, 0, 2**0 + 2**23]


def prints(thumbnails):
    thumbnails = np.array(thumbnails, np.uint8)
    return Fingerprints(np.arange(len(thumbnails)), difference_hash(thumbnails), thumbnails)


def test_near_identical_by_hand():
    scenes = np.random.default_rng(0).integers(10, 240, (2, 72))
    flat, noise = np.full(72, 100), np.random.default_rng(1).integers(-1, 2, (2, 72))
    found = prints([scenes[0], scenes[1], scenes[0] + 3, scenes[0] + 10, flat, flat, flat + 60])
    # brighter by 3 levels is the same; by 10, or two flat crops of other brightness, is not
    assert near_identical(found).tolist() == [-1, -1, 0, -1, -1, 4, -1]
    assert near_identical(prints([scenes[1], scenes[1][::-1]]), found).tolist() == [1, -1]
    assert near_identical(prints([flat + noise[0], flat + noise[1]])).tolist() == [-1, -1]  # hashes of noise


def test_more_crops_than_are_compared_at_once():
    scenes = np.random.default_rng(0).integers(0, 250, (600, 72))
    scenes[599] = scenes[3]
    scenes[300] = scenes[299]
    found = near_identical(prints(scenes))
    assert np.flatnonzero(found >= 0).tolist() == [300, 599]
    assert found[[300, 599]].tolist() == [299, 3]


def test_sequences_by_hand():
    assert group_count([1, 1, 1]) == 3
    assert group_count([3, 1]) == 16 / 10
    found = count_sequences(np.array([7, 7, 7, 7, 7, 7, 9, 9]), 2)  # four frames of two tiles
    assert (found.count, found.frames, found.longest, found.effective) == (2, 4, 3, 1.6)


# --- ceilings --------------------------------------------------------------------------------------------------------


def test_effective_share_by_hand():
    assert effective_share(np.ones(4)) == 1
    assert effective_share(np.array([1.0, 0, 0, 0])) == 0.25
    assert effective_share(np.array([3.0, 1, 0, 0])) == 16 / (4 * 10)
    assert math.isnan(effective_share(np.zeros(3)))
    assert unbiased_ceiling(0.5) == 1
    assert unbiased_ceiling(1 / 1.3) == pytest.approx(0.3)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=30))
def test_an_unbiased_draw_saves_what_its_second_moment_loses(norms):
    """E[(g/(N·p))²] with p in proportion to g, over the same with p = 1/N, is ESS/N."""
    g = np.array(norms)
    p = g / g.sum()
    drawn, uniform = (p * (g / (len(g) * p)) ** 2).sum(), np.square(g).mean()
    assert effective_share(g) == pytest.approx(drawn / uniform)


def test_effective_draws_by_hand():
    labels = Labels.from_lists([[1], [1, 2], [1, 1], []], 3)
    # car in three crops, drawn 0.2 + 0.4 + 0.2; (0.8)²/(3 · 0.24) of it counts; bike in one; nobody has class 3
    found = effective_draws(labels, np.array([0.2, 0.4, 0.2, 0.2]))
    assert found == pytest.approx([0.8 * 0.64 / 0.72, 0.4, 0])


def test_the_toy_by_hand():
    # one class in every image: 200 draws halve the error for β = 1, 600 make it a quarter
    assert toy_map(np.array([200.0]), 1) == 0.5
    assert toy_map(np.array([200.0, 600.0]), 1) == pytest.approx((0.5 + 0.75) / 2)
    # uniform: mean of 0.5 and 0 after 200 draws. Sharing them out, both have n = 200/3: twice 1 − 1/(1 + 1/3) = 0.25
    assert toy_speedup(np.array([1.0, 0]), np.array([0.5, 0.5]), draws=200, beta=1) == pytest.approx(
        200 / (400 / 3) - 1
    )
    assert toy_speedup(np.array([1.0, 1]), np.array([1.0, 0]), draws=1000, beta=1) == -1  # never


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6), st.floats(0.2, 9), st.sampled_from([0.25, 0.5, 1.0]))
def test_a_draw_that_raises_every_class_alike_saves_that_factor(uniform, factor, beta):
    uniform = np.array(uniform)
    assert toy_speedup(uniform, factor * uniform, beta=beta) == pytest.approx(factor - 1, rel=1e-6, abs=1e-6)


def test_label_ceilings_by_hand():
    """One class in a quarter of the crops: with empties at ¼ an image with it is drawn 1/(1 − ¾ · ¾) times as often."""
    labels = Labels.from_lists([[1], [], [], []], 2)  # and nobody has class 2
    ceilings = label_ceilings(labels)
    assert ceilings["empties"] == pytest.approx((1 / (1 - 9 / 16) - 1,) * 2, rel=1e-6)
    # RFS: weight (1/4)^−½ = 2 against ¼ each: 2/2.75 of the draws in place of 1/4
    assert ceilings["RFS"] == pytest.approx((4 * 2 / 2.75 - 1,) * 2, rel=1e-6)


def test_the_verdict():
    poor, rich = {"RFS": (0.1, 0.5), "empties": (0.0, 0.0)}, {"RFS": (0.31, 0.5), "empties": (0.2, 0.2)}
    assert verdict(poor, 0.9, {"LIS": 0.5})[0] == []
    chosen, sentence = verdict(poor, 0.9, {"LIS": 0.5})
    assert sentence == (
        "Not worth a study: the label-only ceiling is +10 % … +50 % (RFS), and ESS/N of the gradient norms is 0.90, at "
        "most +11 % for an unbiased draw."
    )
    assert verdict(rich, 0.9, {"LIS": 0.5, "UIS": 0.78})[0] == ["RFS", "CAP", "LIS"]
    many_empty = rich | {"empties": (0.3, 0.4)}
    assert verdict(many_empty, 0.9, {})[0] == ["RFS", "empties", "CAP"]
    chosen, sentence = verdict(poor, 0.76, {"LIS": 0.78, "UIS": 0.76})
    assert chosen == ["LIS-unbiased", "UIS"]
    assert sentence.startswith("Worth a study, with baseline, uniform, LIS-unbiased and UIS: ")
    assert verdict(rich, None, {})[1].startswith(
        "Worth a study by the labels alone, with baseline, uniform, RFS and CA"
    )
    assert percent(-0.05) == "−5 %"
    assert "0.77" in RULE


# --- scores ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_rank_correlation_is_scipys(pairs):
    x, y = np.array(pairs, float).T
    expected = math.nan if np.ptp(x) == 0 or np.ptp(y) == 0 else scipy.stats.spearmanr(x, y).statistic
    assert rank_correlation(x, y) == pytest.approx(expected, nan_ok=True)


def test_score_rows_by_hand():
    labels = Labels.from_lists([[1], [1, 2], [1], []], 2)  # f: 3/4 and 1/4
    scores = Scores(1, 1, 1.0, 1.0, 1.0, np.arange(4), {"LIS": np.array([1.0, 4.0, 2.0, 3.0])})
    (row,) = score_rows(scores, labels)
    assert row.ess == 100 / (4 * 30)
    assert row.ceiling == pytest.approx(0.2)
    assert row.empty == 0.3
    assert row.top_tenth == 0.4  # one crop of four
    assert row.rarity == pytest.approx(scipy.stats.spearmanr([1, 4, 2], [1, 2, 1]).statistic)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Ten training crops: two alike, one lost, one that does not decode; a class that is in validation only."""
    crops = [(f"drive{n % 2}_{n}.png", scene(n), [(1, 5, 5, 20, 20)]) for n in range(8)]
    crops[5] = ("drive1_5.png", scene(2), [])  # the picture of number 2
    crops[6] = ("drive0_6.png", None, [])
    crops += [
        ("<b>.png", scene(8), [(2, 10, 10, 30, 30), (2, 10, 10, 30, 30), (0, 0, 0, 9, 9)]),
        ("x.png", scene(9), []),
    ]
    val = [("v0.png", scene(100), [(3, 0, 0, 9, 9)]), ("v1.png", scene(4), [(1, 5, 5, 20, 20)])]
    return write_store(tmp_path_factory.mktemp("made") / "store", crops, val, ("car", "<i>bike</i>", "van"))


def strict(path):
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_labels_alone_without_ray_and_mlflow(made, tmp_path):
    code = (
        "import sys\nsys.modules['ray'] = sys.modules['mlflow'] = None\nfrom isod.cli.main import main\n"
        f"sys.exit(main(['probe', {made!r}, '--out', {str(tmp_path)!r}, '--no-training']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Worth a study by the labels alone" in done.stdout
    found = strict(tmp_path / "probe.json")
    assert found["crops"] == {"readable": 9, "lost": 1, "empty": pytest.approx(2 / 9), "val": 2}
    assert [(row["name"], row["images"]) for row in found["classes"]] == [("car", 6), ("<i>bike</i>", 1), ("van", 0)]
    assert found["duplicates"]["pairs"] == [[2, 5]]
    assert found["duplicates"]["leak_pairs"] == [[4, 1]]
    assert len(found["suspect_boxes"]["same box twice"]) == 1
    assert any("In validation only" in note and "van" in note for note in found["notes"])
    assert found["run"] is None
    assert found["scores"] == []
    page = (tmp_path / "probe.html").read_text()
    assert "&lt;i&gt;bike&lt;/i&gt;" in page
    assert "<i>bike" not in page
    assert "Nothing was trained" in page


@pytest.mark.parametrize("option", [("--minutes", "1"), ("--device", "cpu"), ("--threads", "2")])
def test_an_option_of_the_short_run_without_one(made, tmp_path, capsys, option):
    assert main(["probe", made, "--out", str(tmp_path), "--no-training", *option]) == 2
    assert f"{option[0]} is of the short run, which --no-training leaves out" in capsys.readouterr().err


@pytest.fixture(scope="module")
def probed(tiny_store, tmp_path_factory):
    out = tmp_path_factory.mktemp("probed")
    assert main(["probe", tiny_store, "--out", str(out), "--minutes", "0.02"]) == 0
    return out


def test_a_short_run(probed, tiny_store):
    found = strict(probed / "probe.json")
    assert found["demo"]
    assert 1 <= found["run"]["steps"] <= 400
    assert 32 <= found["run"]["scored"] <= 64
    rows = {row["name"]: row for row in found["scores"]}
    assert list(rows) == [sampler.name for sampler in SCORED]
    assert all(0 < row["ess"] <= 1 for row in rows.values())
    assert rows["LIS"]["ceiling"] == pytest.approx(1 / rows["LIS"]["ess"] - 1)
    split = CropStore.open(tiny_store).split("train")
    train, _ = boxes_of(split)
    for row in found["classes"]:  # as the store itself counts them
        assert row["objects"] == sum(split.meta.counts["train"][row["name"]].values())
    assert sum(row["objects"] for row in found["classes"]) == len(train.labels)
    assert len(fingerprints(split).indices) == 64


@needs_chromium
def test_the_page_fits_a_window_and_a_telephone(probed, tmp_path):
    for width in (1100, 390):
        needed, has = widths_of(probed / "probe.html", tmp_path, width)
        assert needed <= has


def test_bad_input_is_one_sentence(tiny_store, tmp_path, capsys):
    def sentence(*arguments):
        assert main(["probe", *map(str, arguments), "--out", str(tmp_path)]) == 2
        return capsys.readouterr().err

    assert "is not a crop store" in sentence(tmp_path)
    assert "--minutes must be finite and > 0, got 0.0" in sentence(tiny_store, "--minutes", 0)
    assert "--threads must be ≥ 1" in sentence(tiny_store, "--threads", 0)
    with folder_lock(tmp_path):
        assert f"is writing to {tmp_path}" in sentence(tiny_store)
    empty = write_store(tmp_path / "empty", [("a", scene(0), [])], [("b", scene(1), [])], NAMES)
    assert "has no object of any class" in sentence(empty)
    lost = write_store(tmp_path / "lost", [("a", None, [])], [("b", scene(1), [])], NAMES)
    assert "has no training crop that can be read" in sentence(lost)
