"""Kubernetes manifests of a scheduled run: a CronJob that starts a RayJob and waits for its end.

KubeRay's own RayCronJob is shorter, but knows no concurrencyPolicy: two of its runs can overlap.
That is harmless, and costs a second cluster for a while.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from embedmill.jobs.cluster.portable_spec import travelling, whole
from embedmill.schemas.errors import SpecError
from embedmill.schemas.spec import Encoders, Spec
from embedmill.schemas.spec_file.load import dump_spec
from embedmill.schemas.terminal import say

MOUNT = "/etc/embedmill"
READERS, ENCODERS = 4, 8  # most nodes of each kind, where the spec does not say
GPU = "nvidia.com/gpu"


def manifests(spec: Spec, name: str, cron: str, image: str, *, ray_cron_job: bool = False) -> str:
    """All objects as one YAML stream; SpecError for what no pod could read."""
    _refuse_local(spec)
    job = _ray_job(spec, name, image)
    files = {"job.yaml": dump_spec(travelling(spec))}
    if ray_cron_job:
        times = {"schedule": cron, "jobTemplate": job}
        objects = [_config(name, files), _object("ray.io/v1", "RayCronJob", name, spec=times)]
    else:
        whole = _object("ray.io/v1", "RayJob", name, spec=job)
        whole["metadata"] = {"generateName": f"{name}-", "labels": whole["metadata"]["labels"]}
        files["rayjob.json"] = json.dumps(whole, indent=1)
        objects = [_config(name, files), *_rights(name), _cron_job(name, cron, image)]
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, allow_unicode=True).rstrip()


class _Dumper(yaml.SafeDumper):
    """Files inside a ConfigMap as blocks of lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _refuse_local(spec: Spec) -> None:
    paths = [spec.input.path] if isinstance(spec.input.path, str) else spec.input.path
    places = [("output.path", spec.output.path), *(("input.path", path) for path in paths)]
    for field, path in places:
        if "://" not in path or path.startswith("file:"):
            what = f"{field}: {path} is a local path, which pods do not share; use object storage"
            raise SpecError("SCHEDULE", "", what)
    if Path(os.path.expanduser(spec.model.name)).is_dir():
        said = f"the image has to have the model in {whole(spec.model.name)}"
        say(f"{said}")


def _object(api: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "embedmill", "app.kubernetes.io/instance": name}
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
        **more,
    }


def _config(name: str, files: dict[str, str]) -> dict[str, Any]:
    return _object("v1", "ConfigMap", name, data=files)


def _rights(name: str) -> list[dict[str, Any]]:
    """The CronJob's pod may start RayJobs and look at them, and nothing else."""
    rule = {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    subject = {"kind": "ServiceAccount", "name": name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    group = "rbac.authorization.k8s.io/v1"
    return [
        _object("v1", "ServiceAccount", name),
        _object(group, "Role", name, rules=[rule]),
        _object(group, "RoleBinding", name, subjects=[subject], roleRef=role),
    ]


def _cron_job(name: str, cron: str, image: str) -> dict[str, Any]:
    container = {
        "name": "start",
        "image": image,
        "command": ["python", "-m", "embedmill.jobs.cluster.rayjob", f"{MOUNT}/rayjob.json"],
        "resources": _resources("100m", "256Mi"),
        "volumeMounts": [{"name": "job", "mountPath": MOUNT}],
    }
    pod = {
        "serviceAccountName": name,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "job", "configMap": {"name": name}}],
    }
    spec = {
        "schedule": cron,
        "concurrencyPolicy": "Forbid",
        "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": pod}}},
    }
    return _object("batch/v1", "CronJob", name, spec=spec)


def _ray_job(spec: Spec, name: str, image: str) -> dict[str, Any]:
    """A cluster for one run: a head without work, readers, and encoders on GPUs if asked for."""
    wanted = spec.run.encoders
    most = wanted.max if isinstance(wanted, Encoders) else wanted
    most = ENCODERS if most == "auto" else most
    if spec.run.device == "cuda":
        per_gpu = wanted.per_gpu if isinstance(wanted, Encoders) else 1
        groups = [
            _group("reader", READERS, _container("ray-worker", image, "8", "16Gi")),
            _group("encoder", -(-most // per_gpu), _container("ray-worker", image, "8", "32Gi", 1)),
        ]
    else:
        groups = [_group("encoder", most, _container("ray-worker", image, "8", "16Gi"))]
    head = _container("ray-head", image, "2", "8Gi")
    head["volumeMounts"] = [{"name": "job", "mountPath": MOUNT}]
    volumes = [{"name": "job", "configMap": {"name": name}}]
    cluster = {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v1"},  # the one whose word we understand
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},  # no units where the cluster's memory is
            "template": {"spec": {"containers": [head], "volumes": volumes}},
        },
        "workerGroupSpecs": groups,
    }
    return {
        "entrypoint": f"embedmill run {MOUNT}/job.yaml --json",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "backoffLimit": 2,  # another cluster resumes what the lost one had begun
        "rayClusterSpec": cluster,
    }


def _group(name: str, most: int, container: dict[str, Any]) -> dict[str, Any]:
    pod = {"containers": [container]}
    if GPU in container["resources"]["limits"]:
        pod["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "groupName": name,
        "minReplicas": 0,
        "maxReplicas": most,
        "rayStartParams": {},
        "template": {"spec": pod},
    }


def _container(name: str, image: str, cpus: str, memory: str, gpus: int = 0) -> dict[str, Any]:
    # Credentials of the object storage: a Secret that you make, or the nodes' own role.
    secret = {"secretRef": {"name": "embedmill", "optional": True}}
    resources = _resources(cpus, memory)
    if gpus:
        resources["limits"][GPU] = gpus
    return {"name": name, "image": image, "envFrom": [secret], "resources": resources}


def _resources(cpus: str, memory: str) -> dict[str, dict[str, Any]]:
    return {"requests": {"cpu": cpus, "memory": memory}, "limits": {"memory": memory}}
