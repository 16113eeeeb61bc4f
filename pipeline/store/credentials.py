"""What the environment and the usual files say of a bucket's place and credentials.

The client reads most of the environment itself: AWS_*, AZURE_*, GOOGLE_*, roles of machines and
pods. Here is what it does not read: the profiles of AWS, and Azure's connection string.
"""

from __future__ import annotations

import configparser
import functools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

# After so long a file of credentials is read again, for some tool may have renewed it.
FRESH = timedelta(minutes=5)
# Any of these names another source of credentials, which the client knows.
OTHER_SOURCES = (
    "AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
# What the client calls it, what others call it in the environment, and in a connection string.
AZURE = (
    ("account_name", ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"), "AccountName"),
    ("account_key", ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"), "AccountKey"),
    ("endpoint", ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"), "BlobEndpoint"),
    ("sas_key", ("AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_SAS_TOKEN"), "SharedAccessSignature"),
)


def settings(bucket: str, environment: dict[str, str]) -> dict[str, Any]:
    """Arguments for the client of a bucket, beside what it finds itself."""
    scheme = bucket.partition("://")[0]
    if scheme == "s3":
        return _aws(environment)
    return {} if scheme == "gs" else _azure(environment)


def _aws(environment: dict[str, str]) -> dict[str, Any]:
    # Not every store has the request that deletes many objects, and its checksum header is one
    # that some refuse.
    found: dict[str, Any] = {"disable_bulk_delete": True}
    profile = _profile(environment)
    if profile.get("region") and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & environment.keys():
        found["region"] = profile["region"]
    if profile.get("endpoint_url") and not any("ENDPOINT" in name for name in environment):
        found["endpoint"] = profile["endpoint_url"]
    if "aws_access_key_id" in profile and environment.keys().isdisjoint(OTHER_SOURCES):
        found["credential_provider"] = functools.partial(_keys, environment)
    return found


def _profile(environment: dict[str, str]) -> dict[str, str]:
    """The chosen profile in AWS's two files; empty if there is none."""
    name = environment.get("AWS_PROFILE", "default")
    home = Path(environment.get("HOME", "~")).expanduser() / ".aws"
    files = (
        (environment.get("AWS_CONFIG_FILE", home / "config"), f"profile {name}"),
        (environment.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"), name),
    )
    found: dict[str, str] = {}
    for path, section in files:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # not ours to judge; without credentials the store will say so
        for key in (section, name):
            found |= dict(parser[key]) if key in parser else {}
    return found


def _keys(environment: dict[str, str]) -> dict[str, Any]:
    """The keys as the files have them now."""
    profile = _profile(environment)
    return {
        "access_key_id": profile.get("aws_access_key_id", ""),
        "secret_access_key": profile.get("aws_secret_access_key", ""),
        "token": profile.get("aws_session_token"),
        "expires_at": datetime.now(UTC) + FRESH,
    }


def _azure(environment: dict[str, str]) -> dict[str, Any]:
    text = environment.get("AZURE_STORAGE_CONNECTION_STRING", "")
    told = dict(pair.split("=", 1) for pair in text.split(";") if "=" in pair)
    found = {}
    for argument, (known, *others), name in AZURE:
        values = [environment[other] for other in others if other in environment]
        if known not in environment and (value := next(iter(values), told.get(name))):
            found[argument] = value
    return found
