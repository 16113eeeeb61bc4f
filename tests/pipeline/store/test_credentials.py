"""Where credentials are looked for, and what the client does not read by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embedmill.pipeline.store.client import split
from embedmill.pipeline.store.credentials import settings
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import StorageError
from tests.pipeline.store.servers import ACCOUNT, ACCOUNT_KEY, KEY, SECRET, Place


def forget(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("profile", ["default", "other"])
def test_a_profile_in_the_usual_files_is_used_and_read_again(
    bucket: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str
):
    place = bucket("s3")
    forget(monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", profile)
    section = profile if profile == "default" else f"profile {profile}"
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(
        f"[{section}]\nregion = eu-west-1\nendpoint_url = http://127.0.0.1:{place.port}\n"
    )
    keys = tmp_path / ".aws/credentials"
    keys.write_text(f"[{profile}]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")

    assert open_store(place.uri).create("a", b"1")
    found = settings("s3://bucket", {"HOME": str(tmp_path), "AWS_PROFILE": profile})
    assert (found["region"], found["credential_provider"]()["access_key_id"]) == ("eu-west-1", KEY)
    keys.write_text(f"[{profile}]\naws_access_key_id = renewed\n")
    assert found["credential_provider"]()["access_key_id"] == "renewed"


def test_the_environment_comes_before_the_files(tmp_path: Path):
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = file\nregion = file-1\n")
    files = {"HOME": str(tmp_path), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "keys")}

    assert "credential_provider" in settings("s3://bucket", files)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        assert "credential_provider" not in settings("s3://bucket", {**files, name: "x"})
    assert "region" not in settings("s3://bucket", {**files, "AWS_REGION": "x"})
    (tmp_path / "keys").write_bytes(b"\xff no profile")
    assert "credential_provider" not in settings("s3://bucket", files)


def test_azure_takes_a_connection_string_and_the_names_of_its_own_tool(
    bucket: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
):
    place = bucket("az")
    known = "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ENDPOINT"
    forget(monkeypatch, *known)
    endpoint = f"http://127.0.0.1:{place.port}/{ACCOUNT}"
    parts = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={endpoint}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"DefaultEndpointsProtocol=http;{parts}")
    assert open_store(place.uri).create("a", b"1")

    told = {"AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_KEY": "k"}
    assert settings("az://c", told) == {"account_name": "me", "account_key": "k"}
    assert settings("az://c", {**told, "AZURE_STORAGE_ACCOUNT_NAME": "x"}) == {"account_key": "k"}


def test_wrong_keys_are_told_without_the_keys(
    place: Place, monkeypatch: pytest.MonkeyPatch, impatient: None
):
    for name in ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.setenv(name, "aHVzaCBodXNo")
    if place.uri.startswith("gs://"):
        pytest.skip("fake-gcs-server asks for no credentials")
    store = open_store(place.uri)
    calls = [lambda: store.create("a", b"1"), lambda: list(store.list("")), lambda: store.size("a")]
    for call in calls:
        with pytest.raises(StorageError, match="ACCESS_DENIED.*docs/stores.md") as caught:
            call()
        assert "aHVz" not in str(caught.value) and KEY not in str(caught.value)


def test_no_credentials_at_all_are_told_as_such(
    bucket: Callable[[str], Place], no_home: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
):
    place = bucket("s3")
    forget(monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="ACCESS_DENIED.*neither the environment nor"):
        open_store(place.uri).size("a")


def test_public_data_is_read_without_credentials(
    bucket: Callable[[str], Place], no_home: Path, monkeypatch: pytest.MonkeyPatch
):
    place = bucket("gs")
    open_store(place.uri).create("a", b"public")
    forget(monkeypatch, "GOOGLE_BEARER_TOKEN")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert open_store(place.uri).read("a") == b"public"


def test_a_uri_is_a_bucket_and_a_path_whatever_its_characters():
    assert split("s3://b/a b#%?é/c.parquet") == ("s3://b", "a b#%?é/c.parquet")
    assert split("gs://b") == split("gs://b/") == ("gs://b", "")
    assert split("abfs://c@me.dfs.core.windows.net/x/") == (
        "abfs://c@me.dfs.core.windows.net", "x",
    )  # fmt: skip
    with pytest.raises(StorageError, match="STORE_NAME"):
        split("s3:///path")
    for uri in ("s3://bucket/a//b", "s3://bucket/a/../b", "s3://bucket/a\nb"):
        with pytest.raises(StorageError, match="STORE_NAME"):
            open_store(uri).size("c")
