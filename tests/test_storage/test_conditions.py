"""What a store honours is found out on a real server, whose conditions a shim takes away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.config import ComputeConfig
from pipeline.writers import require_writers
from storage import layout
from storage import lease as lease_module
from storage.conditions import Conditions
from storage.errors import EnvironmentProblem
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.conftest import TINY, fpipe
from tests.s3_server import Request, S3Server, Shim, refusal, without_headers

from .builders import FAILED_ROW, full_dataset, object_views, same_views
from .test_replacement import NEW, mend_in_a_round

NO_CREATE = without_headers("if-none-match")
NO_SWAP = without_headers("if-match")


@pytest.fixture
def shim(
    s3_server: S3Server, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shim]:
    """Stands in front of the server and passes everything on until a test gives it a rule."""
    with Shim(s3_server.url) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
        yield found


def keys(store: Store) -> list[str]:
    return store.list(layout.MAINTENANCE)


def neither(request: Request) -> None:
    NO_CREATE(request)
    NO_SWAP(request)


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (lambda request: None, Conditions(True, True)),
        (NO_CREATE, Conditions(False, True)),
        (NO_SWAP, Conditions(True, False)),
        (neither, Conditions(False, False)),
        (
            lambda request: (
                refusal(501, "NotImplemented")
                if {"if-match", "if-none-match"} & {name.lower() for name in request.headers}
                else None
            ),
            Conditions(False, False),
        ),
    ],
)
def test_what_is_honoured_is_found_out_once_and_nothing_is_left(
    rule, found: Conditions, shim: Shim, s3_root: str
) -> None:
    shim.rule = rule
    store = Store(s3_root)
    assert store.settle() == found
    assert keys(store) == ["conditions.json"]
    shim.requests.clear()
    assert Store(s3_root).settle() == found
    assert len(shim.requests) == 1
    assert store.create("k", b"1") is True
    assert store.create("k", b"2") is False
    assert store.read("k") == b"1"


def test_without_permission_to_delete_one_object_stays(
    shim: Shim, s3_root: str, caplog: pytest.LogCaptureFixture
) -> None:
    shim.rule = lambda request: refusal(403, "AccessDenied") if request.method == "DELETE" else None
    store = Store(s3_root)
    assert store.settle() == Conditions(True, True)
    conditions, probe = keys(store)
    assert conditions == "conditions.json"
    assert f"{s3_root}/maintenance/{probe} stays behind, it may be deleted" in caplog.text


def test_shards_are_replaced_without_comparisons(
    shim: Shim, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "SETTLE_S", 0.5)
    shim.rule = NO_SWAP
    store = full_dataset(s3_root)
    assert store.settle() == Conditions(True, False)
    mend_in_a_round(store, "views")
    assert same_views(ViewsStore.open(store).read(FAILED_ROW), object_views(NEW + FAILED_ROW))
    assert verify(store, full=True) == []


def test_where_creating_is_ignored_one_writer_may_write(shim: Shim, s3_root: str) -> None:
    shim.rule = NO_CREATE
    one = ComputeConfig(executor="local", workers=1)
    store = Store(s3_root)
    require_writers(store, one)
    for compute, shards in (
        (ComputeConfig(executor="ray"), "all"),
        (ComputeConfig(executor="local", workers=2), "all"),
        (one, "0/2"),
    ):
        with pytest.raises(EnvironmentProblem, match=r"one command at a time.*--executor local --workers 1"):
            require_writers(store, compute, shards)


def test_the_command_line_says_so(shim: Shim, s3_root: str) -> None:
    shim.rule = NO_CREATE
    arguments = ("render", s3_root, "--preset", TINY, "--classes", "car:1")
    several = fpipe(*arguments)
    assert several.code == 3
    assert "ignores create-only writes" in several.err
    assert "--executor local --workers 1" in several.err.splitlines()[-1]
    assert "Traceback" not in several.err
    single = fpipe(*arguments, "--executor", "local", "--workers", "1")
    assert single.code == 0, single.err
    assert verify(Store(s3_root), full=True) == []
