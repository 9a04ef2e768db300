"""Credentials stay out of everything that a stage writes or says; see storage.redaction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import zstandard

from pipeline.config import load_config
from pipeline.executor import TaskFailure, run_task
from pipeline.run import record_run
from storage import redaction
from storage.errors import ConfigError
from storage.redaction import check_url, redact, redacted
from storage.store import Store
from tests.conftest import fpipe

KEY_ID = "AKIAIOSFODNN7QUOKKA1"
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYQUOKKAKEY"
SESSION = "FwoGZXIvYXdzQUOKKASESSIONTOKEN=="
OPTION = "quokka-option-secret"
TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 2 3 4\nf 1 3 4\n"
ZSTD = b"\x28\xb5\x2f\xfd"
SECRETS = (KEY_ID, SECRET, SESSION, OPTION)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("GET https://user:pass@host/a failed", "GET https://***@host/a failed"),
        ("s3://key:secret@bucket/a", "s3://***@bucket/a"),
        ("https://h/a?X-Amz-Signature=00ff&versionId=3", "https://h/a?X-Amz-Signature=***&versionId=3"),
        ("https://h/a?sig=00ff%3D: timed out", "https://h/a?sig=*** timed out"),
        (
            "{'anon': False, 'secret': 'abc def', 'token': None}",
            "{'anon': False, 'secret': '***', 'token': None}",
        ),
        ('{"aws_secret_access_key": "abc"}', '{"aws_secret_access_key": "***"}'),
        ("Authorization: Bearer abcdefgh", "Authorization: Bearer ***"),
        ("run with AWS_SESSION_TOKEN=abc now", "run with AWS_SESSION_TOKEN=*** now"),
        ("key AKIAIOSFODNN7EXAMPLE", "key ***"),
    ],
)
def test_texts(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/cars",
        "http://127.0.0.1:9000/a@b",
        "sftp://user@host/a",
        "no tokens are left: 3 of 4",
        "planes.zarr/c/0: key not found",
        "fpipe render s3://bucket/cars --set compute.train_gpus=1",
    ],
)
def test_harmless_texts_stay(text: str) -> None:
    assert redact(text) == text
    assert check_url(text) == text


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/a",
        "https://h/a?token=abc",
        "https://h/a.glb?X-Amz-Signature=00",
        "simplecache::s3://k:s@b/a",
    ],
)
def test_a_url_with_credentials_is_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ConfigError, match=r"\*\*\*.*AWS_SECRET_ACCESS_KEY") as error:
        Store(url)
    assert url not in str(error.value)
    with pytest.raises(ConfigError, match=r"source.path.*\*\*\*") as error:
        load_config({"source": {"kind": "folder", "path": url}})
    assert url not in str(error.value)
    with pytest.raises(ConfigError, match=r"render.cameras.*\*\*\*") as error:
        load_config({"render": {"cameras": url}})
    assert url not in str(error.value)


def test_a_command_that_is_given_a_url_with_credentials_writes_nothing(tmp_path: Path) -> None:
    url = "https://h/a?token=abc"
    done = fpipe("render", tmp_path / "data", "--source", "folder", "--path", url)
    assert done.code == 4
    assert url not in done.err + done.out
    assert not (tmp_path / "data").exists()


def test_values_of_the_environment_and_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_given", set())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("FSSPEC_S3_KEY", "quokka-key-id")
    Store("memory://a", client_kwargs={"aws_session_token": SESSION}, secret=OPTION)
    assert redact(f"{SECRET} {SESSION} {OPTION} quokka-key-id") == "*** *** *** ***"
    assert redacted({"a": [f"x {OPTION}", 1, None]}) == {"a": ["x ***", 1, None]}


def test_what_a_task_raises_and_what_a_run_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

    def fail() -> dict[str, int]:
        raise ValueError(f"signing with {SECRET} failed")

    failure = run_task(fail, None, {}).value
    assert isinstance(failure, TaskFailure)
    assert SECRET not in failure.message + failure.trace
    with pytest.raises(ValueError), record_run(Store(tmp_path), "render", {"note": SECRET}) as run:
        run.event("shard_failed", trace=f"Traceback {SECRET}")
        fail()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"signing with ***" in written
    assert SECRET.encode() not in written


def unpacked(data: bytes) -> Iterator[bytes]:
    """Yields the bytes of a file, and those within its compressed parts."""
    yield data
    start = data.find(ZSTD)
    while start >= 0:
        with contextlib.suppress(zstandard.ZstdError):
            yield zstandard.ZstdDecompressor().decompressobj().decompress(data[start:])
        start = data.find(ZSTD, start + 1)


def assert_clean(what: str, data: bytes) -> None:
    for part in unpacked(data):
        for secret in SECRETS:
            assert secret.encode() not in part, f"{what} holds {secret[:6]}…"


def test_the_search_finds_what_is_compressed() -> None:
    packed = b"head" + zstandard.ZstdCompressor().compress(b"x" * 50 + SECRET.encode())
    with pytest.raises(AssertionError, match="holds wJalrX"):
        assert_clean("a file", packed)


@pytest.mark.bpy
def test_stages_on_s3_leave_no_credentials_anywhere(
    s3: fsspec.AbstractFileSystem, s3_environment: dict[str, str], tmp_path: Path
) -> None:
    """Renders (one mesh is broken), looks, and fails at a server that has gone, with secrets all around."""
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    (meshes / "good.obj").write_text(TETRAHEDRON)
    (meshes / "bad.obj").write_text("<html>no access</html>")
    root = "s3://meshes/clean"
    common = {
        **s3_environment,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "FSSPEC_S3_KEY": KEY_ID,
        "FSSPEC_S3_SECRET": OPTION,
        "FSSPEC_S3_TOKEN": SESSION,
    }
    size = ("--views", "3", "--resolution", "32", "--executor", "local", "--json")
    ends = [fpipe("-v", "render", root, "--source", "folder", "--path", meshes, *size, **common)]
    ends += [fpipe(name, root, "--json", **common) for name in ("status", "failures", "report")]
    assert [end.code for end in ends] == [42, 0, 0, 0], [end.err for end in ends]
    gone = f"http://127.0.0.1:9/{OPTION}"  # botocore repeats the address in its message
    ends.append(fpipe("-v", "status", root, **{**common, "AWS_ENDPOINT_URL": gone}))
    assert ends[-1].code != 0
    assert "***" in ends[-1].err
    for end in ends:
        assert_clean("stdout", end.out.encode())
        assert_clean("stderr", end.err.encode())
    names = s3.find("meshes/clean")
    for part in ("/plan/", "/views.zarr/", "events-0000.jsonl", "run.json", ".html"):
        assert any(part in name for name in names), names
    for name in names:
        assert_clean(name, s3.cat_file(name))
