"""What one agent knows of its engine's KV cache, and the ways it can hand it over."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict, dataclass, field
from functools import partial

import zmq
from warmfleet_contracts.agent import EngineCounters, KvValue, SentState, Strategy
from warmfleet_runtime.clock import Clock

from warmfleet_worker.drain_events import EngineExited, EngineReady, Event
from warmfleet_worker.engines.base import EngineAdapter, Load
from warmfleet_worker.engines.shm import EngineShm
from warmfleet_worker.kv.chains import HotChains
from warmfleet_worker.kv.events import Batch, KvEventReader
from warmfleet_worker.kv.folder import StoreFolder
from warmfleet_worker.kv.handover import Handover
from warmfleet_worker.kv.hot import HotHeads
from warmfleet_worker.kv.index import BlockIndex
from warmfleet_worker.kv.migrate import MigratingSender
from warmfleet_worker.kv.physics import Physics, choose
from warmfleet_worker.kv.prewarm import HotNotes, Prompter, prewarm
from warmfleet_worker.kv.replay import RATE, TOKENS, EndpointSender, ReplayHandover, is_loopback
from warmfleet_worker.kv.store import StoreHandover
from warmfleet_worker.settings import Settings
from warmfleet_worker.threads import in_thread

PRUNE_PERIOD = 300.0
"""Real seconds between two prunings of a folder, by whichever of the agents comes first."""
NOTE_PERIOD = 15.0
"""Real seconds between two notes of hot prompts."""
_LOG = logging.getLogger(__name__)


@dataclass
class WorkerCache:
    """The parts of one agent that concern the cache; by default there are none.

    Attributes:
        strategies: What this agent can do.
        ledger: The engine's blocks; None without KV events.
        chains: Tokens of the hot ones; None unless they are replayed.
        reader: Fills both.
        folder: The shared folder; None without.
        shm: The engine's shared memory; None without.
        settings: Limits of the folder; None without a folder.
        hot: The engine's hot prompts.
        notes: The fleet's hot prompts; None without a folder.
        endpoint: Where strategies send prompts to; None when none does.
        migrating: Sends them with their blocks' place; None without.
    """

    strategies: dict[Strategy, Handover] = field(default_factory=dict)
    ledger: BlockIndex | None = None
    chains: HotChains | None = None
    reader: KvEventReader | None = None
    folder: StoreFolder | None = None
    shm: EngineShm | None = None
    settings: Settings | None = None
    hot: HotHeads = field(default_factory=HotHeads)
    notes: HotNotes | None = None
    endpoint: EndpointSender | None = None
    migrating: MigratingSender | None = None
    _up: bool = False

    def follow(self, endpoint: str, replay_endpoint: str) -> None:
        """Keep all that comes from the engine's KV events."""
        ledger = self.ledger = BlockIndex()

        def take(batch: Batch) -> None:
            ledger.take(batch)
            if self.chains is not None:
                self.chains.take(batch)
            if self.notes is not None:
                self.hot.take(batch)

        self.reader = KvEventReader(endpoint, replay_endpoint, take, self._restarted, ledger.miss)

    def _restarted(self) -> None:
        if self.ledger is not None:
            self.ledger.restart()
        if self.chains is not None:
            self.chains.clear()

    def value(self, now: float) -> KvValue | None:
        """What leaves the fleet with this worker; None without an index.

        Args:
            now: Time as in the engine's events, seconds since the epoch.
        """
        if self.chains is not None:
            self.chains.cool(now)  # an engine at rest sends no events
        if self.ledger is None:
            return None
        return KvValue(
            held_tokens=self.ledger.held_tokens,
            hot_tokens=self.ledger.hot_tokens(now),
            evicted_after_seconds=self.ledger.evicted_after(now),
            complete=self.ledger.complete,
            sketch=self.ledger.hot_sketch(now).encode(),
        )

    def send_to(self, endpoint: str) -> None:
        """A drain order names where survivors can be reached; only this machine is believed (see DrainRequest)."""
        if self.endpoint is not None and is_loopback(endpoint):
            self.endpoint.url = endpoint

    def spend(self, most_bytes: int | None, used_within: float | None = None) -> None:
        """What may be brought to survivors from now on.

        Args:
            most_bytes: At most so many bytes of KV cache; None: as it was set up.
            used_within: Only what was used so many seconds ago or later; None: all that is hot.
        """
        settings = self.settings
        if settings is None:
            return
        most = settings.handover_bytes if most_bytes is None else most_bytes
        bounded = most_bytes is not None or most > 0
        for strategy in self.strategies.values():
            if isinstance(strategy, ReplayHandover):
                strategy.tokens = min(TOKENS, settings.physics.tokens_of(most)) if bounded else TOKENS
                strategy.used_within = used_within

    @property
    def own_requests(self) -> int:
        """Requests of the hand-over itself that its own engine has now."""
        return 0 if self.migrating is None else self.migrating.lending

    @property
    def own_counts(self) -> EngineCounters | None:
        """What these requests have added to the engine's counters."""
        return None if self.migrating is None else self.migrating.lent

    @property
    def sent(self) -> SentState | None:
        """What was sent to survivors; None where nothing is."""
        return None if self.endpoint is None else self.endpoint.sent

    def order(self, wanted: tuple[Strategy, ...], seconds: float) -> tuple[tuple[Strategy, ...], str]:
        """The strategies with ``auto`` and what follows it replaced by what physics says, and why.

        Args:
            wanted: As asked for.
            seconds: Logical seconds to the drain's deadline.
        """
        if Strategy.AUTO not in wanted:
            return wanted, ""
        place = wanted.index(Strategy.AUTO)
        means = [s for s in wanted[place + 1 :] if s in self.strategies]
        held = self.ledger.held_tokens if self.ledger is not None else 0
        unstored = sum(self.ledger.unstored().values()) if self.ledger is not None else 0
        physics = self.settings.physics if self.settings is not None else Physics()
        found = choose(means, physics, held_tokens=held, unstored_tokens=unstored, seconds=seconds)
        return (*wanted[:place], *found.order), found.reason

    @property
    def held_tokens(self) -> int | None:
        """Tokens in the engine's prefix cache; None while unknown."""
        return self.ledger.held_tokens if self.ledger is not None and self.ledger.complete else None

    def engine_was(self, event: Event) -> None:
        """The agent has seen the engine come or go, or not come yet."""
        if not self._up and self.shm is not None and (left := self.shm.sweep()):
            _LOG.info("removed shared memory of engines that died on their way up", extra={"files": left})
        if isinstance(event, EngineReady) and not self._up:
            self._up = True
            if self.shm is not None:
                self.shm.note()
        elif isinstance(event, EngineExited) and self._up:
            self._up = False
            if self.migrating is not None:
                self.migrating.lent = EngineCounters()
            if self.ledger is not None and self.reader is not None:
                self._restarted()
                self.reader.reset()
            if self.shm is not None and (removed := self.shm.clean()):
                _LOG.info("removed shared memory of the engine that exited", extra={"files": removed})

    async def run(self) -> None:
        """Follow the engine's events and keep the folder within its limits, for ever."""
        async with asyncio.TaskGroup() as tasks:
            if self.reader is not None:
                tasks.create_task(self._follow(self.reader))
            if self.folder is not None:
                tasks.create_task(self._keep_folder(self.folder))
            if self.notes is not None:
                tasks.create_task(self._keep_notes(self.notes))
            tasks.create_task(asyncio.Event().wait())

    def close(self) -> None:
        """Let go of what is open."""
        if self.reader is not None:
            self.reader.close()

    @property
    def can_warm(self) -> bool:
        """Whether a new engine is to be warmed."""
        return self.notes is not None and self.settings is not None and self.settings.prewarm > 0

    async def warm_up(self, engine: Prompter, clock: Clock) -> int:
        """Load the fleet's hottest prompts into a new engine; returns how many."""
        if self.notes is None or self.settings is None:
            return 0
        return await prewarm(partial(in_thread, self.notes.read, time.time()), engine, clock, self.settings.prewarm)

    async def _follow(self, reader: KvEventReader) -> None:
        """An agent without events still drains its worker; it only knows less of the cache."""
        try:
            await reader.run()
        except zmq.ZMQError as error:
            _LOG.error("KV events cannot be followed: %s", error)
            if self.ledger is not None:
                self.ledger.miss()

    async def _keep_notes(self, notes: HotNotes) -> None:
        while True:
            await asyncio.sleep(NOTE_PERIOD)
            try:
                now = time.time()
                if heads := self.hot.hottest(now):
                    await in_thread(notes.write, heads, now)
            except OSError as error:
                _LOG.warning("hot prompts cannot be noted: %s", error)

    async def _keep_folder(self, folder: StoreFolder) -> None:
        settings = self.settings
        try:
            await in_thread(folder.make_private)
        except OSError as error:  # the engine will say more, if it cannot write there either
            _LOG.error("the store's folder is not there, or open to others: %s", error)
        while settings is not None and settings.kv_store_bytes:
            try:
                now = time.time()
                if await in_thread(folder.take_turn, now=now, period=PRUNE_PERIOD):
                    age, size = settings.kv_store_age, settings.kv_store_bytes
                    pruned = await in_thread(folder.prune, now=now, max_age=age, max_bytes=size)
                    _LOG.info("pruned the store", extra=asdict(pruned))
            except OSError as error:
                _LOG.warning("the store cannot be pruned: %s", error)
            await asyncio.sleep(PRUNE_PERIOD / 4)


