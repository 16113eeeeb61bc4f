"""The layers in C: equal to torch's, bit for bit independent of pack and threads, and optional."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import MPNetConfig, MPNetModel

from embedmill.pipeline.encode import proof
from embedmill.pipeline.encode.cpu import Layers, PackedNative
from embedmill.pipeline.encode.native import library as native
from embedmill.pipeline.encode.weights import read_weights
from tests.pipeline.berts import load, make_pack, reference, save_bert

LENGTHS = [1, 2, 3, 15, 16, 17, 47, 48, 49, 96, 97, 200, 333]


def skip_without(precision: str, isa: str = "avx512") -> None:
    if native.library(isa, precision) is None:
        pytest.skip(f"this machine has no {precision} layers for {isa}: no gcc, or another CPU")


@pytest.fixture(params=native.NEEDED, ids="-".join)
def kind(request) -> tuple[str, str]:
    """Instructions and precision."""
    isa, precision = request.param
    skip_without(precision, isa)
    return isa, precision


def layers(kind: tuple[str, str], threads: int = 2, **changes) -> Layers:
    """Random layers."""
    isa, precision = kind
    config = replace(proof.CONFIG, positions=512, **changes)
    return Layers(proof._random(config), precision, threads, isa)


def states(width: int, lengths: list[int]) -> tuple[torch.Tensor, np.ndarray]:
    """Random states of sequences, and their borders."""
    cu_S1 = np.cumsum([0, *lengths])
    return torch.randn(int(cu_S1[-1]), width, generator=torch.Generator().manual_seed(5)), cu_S1


def test_the_machine_that_compiles_proves_it(kind):
    assert proof.works(*kind)


@pytest.mark.parametrize("buckets", [0, 32])
def test_bits_depend_on_the_sequence_alone(kind, buckets):
    run = layers(kind, buckets=buckets)
    input_TD, cu_S1 = states(60, LENGTHS)
    together_TD = run(input_TD, cu_S1)
    for begin, end in pairwise(cu_S1):
        alone_TD = run(input_TD[begin:end], np.array([0, end - begin]))
        assert torch.equal(alone_TD, together_TD[begin:end])


@pytest.mark.parametrize("threads", [1, 3, 8, 100])
def test_bits_do_not_depend_on_threads(kind, threads):
    input_TD, cu_S1 = states(60, LENGTHS * 2)
    want_TD = layers(kind)(input_TD, cu_S1)
    assert torch.equal(layers(kind, threads)(input_TD, cu_S1), want_TD)


def test_a_large_pack_leaves_nothing_for_a_small_one(kind):
    run = layers(kind)
    small, large = states(60, [5, 7]), states(60, [512, 400])
    before = run(*small)
    assert not run(large[0] * torch.nan, large[1]).isfinite().any()
    assert torch.equal(run(*small), before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_and_stays_where_it_is(kind, value):
    run = layers(kind)
    input_TD, cu_S1 = states(60, [30, 30, 30])
    clean_TD = run(input_TD, cu_S1)
    input_TD[40, 7] = value
    found_TD = run(input_TD, cu_S1)
    assert not found_TD[40].isfinite().all()
    assert torch.equal(found_TD[:30], clean_TD[:30])
    assert torch.equal(found_TD[60:], clean_TD[60:])


@pytest.mark.parametrize("lengths", [[], [0], [0, 3, 0, 0, 5, 0]])
def test_empty_sequences(kind, lengths):
    input_TD, cu_S1 = states(60, lengths)
    got_TD = layers(kind)(input_TD, cu_S1)
    want_TD = layers(kind)(input_TD, np.unique(cu_S1))
    assert torch.equal(got_TD, want_TD)


def test_it_embeds_what_torch_embeds(tmp_path):
    skip_without("exact")
    save_bert(tmp_path, hidden_size=72)
    encoder, pack = load(tmp_path), make_pack([7, 30, 5], [3, 30, 1])
    assert isinstance(encoder, PackedNative)
    apart_TD = encoder.encode(pack).input_TD - encoder.embeddings(pack)[-1]
    assert apart_TD.abs().max() < 1e-6


@pytest.mark.parametrize("precision", ["exact", "fast", "int8"])
def test_the_fastest_instructions_are_taken_and_told(tmp_path, precision):
    skip_without(precision)
    best = "avx512" if native.library("amx", precision) is None else "amx"
    save_bert(tmp_path)
    told = load(tmp_path, precision).engine
    assert (f"native-{best}", "packed-native") == (told["attention"], told["path"])


def test_exact_is_exact_on_either(tmp_path, monkeypatch):
    """Of three bf16 nothing is lost that fp32 has: both are as far from fp64."""
    skip_without("exact", "amx")
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    model, pack = save_bert(tmp_path, **sizes), make_pack([*LENGTHS[:-1], 100])
    want_TD, apart = reference(model, pack)[1], {}
    for isa in ("amx", "avx512"):
        monkeypatch.setattr(proof, "isa", lambda *_, isa=isa: isa)
        apart[isa] = (load(tmp_path).encode(pack).hidden_TD - want_TD).abs().max()
    assert apart["amx"] < 2 * apart["avx512"] < 1e-4, apart


def test_mpnet_has_its_distances(tmp_path):
    skip_without("exact")
    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 80}
    config = MPNetConfig(vocab_size=99, num_hidden_layers=2, initializer_range=0.2, **sizes)
    model = MPNetModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    pack = make_pack([400, 3])
    pack.ids_T[pack.ids_T == 1] = 2  # 1 is padding, which has no position
    encoder = load(tmp_path)
    assert isinstance(encoder, PackedNative)
    ids = torch.tensor(pack.ids_T[:400]).long()[None]
    with torch.inference_mode():
        want_TD = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    assert (encoder.encode(pack).hidden_TD[:400] - want_TD).abs().max() < 1e-5


def test_heads_of_an_odd_width_are_left_to_torch(tmp_path):
    save_bert(tmp_path, hidden_size=12, num_attention_heads=4)
    assert proof.isa(read_weights(tmp_path), "exact") is None


def test_a_library_that_differs_is_not_trusted(monkeypatch):
    skip_without("exact")
    proof.works.cache_clear()
    monkeypatch.setattr(proof, "TOLERANCE", {"exact": 0.0})
    assert not proof.works("avx512", "exact")
    proof.works.cache_clear()


@pytest.mark.parametrize("home", ["file", "nowhere"])
def test_without_a_cache_it_compiles_for_itself(tmp_path, monkeypatch, home):
    """The cache's place is a file; there is no home at all."""
    skip_without("exact")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    if home == "nowhere":
        monkeypatch.setattr(native, "cache_folder", lambda: native.Path("~/.cache/embedmill"))
    native.library.cache_clear()
    assert native.library("avx512", "exact") is not None
    native.library.cache_clear()
    assert [tmp_path / "file"] == list(tmp_path.iterdir())


