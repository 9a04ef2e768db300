from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync, which takes most of the time; test_store tests where it must happen."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