def build(settings: Settings, engine: EngineAdapter, clock: Clock) -> WorkerCache:
    """The parts that the settings ask for."""

    async def look() -> Load | None:
        return (await engine.observe()).load

    cache = WorkerCache(settings=settings)
    if settings.engine_shm is not None:
        cache.shm = EngineShm(settings.engine_shm)
    if settings.kv_events:
        cache.follow(settings.kv_events, settings.kv_replay)
    if settings.kv_store is not None:
        cache.folder = StoreFolder(settings.kv_store)
        cache.notes = HotNotes(settings.kv_store, settings.pod_uid)
    if cache.ledger is not None and cache.folder is not None:
        cache.strategies[Strategy.STORE] = StoreHandover(look, cache.ledger, cache.folder, clock)
    _add_senders(cache, settings, engine, clock)
    return cache


def _add_senders(cache: WorkerCache, settings: Settings, engine: EngineAdapter, clock: Clock) -> None:
    """The strategies that send prompts to survivors."""
    wanted = {Strategy.REPLAY, Strategy.MIGRATE} & set(settings.handover)
    if cache.ledger is None or not wanted:
        return
    chains = cache.chains = HotChains(cache.ledger)
    endpoint = cache.endpoint = EndpointSender(settings.endpoint, lambda: engine.model)
    if Strategy.REPLAY in wanted:
        cache.strategies[Strategy.REPLAY] = ReplayHandover(cache.ledger, chains, endpoint, clock)
    if Strategy.MIGRATE in wanted:
        cache.migrating = MigratingSender(engine, endpoint)
        rate = settings.physics.migration_rate() or RATE
        cache.strategies[Strategy.MIGRATE] = ReplayHandover(
            cache.ledger, chains, cache.migrating, clock, rate=rate, endpoint=endpoint
        )
    cache.spend(None)
