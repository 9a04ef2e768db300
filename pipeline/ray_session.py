"""Connects to a Ray cluster, or starts a Ray on this machine that nobody else can reach."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, utils

from pipeline.held_signals import held_signals
from storage.errors import EnvironmentProblem

LOGGER = logging.getLogger(__name__)

NO_TASK_EVENTS: dict[str, Any] = {"task_events_report_interval_ms": 0}
"""Ray's head keeps what each task went through for its dashboard, 4 KB a task up to 100,000 tasks; the Ray of
one command has no dashboard."""


@contextlib.contextmanager
def ray_session(address: str | None, scratch: Path, cpus: int | None = None) -> Iterator[None]:
    """Connects to a cluster, or starts Ray on this machine with everything it writes below scratch.

    Args:
        address: a cluster's address, "auto" for the one of this machine, None to start one.
        scratch: private folder, short (Ray puts Unix sockets into it).
        cpus: cores that a started Ray may use, None for all.

    Raises:
        EnvironmentProblem: the cluster cannot be reached, or HOME is not writable.
    """
    if ray.is_initialized():  # a caller (a test, a notebook) brought its own
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # CPU tasks still see a GPU of their node
    _keep_token_private()
    # One line about token authentication at every start is noise to people who never leave this machine.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    try:
        _start(address, scratch, cpus)
        yield
    finally:
        with held_signals():
            ray.shutdown()


def _start(address: str | None, scratch: Path, cpus: int | None) -> None:
    """See ray_session. A signal waits until Ray is there: where an exception meets its code, it aborts."""
    common: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    try:
        with held_signals(), _without_rays_handlers():
            if address is None:
                with _loopback_only():
                    ray.init(
                        num_cpus=cpus,
                        include_dashboard=False,
                        _temp_dir=str(scratch / "r"),
                        _system_config={} if "RAY_ADDRESS" in os.environ else NO_TASK_EVENTS,
                        **common,
                    )
            else:
                ray.init(address=address, **common)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = "Ray could not be started here" if address is None else f"no Ray cluster answers at {address}"
        raise EnvironmentProblem(f"{where}: {error}") from error


@contextlib.contextmanager
def _without_rays_handlers() -> Iterator[None]:
    """Keeps Ray from handling SIGTERM in the block: it would end this process with a code of its own."""
    before = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = before


def _keep_token_private() -> None:
    """Closes ~/.ray to others before Ray, which makes it with the usual mask, writes its token there.

    Whoever holds the token may run code as this user; homes of shared machines are often readable.

    Raises:
        EnvironmentProblem: HOME is not writable.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        LOGGER.warning("RAY_AUTH_MODE switches Ray's authentication off: who reaches its ports is this user")
        return
    folder = Path.home() / ".ray"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
            return  # the token is given, so that Ray writes none
        raise EnvironmentProblem(
            f"{folder}: {error.strerror}; Ray keeps its token there: set HOME to a writable folder"
        ) from error


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Makes the Ray that is started in the block listen on the loopback interface alone.

    Ray does so on macOS and Windows, where it has no clusters; on Linux it would listen on every interface,
    although nobody but this machine is meant to reach it (`_node_ip_address` is overruled there).
    """
    if "RAY_ADDRESS" in os.environ:  # Ray starts nothing then, but connects to that cluster
        yield
        return
    name = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before, is_set = ray_constants.ENABLE_RAY_CLUSTER, name in os.environ
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.setdefault(name, "0")  # for the processes that Ray starts
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        if not is_set:
            del os.environ[name]


def own_ray_ends() -> bool:
    """Says whether the Ray that this process has started on this machine is going away.

    Some signals reach every process of a job (scancel, systemd). Whoever asks a dead Ray waits for a minute,
    and then Ray ends the process.
    """
    node: Any = ray._private.worker._global_node
    return node is not None and bool(node.dead_processes())
