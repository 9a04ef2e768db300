"""Each fault as a plain S3 client sees it, what the server has afterwards, and what the proxy counts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.faults import KINDS, Dice, Faults, parse_rates
from tests.chaos.running import CREDENTIALS, RunningProxy, running_moto, running_proxy

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto.server")

BUCKET = "faults"
BODY = b"0123456789" * 100
# What the client is told about a PUT and a GET, and whether the server has the PUT afterwards.
EXPECTED = {
    "error_500": ("InternalError", "InternalError", False),
    "slow_down": ("SlowDown", "SlowDown", False),
    "reset_before": ("ConnectionClosedError", "ConnectionClosedError", False),
    "reset_after": ("ConnectionClosedError", "ConnectionClosedError", True),
    "stall": ("ReadTimeoutError", "ReadTimeoutError", False),
    "late": ("ReadTimeoutError", "ReadTimeoutError", True),
    "truncate": ("ok", "ResponseStreamingError", True),
    "lost_put": ("ConnectionClosedError", "ok", True),
}


@pytest.fixture(scope="module")
def proxy() -> Iterator[RunningProxy]:
    with running_moto() as upstream, running_proxy(upstream) as running:
        yield running


def client(url: str, read_timeout_s: float) -> Any:
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        config=Config(read_timeout=read_timeout_s, retries={"total_max_attempts": 1}, proxies={}),
    )


@pytest.fixture(scope="module")
def s3(proxy: RunningProxy) -> Any:
    patient = client(proxy.url, 60.0)
    patient.create_bucket(Bucket=BUCKET)
    return patient


def outcome(call: Any) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 whatever botocore raises
        response = getattr(error, "response", None)
        return str(response["Error"]["Code"]) if response else type(error).__name__
    return "ok"


def has(s3: Any, key: str) -> bool:
    return bool(s3.list_objects_v2(Bucket=BUCKET, Prefix=key).get("Contents"))


def test_without_faults_everything_passes(s3: Any, proxy: RunningProxy) -> None:
    key = "a/b ü+%/c"
    s3.put_object(Bucket=BUCKET, Key=key, Body=BODY)
    assert s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(BODY)
    assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == BODY
    assert s3.get_object(Bucket=BUCKET, Key=key, Range="bytes=-3")["Body"].read() == BODY[-3:]
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == [key]
    create = lambda: s3.put_object(Bucket=BUCKET, Key=key, Body=b"", IfNoneMatch="*")  # noqa: E731
    assert outcome(create) == "PreconditionFailed"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"", IfMatch=s3.head_object(Bucket=BUCKET, Key=key)["ETag"])
    s3.delete_object(Bucket=BUCKET, Key=key)
    told = proxy.told()
    assert set(told["counts"]) == {"requests"}
    assert told["writes"][f"/{BUCKET}/{key}"] == {"plain": 1, "swap": 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_seen_counted_and_happens_to_the_server_as_said(
    s3: Any, proxy: RunningProxy, kind: str
) -> None:
    readable = f"readable-{kind}"
    s3.put_object(Bucket=BUCKET, Key=readable, Body=BODY)
    put_said, get_said, arrives = EXPECTED[kind]
    before = proxy.counts()
    waits = kind in ("late", "stall")
    caller = client(proxy.url, 0.5) if waits else s3
    proxy.change(rates={kind: 1.0}, stall_s=1.5)
    try:
        put = lambda: caller.put_object(Bucket=BUCKET, Key=kind, Body=BODY, IfNoneMatch="*")  # noqa: E731
        get = lambda: caller.get_object(Bucket=BUCKET, Key=readable)["Body"].read()  # noqa: E731
        assert (outcome(get), outcome(put)) == (get_said, put_said)
    finally:
        proxy.change(rates={})
    deadline = time.monotonic() + 30.0
    while waits and proxy.counts().get(kind, 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert has(s3, kind) is arrives
    assert proxy.told()["writes"].get(f"/{BUCKET}/{kind}", {}) == ({"create": 1} if arrives else {})
    assert proxy.counts()[kind] - before.get(kind, 0) == sum(said != "ok" for said in (put_said, get_said))


def test_prefixes_methods_and_latency(s3: Any, proxy: RunningProxy) -> None:
    proxy.change(rates={"error_500": 1.0}, prefixes=["hit/"], methods=["PUT"], latency_ms=60.0)
    try:
        began = time.monotonic()
        assert outcome(lambda: s3.put_object(Bucket=BUCKET, Key="spared/x", Body=b"")) == "ok"
        assert time.monotonic() - began >= 0.06
        assert outcome(lambda: s3.put_object(Bucket=BUCKET, Key="hit/x", Body=b"")) == "InternalError"
        assert outcome(lambda: s3.list_objects_v2(Bucket=BUCKET, Prefix="hit/")) == "ok"
    finally:
        proxy.change(rates={}, prefixes=[], methods=[], latency_ms=0.0)


def test_draws_depend_on_the_request_and_the_seed_alone() -> None:
    def draws(seed: int, others: int) -> list[str | None]:
        dice = Dice(Faults(parse_rates("all=0.1"), seed=seed))
        found = []
        for _ in range(400):
            found.append(dice.draw("GET", "/b/k", "k"))
            for other in range(others):
                dice.draw("GET", f"/b/{other}", str(other))
        return found

    assert draws(1, 0) == draws(1, 3)
    assert draws(1, 0) != draws(2, 0)
    counts = Counter(draws(1, 0))
    assert counts["lost_put"] == 0, "a GET is no PUT"
    assert all(20 <= counts[kind] <= 65 for kind in KINDS if kind != "lost_put"), counts


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown faults"):
        Faults({"explode": 0.1})
    with pytest.raises(ValueError, match="no probabilities"):
        Faults({"stall": 0.6, "late": 0.6})


def test_the_command_says_where_it_listens() -> None:
    command = [sys.executable, "-m", "tests.chaos.proxy", "--upstream", "http://127.0.0.1:9"]
    options = ["--faults", "all=0.01,stall=0", "--latency-ms", "20"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
        assert process.wait(20) == 0
    assert '"url": "http://127.0.0.1:' in line
    assert '"latency_ms": 20.0' in line
