"""The command line of a process whose settings are all in its environment."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def usage(arguments: Sequence[str], program: str, command: str = "", summary: str = "") -> int | None:
    """Exit code of a process that was asked how it is used, or called as it is not; None: it may go on.

    Args:
        arguments: Of its command line.
        program: Its name.
        command: The only argument that it takes.
        summary: What that does.
    """
    if not arguments or (command and list(arguments) == [command]):
        return None
    line = f"usage: {program} [{command}]" if command else f"usage: {program}"
    if not {"-h", "--help"} & set(arguments):
        sys.stderr.write(f"{line}\n")
        return 2
    about = f"  {command}  {summary}\n\n" if command else ""
    sys.stdout.write(f"{line}\n\n{about}All settings are WARMFLEET_* variables: docs/reference/settings.md.\n")
    return 0
