"""What the requests say: tenants with long system prompts, and conversations that grow turn by turn.

Every request starts with its tenant's system prompt and repeats its conversation so far, so its prefix is in the cache
of the worker that served the turn before: what a prefix-aware router finds and a careless scale-down loses. As with
reasoning models, only the end of an answer is carried into the next turn.
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
        user_tokens: Length of a user's message.
        kept_tokens: How much of an answer is carried into the next turn.
        output_min: Shortest answer.
        output_max: Longest answer.
        max_turns: Turns after which a conversation ends.
        follow_up: Share of requests that continue a conversation, while one is free.
    """

    tenants: int = 8
    system_tokens: int = 1200
    user_tokens: int = 120
    kept_tokens: int = 80
    output_min: int = 6000
    output_max: int = 10000
    max_turns: int = 6
    follow_up: float = 0.65

    @property
    def mean_output(self) -> float:
        """Mean length of an answer, tokens."""
        return (self.output_min + self.output_max) / 2

    @property
    def mean_input(self) -> float:
        """Mean length of a prompt, tokens, for conversations of typical length (1 / (1 - follow_up) turns)."""
        turn = min(1.0 / (1.0 - self.follow_up), float(self.max_turns)) / 2
        return self.system_tokens + self.user_tokens + turn * (self.user_tokens + self.kept_tokens)


@dataclass(slots=True)
class Conversation:
    """One conversation: its tenant and the messages so far."""

    tenant: int
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request to be sent.

    Attributes:
        conversation: Give it back to `ConversationBook.answered` when the answer is there.
        body: OpenAI chat completion request.
        output_tokens: Tokens the answer has.
    """

    conversation: Conversation
    body: dict[str, Any]
    output_tokens: int


class ConversationBook:
    """Chooses what the next request says. Which conversations are free depends on the answers; all else on the seed."""

    def __init__(self, shape: Shape, *, model: str, seed: int) -> None:
        self._shape, self._model = shape, model
        self._random = random.Random(seed)
        self._words = _WORDS.split()
        self._systems = [self._text(shape.system_tokens) for _ in range(shape.tenants)]
        self._free: list[Conversation] = []

    def next(self) -> Prompt:
        """The next request: a follow-up or a new conversation."""
        if self._free and self._random.random() < self._shape.follow_up:
            conversation = self._free.pop(self._random.randrange(len(self._free)))
        else:
            tenant = min(int(self._random.expovariate(2.0 / self._shape.tenants)), self._shape.tenants - 1)
            conversation = Conversation(tenant, [{"role": "system", "content": self._systems[tenant]}])
        conversation.messages.append({"role": "user", "content": self._text(self._shape.user_tokens)})
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
        return Prompt(conversation, body, tokens)

    def answered(self, prompt: Prompt, answer: str) -> None:
        """The answer came to its end: the conversation may go on."""
        conversation = prompt.conversation
        if conversation.turns < self._shape.max_turns:
            tail = " ".join(answer.split()[-self._shape.kept_tokens :])
            conversation.messages.append({"role": "assistant", "content": tail})
            self._free.append(conversation)

    def _text(self, tokens: int) -> str:
        """Random words; each is one token to the simulated engine, as it mostly is to a real one."""
        return " ".join(self._random.choices(self._words, k=tokens))
