"""The README's examples run as printed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
HEADING = "In your own training loop"


def python_blocks(text: str, heading: str) -> list[str]:
    """Python code blocks of the section ``## heading``, in order; none where it is missing."""
    outside = re.split(r"(?ms)^(```.*?^```$)", text)  # odd entries are code blocks, where a # starts no heading
    section, blocks = "", []
    for i, part in enumerate(outside):
        if i % 2:
            if section == heading and part.startswith("```python\n"):
                blocks.append(part.removeprefix("```python\n").removesuffix("```"))
        elif headings := re.findall(r"(?m)^## (.+)$", part):
            section = headings[-1].strip()
    return blocks


BLOCKS = python_blocks(README.read_text(), HEADING) if README.exists() else []


@pytest.mark.skipif(not BLOCKS, reason=f"README.md has no python code under '## {HEADING}' yet")
@pytest.mark.parametrize("block", BLOCKS or [""])
def test_an_example_of_the_readme_runs_alone(block, tmp_path):
    """Each in a process of its own, in an empty folder: nothing is borrowed from the example above it."""
    (tmp_path / "example.py").write_text(block)
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_blocks_are_found_under_their_heading_only():
    one, two, three = ("```python\n" + code + "\n```\n" for code in ("1\n## c", "2", "3"))
    text = f"# a\n{three}## b\n```bash\n## c\n```\n{one}and\n{two}## c\n{three}"
    assert python_blocks(text, "b") == ["1\n## c\n", "2\n"]
    assert python_blocks(text, "c") == ["3\n"]
    assert python_blocks(text, "e") == []