BARE = """
import sys
from pathlib import Path
from embedmill.pipeline.encode.native import library as native
if sys.argv[2] == "compiler":
    native.shutil.which = lambda name: None
else:
    native.cpu_flags = lambda: set()
from embedmill.pipeline.encode.load import load_encoder
encoder = load_encoder(Path(sys.argv[1]), device="cpu", precision=sys.argv[3], threads=1)
print(encoder.engine["precision"], encoder.engine["path"])
"""


@pytest.mark.parametrize("lacks", ["compiler", "instructions"])
def test_without_a_compiler_or_the_instructions_torch_runs(tmp_path, monkeypatch, lacks):
    save_bert(tmp_path / "model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = [sys.executable, "-c", BARE, str(tmp_path / "model"), lacks, "int8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "int8"
    assert done.stdout.split()[1] in ("packed", "packed-onednn")
    assert not list(tmp_path.glob("cache/embedmill/*"))


def test_int8_on_torch_is_int8_in_c(tmp_path, monkeypatch):
    skip_without("int8")
    save_bert(tmp_path, hidden_size=96, intermediate_size=192)
    pack = make_pack([7, 30, 64])
    got_TD = load(tmp_path, "int8").encode(pack).hidden_TD
    monkeypatch.setattr(proof, "works", lambda isa, precision: False)
    bare = load(tmp_path, "int8")
    exact_TD, bare_TD = load(tmp_path).encode(pack).hidden_TD, bare.encode(pack).hidden_TD
    apart = (got_TD - bare_TD).abs().mean()
    assert apart < (got_TD - exact_TD).abs().mean() < 0.05  # they round alike, in other places
