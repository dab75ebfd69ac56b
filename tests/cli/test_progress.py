"""Bars in a real terminal, plain lines in a pipe, nothing but results where it is to be quiet."""

import io
import re
import subprocess
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from isod.console import BarLines, Line, LineTable, clock, display, progress_bar, quiet, say, seconds_left
from tests.cli.terminal import COLOUR, ISOD, SECONDS, lines_drawn, run_in_terminal

FRAMES = 4
DEMO = [*ISOD, "demo", "data", "--frames", FRAMES]
RESULT = "demo data (synthetic, in ZOD's layout): data"
TRAIN = ["--sampler", "UIS", "--out", "run", "--iterations", "4", "--batch-size", "4", "--validate-every", "2",
         "--width", "0.125", "--threads", "1", "--workers", "1", "--device", "cpu"]  # fmt: skip


# --- in a terminal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [24, 40, 100])
def test_a_terminal_shows_a_bar_that_fits_and_keeps_its_cursor(tmp_path, columns):
    code, written = run_in_terminal(DEMO, columns=columns, cwd=tmp_path)
    assert code == 0
    *bars, result = lines_drawn(written)
    assert result == RESULT
    assert {bar.split()[0] for bar in bars} == {"writing"}
    assert f"{FRAMES}/{FRAMES} frames" in bars[-1]
    assert max(map(len, bars)) < columns
    assert ("━" in bars[-1]) == (columns > 24)
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")
    assert bool(COLOUR.search(written)) == (columns > 24)


def test_colours_and_bars_can_be_unwanted(tmp_path):
    written = run_in_terminal(DEMO, cwd=tmp_path, NO_COLOR="1")[1]
    assert "━" in written
    assert not COLOUR.search(written)
    dumb = run_in_terminal([*ISOD, "demo", "again", "--frames", 2], cwd=tmp_path, TERM="dumb")[1]
    assert "\x1b" not in dumb
    assert lines_drawn(dumb)[0].startswith("writing 2/2 frames")


