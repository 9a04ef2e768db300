from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import provenance


def test_a_checkout_says_its_own_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPIPE_REVISION", "other")
    assert re.fullmatch(r"[0-9a-f]{40}\+?", provenance.git_revision() or "")


@pytest.mark.parametrize(("said", "found"), [("4f2a", "4f2a"), ("unknown", None), ("", None)])
def test_an_image_has_no_checkout_and_says_what_it_was_built_from(
    said: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "pipeline/provenance.py"))
    monkeypatch.setenv("FPIPE_REVISION", said)
    assert provenance.git_revision() == found
