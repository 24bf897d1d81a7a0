"""One address per pod, handed out from a network."""

from __future__ import annotations

import ipaddress
from collections import deque


class AddressPool:
    """Addresses of an IPv4 network; a released one is reused last, since clients may remember it.

    Args:
        network: CIDR, e.g. `127.32.0.0/16`. Network, first host and broadcast address are left out.
    """

    def __init__(self, network: str) -> None:
        self._network = ipaddress.IPv4Network(network)
        self._next = 2
        self._freed: deque[str] = deque()

    def acquire(self) -> str:
        """Take an address.

        Raises:
            RuntimeError: All are taken.
        """
        if self._next < self._network.num_addresses - 1:
            self._next += 1
            return str(self._network[self._next - 1])
        if not self._freed:
            raise RuntimeError(f"no pod address is left in {self._network}: use a larger network")
        return self._freed.popleft()

    def release(self, address: str) -> None:
        """Give an address back."""
        self._freed.append(address)
