"""A store that cannot be used: one line says what to do, exit 3; once it is mended the same command works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.records import Status
from storage.store import Store
from storage.verify import verify
from storage.views import ViewsStore
from tests.conftest import Finished, fpipe
from tests.s3_server import Answer, Request, Shim, refusal
from tests.test_render_jobs.view_files import SIZE_PX, write_nerf_synthetic

N_OBJECTS = 6
LOCAL = ("--executor", "local", "--workers", "1")


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Views of six objects: importing them needs every part of a stage, but no Blender."""
    folder = tmp_path_factory.mktemp("views")
    for number in range(N_OBJECTS):
        write_nerf_synthetic(folder / f"object-{number}", {"train": 24})
    return folder


@pytest.fixture
def render(views: Path) -> Callable[..., Finished]:
    def run(root: str | Path, **environment: str) -> Finished:
        size = ("--resolution", str(SIZE_PX))
        return fpipe("render", root, "--source", "nerf", "--path", views, *size, *LOCAL, **environment)

    return run


def is_refused(done: Finished, *said: str) -> None:
    assert done.code == 3, done.err
    last = done.err.splitlines()[-1]
    for text in said:
        assert text in last, done.err
    assert "Traceback" not in done.err


def is_whole(root: str | Path, done: Finished) -> None:
    assert done.code == 0, done.err
    store = Store(root)
    assert (ViewsStore.open(store).status() == Status.OK).all()
    assert len(ViewsStore.open(store).status()) == N_OBJECTS
    assert verify(store, full=True) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=160k", "tmpfs", disk):
        pytest.skip("file systems cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def mount(*arguments: str | Path) -> bool:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_full_disk_ends_the_run_and_loses_nothing(
    small_disk: Path, render: Callable[..., Finished]
) -> None:
    root = small_disk / "dataset"
    is_refused(render(root), f"{root}/", "no space left on the disk", "run the same command again")
    done = ViewsStore.open(Store(root)).done()
    assert 0 < len(done) < N_OBJECTS, "it became full in the middle"
    assert verify(Store(root), full=True) == []
    assert mount("-o", "remount,size=16m", small_disk)
    again = render(root)
    assert f"{len(done)} done before" in again.err
    is_whole(root, again)


@pytest.mark.slow
def test_a_read_only_folder_is_said(small_disk: Path, render: Callable[..., Finished]) -> None:
    assert mount("-o", "remount,ro", small_disk)
    root = small_disk / "dataset"
    is_refused(render(root), f"{root}", "read-only file system", "mount it writable")
    assert mount("-o", "remount,rw,size=16m", small_disk)
    assert not root.exists()
    is_whole(root, render(root))


class Expiring:
    """Credentials that are good for some writes."""

    def __init__(self, n_writes: int) -> None:
        self.left = n_writes

    def __call__(self, request: Request) -> Answer | None:
        if request.method == "PUT":
            self.left -= 1
        if self.left < 0:
            return refusal(400, "ExpiredToken", "The provided token has expired.")
        return None


def test_credentials_that_expire_in_the_middle_end_the_run_and_lose_nothing(
    s3_shim: Shim, s3_root: str, render: Callable[..., Finished]
) -> None:
    s3_shim.rule = Expiring(40)
    done = render(s3_root)
    is_refused(done, s3_root, "ExpiredToken: The provided token has expired: renew the credentials")
    assert done.err.count("ExpiredToken") <= 3, "not once per shard"
    s3_shim.rule = lambda request: None
    store = Store(s3_root)
    status = ViewsStore.open(store).status()
    assert 0 < (status == Status.OK).sum() < N_OBJECTS
    assert not (status == Status.FAILED).any(), "no object is blamed"
    assert verify(store, full=True) == []
    is_whole(s3_root, render(s3_root))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
        (403, "AccessDenied", "permission to list the bucket"),
        (404, "NoSuchBucket", "create the bucket first"),
    ],
)
def test_a_refusal_at_the_start_is_one_line(
    status: int, code: str, said: str, s3_shim: Shim, s3_root: str, render: Callable[..., Finished]
) -> None:
    s3_shim.rule = lambda request: refusal(status, code)
    done = render(s3_root)
    is_refused(done, s3_root, code, said)
    assert len([line for line in done.err.splitlines() if line.startswith("fpipe:")]) == 1


def test_no_credentials_and_an_unknown_profile(
    s3_root: str, render: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_refused(render(s3_root, AWS_PROFILE="nobody"), s3_root, "nobody", "check the AWS settings")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    is_refused(
        render(s3_root, AWS_EC2_METADATA_DISABLED="true"),
        s3_root,
        "NoCredentialsError",
        "check the AWS settings",
    )


@pytest.mark.slow
def test_a_server_that_is_not_there_is_given_up_in_bounded_time(
    s3_root: str, render: Callable[..., Finished]
) -> None:
    done = render(s3_root, AWS_ENDPOINT_URL="http://127.0.0.1:9")  # nobody listens there
    is_refused(done, s3_root, "Could not connect to the endpoint URL", "http://127.0.0.1:9")


def test_a_limit_on_file_sizes_is_said(tmp_path: Path) -> None:
    """A real refusal by the kernel that needs no rights."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from storage.store import Store; from storage.errors import StoreUnusableError\n"
        "store = Store(sys.argv[1])\n"
        "for write in (store.create, store.replace):\n"
        "    try: write('a/k', bytes(5000))\n"
        "    except StoreUnusableError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.count(f"{tmp_path}/a/k: larger than files may be here: raise the limit") == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "nothing is left of it"
