"""Ends what a dead process node left: a program of its own, run by path with the bare interpreter.

Arguments: directories to delete. Standard input: lines `+<process group>` and `-<process group>`. When the input
ends, because its node stopped or was killed, every group still listed is killed and the directories removed.
"""

import os
import shutil
import signal
import sys


def main() -> None:
    """Wait for the node's end, then clean up."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for directory in sys.argv[1:]:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    main()
