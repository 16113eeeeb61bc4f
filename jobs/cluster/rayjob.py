"""Starts a RayJob from inside a pod and waits for its end: what a scheduled CronJob runs.

    python -m embedmill.jobs.cluster.rayjob rayjob.json

Only Python's own library: Kubernetes' API is two requests, and its client would be one more thing
to install.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from embedmill.schemas.terminal import say

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EVERY_SECONDS = 10.0
PATIENCE = 30  # failed looks in a row: the API server may be away for a while


def main(path: str) -> int:
    """0 if the job succeeded, 75 if not: the next schedule resumes it."""
    account = Path(os.environ.get("EMBEDMILL_SERVICE_ACCOUNT", ACCOUNT))
    namespace = (account / "namespace").read_text().strip()
    jobs = f"{_server()}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    name = _ask(account, jobs, Path(path).read_bytes())["metadata"]["name"]
    say(f"started {name}")
    failures = 0
    while failures < PATIENCE:
        time.sleep(float(os.environ.get("EMBEDMILL_POLL_SECONDS", EVERY_SECONDS)))
        try:
            status = _ask(account, f"{jobs}/{name}").get("status", {})
        except OSError as error:
            failures += 1
            say(f"{error}")
            continue
        failures = 0
        state = status.get("jobDeploymentStatus", "")
        if state in ("Complete", "Failed", "ValidationFailed"):
            result = status.get("jobStatus") or state
            say(f"{name} {result} {status.get('message', '')}")
            return 0 if result == "SUCCEEDED" else 75
    return 75


def _server() -> str:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _ask(account: Path, url: str, data: bytes | None = None) -> dict[str, Any]:
    """GET, or POST with data. The token is read each time: Kubernetes renews it."""
    token = (account / "token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    trust = ssl.create_default_context(cafile=str(account / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=60, context=trust) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise OSError(
            f"{url}: {error.code} {error.read().decode(errors='replace')[:300]}"
        ) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
