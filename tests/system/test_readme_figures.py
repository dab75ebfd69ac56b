"""The README's table names every figure of the thesis, and only functions and sections that there are."""

import re
from pathlib import Path

from isod.results.report import curve_figures, example_figures

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().partition("## Figures of the thesis\n")[2].partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("| ")]
EXPECTED = [f"5.{n}" for n in range(1, 21)] + [f"6.{n}" for n in range(1, 8)] + [f"A.{n}" for n in range(1, 6)]
EXPECTED += [f"B.{n}" for n in range(1, 11)] + ["C.1", "C.2", "C.3"]


def test_no_figure_is_missing_or_named_twice():
    named = [number for row in ROWS[1:] for number in row[0].split(", ") if number != "–"]
    assert sorted(named) == sorted(EXPECTED)


def test_functions_and_sections_exist():
    source = "".join(
        (ROOT / "isod" / "results" / "report" / name).read_text() for name in ("sections.py", "report.html.j2")
    )
    for _, _, function, section in ROWS[1:]:
        for name in re.findall(r"`(\w+_figure)`", function):
            assert hasattr(curve_figures, name) or hasattr(example_figures, name), name
        for name in re.findall(r"`(notebooks/[^`]+)`", function):
            assert (ROOT / name).is_file(), name
        assert section == "the first figure" or section in source, section
