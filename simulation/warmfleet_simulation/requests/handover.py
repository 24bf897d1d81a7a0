"""What a worker that leaves does with its cache, tick by tick."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from warmfleet_simulation.requests import kernel, value
from warmfleet_simulation.requests.arrays import SERVING, Machine, State
from warmfleet_simulation.requests.blocks import move_chain, oldest_stamp
from warmfleet_simulation.requests.router import learn, route
from warmfleet_simulation.requests.setup import Arm
from warmfleet_simulation.requests.workload import Work

HOT_S = 900.0
"""A prompt that was not used for so long is cold."""
TICK_S = 1.0


@dataclass(slots=True)
class Leaving:
    """A worker on its way out.

    Attributes:
        worker: Row.
        chosen_at: When it was told to leave, seconds.
        running: Requests in flight then.
        settled_at: When its last request had ended, seconds; None before.
        hot: Tokens of hot prompts it held.
        moved: Of these, handed over.
        chains: (request, leading blocks) that are still to be handed over, the next one first.
        credit: Blocks that its link can still carry in this tick.
    """

    worker: int
    chosen_at: float
    running: int
    settled_at: float | None = None
    hot: int = 0
    moved: int = 0
    chains: list[tuple[int, int]] = field(default_factory=list)
    credit: float = 0.0


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

    def go_on(self, one: Leaving, now: float) -> bool:
        """One tick of a worker whose requests have all ended; True when it may go."""
        if one.settled_at is None:
            one.settled_at = now
            self.note_hot(one, now)
            self._choose_chains(one)
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

    def _choose_chains(self, one: Leaving) -> None:
        """The hottest prompts that fit the deadline, the coldest first: what comes last is the youngest there."""
        seconds = self._arm.deadline_s
        if self._arm.handover == "replay":
            blocks = seconds / self._prefill_s_per_block()
        else:
            blocks = seconds * self._machine.link_bytes_per_s / self._machine.block_bytes
        kept = 0
        for i, (_, length) in enumerate(one.chains):
            kept += length
            if kept > blocks:
                del one.chains[i:]
                break
        one.chains.reverse()

    def _prefill_s_per_block(self) -> float:
        m = self._machine
        return m.p1 * m.block_tokens

    def _migrate(self, one: Leaving, now: float) -> None:
        m, st = self._machine, self._state
        one.credit += TICK_S * m.link_bytes_per_s / m.block_bytes
        while one.chains and one.credit > 0:
            r, length = one.chains.pop(0)
            target = self._target(r, length)
            if target < 0:
                continue
            moved = move_chain(m, st, r, length, target, now)
            one.credit -= moved
            one.moved += moved * self._work.block_tokens

    def prewarm(self, new: int, index: int, joining: int, now: float) -> float:
        """Copies a share of what the others hold to a worker that starts; answers the seconds its link needs.

        Of every T hot prompts of a worker, the most recent first, one goes to each of the workers that join, T being
        the workers there will be. The router sends a copied prompt to its new place from then on: without that,
        sessions stay with the survivors, whose caches are full, beside empty ones.

        Args:
            new: The worker.
            index: Which of those that join it is, from 0.
            joining: How many join now.
            now: Seconds.
        """
        m, st, moved = self._machine, self._state, 0
        serving = [int(w) for w in np.flatnonzero(st.phase == SERVING)]
        for w in serving:
            one = Leaving(w, now, 0)
            self.note_hot(one, now)
            share = one.chains[index :: len(serving) + joining]
            for r, length in reversed(share):
                if st.used[new] + length > m.blocks:
                    break
                moved += move_chain(m, st, r, length, new, now)
                learn(st, r, length, new)
                st.believed[w, st.blocks[st.start[r] + length - 1]] = 0
        return moved * m.block_bytes / m.link_bytes_per_s

    def _target(self, r: int, length: int) -> int:
        """Who takes a prompt, and the router learns it; -1 when it would push out what is used more recently."""
        m, st = self._machine, self._state
        if self._arm.placement == "room":
            target = value.roomiest(m, st, r, length)
            if target >= 0:
                learn(st, r, length, target)
            return int(target)
        target = route(m, st, r)
        if target < 0 or oldest_stamp(m, st, target) > st.finish[r]:
            return -1
        return int(target)

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
