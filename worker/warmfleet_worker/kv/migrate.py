"""Hand-over by ``migrate``: the survivors pull the hottest prefixes out of the leaving engine's memory.

Order, bounds and the way through the deployment's endpoint are those of :mod:`warmfleet_worker.kv.replay`; only that a
survivor finds the blocks instead of computing them. vLLM's NixlConnector moves what one request names, so per chain::

    lend     a request of one token to the leaving engine, which has the prompt cached; its answer says where the blocks
             are, and the engine keeps them for the lease's length, or until they have been pulled
    pull     the same prompt with that answer's ``kv_transfer_params`` to the endpoint: whichever survivor gets it pulls
             the blocks it does not have, block by block, and has them in its prefix cache from then on

What the survivor holds already is not sent again, because it asks for the rest only. A router that strips the
parameters makes it a replay, which costs prefill but loses nothing::

    moved     tokens of answered chains, each once, less those that the survivor had to compute
    rate      tokens per second that half of the link carries (:mod:`warmfleet_worker.kv.physics`)

The requests to the leaving engine are not its users': the drain does not wait for them as for running requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from warmfleet_contracts.agent import EngineCounters

from warmfleet_worker.kv.replay import EndpointSender, SendError

LEND_TIMEOUT = 30.0
"""Real seconds for the leaving engine to answer for what it has cached."""
_OWN = "remote_prefill_cached_tokens"
"""What the lender had cached: a survivor that is told repeats it as if it were its own count."""


class Lender(Protocol):
    """The leaving engine."""

    async def lend(self, tokens: Sequence[int], within: float) -> Mapping[str, object] | None:
        """Keep the blocks of a prompt for somebody who pulls them.

        Args:
            tokens: Token ids.
            within: Real seconds.

        Returns:
            What the one who pulls has to be told; None when the engine cannot.
        """


class MigratingSender:
    """Sends prompts together with the place of their blocks.

    Args:
        lender: The leaving engine.
        endpoint: Takes them to survivors.

    Attributes:
        lending: Requests to the leaving engine that are not answered yet.
        lent: What those that are have added to its counters.
    """

    def __init__(self, lender: Lender, endpoint: EndpointSender) -> None:
        self._lender = lender
        self.endpoint = endpoint
        self.lending = 0
        self.lent = EngineCounters()

    async def send(self, tokens: Sequence[int], within: float) -> int | None:
        """Have a survivor pull the blocks of ``tokens``.

        Args:
            tokens: Token ids.
            within: Real seconds.

        Returns:
            Tokens that were computed instead; None when the survivor does not say.

        Raises:
            SendError: It was not done.
        """
        self.lending += 1
        try:
            place = await self._lender.lend(tokens, min(within, LEND_TIMEOUT))
        finally:
            self.lending -= 1
        self._count(len(tokens))
        if place is None:
            raise SendError("the leaving engine does not lend its blocks; it needs the NixlConnector")
        told = {key: value for key, value in place.items() if key != _OWN}
        found = await self.endpoint.send(tokens, within, {"kv_transfer_params": told})
        return None if found is None else max(0, len(tokens) - found)

    def _count(self, tokens: int) -> None:
        """The leaving engine has answered for one prompt, which it had cached."""
        before = self.lent
        self.lent = EngineCounters(
            requests=before.requests + 1,
            prompt_tokens=before.prompt_tokens + tokens,
            generation_tokens=before.generation_tokens + 1,
            cache_query_tokens=before.cache_query_tokens + tokens,
            cache_hit_tokens=before.cache_hit_tokens + tokens,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.endpoint.close()
