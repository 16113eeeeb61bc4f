"""What KubeRay 1.7 accepts of the fields that we print, as JSON Schema; and a check of a stream.

Kubernetes' own kinds are judged by kubernetes-validate. KubeRay's definitions are in no package, so
the fields that we use are written here after them, closed: a misspelt one is an error.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate",
    reason="the package kubernetes-validate is not installed (make setup-test)",
)

KUBERNETES = "1.33"
TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}


def closed(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}
TEMPLATE = closed(("spec",), spec={"type": "object"})  # judged as a Pod
CLUSTER = closed(
    ("headGroupSpec",),
    rayVersion=TEXT,
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=closed(version={"enum": ["v1", "v2"]}),
    authOptions=closed(("mode",), mode={"enum": ["disabled", "token"]}),
    headGroupSpec=closed(("template",), rayStartParams=PARAMS, template=TEMPLATE),
    workerGroupSpecs={
        "type": "array",
        "items": closed(
            ("groupName", "maxReplicas", "minReplicas", "template"),
            groupName=TEXT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=PARAMS,
            template=TEMPLATE,
        ),
    },
)
JOB = closed(
    ("rayClusterSpec",),
    entrypoint=TEXT,
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    backoffLimit=COUNT,
    rayClusterSpec=CLUSTER,
)
CRON_JOB = closed(("schedule", "jobTemplate"), schedule=TEXT, jobTemplate=JOB)
META = {"type": "object"}
KINDS = {
    "RayJob": closed(
        ("spec",), apiVersion={"const": "ray.io/v1"}, kind=TEXT, metadata=META, spec=JOB
    ),
    "RayCronJob": closed(
        ("spec",), apiVersion={"const": "ray.io/v1"}, kind=TEXT, metadata=META, spec=CRON_JOB
    ),
}


def judge(stream: str) -> list[dict[str, Any]]:
    """The objects of a stream, with the RayJob inside a ConfigMap; raises for what is not valid."""
    objects = list(yaml.safe_load_all(stream))
    objects += [
        json.loads(text)
        for one in objects
        if one["kind"] == "ConfigMap"
        for name, text in one["data"].items()
        if name.endswith(".json")
    ]
    for one in objects:
        if one["kind"] in KINDS:
            jsonschema.validate(one, KINDS[one["kind"]])
            spec = one["spec"].get("jobTemplate", one["spec"])["rayClusterSpec"]
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
                kubernetes_validate.validate({**pod, **group["template"]}, KUBERNETES, strict=True)
        else:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
    return objects
