"""Takes the pictures of terminal and report: ``python docs/pictures.py [--demo out/demo] [--simulation R.html]``.

Terminals are what the commands print, as SVG. The demo's are drawn from the folder that one run of it has left: its
view as it was shortly after the spike, and its report, opened in Chromium without a window (Debian's ``chromium``).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from rich.console import Console
from rich.text import Text
from warmfleet_cli import cluster
from warmfleet_cli.demo import view
from warmfleet_cli.demo.timeline import Timeline, read_timeline
from warmfleet_cli.main import main as warmfleet

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TERMINALS = {
    "fit.svg": "warmfleet fit meta-llama/Llama-3.1-70B-Instruct --max-model-len 16384 --quantization fp8",
    "plan.svg": "warmfleet plan -f examples/quickstart.yaml --demand chat=60 --explain",
}
"""File -> command line."""
MOMENT = 0.66
"""Of the demo's traffic, at which its view is drawn."""
WIDTH = 132
HEIGHT = 1640
"""Pixels of a report's beginning."""
SIMULATION_HEIGHT = 1740
"""Pixels of a simulation's report, down to the savings."""


def terminal(command: str, title: str) -> str:
    """What a terminal shows of a command, as SVG."""
    console = Console(record=True, width=132, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {command}\n", style="bold"))
    with patch.object(cluster, "console", lambda: console), contextlib.chdir(ROOT):
        code = warmfleet(shlex.split(command)[1:])
    if code:
        raise RuntimeError(f"{command} ended with {code}")
    return console.export_svg(title=title, unique_id="terminal")


def terminals() -> dict[Path, str]:
    """The pictures of terminals by file."""
    return {DOCS / name: terminal(command, " ".join(command.split()[:2])) for name, command in TERMINALS.items()}


def demo(run: Timeline) -> str:
    """The demo's view at :data:`MOMENT` of its traffic, as SVG."""
    at = MOMENT * run.setup.minutes * 60.0
    seen = Timeline(
        run.setup,
        samples=[sample for sample in run.samples if sample.at <= at],
        events=[event for event in run.events if event.at <= at],
        drains=[drain for drain in run.drains if drain.at <= at],
        outlooks=[outlook for outlook in run.outlooks if outlook.at <= at],
        fault=[step for step in run.fault if step.at <= at],
    )
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    requests, failed = view.counted(seen)
    console.print(view.render(seen, requests=requests, failed=failed, kubeconfig="out/demo/kubeconfig", width=WIDTH))
    return console.export_svg(title="make demo", unique_id="demo")


def report(html: Path, png: Path, height: int = HEIGHT) -> None:
    """A picture of a report's beginning, ``height`` pixels of it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise FileNotFoundError("chromium is not installed; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(  # noqa: S603 - a program found on the path, and files of the caller
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                "--virtual-time-budget=8000",
                f"--window-size=1280,{height}",
                f"--screenshot={png}",
                html.resolve().as_uri(),
            ],
            check=True,
            timeout=120,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def main() -> int:
    """Takes them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, metavar="FOLDER", help="what a run of the demo has left, such as out/demo")
    parser.add_argument("--simulation", type=Path, metavar="R.html", help="what `warmfleet simulate --report` wrote")
    args = parser.parse_args()
    for path, picture in terminals().items():
        path.write_text(picture, encoding="utf-8")
    if args.demo is not None:
        run = read_timeline(args.demo / "timeline.jsonl")
        (DOCS / "demo.svg").write_text(demo(run), encoding="utf-8")
        report(args.demo / "report.html", DOCS / "report.png")
    if args.simulation is not None:
        report(args.simulation, DOCS / "simulation.png", SIMULATION_HEIGHT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
