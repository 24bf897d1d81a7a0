import subprocess
import sys

SCRIPT = """
import gc
from warmfleet_runtime import collector

class Node:
    alive = 0
    def __init__(self):
        Node.alive += 1
        self.me = self
    def __del__(self):
        Node.alive -= 1

collector.settle()
most = 0
for _ in range(10 * collector.YOUNG):
    Node()
    most = max(most, Node.alive)
print(gc.get_threshold()[0], gc.get_freeze_count() > 1000, most)
"""


def test_cycles_are_still_found_before_they_are_many() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    young, frozen, most = ran.stdout.split()
    assert (int(young), frozen) == (50_000, "True")
    assert 700 < int(most) <= 60_000
