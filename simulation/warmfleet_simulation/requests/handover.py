"""What a worker that leaves does with its cache, tick by tick."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from warmfleet_worker.kv.physics import SHARE
from warmfleet_worker.kv.replay import AT_ONCE, TOKENS

from warmfleet_simulation.requests import kernel, value
from warmfleet_simulation.requests.arrays import Machine, State
from warmfleet_simulation.requests.blocks import move_chain
from warmfleet_simulation.requests.router import route
from warmfleet_simulation.requests.setup import Arm
from warmfleet_simulation.requests.value import HOT_S
from warmfleet_simulation.requests.workload import Work

TICK_S = 1.0


@dataclass(slots=True)
class Leaving:
    """A worker on its way out.

    Attributes:
        worker: Row.
        chosen_at: When it was told to leave, seconds.
        running: Requests in flight then.
        used_within: What was not used for longer stays behind, seconds; None: all that is hot goes.
        settled_at: When its last request had ended, seconds; None before.
        hot: Tokens of hot prompts it held.
        moved: Of these, handed over.
        chains: (request, leading blocks) that are still to be handed over, the next one first.
        credit: Blocks that its link can still carry in this tick.
        ahead: Whether it has begun while requests ran.
    """

    worker: int
    chosen_at: float
    running: int
    used_within: float | None = None
    settled_at: float | None = None
    hot: int = 0
    moved: int = 0
    chains: list[tuple[int, int]] = field(default_factory=list)
    credit: float = 0.0
    ahead: bool = False


class Handover:
    """The arm's hand-over between the workers of one fleet."""

    def __init__(self, work: Work, arm: Arm, machine: Machine, state: State) -> None:
        self._work, self._arm, self._machine, self._state = work, arm, machine, state
        self._next_replay = len(work.arrival_s)

    def note_hot(self, one: Leaving, now: float) -> None:
        """Notes the hot prompts the worker holds, the most recent first."""
        n = len(self._work.arrival_s)
        chains, lengths = np.empty(n, dtype=np.int32), np.empty(n, dtype=np.int64)
        found = value.hot_chains(self._state, one.worker, now - HOT_S, chains, lengths)
        one.chains = [(int(chains[i]), int(lengths[i])) for i in range(found)]
        starts = self._state.start
        blocks = {int(b) for r, k in one.chains for b in self._state.blocks[starts[r] : starts[r] + k]}
        one.hot = len(blocks) * self._work.block_tokens

    def go_ahead(self, one: Leaving, now: float) -> None:
        """One tick of a worker that has requests: where survivors have room, what was hot at first goes already.

        As the agent has it: with host memory, and an order that bounds nothing.
        """
        if self._arm.handover != "migrate" or not self._machine.host_blocks or one.used_within is not None:
            return
        if not one.ahead:
            one.ahead = True
            self.note_hot(one, now)
            self._choose_chains(one, now)
        self._migrate(one, now)

    def go_on(self, one: Leaving, now: float) -> bool:
        """One tick of a worker whose requests have all ended; True when it may go."""
        if one.settled_at is None:
            one.settled_at = now
            self.note_hot(one, now)
            self._choose_chains(one, now)
        late = now - one.settled_at >= self._arm.deadline_s
        if self._arm.handover == "store":
            written = bool(self._state.link_out[one.worker] <= now)
            one.moved = one.hot if written else 0
            return late or written
        if self._arm.handover == "migrate":
            self._migrate(one, now)
            return late or not one.chains
        if self._arm.handover == "replay":
            for r, length in one.chains:
                self._replay(r, length, now)
            one.moved = min(one.hot, sum(length for _, length in one.chains) * self._work.block_tokens)
        return True

    def _choose_chains(self, one: Leaving, now: float) -> None:
        """The hottest prompts that survivors have room for, and that fit the deadline and the agent's own bound."""
        if one.used_within is not None:
            since = now - one.used_within
            one.chains = [(r, length) for r, length in one.chains if self._state.finish[r] >= since]
        blocks = self._arm.deadline_s * self._blocks_per_second()
        blocks = min(blocks, TOKENS / self._work.block_tokens)
        kept = 0
        for i, (_, length) in enumerate(one.chains):
            kept += length
            if kept > blocks:
                del one.chains[i:]
                break

    def _blocks_per_second(self) -> float:
        m = self._machine
        if self._arm.handover == "replay":
            return 1.0 / (m.p1 * m.block_tokens)
        return SHARE * m.link_bytes_per_s / m.block_bytes

    def _migrate(self, one: Leaving, now: float) -> None:
        """One tick's worth of prompts, each through the router, which counts those under way as its workers' load.

        The agent sends AT_ONCE of them together and waits until its share of the link would have carried them.
        """
        m, st = self._machine, self._state
        one.credit += TICK_S * self._blocks_per_second()
        while one.chains and one.credit > 0:
            flying: list[int] = []
            together, one.chains = one.chains[:AT_ONCE], one.chains[AT_ONCE:]
            for r, length in together:
                target = int(route(m, st, r))
                if target < 0:
                    continue
                st.load[target] += 1
                flying.append(target)
                moved = move_chain(m, st, r, length, target, now)
                one.credit -= moved
                one.moved += moved * self._work.block_tokens
            for target in flying:
                st.load[target] -= 1

    def _replay(self, r: int, length: int, now: float) -> None:
        st, new = self._state, self._next_replay
        if new >= len(st.arrival):
            raise AssertionError(
                f"more than {len(st.arrival) - len(self._work.arrival_s)} replays: raise the spare rows"
            )
        self._next_replay += 1
        st.arrival[new] = now
        st.inputs[new] = length * self._work.block_tokens
        st.outputs[new] = 1
        st.start[new] = st.start[r]
        st.chain[new] = length
        st.replay[new] = 1
        kernel.send(self._machine, st, new, now)
