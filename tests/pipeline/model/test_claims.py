"""A claim of a model's folder is applied, or refused by name; a form is asked for by its use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from embedmill.pipeline.load import load_tokenizer
from embedmill.pipeline.model.folder import open_model
from embedmill.pipeline.plan.plan import Planned, make_plan
from embedmill.pipeline.store.output import open_store
from embedmill.schemas.errors import ModelError
from embedmill.schemas.spec import Spec
from tests.tiny import save_model, save_sentence_folder, write_json

Plan = Callable[..., Planned]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sentence-transformers folder of a small BERT, mean pooling."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(folder)
    save_sentence_folder(folder, ("Transformer", ""), ("Pooling", "1_Pooling"))
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean"})
    return folder


@pytest.fixture
def plan(tmp_path: Path, folder: Path, write_texts) -> Plan:
    """Plans two rows with the folder as it is then."""
    shard = write_texts(tmp_path / "in" / "0.parquet", text=["a lemon", "a boat"], b=["x", "y"])

    def make(column: dict | None = None, **input) -> Planned:
        spec = {
            "input": {"path": str(shard), "text": "text", **input},
            "model": {"name": str(folder)},
            "output": {"path": str(tmp_path / "out")},
            "run": {"device": "cpu"},
        }
        if column:
            spec["output"]["columns"] = [{"name": "v", **column}]
        return make_plan(Spec.model_validate(spec), open_store(str(tmp_path / "out")))

    return make


def change(path: Path, **values: object) -> None:
    found = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, found | values)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_the_weights_is_refused(folder: Path, name: str) -> None:
    open_model(str(folder))
    (folder / name).write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelError, match=rf"{name}: is an adapter.*merge it"):
        open_model(str(folder))


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("config_args", {"hidden_act": "relu"}, "hidden_act"),
        ("config_kwargs", {"num_hidden_layers": 1}, "num_hidden_layers"),
        ("tokenizer_args", {"do_lower_case": False}, "do_lower_case"),
        ("model_args", {"attn_implementation": "eager", "is_decoder": True}, "is_decoder"),
        ("processor_kwargs", {"add_eos_token": True}, "add_eos_token"),
    ],
)
def test_arguments_that_would_be_handed_on_are_refused_by_name(
    folder: Path, name: str, value: dict, key: str
) -> None:
    change(folder / "sentence_bert_config.json", **{name: value})
    with pytest.raises(ModelError, match=rf"{key} to the model in {name}"):
        open_model(str(folder))


def test_arguments_that_move_no_vector_are_let_through(folder: Path) -> None:
    harmless = {"add_pooling_layer": False, "torch_dtype": "float32", "trust_remote_code": True}
    change(folder / "sentence_bert_config.json", model_args=harmless, max_seq_length=64)
    assert open_model(str(folder)).max_tokens == 64


def test_a_projection_of_token_vectors_is_not_left_out(folder: Path, plan: Plan) -> None:
    change(folder / "config.json", architectures=["HF_ColBERT"])
    plan()
    with pytest.raises(ModelError, match=r"HF_ColBERT: its token vectors need its projection"):
        plan({"pooling": "tokens"})


@pytest.mark.parametrize(
    ("key", "word", "name"),
    [("add_eos_token", "[MASK]", "eos_token"), ("add_bos_token", "[SEP]", "bos_token")],
)
def test_ends_that_are_promised_and_not_there_are_refused(
    folder: Path, plan: Plan, key: str, word: str, name: str
) -> None:
    path = folder / "tokenizer_config.json"
    change(path, **{key: True, name: "[SEP]" if name == "eos_token" else "[CLS]"})
    load_tokenizer(plan().plan)
    change(path, **{name: {"content": word}})
    with pytest.raises(ModelError, match=rf"TOKENIZER_CLAIMS.*{key}: true.*tokenizer.json"):
        load_tokenizer(plan().plan)
    change(path, **{key: False})
    load_tokenizer(plan().plan)


@pytest.mark.parametrize("pair", ["$A:0 $B:1 [SEP]:1", "[CLS]:0 $A:0 [SEP]:0 [CLS]:1 $B:1 [SEP]:1"])
def test_the_form_of_pairs_is_asked_for_by_pairs_alone(folder: Path, plan: Plan, pair: str) -> None:
    """`<bos> A <eos> <bos> B <eos>`, as Llama's and Gemma's tokenizers have it."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    own = Tokenizer.from_str(json.dumps(tokenizer))
    ids = [(word, own.token_to_id(word)) for word in ("[CLS]", "[SEP]")]
    own.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ids)
    path.write_text(own.to_str())

    found = load_tokenizer(plan().plan).encode(["lemon"], None)
    assert (ids[0][1], ids[1][1]) == (found.ids_T[0], found.ids_T[-1])
    with pytest.raises(ModelError, match="puts pairs into a form that is not BERT's"):
        load_tokenizer(plan(pair="b").plan)


def test_a_special_token_beyond_the_table_that_no_text_can_give_is_no_matter(
    folder: Path, plan: Plan
) -> None:
    from tokenizers import AddedToken, Tokenizer

    path = folder / "tokenizer.json"
    own = Tokenizer.from_file(str(path))
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    while own.get_vocab_size() < rows:
        own.add_tokens([AddedToken(f"filler{own.get_vocab_size()}", special=False)])
    own.add_special_tokens(["<image_soft_token>"])
    own.save(str(path))
    assert own.token_to_id("<image_soft_token>") >= rows
    load_tokenizer(plan().plan)
    own.add_tokens([AddedToken("reachable", special=False)])
    own.save(str(path))
    with pytest.raises(ModelError, match="TOKENIZER_MISMATCH"):
        load_tokenizer(plan().plan)


PROMPTS = {"query": "query: ", "document": "title: none | text: ", "passage": "passage: "}


@pytest.mark.parametrize(
    ("prompts", "default", "asked", "want"),
    [
        (PROMPTS, None, {}, PROMPTS["document"]),
        (PROMPTS, None, {"prompt": None}, PROMPTS["document"]),
        (PROMPTS, None, {"prompt": ""}, ""),
        (PROMPTS, None, {"prompt": "query"}, PROMPTS["query"]),
        ({"query": "q: ", "document": ""}, None, {}, ""),
        ({"query": "q: ", "document": "", "passage": "p: "}, None, {}, "p: "),
        ({"query": "q: ", "corpus": "c: "}, "query", {}, "c: "),
        ({"query": "q: "}, "query", {}, "q: "),
        ({}, None, {}, ""),
    ],
)
def test_a_corpus_gets_the_folders_document_prompt(
    folder: Path, plan: Plan, prompts: dict, default: str | None, asked: dict, want: str
) -> None:
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": default},
    )
    assert plan(**asked).plan.model["prompt"] == want


def test_a_pooling_without_the_prompt_is_right_where_there_is_none(
    folder: Path, plan: Plan
) -> None:
    """Advice to choose another pooling would give other vectors."""
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    assert plan().plan.columns[0].pooling == "mean"
    with pytest.raises(ModelError, match=r"include_prompt: false.*input.prompt"):
        plan(prompt="a task: ")
    assert plan(prompt="").plan.columns[0].pooling == "mean"


def test_a_module_in_the_folder_itself_is_named_by_its_kind(folder: Path) -> None:
    save_sentence_folder(folder, ("StaticEmbedding", "."))
    with pytest.raises(ModelError, match="module 0 is .*StaticEmbedding.*not supported"):
        open_model(str(folder))
