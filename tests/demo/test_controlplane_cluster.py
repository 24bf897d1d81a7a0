"""The demo's real control plane: found where it is, and missed with words that help."""

from __future__ import annotations

from pathlib import Path

import pytest
from warmfleet_cli.demo.cluster import ClusterError, node_arguments
from warmfleet_cli.demo.controlplane import FOLDER_ENV, INSIDE_ENV, ControlPlaneCluster, server_script
from warmfleet_cli.demo.conversations import Shape
from warmfleet_cli.demo.sizing import plan
from warmfleet_localcluster.__main__ import main as localcluster

CHECKOUT = Path(__file__).resolve().parents[1] / "controlplane"


def test_a_checkout_has_the_script() -> None:
    assert server_script({INSIDE_ENV: "scratch"}) == CHECKOUT / "serve.py"


def test_a_folder_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "serve.py").touch()
    assert server_script({FOLDER_ENV: str(tmp_path), INSIDE_ENV: "scratch"}) == tmp_path / "serve.py"


def test_without_the_script_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=f"set {FOLDER_ENV} .* or use --cluster embedded"):
        server_script({FOLDER_ENV: str(tmp_path), INSIDE_ENV: "scratch"})


def test_outside_the_namespace_the_message_names_the_target() -> None:
    with pytest.raises(ClusterError, match="make demo CLUSTER=controlplane"):
        server_script({})


async def test_nothing_is_started_where_it_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSIDE_ENV, raising=False)
    cluster = ControlPlaneCluster(plan(Shape()), folder=tmp_path, env={})
    with pytest.raises(ClusterError):
        await cluster.start()
    assert cluster.children == []
    await cluster.stop()


def test_the_nodes_have_room_for_both_fleets_at_their_largest_and_for_a_lost_machine() -> None:
    sized = plan(Shape())
    argv = node_arguments(sized)
    shapes = [argv[i + 1] for i, each in enumerate(argv) if each == "--nodes"]
    for kind in sized.kinds:
        name, count = kind.instance_type.metadata.name, kind.instance_type.spec.accelerator.count
        machines = next(int(s.split("=")[1].split("x")[0]) for s in shapes if s.startswith(f"{name}="))
        assert (machines - 1) * count >= 2 * sized.max_workers
    devices = [argv[i + 1] for i, each in enumerate(argv) if each == "--node-env"]
    assert devices == [f"{k.name}=WARMFLEET_SIM_ACCELERATOR={k.accelerator}" for k in sized.kinds]


def test_nodes_either_join_an_api_or_serve_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        localcluster(["--kubeconfig", "a", "--join", "b"])
    assert "not allowed with argument" in capsys.readouterr().err
