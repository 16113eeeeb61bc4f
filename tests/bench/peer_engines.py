"""Other engines on the same model, each driven by the best loop that we know for it.

Texts in, unit vectors out: tokens by `tokenizers`, texts sorted by tokens, batches of a budget of
padded tokens, mean of the real ones. The model is exported from transformers in the bench.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

Encode = Callable[[list[str]], np.ndarray]
BUDGET = 1024  # padded tokens of a batch
CALIBRATION = 64  # texts that OpenVINO's int8 is calibrated with


def sentence_transformers(folder: Path, batch_size: int, max_tokens: int, dtype: str) -> Encode:
    """encode() itself: (R texts) -> (R, D)."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    model.max_seq_length = max_tokens
    return lambda texts: model.encode(
        texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
    ).astype(np.float32)


class Padded:
    """The loop around an engine that takes ids and a mask and gives hidden states."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)

    def batches(self, texts: list[str]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Rows, ids (B, L) and mask (B, L), int64."""
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        while order:
            longest = len(ids[order[-1]])
            rows = order[-max(1, BUDGET // longest) :]
            del order[-len(rows) :]
            padded, mask = (np.zeros((len(rows), longest), np.int64) for _ in range(2))
            for n, row in enumerate(rows):
                padded[n, : len(ids[row])] = ids[row]
                mask[n, : len(ids[row])] = 1
            yield rows, padded, mask

    def encode(self, run: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Encode:
        """Texts -> unit vectors by `run`: ids, mask -> hidden (B, L, D)."""

        def encode(texts: list[str]) -> np.ndarray:
            found = None
            for rows, ids, mask in self.batches(texts):
                hidden = np.asarray(run(ids, mask), np.float32)
                weights = mask.astype(np.float32)
                mean = np.einsum("bld,bl->bd", hidden, weights) / weights.sum(1, keepdims=True)
                if found is None:
                    found = np.zeros((len(texts), mean.shape[1]), np.float32)
                found[rows] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
            return found

        return encode


class Hidden(torch.nn.Module):
    """The last hidden states alone, with segments of zeros."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, L) -> (B, L, D)."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def export(folder: Path, target: Path) -> Path:
    """The model as ONNX, sizes of batch and length free."""
    example = torch.ones(2, 16, dtype=torch.long)
    axes = {0: "batch", 1: "length"}
    names = ("input_ids", "attention_mask")
    torch.onnx.export(
        Hidden(folder), (example, example), str(target), input_names=list(names),
        output_names=["hidden"], dynamic_axes={name: axes for name in (*names, "hidden")},
        opset_version=18, dynamo=False,
    )  # fmt: skip
    return target


def onnxruntime(model: Path, loop: Padded, threads: int, int8: bool) -> Encode:
    """ONNX Runtime: fp32, or its dynamic int8, a scale an output channel."""
    import onnxruntime as ort

    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        target = model.with_name("int8.onnx")
        quantize_dynamic(model, target, per_channel=True, weight_type=QuantType.QInt8)
        model = target
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return loop.encode(
        lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    )


def openvino(model: Path, loop: Padded, threads: int, precision: str, texts: list[str]) -> Encode:
    """OpenVINO in f32, with its bf16 hint, or calibrated to int8 by NNCF."""
    import openvino as ov

    core = ov.Core()
    read = core.read_model(str(model))
    if precision == "int8":
        import nncf

        batches = [
            {"input_ids": ids, "attention_mask": mask}
            for _, ids, mask in loop.batches(texts[:CALIBRATION])
        ]
        read = nncf.quantize(read, nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER)
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    config["INFERENCE_PRECISION_HINT"] = {"exact": "f32"}.get(precision, "bf16")
    request = core.compile_model(read, "CPU", config).create_infer_request()
    return loop.encode(
        lambda ids, mask: request.infer({"input_ids": ids, "attention_mask": mask})[0]
    )


def random_base(folder: Path, tokenizer: Path) -> Path:
    """bert-base's shape with random weights, and the tokenizer of another model."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder


def quiet_exporters() -> None:
    """Their progress is not ours to show."""
    os.environ.setdefault("TQDM_DISABLE", "1")
