"""The examples of the reader's documentation run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .builders import full_dataset

PAGE = Path(__file__).parents[2] / "deploy/docs/reader.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_dataset(tmp_path / "cars")
    monkeypatch.chdir(tmp_path)
    if "tensorstore" in EXAMPLES[number]:
        pytest.importorskip("tensorstore")
    exec(compile(EXAMPLES[number], str(PAGE), "exec"), {})


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3
