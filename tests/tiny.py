"""Tiny random models of many architectures, saved as their users save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CONFIG_MAPPING

from tests.conftest import LETTERS, WORDS, write_tokenizer

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 130,
    "initializer_range": 0.2,  # large: a missing segment or position must show
    "pad_token_id": 0,
}
ROBERTA = {"pad_token_id": 1}
LLAMA = {"bos_token_id": 2, "eos_token_id": 3, "num_key_value_heads": 2}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
# architecture -> what its configuration needs beside the sizes
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 24},
    "bert": {},
    "camembert": ROBERTA | {"type_vocab_size": 1},
    "data2vec-text": ROBERTA,
    "deberta-v2": DISENTANGLED | {"position_biased_input": False},
    "distilbert": {"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80},
    "electra": {"embedding_size": 24},
    "ernie": {},
    "eurobert": LLAMA | {"mask_token_id": 4},
    "fnet": {},
    "gte": ROBERTA,
    "jina_embeddings_v3": ROBERTA,
    "modernbert": LLAMA | {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 16},
    "mpnet": ROBERTA,
    "nomic_bert": {},
    "qwen3": LLAMA | {"head_dim": 12},
    "rembert": {"input_embedding_size": 48},
    "roberta": ROBERTA | {"type_vocab_size": 1},
    "xlm-roberta": ROBERTA | {"type_vocab_size": 1},
    "xlm-roberta-xl": ROBERTA,
}


def save_model(folder: Path, kind: str = "bert", auto: str = "AutoModel", **changes: Any) -> Any:
    """Saves a random model of an Auto class with its tokenizer; gives it in fp64.

    So all rounding is ours.
    """
    of_roberta = ARCHITECTURES[kind].get("pad_token_id") == 1
    size = save_roberta_tokenizer(folder) if of_roberta else len(write_tokenizer(folder))
    settings = {"vocab_size": size, **SIZES, **ARCHITECTURES[kind], **changes}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = getattr(transformers, auto).from_config(CONFIG_MAPPING[kind](**settings)).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at 0, where a lost bias hides
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model.double()


def save_roberta_tokenizer(folder: Path) -> int:
    """A tokenizer of RoBERTa's form, <s> A </s></s> B </s>; gives the size of its vocabulary."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS, *WORDS]
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_special_tokens(words[:5])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = zip(("cls", "pad", "sep", "unk", "mask"), words[:5], strict=True)
    config = {f"{name}_token": word for name, word in names}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128}
    config |= {"model_input_names": ["input_ids", "attention_mask"]}
    write_json(folder / "tokenizer_config.json", config)
    return len(vocabulary)


def save_sentence_folder(folder: Path, *modules: tuple[str, str], **files: Any) -> None:
    """modules.json over a model, its modules as (class, folder); and other files by their stem."""
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    for stem, value in files.items():
        write_json(folder / f"{stem}.json", value)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
