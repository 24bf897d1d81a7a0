"""Reads Dockerfiles as far as ours go: stages, instructions, continued lines, comments."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Stage:
    """One stage of a build.

    Attributes:
        base: What FROM names, arguments filled in.
        name: After AS; empty when it has none.
        steps: Instructions after FROM with their text.
    """

    base: str
    name: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Texts of all instructions of a kind."""
        return [text for each, text in self.steps if each == instruction]

    def command(self, instruction: str) -> list[str]:
        """The only instruction of a kind, in exec form."""
        (text,) = self.all(instruction)
        found: list[str] = json.loads(text)
        return found


def stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile.

    Raises:
        ValueError: An instruction stands before the first FROM.
    """
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        instruction, _, text = line.strip().partition(" ")
        if instruction == "ARG" and not found:
            name, _, value = text.partition("=")
            arguments[name] = value
        elif instruction == "FROM":
            base, _, name = text.partition(" AS ")
            found.append(Stage(re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base), name))
        elif instruction and not found:
            raise ValueError(f"{path}: {instruction} before FROM")
        elif instruction:
            found[-1].steps.append((instruction, " ".join(text.split())))
    return found
