"""What the requests say: agents' sessions that come back after a while, each time with all that was said before.

Every prompt starts with its tenant's system prompt and its session's own document and repeats the session so far, so
its prefix is in the cache of the worker that served the turn before: what a prefix-aware router finds and a careless
scale-down loses. As with reasoning models, only the end of an answer is carried into the next turn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

_WORDS = """
the of and to in is that for it as with was on be by at this have from or an they which one you all were her would there
their will when who him been has more if no out do so can what up said about other into than its time only could new
them man some these then two first may any like now my such make over our even most me state after also
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the traffic, in tokens unless said otherwise.

    Attributes:
        tenants: Tenants, each with a system prompt of its own.
        system_tokens: Length of a system prompt.
        document_tokens: Length of what a session begins with and nobody else has.
        user_tokens: Length of a user's message.
        kept_tokens: How much of an answer is carried into the next turn.
        output_min: Shortest answer.
        output_max: Longest answer.
        max_turns: Turns after which a session ends.
        fresh: Share of requests that begin a session although one is waiting to go on.
        pause_min: Shortest time from an answer to the session's next turn, logical seconds.
        pause_max: Longest such time, while there is a request for it to come with.
        patience: Time after which a session that could not go on is given up, logical seconds.
    """

    tenants: int = 8
    system_tokens: int = 500
    document_tokens: int = 1500
    user_tokens: int = 120
    kept_tokens: int = 80
    output_min: int = 3000
    output_max: int = 4000
    max_turns: int = 8
    fresh: float = 0.05
    pause_min: float = 360.0
    pause_max: float = 660.0
    patience: float = 1200.0

    @property
    def mean_output(self) -> float:
        """Mean length of an answer, tokens."""
        return (self.output_min + self.output_max) / 2

    @property
    def mean_input(self) -> float:
        """Mean length of a prompt, tokens, over the turns of a whole session."""
        turn = (self.max_turns - 1) / 2
        fixed = self.system_tokens + self.document_tokens + self.user_tokens
        return fixed + turn * (self.user_tokens + self.kept_tokens)


@dataclass(slots=True)
class Conversation:
    """One session: its tenant, the messages so far, tokens of its last prompt, and when it wants to go on."""

    tenant: int
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0
    asked: int = 0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to be sent.

    Attributes:
        conversation: Give it back to `ConversationBook.answered` when the answer is there.
        body: OpenAI chat completion request.
        output_tokens: Tokens the answer has.
        repeated: Tokens at the prompt's beginning that were asked before: more no cache can have.
    """

    conversation: Conversation
    body: dict[str, Any]
    output_tokens: int
    repeated: int = 0


class ConversationBook:
    """Chooses what the next request says. Which sessions may go on depends on the answers; all else on the seed."""

    def __init__(self, shape: Shape, *, model: str, seed: int) -> None:
        self._shape, self._model = shape, model
        self._random = random.Random(seed)
        self._words = _WORDS.split()
        self._systems = [self._text(shape.system_tokens) for _ in range(shape.tenants)]
        self._waiting: list[Conversation] = []
        self._known: set[int] = set()  # tenants whose system prompt was sent before

    def next(self, now: float) -> Prompt:
        """The next request: a session that is due, or a new one.

        Args:
            now: Logical seconds.
        """
        due = self._due(now)
        if due and self._random.random() >= self._shape.fresh:
            conversation = due[self._random.randrange(len(due))]
            self._waiting.remove(conversation)
            text = self._text(self._shape.user_tokens)
        else:
            tenant = min(int(self._random.expovariate(2.0 / self._shape.tenants)), self._shape.tenants - 1)
            conversation = Conversation(tenant, [{"role": "system", "content": self._systems[tenant]}])
            conversation.asked = self._shape.system_tokens if tenant in self._known else 0
            self._known.add(tenant)
            text = self._text(self._shape.document_tokens + self._shape.user_tokens)
        conversation.messages.append({"role": "user", "content": text})
        conversation.turns += 1
        tokens = self._random.randint(self._shape.output_min, self._shape.output_max)
        body = {
            "model": self._model,
            "messages": list(conversation.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": tokens,
            "ignore_eos": True,
        }
        return Prompt(conversation, body, tokens, conversation.asked)

    def answered(self, prompt: Prompt, answer: str, now: float, *, tokens: int = 0) -> None:
        """The answer came to its end: the session goes on after a while.

        Args:
            prompt: What was asked.
            answer: The answer's text.
            now: Logical seconds.
            tokens: Tokens of the prompt, by the answer's usage.
        """
        conversation = prompt.conversation
        conversation.asked = tokens
        if conversation.turns < self._shape.max_turns:
            tail = " ".join(answer.split()[-self._shape.kept_tokens :])
            conversation.messages.append({"role": "assistant", "content": tail})
            conversation.due = now + self._random.uniform(self._shape.pause_min, self._shape.pause_max)
            self._waiting.append(conversation)

    def _due(self, now: float) -> list[Conversation]:
        self._waiting = [c for c in self._waiting if now - c.due <= self._shape.patience]
        return [c for c in self._waiting if c.due <= now]

    def _text(self, tokens: int) -> str:
        """Random words; each is one token to the simulated engine, as it mostly is to a real one."""
        return " ".join(self._random.choices(self._words, k=tokens))
