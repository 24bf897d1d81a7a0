"""The search for the control plane's programs, with a stand-in for Go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import binaries
import pytest

FAKE_GO = """#!/bin/sh
if [ "$1" = list ]; then echo '{"Time": "2026-01-02T03:04:05Z"}'; exit; fi
echo "$@" >> "$GO_LOG"
sleep 0.1
if [ -n "$GO_FAILS" ]; then echo 'no space left' >&2; exit 1; fi
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\n' > "$2" && chmod +x "$2"
"""


@pytest.fixture
def go_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-in first on PATH and the cache elsewhere; returns the file that lists its builds."""
    (tmp_path / "path").mkdir()
    go = tmp_path / "path" / "go"
    go.write_text(FAKE_GO)
    go.chmod(0o755)
    log = tmp_path / "builds"
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GO_LOG", str(log))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return log


def test_processes_side_by_side_build_once(go_log: Path) -> None:
    script = str(binaries.TOOLS.with_name("binaries.py"))
    runs = [
        subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [run.communicate(timeout=60) for run in runs]
    assert {output for output, _ in outputs} == {f"{binaries.cache_directory()}\n"}
    assert len(go_log.read_text().splitlines()) == len(binaries.NAMES)
    progress = "".join(errors for _, errors in outputs)
    assert all(progress.count(f"built {name} v") == 1 for name in binaries.NAMES)


def test_the_build_is_stamped_and_cached(go_log: Path) -> None:
    lines: list[str] = []
    built = binaries.resolve(report=lines.append)
    assert set(built.built_seconds) == set(binaries.NAMES)
    servers = [line for line in go_log.read_text().splitlines() if "k8s.io/kubernetes/cmd/" in line]
    assert len(servers) == 3
    for line in servers:
        assert f"-X k8s.io/component-base/version.gitVersion={built.version} " in line
        assert "version.buildDate=2026-01-02T03:04:05Z" in line
    assert binaries.resolve(build=False) == binaries.Binaries(built.directory, built.version, {})


def test_a_failed_build_says_why_and_leaves_nothing(go_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GO_FAILS", "1")
    with pytest.raises(binaries.BuildError, match="no space left"):
        binaries.resolve(report=lambda _: None)
    target = binaries.cache_directory()
    assert [path.name for path in target.parent.iterdir()] == [f"{target.name}.lock"]


def test_an_incomplete_directory_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(binaries.NAMES) - {"kwok", "etcd"}:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(binaries.BinariesUnavailableError, match="lacks etcd, kwok;"):
        binaries.resolve()


def test_given_programs_tell_their_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in binaries.NAMES:
        (tmp_path / name).write_text("#!/bin/sh\necho Kubernetes v1.36.5\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert binaries.resolve(build=False).version == "v1.36.5"


def test_without_go_it_says_what_to_do(go_log: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(binaries.BinariesUnavailableError, match="install Go to build them"):
        binaries.resolve()
    assert not go_log.exists()


def test_the_staging_modules_match_the_kubernetes_version() -> None:
    go_mod = (binaries.TOOLS / "kubernetes" / "go.mod").read_text()
    staging = binaries.kubernetes_version().replace("v1.", "v0.", 1)
    replaced = [line.split() for line in go_mod.splitlines() if "=>" in line]
    assert len(replaced) > 20
    assert all(line[0] == line[2] and line[3] == staging for line in replaced)
