"""Which hand-over ``auto`` takes: what can be copied faster than it is computed again is copied.

::

    break-even  B* = b * P        b: bytes of KV cache per token, P: prompt tokens that a worker prefills per second
    transfer    pays if its bandwidth B >= B*: the copy of a token then takes no longer than computing it
    rates       store: B_store / b, of what is not stored yet;   migrate: SHARE * B_link / b;   replay: SHARE * P
    in time     n = min(tokens, rate * seconds)           what is stored already needs no time
    order       transfers that pay, by n; then replay; then transfers that do not pay, by n

Equal n keep the order store, migrate, replay: what disturbs the survivors least. A figure that is not known gives no
verdict: then that order holds as it is. SHARE of a link or an accelerator is what a hand-over may take from its users.

With 25 GbE (2.8 GB/s) a llama-3.1-8b is worth moving between L40S (B* = 1.6 GB/s), not between H100 (5.5 GB/s), which
compute it again sooner; those need 100 GbE.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from warmfleet_contracts.agent import Strategy

SHARE = 0.5
"""Share of a link, or of a survivor's prefill, that a hand-over takes."""
LARGEST_TOKEN = 2**20
"""Bytes of KV cache that a token is taken for where its size is not known: no model of the performance model has more
than half of it, so that a budget in bytes holds."""
_ORDER = (Strategy.STORE, Strategy.MIGRATE, Strategy.REPLAY)


@dataclass(frozen=True, slots=True)
class Physics:
    """What moving and computing cost here.

    Attributes:
        kv_bytes_per_token: Size of one token's KV cache, all accelerators of a worker together; None while unknown.
        prefill_tokens_per_second: Prompt tokens that one worker computes per second; None while unknown.
        link_bytes_per_second: Bandwidth between two workers; None while unknown.
        store_bytes_per_second: Bandwidth between a worker and the shared store; None while unknown.
    """

    kv_bytes_per_token: float | None = None
    prefill_tokens_per_second: float | None = None
    link_bytes_per_second: float | None = None
    store_bytes_per_second: float | None = None

    @property
    def break_even(self) -> float | None:
        """Bandwidth from which on a copy is no slower than computing again, bytes per second."""
        if self.kv_bytes_per_token is None or self.prefill_tokens_per_second is None:
            return None
        return self.kv_bytes_per_token * self.prefill_tokens_per_second

    def bandwidth(self, strategy: Strategy) -> float | None:
        """What a strategy copies over, bytes per second; None when unknown, or when it copies nothing."""
        if strategy is Strategy.STORE:
            return self.store_bytes_per_second
        return self.link_bytes_per_second if strategy is Strategy.MIGRATE else None

    def tokens_of(self, size: int) -> int:
        """Tokens whose KV cache is at most ``size`` bytes."""
        return int(size / (self.kv_bytes_per_token or LARGEST_TOKEN))

    def migration_rate(self) -> float | None:
        """Tokens per second that a migration may move; None when unknown."""
        if not self.kv_bytes_per_token or self.link_bytes_per_second is None:
            return None
        return SHARE * self.link_bytes_per_second / self.kv_bytes_per_token


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``auto`` came to.

    Attributes:
        order: Strategies, the best first.
        reason: Why, in words with figures, for the report.
    """

    order: tuple[Strategy, ...]
    reason: str


def choose(
    means: Collection[Strategy], physics: Physics, *, held_tokens: int, unstored_tokens: int, seconds: float
) -> Choice:
    """Order the strategies that a worker has the means for; see the module's header.

    Args:
        means: Strategies it can do; ``none`` and ``auto`` among them count as nothing.
        physics: Rates and sizes.
        held_tokens: Tokens that the engine holds.
        unstored_tokens: Of these, not in the shared store yet.
        seconds: Time to the drain's deadline, logical seconds.
    """
    able = [s for s in _ORDER if s in means]
    if not able:
        return Choice((Strategy.NONE,), "auto: there are no means of a hand-over")
    if len(able) == 1:
        return Choice(tuple(able), f"auto: {able[0]} is the only means")
    even = physics.break_even
    if even is None or any(physics.bandwidth(s) is None for s in able if s is not Strategy.REPLAY):
        return Choice(tuple(able), f"auto: {able[0]}, because {_missing(able, physics)} is not known")
    reach = {s: _in_time(s, physics, held_tokens, unstored_tokens, seconds) for s in able}

    def rank(strategy: Strategy) -> tuple[int, int]:
        if strategy is Strategy.REPLAY:
            return 1, 0
        return (0 if _pays(strategy, physics, even) else 2), -reach[strategy]

    order = tuple(sorted(able, key=rank))  # stable: equals keep the order of _ORDER
    figures = [f"{s} {_verdict(s, physics, even)}{reach[s]} of {held_tokens} tokens in {seconds:.0f} s" for s in order]
    return Choice(order, f"auto: {order[0]} (break-even {_rate(even)}; {', '.join(figures)})")


def _pays(strategy: Strategy, physics: Physics, even: float) -> bool:
    return (physics.bandwidth(strategy) or 0.0) >= even


def _in_time(strategy: Strategy, physics: Physics, held: int, unstored: int, seconds: float) -> int:
    """Tokens that are handed over within ``seconds``."""
    size, prefill = physics.kv_bytes_per_token or 0.0, physics.prefill_tokens_per_second or 0.0
    if strategy is Strategy.REPLAY:
        return min(held, int(SHARE * prefill * seconds))
    share = 1.0 if strategy is Strategy.STORE else SHARE
    pending = min(held, unstored) if strategy is Strategy.STORE else held
    rate = share * (physics.bandwidth(strategy) or 0.0) / size if size else float(held)
    return held - pending + min(pending, int(rate * seconds))


def _verdict(strategy: Strategy, physics: Physics, even: float) -> str:
    found = physics.bandwidth(strategy)
    if found is None:
        return ""
    return f"{_rate(found)} {'pays' if _pays(strategy, physics, even) else 'does not pay'}, "


def _missing(able: Collection[Strategy], physics: Physics) -> str:
    if physics.kv_bytes_per_token is None:
        return "the size of a token's KV cache"
    if physics.prefill_tokens_per_second is None:
        return "the speed of prefill"
    return (
        "the store's bandwidth"
        if Strategy.STORE in able and physics.store_bytes_per_second is None
        else ("the link's bandwidth")
    )


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e9:.3g} GB/s"