def test_a_terminal_that_knows_ascii_alone_gets_bars_of_it(tmp_path):
    code, written = run_in_terminal(DEMO, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert code == 0
    assert f"{FRAMES}/{FRAMES} frames" in written
    assert "---" in written
    assert written.isascii()


def test_quiet_prints_results_and_errors(tmp_path):
    code, written = run_in_terminal([*DEMO, "--quiet"], cwd=tmp_path)
    assert (code, written) == (0, f"{RESULT}\r\n")
    code, written = run_in_terminal([*ISOD, "demo", "data", "-q", "--frames", "7"], cwd=tmp_path)
    assert code == 2
    assert written == "isod: data holds demo data of other settings or another seed: name another folder\r\n"


def test_ctrl_c_ends_the_bar_and_leaves_the_terminal_as_it_was(tmp_path):
    code, written = run_in_terminal(
        [*ISOD, "demo", "data", "--frames", "5000"], cwd=tmp_path, interrupt_at="/5000 frames"
    )
    assert code == 130
    assert lines_drawn(written)[-1] == "isod: stopped"
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")


def test_a_run_prints_its_validations_above_the_bar(tmp_path, tiny_store):
    code, written = run_in_terminal([*ISOD, "train", tiny_store, *TRAIN], columns=100, cwd=tmp_path)
    assert code == 0, written
    lines = lines_drawn(written)
    validations = [line for line in lines if line.startswith("iteration ")]
    assert [line.split()[1] for line in validations] == ["2/4", "4/4"]
    bars = [line for line in lines if line.startswith("training ")]
    assert "0/4 iterations" in bars[0]
    assert "4/4 iterations" in bars[-1]
    assert "mAP 0." in bars[-1]
    assert lines.index(validations[-1]) < len(lines) - 1 - lines[::-1].index(bars[-1])
    assert lines[-1] == "config.json, metrics.csv, examples.parquet, model/: run"
    again = run_in_terminal([*ISOD, "train", tiny_store, *TRAIN, "--resume", "-q"], columns=100, cwd=tmp_path)
    assert again == (0, f"{lines[-1]}\r\n")


@pytest.mark.slow
def test_a_sweep_shows_the_whole_and_what_runs_and_quiet_shows_the_table(tmp_path, tiny_store):
    small = TRAIN[TRAIN.index("--iterations") : TRAIN.index("--device")]
    command = [*ISOD, "sweep", "--store", tiny_store, "--samplers", "baseline", "UIS", "--seeds", "1", *small]
    code, written = run_in_terminal(command, columns=90, cwd=tmp_path)
    assert code == 0, written
    lines = lines_drawn(written)
    wholes = [line for line in lines if line.startswith("sweep ")]
    assert "0/2 runs" in wholes[0]
    assert "2/2 runs" in wholes[-1]
    assert max(map(len, wholes)) < 90
    for name in ("baseline-seed0", "UIS-seed0"):
        assert any(line.startswith(f"{name} ") and "0/4" in line and "starting" in line for line in lines)
        assert sum(re.match(rf"\[\d+:\d\d\] {name} done: mAP 0\.\d+ after 4", line) is not None for line in lines) == 1
    assert lines.index(wholes[-1]) < next(i for i, line in enumerate(lines) if line.startswith("sampler "))
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")

    command += ["--resume", "--quiet"]
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sampler ")  # the table
    assert done.stdout.splitlines()[-2].startswith("compare runs: ")
    assert not re.search(r"^\[|iterations each", done.stdout, re.M)


def test_whoever_reads_a_pipe_shares_the_terminal_with_no_bar(tmp_path):
    """`isod demo … | tee log`: tee writes to the same terminal. A file leaves the terminal to the bar."""
    shell = ["sh", "-c", f"{' '.join(map(str, DEMO))} | cat"]
    assert lines_drawn(run_in_terminal(shell, cwd=tmp_path)[1])[0].startswith(f"writing {FRAMES}/{FRAMES} frames, ")
    with (tmp_path / "log").open("w") as log:
        written = run_in_terminal([*ISOD, "demo", "more", "--frames", "2"], cwd=tmp_path, stdout=log)[1]
    assert "━" in written
    assert (tmp_path / "log").read_text() == RESULT.replace("data", "more").replace("demo more", "demo data") + "\n"


# --- elsewhere -------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_plain_lines(tmp_path):
    done = subprocess.run([*map(str, DEMO)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == f"{RESULT}\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"writing {FRAMES}/{FRAMES} frames, ")
    assert "\x1b" not in line


@pytest.mark.parametrize("command", ["samplers", "settings", "--help", "sweep --help"])
def test_a_reader_that_leaves_early_sees_no_stack_trace(tmp_path, command):
    shell = f"{' '.join(ISOD)} {command} | head -1"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_run_whose_reader_leaves_early_says_nothing_and_can_be_resumed(tmp_path, tiny_store):
    words = " ".join([*ISOD, "train", tiny_store, *TRAIN])
    done = subprocess.run(["bash", "-c", f"{words} | head -1; exit ${{PIPESTATUS[0]}}"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=240)  # fmt: skip
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    assert done.returncode == 141


# --- what is shown ---------------------------------------------------------------------------------------------------

text = st.text(st.characters(blacklist_categories=("C", "Z")), max_size=40)
a_line = st.builds(
    Line, name=text, share=st.none() | st.floats(0, 1), counts=text, notes=st.lists(text, max_size=3)
)  # fmt: skip


@given(st.lists(a_line, max_size=30), st.integers(2, 200), st.integers(1, 40))
def test_no_terminal_is_too_small(lines, columns, rows):
    """Whatever is shown: no line is as wide as the terminal, and all fit into its height, but for one that has none."""
    console = Console(file=io.StringIO(), width=columns, height=rows, force_terminal=True, color_system=None)
    console.print(BarLines(lines), end="")
    drawn = console.file.getvalue().splitlines()
    assert len(drawn) == min(len(lines), max(1, rows - 2))
    assert all(cell_len(line) < columns for line in drawn)


def test_a_wide_terminal_shows_everything():
    console = Console(file=io.StringIO(), width=60, height=24, force_terminal=True, color_system=None)
    lines = [Line("sweep", 0.5, "1/2 runs", ["about 0:10 left", "0:10 so far"]), Line("a", None, "5/9", ["mAP 0.125"])]
    console.print(BarLines(lines))
    whole, run = console.file.getvalue().splitlines()
    # 12 = 59 − 5 − 8 − 28 columns of text − 3 gaps of 2, half of them drawn
    assert whole.split() == ["sweep", "━" * 6, "1/2", "runs", "about", "0:10", "left,", "0:10", "so", "far"]
    assert run.index("5/9") == whole.index("1/2")
    assert run.index("mAP") == whole.index("about")


def test_text_in_html_is_escaped():
    html = LineTable([Line("<b>", 0.25, "1&2", ["<i>", "x"])])._repr_html_()
    assert "&lt;b&gt;" in html
    assert "1&amp;2" in html
    assert "&lt;i&gt;, x" in html
    assert 'value="0.2500"' in html


def test_quiet_ends_where_it_began(capsys):
    with quiet():
        say("unseen")
        with progress_bar(2, what="counting") as advance:
            advance(2)
        with quiet(False):
            say("unseen, too")
    say("seen")
    assert capsys.readouterr() == ("seen\n", "")


def test_a_bar_within_a_bar_is_not_shown(capsys):
    with progress_bar(2, what="outer", unit="things") as outer:
        with progress_bar(2, what="inner") as inner:
            inner(2)
        outer(2)
    assert capsys.readouterr().err.startswith("outer 2/2 things, 0:00")


def test_work_that_fails_or_does_not_begin_leaves_no_last_line(capsys):
    with suppress(ValueError), progress_bar(2, what="failing") as advance:
        advance(1)
        raise ValueError
    with progress_bar(2, what="idle"):
        pass
    assert capsys.readouterr() == ("", "")


def test_plain_lines_come_now_and_then(monkeypatch):
    now, printed = [0.0], []
    monkeypatch.setattr("isod.console.time.monotonic", lambda: now[0])
    with display(lambda: [], plain=lambda: printed.append(now[0]), every=20) as shown:
        for now[0] in (1.0, 19.0, 21.0, 40.0, 41.5, 50.0):
            shown.update()
    assert printed == [21.0, 41.5]


def test_time_left_by_hand():
    """A tenth of the work in 100 s, 0.89 left: 890 s."""
    assert seconds_left(100.0, 0.10, 0.89) == pytest.approx(890)
    assert seconds_left(60.0, 1.0, 0.0) == 0


def test_too_little_to_tell_the_time_left():
    assert seconds_left(1.0, 0.01, 0.94) is None
    assert seconds_left(1.0, 0.0, 0.0) is None  # a sweep of one result


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00"), (61, "1:01"), (3725.5, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text
