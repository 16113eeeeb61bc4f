"""A model's folder may lie in a bucket; it is fetched once for each version of its files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embedmill.pipeline.model import fetch
from embedmill.pipeline.model.folder import open_model
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import ModelError, StorageError
from tests.pipeline.store.proxy import Proxy, answer
from tests.pipeline.store.servers import Place


def put(uri: str, folder: Path) -> None:
    """Copies a folder into a bucket, and a file that is none of the model's."""
    for path in folder.rglob("*"):
        if path.is_file():
            open_store(uri).create(path.relative_to(folder).as_posix(), path.read_bytes())
    open_store(uri).create("onnx/huge.onnx", b"of no use")


def test_a_model_from_a_bucket_is_the_model_of_the_folder(
    place: Place, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    put(f"{place.uri}/model", tiny_bert)
    with ThreadPoolExecutor(4) as pool:  # workers of one machine
        models = list(pool.map(open_model, [f"{place.uri}/model"] * 4))

    assert {model.digest for model in models} == {open_model(str(tiny_bert)).digest}
    assert len({model.folder for model in models}) == 1
    assert not list(tmp_path.rglob("*.onnx"))
    (kept,) = [path for path in (tmp_path / "embedmill/models").iterdir() if path.is_dir()]
    assert kept in models[0].folder.parents or kept == models[0].folder

    monkeypatch.setattr(fetch, "download", None)  # not asked for again
    open_model(f"{place.uri}/model/")
    open_store(place.uri).delete("model/config.json")
    open_store(place.uri).create("model/config.json", b"{}")
    with pytest.raises(TypeError, match="not callable"):
        open_model(f"{place.uri}/model")


def test_a_model_that_is_not_there_or_cannot_be_had_leaves_nothing(
    bucket: Callable[[str], Place], tiny_bert: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, impatient: None,
):  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = bucket("s3")
    with pytest.raises(ModelError, match="MODEL_MISSING"):
        open_model(f"{place.uri}/nothing")
    put(f"{place.uri}/model", tiny_bert)
    with Proxy(place.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        proxy.script = lambda request, forward: (
            answer("503 Slow Down") if "safetensors" in request.target else forward(request)
        )
        with pytest.raises(StorageError, match="STORE_AWAY"):
            open_model(f"{place.uri}/model")
    assert [path for path in (tmp_path / "embedmill/models").iterdir() if path.is_dir()] == []
