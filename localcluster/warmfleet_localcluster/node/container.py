"""One container: image, start, probes, restarts with back-off, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from warmfleet_runtime.rest import ApiError

from warmfleet_localcluster.node.environment import container_environment
from warmfleet_localcluster.node.expand import ContainerConfigError, expand, substitute_mounts
from warmfleet_localcluster.node.probes import Probe, Target, act, keep_probing
from warmfleet_localcluster.node.process import Process
from warmfleet_localcluster.node.runtime import Runtime
from warmfleet_localcluster.node.services import with_addresses
from warmfleet_localcluster.node.settings import ImageEntry
from warmfleet_localcluster.node.status import ContainerState, Kind, timestamp
from warmfleet_localcluster.node.volumes import container_mounts, mount_environment

_LOG = logging.getLogger(__name__)
_BACKOFF_FIRST, _BACKOFF_MAX = 10.0, 300.0
_MIN_GRACE = 2.0
_START_FAILED = 128


@dataclass(slots=True)
class Sandbox:
    """What the containers of a pod share."""

    pod: dict[str, Any]
    node: str
    address: str
    directory: Path
    logs: Path
    volumes: Mapping[str, Path]
    env: Mapping[str, str]


class Deadline:
    """A moment of logical time that may only come nearer."""

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self._clock = runtime.clock
        self.at = self._clock.now() + seconds
        self._moved = asyncio.Event()

    @property
    def left(self) -> float:
        """Logical seconds until it, not below 0."""
        return max(0.0, self.at - self._clock.now())

    def shorten(self, seconds: float) -> None:
        """Let it be at most `seconds` from now."""
        if seconds < self.left:
            self.at = self._clock.now() + seconds
            self._moved.set()

    async def passed(self) -> None:
        """Return when it has passed."""
        while self.left > 0:
            self._moved.clear()
            await first_of(self._clock.sleep(self.left), self._moved.wait())


async def first_of(*awaitables: Awaitable[Any]) -> None:
    """Return when one has ended; the others are cancelled."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()


