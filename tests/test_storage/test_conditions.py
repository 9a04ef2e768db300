"""What a store honours is found out on a real server, whose conditions a shim takes away."""

from __future__ import annotations

import pytest

from storage import layout
from storage import lease as lease_module
from storage.conditions import Conditions
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.s3_server import Answer, Request, Shim, refusal, without_headers

from .builders import FAILED_ROW, full_dataset, object_views, same_views
from .test_replacement import NEW, mend_in_a_round

NO_CREATE = without_headers("if-none-match")
NO_SWAP = without_headers("if-match")


def keys(store: Store) -> list[str]:
    return store.list(layout.MAINTENANCE)


def neither(request: Request) -> None:
    NO_CREATE(request)
    NO_SWAP(request)


def bare_versions(request: Request) -> Answer | None:
    """Ceph 16: what If-Match says is compared with the ETag without its quotes."""
    version = request.headers.get("If-Match")
    if version is not None:
        if version.startswith('"'):
            return refusal(412, "PreconditionFailed")
        request.headers["If-Match"] = f'"{version}"'
    return None


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (lambda request: None, Conditions(True, True)),
        (NO_CREATE, Conditions(False, True)),
        (NO_SWAP, Conditions(True, False)),
        (neither, Conditions(False, False)),
        (bare_versions, Conditions(True, True, bare=True)),
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
    rule, found: Conditions, s3_shim: Shim, s3_root: str
) -> None:
    s3_shim.rule = rule
    store = Store(s3_root)
    assert store.settle() == found
    assert keys(store) == ["conditions.json"]
    s3_shim.requests.clear()
    assert Store(s3_root).settle() == found
    assert len(s3_shim.requests) == 1
    assert store.create("k", b"1") is True
    assert store.create("k", b"2") is False
    version = store.version("k")
    assert store.swap("k", b"3", version) is True
    assert store.swap("k", b"4", version) is False
    assert store.read("k") == b"3"


def test_without_permission_to_delete_one_object_stays(
    s3_shim: Shim, s3_root: str, caplog: pytest.LogCaptureFixture
) -> None:
    s3_shim.rule = lambda request: refusal(403, "AccessDenied") if request.method == "DELETE" else None
    store = Store(s3_root)
    assert store.settle() == Conditions(True, True)
    conditions, probe = keys(store)
    assert conditions == "conditions.json"
    assert f"{s3_root}/maintenance/{probe} stays behind, it may be deleted" in caplog.text


def test_shards_are_replaced_without_comparisons(
    s3_shim: Shim, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "SETTLE_S", 0.5)
    s3_shim.rule = NO_SWAP
    store = full_dataset(s3_root)
    assert store.settle() == Conditions(True, False)
    mend_in_a_round(store, "views")
    assert same_views(ViewsStore.open(store).read(FAILED_ROW), object_views(NEW + FAILED_ROW))
    assert verify(store, full=True) == []
