"""Stand-in for the agents of thousands of workers: one process that answers on every pod address at once.

Bound to all addresses of the network namespace, it tells the workers apart by the address a connection came in on. It
speaks the agents' protocol as far as the operator's measuring needs it: ``GET /v1/state``, ``POST`` and ``DELETE
/v1/drain``. A drain is over at once. Traffic is set from outside, in requests per second of one worker:

    POST http://127.0.0.1:<control port>/rates
        {"default": 0.0, "workers": {"10.244.128.7": 3.0}, "fleets": [["team-00", "fleet-0000", 20, 0.0]]}

On the same port it answers the operator's queries to Prometheus (``/api/v1/query``) as one would that had scraped every
worker just now.

Written on bare asyncio streams' protocols, because it shares two cores with what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from warmfleet_operator.adapters.prometheus import DEPLOYMENT, queries

PROMPT_TOKENS, ANSWER_TOKENS, HIT_SHARE = 1000, 200, 0.5
WINDOWS = (60.0, 300.0)
"""Of arrivals and of means, as the operator's settings have them."""
_FIELDS = {query: name for name, query in queries(*WINDOWS).items()}
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@dataclass(slots=True)
class Worker:
    """Traffic of one worker: requests finished so far, and how fast they come."""

    rate: float
    since: float
    finished: float = 0.0
    draining: bool = False

    def requests(self, now: float) -> int:
        """Requests finished until ``now``."""
        return int(self.finished + self.rate * (now - self.since))

    def set_rate(self, rate: float, now: float) -> None:
        """Another rate from now on."""
        self.finished += self.rate * (now - self.since)
        self.rate, self.since = rate, now


@dataclass(slots=True)
class Agents:
    """All workers ever asked, by address; for Prometheus the fleets: (namespace, name, workers, rate)."""

    default: float = 0.0
    workers: dict[str, Worker] = field(default_factory=dict)
    answers: int = 0
    fleets: list[tuple[str, str, int, float]] = field(default_factory=list)

    def worker(self, address: str) -> Worker:
        """The worker at an address."""
        found = self.workers.get(address)
        if found is None:
            found = self.workers[address] = Worker(self.default, time.monotonic())
        return found

    def set_rates(self, default: float, workers: dict[str, float]) -> None:
        """Another traffic from now on."""
        now = time.monotonic()
        self.default = default
        for address in workers:
            self.worker(address)
        for address, worker in self.workers.items():
            worker.set_rate(workers.get(address, default), now)

    def state(self, address: str) -> str:
        """``GET /v1/state`` of the worker at an address."""
        worker = self.worker(address)
        self.answers += 1
        done = worker.requests(time.monotonic())
        phase = "Drained" if worker.draining else "Serving"
        hits = int(done * PROMPT_TOKENS * HIT_SHARE)
        drain = '"drain":{"reason":"x","remainingSeconds":1,"cancellable":true},' if worker.draining else ""
        return (
            f'{{"version":"v1","phase":"{phase}",{drain}"engine":{{"ready":true,"readyAfterSeconds":30.0,"running":'
            f'{round(worker.rate)},"waiting":0,"kvUsage":0.1,"kvCapacityTokens":400000}},"counters":{{"requests":'
            f"{done},"
            f'"promptTokens":{done * PROMPT_TOKENS},"generationTokens":{done * ANSWER_TOKENS},"cacheQueryTokens":'
            f'{done * PROMPT_TOKENS},"cacheHitTokens":{hits}}},"latency":{{"ttftCount":'
            f'{done},"ttftWithinSlo":{done},"tpotCount":{done},"tpotWithinSlo":{done}}},"kv":{{"heldTokens":100000,'
            f'"hotTokens":20000}}}}'
        )


class AgentConnection(asyncio.Protocol):
    """One keep-alive connection to one worker's agent."""

    def __init__(self, agents: Agents) -> None:
        self._agents, self._address, self._buffer = agents, "", b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember whom the caller meant."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._address = transport.get_extra_info("sockname")[0]

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(head.split(b" ", 1)[0])

    def _answer(self, method: bytes) -> None:
        if method in (b"POST", b"DELETE"):
            self._agents.worker(self._address).draining = method == b"POST"
        body = self._agents.state(self._address)
        if self._transport is not None:
            self._transport.write((_HEAD.format(len(body)) + body).encode())


def answer(agents: Agents, path: str, body: bytes) -> str:
    """One request from outside: set the traffic, or what a Prometheus that scrapes all workers would say."""
    if path == "/rates":
        wanted = json.loads(body)
        agents.set_rates(float(wanted["default"]), wanted["workers"])
        agents.fleets = wanted.get("fleets", agents.fleets)
    elif path == "/api/v1/query":
        asked = _FIELDS[parse_qs(body.decode())["query"][0]]
        result = [
            {"metric": {"namespace": space, DEPLOYMENT: name}, "value": [0.0, str(value)]}
            for space, name, count, rate in agents.fleets
            if (value := _figure(asked, count, count * rate)) is not None
        ]
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})
    return json.dumps({"workers": len(agents.workers), "answers": agents.answers})


def _figure(asked: str, workers: int, rate: float) -> float | None:
    means = {"input_tokens": PROMPT_TOKENS, "output_tokens": ANSWER_TOKENS, "hit_ratio": HIT_SHARE}
    if asked in means:
        return means[asked] if rate else None
    return {"arrivals": rate, "queue": 0.0, "rejects": 0.0, "reporting": workers}[asked]


async def control(agents: Agents, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection from outside."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    sizes = [line.partition(":")[2] for line in head.lower().split("\r\n") if line.startswith("content-length")]
    said = answer(agents, head.split(" ")[1], await reader.readexactly(int(sizes[0]) if sizes else 0))
    writer.write((_HEAD.format(len(said)).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n") + said).encode())
    await writer.drain()
    writer.close()


async def serve(port: int, control_port: int) -> None:
    """Answer until SIGTERM."""
    agents = Agents()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    workers = await loop.create_server(lambda: AgentConnection(agents), "0.0.0.0", port, backlog=4096)
    outside = await asyncio.start_server(lambda r, w: control(agents, r, w), "127.0.0.1", control_port)
    print("ready", flush=True)
    await stop.wait()
    workers.close()
    outside.close()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9600, help="of the agents")
    parser.add_argument("--control-port", type=int, default=9700, help="where the traffic is set")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.control_port))


if __name__ == "__main__":
    main()
