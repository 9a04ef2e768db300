"""Single requests against a real server on this machine, with answers damaged by a shim in front of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from storage import retries
from storage.errors import EnvironmentProblem, StoreUnusableError, TransientError
from storage.remote_files import RemoteFiles
from storage.retries import RetryPolicy
from storage.s3_requests import DEFAULTS, s3_options
from storage.store import Store
from tests.s3_server import Answer, Request, Rule, S3Server, Shim, forwarded, refusal

DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "POLICY", RetryPolicy(attempts=4, base_s=0.01))


@pytest.fixture
def shimmed(
    s3_server: S3Server, s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Store, Shim]]:
    """Makes a store behind a shim; the object "k" is there."""
    Store(s3_root).create("k", DATA)
    shims: list[Shim] = []

    def make(rule: Rule, **options: Any) -> tuple[Store, Shim]:
        shim = Shim(s3_server.url, rule).__enter__()
        shims.append(shim)
        return Store(s3_root, endpoint_url=shim.url, **options), shim

    yield make
    for shim in shims:
        shim.__exit__(None, None, None)


def test_ranges_tails_and_sizes_are_those_of_a_local_folder(s3_root: str, tmp_path: Path) -> None:
    there, here = Store(s3_root), Store(tmp_path)
    for store in (there, here):
        for key, data in {"k": DATA, "empty": b"", "folder/a": b"a", "folder/sub/b": b"b"}.items():
            assert store.create(key, data) is True
            assert store.create(key, b"again") is False
    for ask in (
        lambda store: store.read("k"),
        lambda store: store.read("empty"),
        lambda store: store.read_range("k", 10, 20),
        lambda store: store.read_range("k", len(DATA) - 3, len(DATA) + 50),
        lambda store: store.read_tail("k", 7),
        lambda store: store.read_tail("k", len(DATA) + 1),
        lambda store: store.read_tail("empty", 7),
        lambda store: store.size("k"),
        lambda store: store.list("folder"),
        lambda store: store.list("nowhere"),
        lambda store: [store.exists(key) for key in ("k", "folder", "nowhere", "folder/a")],
    ):
        assert ask(there) == ask(here)
    for ask in (lambda: there.read("nowhere"), lambda: there.size("nowhere"), lambda: there.size("folder")):
        with pytest.raises(FileNotFoundError):
            ask()


def test_a_read_is_one_request(shimmed: Callable[..., tuple[Store, Shim]]) -> None:
    store, shim = shimmed(lambda request: None)
    for read in (
        lambda: store.read("k"),
        lambda: store.read_tail("k", 9),
        lambda: store.read_range("k", 5, 9),
        lambda: store.size("k"),
        lambda: store.list("nowhere"),
    ):
        shim.requests.clear()
        read()
        assert len(shim.requests) == 1


def test_long_listings_come_page_by_page(s3_root: str, shimmed: Callable[..., tuple[Store, Shim]]) -> None:
    store, shim = shimmed(lambda request: _smaller_pages(request))
    for number in range(7):
        store.create(f"many/{number}", b"")
    shim.requests.clear()
    assert store.list("many") == [str(number) for number in range(7)]
    assert len(shim.requests) == 3


def _smaller_pages(request: Request) -> None:
    if "list-type=2" in request.path:
        request.path += "&max-keys=3"


def once(fault: Callable[[Request], Answer | None], times: int = 2) -> Rule:
    """A rule that applies a fault to the first requests, as long as it answers at all."""
    left = [times]

    def rule(request: Request) -> Answer | None:
        if not left[0]:
            return None
        left[0] -= 1  # before the fault, which may take its time
        answer = fault(request)
        left[0] += answer is None
        return answer

    return rule


def cut(upstream: str, honest: bool) -> Callable[[Request], Answer | None]:
    """Half of the body, its length told as it was or as it is now."""

    def fault(request: Request) -> Answer | None:
        if request.method != "GET":
            return None
        answer = forwarded(upstream, request)
        half = answer.body[: len(answer.body) // 2]
        length = len(half) if honest else len(answer.body)
        return replace(answer, body=half, headers={**answer.headers, "Content-Length": str(length)})

    return fault


@pytest.mark.parametrize("fault", ["503", "500", "cut", "cut and honest", "stall", "empty listing"])
def test_reads_survive_what_passes(
    fault: str, s3_server: S3Server, shimmed: Callable[..., tuple[Store, Shim]]
) -> None:
    def stall(request: Request) -> Answer:
        time.sleep(0.8)
        return refusal(500, "InternalError")

    faults: dict[str, Callable[[Request], Answer | None]] = {
        "503": lambda request: refusal(503, "SlowDown"),
        "500": lambda request: refusal(500, "InternalError"),
        "cut": cut(s3_server.url, honest=False),
        "cut and honest": cut(s3_server.url, honest=True),
        "stall": stall,
        "empty listing": lambda request: Answer(200) if "list-type" in request.path else None,
    }
    reads: dict[str, Callable[[Store], object]] = {
        "range": lambda store: store.read_range("k", 100, 300) == DATA[100:300],
        "tail": lambda store: store.read_tail("k", 50) == DATA[-50:],
        "tails": lambda store: store.read_tails(["k", "k"], 50) == [DATA[-50:]] * 2,
        "list": lambda store: store.list("") == ["k"],
    }
    if fault != "cut and honest":  # only the range says how long it should be
        reads["whole"] = lambda store: store.read("k") == DATA
    store, shim = shimmed(faults[fault], config_kwargs={"read_timeout": 0.4})
    for read in reads.values():
        shim.rule = once(faults[fault])
        assert read(store)
    if fault == "empty listing":
        return
    shim.rule = faults[fault]
    shim.requests.clear()
    with pytest.raises(TransientError, match=r"s3://.*/root/k: "):
        store.read_range("k", 100, 300)
    assert len(shim.requests) == 4, "nobody else tries again"
    (failure,) = store.read_tails(["k"], 50)
    assert isinstance(failure, TransientError)
    assert len(shim.requests) == 8


@pytest.mark.parametrize("kind", ["refused", "answer lost", "stalled after it was written"])
def test_writes_learn_their_outcome(
    kind: str, s3_server: S3Server, shimmed: Callable[..., tuple[Store, Shim]]
) -> None:
    def fault(request: Request) -> Answer | None:
        if request.method != "PUT":
            return None
        if kind != "refused":
            assert forwarded(s3_server.url, request).status == 200
        if kind.startswith("stalled"):
            time.sleep(1.0)
        return refusal(503, "SlowDown")

    store, shim = shimmed(once(fault, 1), config_kwargs={"read_timeout": 0.5})
    assert store.create("new", b"1") is True
    shim.rule = once(fault, 1)
    assert store.swap("new", b"2", store.version("new")) is True
    shim.rule = once(fault, 1)
    store.replace("new", b"3")
    assert store.read("new") == b"3"


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "renew the credentials"),
        (403, "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        (403, "AccessDenied", "permission to list the bucket"),
        (404, "NoSuchBucket", "create the bucket first"),
        (301, "PermanentRedirect", "AWS_REGION"),
        (301, "a redirect without end", "AWS_REGION"),
    ],
)
def test_refusals_say_what_to_do_whatever_was_asked(
    status: int, code: str, said: str, shimmed: Callable[..., tuple[Store, Shim]]
) -> None:
    region = {"x-amz-bucket-region": "eu-north-1"} if code == "PermanentRedirect" else {}
    store, _ = shimmed(lambda request: refusal(status, code, **region))
    asks: list[Callable[[], object]] = [
        lambda: store.read("k"),
        lambda: store.read_tail("k", 3),
        lambda: store.create("n", b""),
        lambda: store.replace("n", b""),
        lambda: store.list("folder"),
    ]
    if status != 404:  # a HEAD says 404 for a missing object, too
        asks += [lambda: store.size("k"), lambda: store.exists("k"), lambda: store.swap("k", b"", "v")]
    for ask in asks:
        with pytest.raises(StoreUnusableError, match=f"s3://.*/root/.*: {code}") as caught:
            ask()
        assert said in str(caught.value)


def test_a_server_that_ignores_ranges_is_refused(shimmed: Callable[..., tuple[Store, Shim]]) -> None:
    def rule(request: Request) -> None:
        request.headers.pop("Range", None)

    store, _ = shimmed(rule)
    with pytest.raises(EnvironmentProblem, match="ignores range requests"):
        store.read_range("k", 100, 300)
    with pytest.raises(EnvironmentProblem, match="ignores range requests"):
        store.read_tail("k", 10)


class TestConfiguration:
    """Each of the usual ways to configure S3 arrives at the client."""

    @staticmethod
    def client(**options: Any) -> Any:
        files = RemoteFiles("s3://bucket/root", options)
        return files.fs.s3

    @pytest.mark.usefixtures("s3_environment")
    def test_defaults(self) -> None:
        config = self.client().meta.config
        assert config.max_pool_connections == DEFAULTS["config_kwargs"]["max_pool_connections"]
        assert (config.connect_timeout, config.read_timeout) == (10, 20)
        assert config.retries["total_max_attempts"] == 1

    @pytest.mark.usefixtures("s3_environment")
    def test_endpoint_variables(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all.example:1")
        assert self.client(skip_instance_cache=True).meta.endpoint_url == "http://all.example:1"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example:2")
        assert self.client(skip_instance_cache=True).meta.endpoint_url == "http://s3.example:2"

    @pytest.mark.usefixtures("s3_environment")
    def test_regions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_REGION", "eu-north-1")
        assert self.client().meta.region_name == "us-east-1", "AWS_DEFAULT_REGION goes first, as in botocore"
        monkeypatch.delenv("AWS_DEFAULT_REGION")
        assert self.client(skip_instance_cache=True).meta.region_name == "eu-north-1"
        assert self.client(client_kwargs={"region_name": "eu-west-1"}).meta.region_name == "eu-west-1"

    @pytest.mark.usefixtures("s3_environment")
    def test_profiles_and_their_addressing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "config").write_text(
            "[profile other]\nregion = eu-south-1\nendpoint_url = http://profile.example\n"
            "aws_access_key_id = KEY\naws_secret_access_key = SECRET\ns3 =\n  addressing_style = path\n"
        )
        for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "other")
        client = self.client(skip_instance_cache=True)
        assert (client.meta.region_name, client.meta.endpoint_url) == ("eu-south-1", "http://profile.example")
        assert client.meta.config.s3["addressing_style"] == "path"
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(StoreUnusableError, match=r"nobody.*check the AWS settings"):
            Store("s3://bucket/root", skip_instance_cache=True).read("k")

    @pytest.mark.usefixtures("s3_environment")
    def test_fsspec_configuration_is_merged_with_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        own = {
            "config_kwargs": {"read_timeout": 7, "s3": {"addressing_style": "virtual"}},
            "key": "FROM-FSSPEC",
            "secret": "x",
        }
        monkeypatch.setattr(fsspec.config, "conf", {"s3": own})
        merged = s3_options({"config_kwargs": {"connect_timeout": 3}}, {})
        assert merged["key"] == "FROM-FSSPEC"
        client = self.client(config_kwargs={"connect_timeout": 3})
        config = client.meta.config
        assert (config.connect_timeout, config.read_timeout) == (3, 7)
        assert config.s3 == {"addressing_style": "virtual"}
        assert config.max_pool_connections == DEFAULTS["config_kwargs"]["max_pool_connections"]

    @pytest.mark.parametrize(("config", "agent"), [({}, "fpipe"), ({"user_agent": "mine"}, "mine")])
    @pytest.mark.usefixtures("s3_environment")
    def test_user_agent_on_the_wire(self, config: dict[str, str], agent: str, s3_server: S3Server) -> None:
        seen: list[str] = []

        def refused(request: Request) -> Answer:
            seen.append(request.headers["User-Agent"].split()[0])  # a version of botocore follows
            return refusal(404, "NoSuchKey")

        with Shim(s3_server.url, refused) as server:
            assert not Store("s3://bucket/root", endpoint_url=server.url, config_kwargs=config).exists("k")
        assert seen == [agent]

    @pytest.mark.parametrize(("style", "host"), [("path", "s3.example"), ("virtual", "bucket.s3.example")])
    @pytest.mark.usefixtures("s3_environment")
    def test_addressing_on_the_wire(self, style: str, host: str, s3_server: S3Server) -> None:
        """An HTTP proxy sees whole URLs, so that no name needs to be resolved."""
        with Shim(s3_server.url, lambda request: refusal(404, "NoSuchKey")) as proxy:
            store = Store(
                "s3://bucket/root",
                endpoint_url="http://s3.example",
                config_kwargs={"s3": {"addressing_style": style}, "proxies": {"http": proxy.url}},
            )
            assert not store.exists("k")
            path = "/root/k" if style == "virtual" else "/bucket/root/k"
            assert proxy.requests == [("HEAD", f"http://{host}{path}")]
