"""Continuous batching on the modelled step time, without I/O: requests in, tokens out, as logical time passes.

A step gives every running request that has its prompt computed one token, and spends the rest of
``max_num_batched_tokens`` on prompts: first on those begun, then on waiting requests, in order of arrival. Its time
is :func:`warmfleet_contracts.perfmodel.step_ms`. A prompt's cached prefix costs nothing (but at least one token is
always computed). When a token needs a block and none can be had, the youngest request is preempted: it gives up its
blocks and waits at the head of the queue, keeps its tokens, and computes them again.

While a batch only decodes, its K tokens grow by B per step, so k steps take ``k*d + c*B*k(k-1)/2``: as many steps as
fit are taken at once, and the cost of simulating does not depend on how fast the clock runs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from warmfleet_contracts.perfmodel import PerfProfile, step_ms

from warmfleet_worker.engines.simulated.blocks import BlockPool, Holding, block_hashes
from warmfleet_worker.engines.simulated.histograms import Statistics
from warmfleet_worker.engines.simulated.tier import FsTier
from warmfleet_worker.engines.simulated.tokens import response_ids, seed_of

_NEVER = math.inf


@dataclass(slots=True, eq=False)
class Request:
    """A request in the engine.

    Attributes:
        prompt: Token ids.
        max_tokens: Tokens to generate.
        finish_reason: What to say at the end: length or stop.
        arrived: When it came, logical seconds.
        tokens: Tokens generated so far.
        cached: Prompt tokens found in the prefix cache at first admission.
        pulled: Tokens at the prompt's start that came from another engine.
        finished: Whether it left the engine.
        notify: Called when it has finished.
    """

    prompt: Sequence[int]
    max_tokens: int
    arrived: float
    finish_reason: str = "length"
    tokens: int = 0
    cached: int = 0
    pulled: int = 0
    finished: bool = False
    notify: Callable[[], None] | None = None
    seed: str = ""
    hashes: list[int] = field(default_factory=list)
    holding: Holding | None = None
    available_at: float = 0.0
    computed: int = 0
    target: int = 0
    computed_total: int = 0
    preemptions: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float = 0.0

    @property
    def decoding(self) -> bool:
        """Whether all known tokens but the last are computed."""
        return self.computed >= self.target


@dataclass(slots=True)
class _Step:
    end: float
    seconds: float
    decodes: list[Request]
    chunks: list[tuple[Request, int]]


@dataclass(frozen=True, slots=True)
class Limits:
    """The engine's configuration that matters to scheduling.

    Attributes:
        max_num_seqs: Largest batch.
        max_num_batched_tokens: Largest number of tokens in a step.
        max_num_queued: Refuse requests when that many wait; None for no limit.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_num_queued: int | None = None


class QueueFull(Exception):  # noqa: N818 - it is an answer, not an error
    """The queue limit is reached."""