class Container:
    """Runs one container of a pod.

    Args:
        spec: The container's spec.
        kind: The part it plays.
        sandbox: What it shares with the other containers.
        runtime: The node's services.
        changed: Called after every change of `state`.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        kind: Kind,
        sandbox: Sandbox,
        runtime: Runtime,
        changed: Callable[[], None],
    ) -> None:
        waiting = {"reason": "ContainerCreating" if kind is Kind.MAIN else "PodInitializing"}
        self.state = ContainerState(spec["name"], spec["image"], kind, {"waiting": waiting})
        self.spec = spec
        self.started = asyncio.Event()
        self._sandbox, self._runtime, self._changed = sandbox, runtime, changed
        self._process: Process | None = None
        self._stopping = False
        self._env: dict[str, str] = {}
        self._mounts: list[tuple[str, Path]] = []
        self._probing: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None
        self._began = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def log(self) -> Path:
        """File with the output of all its runs."""
        return self._sandbox.logs / f"{self.spec['name']}.log"

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, restart: Callable[[int], bool]) -> asyncio.Task[None]:
        """Begin; the task ends when it will not be started again. `restart` decides by the exit code."""
        self._task = asyncio.create_task(self._supervise(restart))
        return self._task

    async def _supervise(self, restart: Callable[[int], bool]) -> None:
        delay = 0.0
        while True:
            argv = await self._prepare()
            code = await self._run(argv)
            if self._stopping or not restart(code):
                return
            if self._runtime.clock.now() - self._began > 2 * _BACKOFF_MAX:
                delay = 0.0
            if delay > 0:
                name, metadata = self.state.name, self._sandbox.pod["metadata"]
                self._waiting(
                    "CrashLoopBackOff",
                    f"back-off {delay:.0f}s restarting failed container={name} "
                    f"pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})",
                )
                await self._runtime.clock.sleep(delay)
            delay = min(_BACKOFF_MAX, delay * 2 or _BACKOFF_FIRST)
            self.state.restarts += 1

    async def _prepare(self) -> list[str]:
        """Wait for the image and the configuration; the command line to run."""
        entry = await self._image()
        while True:
            try:
                self._mounts = container_mounts(self.spec, self._sandbox.volumes)
                base = {**self._sandbox.env, **mount_environment(self.spec, self._mounts)}
                base |= {key: expand(value, base) for key, value in entry.env.items()}
                env = await container_environment(
                    self.spec,
                    self._sandbox.pod,
                    self._runtime.fetcher(self._sandbox.pod),
                    base=base,
                    mounts=self._mounts,
                    addresses=(self._sandbox.address, self._runtime.settings.host_ip),
                )
                patience = self._runtime.settings.service_patience
                self._env = await with_addresses(env, self._runtime.slices, patience=patience)
                return self._command(entry)
            except ContainerConfigError as error:
                self._waiting("CreateContainerConfigError", str(error))
            except KeyError as error:
                self._waiting("CreateContainerConfigError", f"volumeMount or field {error} is not defined")
            except (ApiError, OSError, aiohttp.ClientError) as error:
                _LOG.warning("container %s: the API cannot be asked: %r", self.state.name, error)
            await self._runtime.pause(_BACKOFF_FIRST)

    async def _image(self) -> ImageEntry:
        image, delay = self.state.image, _BACKOFF_FIRST
        while (entry := self._runtime.images.find(image)) is None:
            self._waiting("ErrImagePull", f'failed to pull image "{image}": not in this node\'s image table')
            await self._runtime.pause(1.0)
            self._waiting("ImagePullBackOff", f'Back-off pulling image "{image}"')
            await self._runtime.pause(delay)
            delay = min(_BACKOFF_MAX, delay * 2)
        await self._runtime.pull(self._sandbox.node, image, entry)
        return entry

    def _command(self, entry: ImageEntry) -> list[str]:
        command, arguments = list(self.spec.get("command") or []), list(self.spec.get("args") or [])
        own = [expand(text, self._env) for text in entry.argv]
        given = [self._text(text) for text in arguments]
        if command and not entry.entry_only:
            return [self._text(text) for text in command] + given
        return own + given

    def _text(self, text: str) -> str:
        return substitute_mounts(expand(text, self._env), self._mounts)

    async def _run(self, argv: Sequence[str]) -> int:
        self._began = self._runtime.clock.now()
        began = timestamp(self._runtime.clock.wall())
        try:
            self._process = process = self._spawn(argv)
        except (OSError, ValueError) as error:
            self._ended(_START_FAILED, began, "StartError", str(error))
            return _START_FAILED
        self.state.pid = process.pid
        self._set({"running": {"startedAt": began}})
        self._watch()
        try:
            code = await process.wait()
        finally:
            await self._stop_probing()
        self._process = None
        self._ended(code, began, "Completed" if code == 0 else "Error", "")
        return code

    def _spawn(self, argv: Sequence[str]) -> Process:
        directory = self._sandbox.directory / "c" / self.spec["name"]
        directory.mkdir(parents=True, exist_ok=True)
        if wanted := self.spec.get("workingDir"):
            mounted = Path(self._text(wanted))
            directory = mounted if mounted.is_dir() else directory
        return Process(argv, env=self._env, cwd=directory, log=self.log, reaper=self._runtime.reaper)

    def _ended(self, code: int, began: str, reason: str, message: str) -> None:
        self.started.clear()
        self.state.started = False
        self.state.ready = self.state.kind is Kind.INIT and code == 0
        ended = {
            "exitCode": code,
            "reason": reason,
            "startedAt": began,
            "finishedAt": timestamp(self._runtime.clock.wall()),
        }
        if code > 128 and reason == "Error":
            ended["signal"] = code - 128
        if message:
            ended["message"] = message
        self._set({"terminated": ended})

    def _waiting(self, reason: str, message: str) -> None:
        self._set({"waiting": {"reason": reason, "message": message}})

    def _set(self, state: dict[str, Any]) -> None:
        if "terminated" in self.state.state and "terminated" not in state:
            self.state.last = self.state.state
        self.state.state = state
        self._changed()

    # -- probes ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if startup := self.spec.get("startupProbe"):
            self._probe(startup, self._startup_result)
        else:
            self._has_started()

    def _has_started(self) -> None:
        self.state.started = True
        self.started.set()
        if readiness := self.spec.get("readinessProbe"):
            self._probe(readiness, self._readiness_result)
        else:
            self.state.ready = True
        if liveness := self.spec.get("livenessProbe"):
            self._probe(liveness, self._liveness_result)
        self._changed()

    def _probe(self, spec: Mapping[str, Any], report: Callable[[bool, str], None]) -> None:
        runtime = self._runtime
        probe = Probe.from_spec(
            spec,
            runtime.clock,
            min_period=runtime.settings.min_probe_period,
            min_timeout=runtime.settings.min_probe_timeout,
        )
        self._probing.append(asyncio.create_task(keep_probing(probe, self._target(), runtime.clock, report)))

    def _startup_result(self, healthy: bool, message: str) -> None:  # noqa: FBT001 - a probe callback
        if not healthy:
            self._end_unhealthy("startup", message, self.spec["startupProbe"])
        elif not self.state.started:
            self._probing.pop().cancel()
            self._has_started()

    def _readiness_result(self, healthy: bool, message: str) -> None:  # noqa: FBT001 - a probe callback
        if healthy != self.state.ready:
            _LOG.debug("%s ready=%s %s", self.state.name, healthy, message)
            self.state.ready = healthy
            self._changed()

    def _liveness_result(self, healthy: bool, message: str) -> None:  # noqa: FBT001 - a probe callback
        if not healthy:
            self._end_unhealthy("liveness", message, self.spec["livenessProbe"])

    def _end_unhealthy(self, probe: str, message: str, spec: Mapping[str, Any]) -> None:
        if self._stopping or self._ending is not None:
            return
        _LOG.info("container %s failed its %s probe: %s", self.state.name, probe, message)
        grace = spec.get("terminationGracePeriodSeconds") or self._sandbox.pod["spec"].get(
            "terminationGracePeriodSeconds", 30
        )
        self._ending = asyncio.create_task(self._end_process(Deadline(self._runtime, grace)))

    async def _stop_probing(self) -> None:
        ending, self._ending = self._ending, None
        tasks = [*self._probing, *([ending] if ending is not None else [])]
        self._probing.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _target(self) -> Target:
        ports = {port["name"]: int(port["containerPort"]) for port in self.spec.get("ports") or [] if "name" in port}
        return Target(self._sandbox.address, ports, self._execute, self._runtime.http)

    async def _execute(self, command: Sequence[str]) -> int:
        process = self._spawn([self._text(text) for text in command])
        try:
            return await process.wait()
        finally:
            process.kill()

    # -- end -------------------------------------------------------------------------------------------------

    async def stop(self, deadline: Deadline, turn: Callable[[], Awaitable[None]] | None = None) -> None:
        """End it for good: preStop, then SIGTERM when it is its `turn`, SIGKILL after `deadline`."""
        self._stopping = True
        task = self._task
        if task is None:
            return
        if self._process is None:
            task.cancel()
        else:
            if self._ending is not None:
                self._ending.cancel()
            await self._end_process(deadline, turn)
        with suppress(asyncio.CancelledError):
            await task

    def kill(self) -> None:
        """SIGKILL now, and never start again."""
        self._stopping = True
        if self._process is not None:
            self._process.kill()
        elif self._task is not None:
            self._task.cancel()

    async def _end_process(self, deadline: Deadline, turn: Callable[[], Awaitable[None]] | None = None) -> None:
        """The kubelet's order: preStop within the grace, wait for the turn, SIGTERM, a minimal window, SIGKILL."""
        process = self._process
        if process is None:
            return
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook and deadline.left > 0:
            await first_of(self._pre_stop(hook), deadline.passed(), process.wait())
        if turn is not None:
            await first_of(turn(), deadline.passed(), process.wait())
        process.terminate()
        await first_of(process.wait(), self._window(deadline))
        process.kill()
        await process.wait()

    async def _pre_stop(self, hook: Mapping[str, Any]) -> None:
        if problem := await act(hook, self._target(), self._runtime.clock):
            _LOG.warning("preStop of container %s failed: %s", self.state.name, problem)

    async def _window(self, deadline: Deadline) -> None:
        floor = asyncio.sleep(max(self._runtime.clock.real(_MIN_GRACE), self._runtime.settings.min_stop_window))
        await asyncio.gather(floor, deadline.passed())