class Scheduler:
    """The engine core.

    Args:
        profile: Step times.
        pool: KV blocks.
        limits: Batch limits.
        statistics: Where to count.
        now: Current logical time.
        tier: KV tiers below accelerator memory; None without.
    """

    def __init__(
        self,
        profile: PerfProfile,
        pool: BlockPool,
        limits: Limits,
        statistics: Statistics,
        now: float,
        tier: FsTier | None = None,
    ) -> None:
        self.tier = tier
        self.profile = profile
        self.pool = pool
        self.limits = limits
        self.statistics = statistics
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self._time = now
        self._step: _Step | None = None

    @property
    def busy(self) -> bool:
        """Whether there is any request."""
        return bool(self.running or self.waiting)

    def add(self, request: Request) -> None:
        """Take in a request at ``request.arrived``.

        Raises:
            QueueFull: The queue limit is reached.
        """
        self.advance(request.arrived)
        limit = self.limits.max_num_queued
        if limit is not None and len(self.waiting) >= limit:
            self.statistics.rejections += 1
            raise QueueFull
        request.seed = seed_of(request.prompt)
        if self.pool.caching:
            request.hashes = block_hashes(request.prompt, self.pool.block_size)
        request.target = len(request.prompt)
        request.available_at = request.arrived + self.profile.ttft_overhead_ms / 1000.0
        if self.tier is not None:
            below = self.tier.match(request.hashes[self.pool.match(request.hashes) :])
            request.available_at += below * self.tier.seconds_per_block
        self.waiting.append(request)

    def abort(self, request: Request, now: float) -> None:
        """Drop a request whose client has gone."""
        self.advance(now)
        if request.finished:
            return
        if request in self.waiting:
            self.waiting.remove(request)
        self._finish(request, now, "abort")

    def advance(self, now: float) -> None:
        """Run all steps that end until ``now``."""
        while True:
            if self._step is None and not self._begin(now):
                return
            step = self._step
            if step is None:
                continue  # several decode steps were taken at once
            if step.end > now:
                return
            self._step = None
            self._complete(step)

    # -- steps ---------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> bool:
        """Plan the next step, or take many decode steps; False when there is nothing to do until ``now``."""
        if not self.running:
            if not self.waiting:
                self._time = max(self._time, now)
                return False
            self._time = max(self._time, self.waiting[0].available_at)
            if self._time > now:
                return False
        preempted = self._make_room()
        decodes = [r for r in self.running if r.decoding]
        chunks = self._schedule_prefill(self.limits.max_num_batched_tokens - len(decodes), admit=not preempted)
        if not decodes and not chunks:
            return False
        if not chunks and self._leap(decodes, now):
            return True
        seconds = self._seconds(decodes, chunks)
        self._step = _Step(self._time + seconds, seconds, decodes, chunks)
        return True

    def _seconds(self, decodes: list[Request], chunks: list[tuple[Request, int]]) -> float:
        context = sum(len(r.prompt) + r.tokens for r in decodes)
        return step_ms(self.profile, len(decodes), context, [(n, r.computed) for r, n in chunks]) / 1000.0

    def _schedule_prefill(self, budget: int, *, admit: bool) -> list[tuple[Request, int]]:
        chunks = []
        for request in self.running:
            if budget > 0 and not request.decoding:
                take = min(budget, request.target - request.computed)
                chunks.append((request, take))
                budget -= take
        while admit and budget > 0 and self.waiting and len(self.running) < self.limits.max_num_seqs:
            request = self.waiting[0]
            if request.available_at > self._time or not self._admit(request):
                break
            self.waiting.popleft()
            self.running.append(request)
            take = min(budget, request.target - request.computed)
            chunks.append((request, take))
            budget -= take
        return chunks

    def _admit(self, request: Request) -> bool:
        size = self.pool.block_size
        most = (request.target - 1) // size
        hits = min(self.pool.match(request.hashes), most)
        loaded = max(0, min(request.pulled // size, most) - hits)
        if not loaded and self.tier is not None:
            loaded = self.tier.match(request.hashes[hits:most])
        holding = self.pool.admit(request.hashes[:hits], -(-request.target // size))
        if holding is None:
            return False
        request.holding = holding
        request.computed = (hits + loaded) * size
        if loaded:
            self.pool.commit(holding, request.hashes[: hits + loaded], request.prompt)
        if request.admitted_at is None:
            request.admitted_at = self._time
            request.cached = request.computed
            if self.pool.caching:
                self.statistics.query_tokens += len(request.prompt)
                self.statistics.hit_tokens += hits * size
                self.statistics.external_query_tokens += len(request.prompt) - hits * size
                self.statistics.external_hit_tokens += loaded * size
        return True

    def _make_room(self) -> bool:
        """Preempt until every decoding request has a block for its next token; whether any was."""
        preempted = False
        while not self._grow([r for r in self.running if r.decoding], 1):
            victim = self.running.pop()
            if victim.holding is not None:
                self._cache(victim)
                self.pool.release(victim.holding)
            victim.holding, victim.computed = None, 0
            victim.target = len(victim.prompt) + victim.tokens
            victim.preemptions += 1
            self.statistics.preemptions += 1
            self.waiting.appendleft(victim)
            preempted = True
        return preempted

    def _grow(self, decodes: list[Request], steps: int) -> bool:
        """Take the blocks that ``steps`` more tokens of each request need; False, and nothing taken, if too few."""
        size = self.pool.block_size
        needs = []
        for request in decodes:
            if request.holding is not None:
                blocks = -(-(len(request.prompt) + request.tokens + steps - 1) // size)
                more = blocks - len(request.holding)
                if more > 0:
                    needs.append((request.holding, more))
        if sum(more for _, more in needs) > self.pool.available:
            return False
        return all(self.pool.grow(holding, more) for holding, more in needs)

    def _leap(self, decodes: list[Request], now: float) -> bool:
        """Take as many pure decode steps as end until ``now``, if more than one."""
        horizon = now
        if self.waiting and self.waiting[0].available_at > self._time:
            horizon = min(now, self.waiting[0].available_at)
        first = self._seconds(decodes, [])
        growth = self.profile.c_ms * len(decodes) / 1000.0
        steps = min(_steps_within(horizon - self._time, first, growth), *(r.max_tokens - r.tokens for r in decodes))
        while steps > 1 and not self._grow(decodes, steps):
            steps //= 2
        if steps <= 1:
            return False
        seconds = steps * first + growth * steps * (steps - 1) / 2
        self._time += seconds
        count = len(decodes)
        statistics = self.statistics
        statistics.inter_token.observe(seconds / steps, steps * count)
        statistics.iteration_tokens.observe(count, steps)
        statistics.generation_tokens += steps * count
        for request in decodes:
            request.tokens += steps
            request.last_token_at = self._time
            if request.tokens >= request.max_tokens:
                self._finish(request, self._time, request.finish_reason)
        return True

    def _complete(self, step: _Step) -> None:
        self._time = step.end
        statistics = self.statistics
        statistics.iteration_tokens.observe(len(step.decodes) + sum(n for _, n in step.chunks))
        for request in step.decodes:
            if not request.finished:
                self._emit(request)
        for request, new in step.chunks:
            if request.finished:
                continue
            request.computed += new
            request.computed_total += new
            self._cache(request)
            if request.decoding:
                self._emit(request)

    def _emit(self, request: Request) -> None:
        statistics = self.statistics
        if request.first_token_at is None:
            request.first_token_at = self._time
            statistics.ttft.observe(self._time - request.arrived)
            statistics.prompt_tokens += len(request.prompt)
            statistics.computed_tokens += len(request.prompt) - request.cached
        else:
            statistics.inter_token.observe(self._time - request.last_token_at)
        request.tokens += 1
        request.last_token_at = self._time
        statistics.generation_tokens += 1
        if request.tokens >= request.max_tokens:
            self._finish(request, self._time, request.finish_reason)

    # -- ends ----------------------------------------------------------------------------------------------------

    def _cache(self, request: Request) -> None:
        """Put the blocks that are full now into the prefix cache."""
        holding = request.holding
        if holding is None or not self.pool.caching or holding.broken:
            return
        prompt, size = len(request.prompt), self.pool.block_size
        known = prompt + max(0, request.tokens - 1) if request.decoding else request.computed
        full = known // size
        if full * size <= prompt:
            self.pool.commit(holding, request.hashes[:full], request.prompt)
            return
        ids = [*request.prompt, *response_ids(request.seed, 0, request.tokens)]
        done = len(request.hashes)
        parent = request.hashes[-1] if done else None
        request.hashes += block_hashes(ids[done * size : full * size], size, parent)
        self.pool.commit(holding, request.hashes[:full], ids)

    def _finish(self, request: Request, now: float, reason: str) -> None:
        request.finished = True
        request.finish_reason = reason
        if request in self.running:
            self.running.remove(request)
        if request.holding is not None:
            self._cache(request)
            self.pool.release(request.holding)
            request.holding = None
        self._count(request, now, reason)
        if request.notify is not None:
            request.notify()

    def _count(self, request: Request, now: float, reason: str) -> None:
        statistics = self.statistics
        statistics.finished[reason] += 1
        statistics.e2e.observe(now - request.arrived)
        statistics.request_prompt.observe(len(request.prompt))
        statistics.request_generation.observe(request.tokens)
        statistics.request_computed.observe(request.computed_total)
        statistics.params_max_tokens.observe(request.max_tokens)
        statistics.max_generation.observe(request.tokens)
        statistics.params_n.observe(1)
        statistics.request_preemptions.observe(request.preemptions)
        if request.admitted_at is None or request.first_token_at is None:
            return
        statistics.queue.observe(request.admitted_at - request.arrived)
        statistics.inference.observe(request.last_token_at - request.admitted_at)
        statistics.prefill.observe(request.first_token_at - request.admitted_at)
        statistics.decode.observe(request.last_token_at - request.first_token_at)
        if request.tokens > 1:
            tpot = (request.last_token_at - request.first_token_at) / (request.tokens - 1)
            statistics.per_output_token.observe(tpot)


def _steps_within(seconds: float, first: float, growth: float) -> int:
    """Largest k with ``k*first + growth*k(k-1)/2 <= seconds``."""
    if seconds < first:
        return 0
    linear = first - growth / 2
    # the root of the quadratic, written so that a tiny growth does not cancel it out
    return int(2 * seconds / (linear + math.sqrt(linear * linear + 2 * growth * seconds)))
