"""Every architecture that is not ours: transformers' own model, over packs where it can.

transformers lets an attention function be registered under a name. Ours keeps the sequences of a
pack apart, so a pack is one row of T tokens without padding. Some architectures ignore the name in
silence and attend across sequences. So nothing is trusted: at load, random sequences go through
both ways, packed and padded, and a model whose states differ is run padded from then on.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad

from embedmill.pipeline.batches import Pack
from embedmill.pipeline.contracts import Hidden
from embedmill.pipeline.encode.attention import PACK, Spans, attend_registered, flash_takes
from embedmill.pipeline.encode.embeddings import filled, indices
from embedmill.pipeline.encode.linear import ROUND_TOKENS
from embedmill.pipeline.encode.transfer import is_cuda, to_device
from embedmill.pipeline.model.architectures import by_longest, first_position
from embedmill.schemas.errors import ModelError

if TYPE_CHECKING:
    pass


NAME = "embedmill"  # of our attention, in transformers' register
TEST_LENGTHS = [2, 3, 5, 8, 13, 21, 34]  # of the self-test, and one sequence beyond a window
LONGEST_TEST = 1024
TOLERANCE = 1e-4  # of the largest state; attending across sequences is off by far more
WASTE = 1.25  # a padded batch holds at most so many places a token


class AutoEncoder:
    """An `Encoder`: any encoder that transformers can load from safetensors without remote code."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        self.model, self.has_pooler = read_model(folder)
        self.dim, self.device = int(self.model.config.hidden_size), device
        table = self.model.get_input_embeddings().weight
        self.vocabulary = table.shape[0]
        types = int(getattr(self.model.config, "type_vocab_size", 0) or 0)
        takes = inspect.signature(self.model.forward).parameters
        self.types = types if "token_type_ids" in takes else 0
        self.waste = WASTE
        self.first = _packs_from(self)  # None: padded
        path = "padded" if self.first is None else "packed-auto"
        attention = str(self.model.config._attn_implementation)
        self.model.to(device, dtype)
        self.engine = {
            "device": torch.device(device).type,
            "precision": "exact" if dtype == torch.float32 else "fast",
            "attention": attention if self.first is None else self._attention(),
            "path": path,
        }

    @torch.inference_mode()
    def encode(self, pack: Pack) -> Hidden:
        """The first and the last hidden states of every token of the pack."""
        forward = self._padded if self.first is None else self._packed
        out = forward(pack)
        return Hidden(out[0].float(), out[1].float(), to_device(pack.cu_S1, self.device))

    @torch.inference_mode()
    def embeddings(self, pack: Pack) -> tuple[torch.Tensor, ...]:
        """Token, segment and position embeddings, their sum, and what layer 0 receives; fp32.

        Zeros where the architecture has no table of segments or of positions.
        """
        token_TE = self.model.get_input_embeddings()(self._ids(pack)).float()
        first = first_position(self.model.config.to_dict())
        places = {
            "token_type_embeddings": pack.types_T,
            "position_embeddings": pack.positions_T + first,
        }
        found = []
        for name, ids_T in places.items():
            table = next((m for n, m in self.model.named_modules() if n.endswith(name)), None)
            if isinstance(table, torch.nn.Embedding):
                ids = indices(ids_T, table.num_embeddings, name, self.device)
                found.append(table(ids).float())
            else:
                found.append(torch.zeros_like(token_TE))
        return token_TE, *found, token_TE + found[0] + found[1], self.encode(pack).input_TD

    @torch.inference_mode()
    def pooler(self, cls_SD: torch.Tensor) -> torch.Tensor:
        """The model's own pooler over first tokens' states; (S, D) -> (S, D)."""
        if not self.has_pooler:
            do = "choose another pooling"
            raise ModelError("POOLER_MISSING", "model", "its weights hold no pooler", do)
        states_SD = cls_SD.to(next(self.model.pooler.parameters()).dtype)
        filled_SD = pad(states_SD, (0, 0, 0, -len(states_SD) % ROUND_TOKENS))  # as packs are
        return apply_pooler(self.model, filled_SD[:, None])[: len(states_SD)].float()

    def _attention(self) -> str:
        config, half = self.model.config, self.model.dtype != torch.float32
        width = getattr(config, "head_dim", None) or self.dim // config.num_attention_heads
        return "varlen" if half and is_cuda(self.device) and flash_takes(width) else "sdpa-runs"

    def _ids(self, pack: Pack) -> torch.Tensor:
        return indices(pack.ids_T, self.vocabulary, "token id", self.device)

    def _types(self, pack: Pack) -> torch.Tensor | None:
        if not self.types:
            return None
        return indices(pack.types_T, self.types, "segment id", self.device)

    def _forward(self, **inputs: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """First and last states of a batch, both (S, L, D)."""
        given = {name: ids for name, ids in inputs.items() if ids is not None}
        out = self.model(**given, output_hidden_states=True, return_dict=True)
        return out.hidden_states[0], out.last_hidden_state

    def _packed(self, pack: Pack) -> tuple[torch.Tensor, ...]:
        """The pack as one row; (T, D) twice."""
        tokens = len(pack.ids_T)
        if not is_cuda(self.device):  # there few rows take other kernels than many
            pack = filled(pack, ROUND_TOKENS)
        types_T = self._types(pack)
        positions_T = to_device(pack.positions_T, self.device).long() + self.first
        token = PACK.set(Spans(pack.cu_S1, to_device(pack.cu_S1.astype(np.int32), self.device)))
        try:
            states = self._forward(
                input_ids=self._ids(pack).long()[None],
                position_ids=positions_T[None],
                token_type_ids=None if types_T is None else types_T.long()[None],
            )
        finally:
            PACK.reset(token)
        return tuple(x[0, :tokens] for x in states)

    def _padded(self, pack: Pack) -> tuple[torch.Tensor, ...]:
        """The pack as batches of sequences of about one length; (T, D) twice."""
        found = []
        for first, last in _batches(pack.lengths_S, self.waste):
            lengths_S = pack.lengths_S[first:last]
            lengths = to_device(lengths_S, self.device)
            mask = torch.arange(int(lengths_S.max()), device=self.device) < lengths[:, None]
            here = slice(int(pack.cu_S1[first]), int(pack.cu_S1[last]))
            padding = getattr(self.model.config, "pad_token_id", None) or 0
            ids = torch.full(mask.shape, padding, device=self.device)
            ids[mask] = self._ids(pack)[here].long()
            types_T, types = self._types(pack), None
            if types_T is not None:
                types = torch.zeros_like(ids)
                types[mask] = types_T[here].long()
            states = self._forward(input_ids=ids, attention_mask=mask.long(), token_type_ids=types)
            found.append([x[mask] for x in states])
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def apply_pooler(trunk: Any, states_SLD: torch.Tensor) -> torch.Tensor:
    """What transformers' model makes of its last states: (S, L, D) -> (S, D)."""
    if isinstance(trunk.pooler, torch.nn.Linear):  # ALBERT keeps the activation beside it
        return trunk.pooler_activation(trunk.pooler(states_SLD[:, 0]))
    return trunk.pooler(states_SLD)


def read_model(folder: Path) -> tuple[Any, bool]:
    """transformers' model of a folder, fp32, checked, and whether it has a pooler of its own."""
    model, info = read_pretrained("AutoModel", folder)
    _check_loaded(folder, model, info)
    missing = any("pooler" in name for name in info["missing_keys"])
    return model, getattr(model, "pooler", None) is not None and not missing


def read_pretrained(kind: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """An Auto class of transformers from a folder's weights, fp32, and what it says of loading."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours is the only voice on stderr
    logging.set_verbosity_error()
    try:
        model, info = getattr(transformers, kind).from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, use_safetensors=True,
            dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # transformers raises all kinds; each has one meaning here
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = f"transformers cannot load it ({(lines or [type(error).__name__])[0][:160]})"
        brings_code = b'"auto_map"' in (folder / "config.json").read_bytes()
        do = "code that a model brings is never run" if brings_code else "see its files"
        raise ModelError("MODEL_UNSUPPORTED", str(folder), what, do) from None
    if model.config.is_encoder_decoder:
        what = "an encoder with a decoder"
        raise ModelError("MODEL_UNSUPPORTED", str(folder), what, "use a model that only encodes")
    for name, there, here in sorted(info["mismatched_keys"]):
        what = f"{name} is {tuple(there)}, config.json says {tuple(here)}"
        raise ModelError("WEIGHTS_SHAPE", str(folder), what, "fetch the model again")
    return model.eval(), info


def _check_loaded(folder: Path, model: Any, info: dict[str, Any]) -> None:
    """ModelError if a tensor is missing, of no use or not finite.

    A pooler may be missing. What lies beside the trunk belongs to the heads of other tasks.
    """
    again = "fetch the model again"
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if missing:
        what = f"{len(missing)} tensors are missing: {missing[0]} …"
        raise ModelError("WEIGHTS_MISSING", str(folder), what, again)
    trunk = {name for name, _ in model.named_children()}
    for name in sorted(info["unexpected_keys"]):
        own = name.removeprefix(f"{model.base_model_prefix}.")
        is_buffer = own.endswith(("position_ids", "token_type_ids", "inv_freq"))
        if own.partition(".")[0] in trunk and "pooler" not in own and not is_buffer:
            do = "config.json and the weights belong to different models"
            raise ModelError("WEIGHTS_UNEXPECTED", str(folder), f"{name} has no place in it", do)
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            what = f"{name} has NaN or infinity"
            raise ModelError("WEIGHTS_NOT_FINITE", str(folder), what, again)


@torch.inference_mode()
def _packs_from(encoder: AutoEncoder) -> int | None:
    """The position id of a sequence's first token, if packs give what sequences alone give.

    None: the model has to be padded. One that even padding changes, as FNet, is then given
    batches of equal lengths only; and so is one that turns all of a batch by its longest sequence.
    """
    model, config = encoder.model, encoder.model.config
    if by_longest(config.to_dict()):
        encoder.waste = 1.0
        return None
    pack, device, encoder.device = _test_pack(encoder), encoder.device, "cpu"
    own, encoder.waste = config._attn_implementation, 1.0
    want = encoder._padded(pack)
    encoder.waste = 4.0  # a batch of several lengths
    padded = all(map(_close, encoder._padded(pack), want))
    encoder.waste = WASTE if padded else 1.0
    padding = getattr(config, "pad_token_id", None)
    likely = (first_position(config.to_dict()), 0, (padding or 0) + 1)
    try:
        if not getattr(model, "_supports_attention_backend", False):
            return None
        _register()
        for encoder.first in dict.fromkeys(likely):
            model.set_attn_implementation(NAME)
            try:
                got = encoder._packed(pack)
            except Exception:  # whatever it is: this architecture cannot be packed so
                continue
            if all(map(_close, got, want)):
                return encoder.first
        model.set_attn_implementation(own)
        return None
    finally:
        encoder.device = device


def _close(got: torch.Tensor, want: torch.Tensor) -> bool:
    return bool((got - want).abs().max() <= TOLERANCE * want.abs().max().clamp(min=1))


def _test_pack(encoder: AutoEncoder) -> Pack:
    """Random sequences of many lengths, one longer than a window, each in two segments."""
    config = encoder.model.config
    window = max(int(getattr(config, n, 0) or 0) for n in ("sliding_window", "local_attention"))
    most = int(getattr(config, "max_position_embeddings", 0) or 512) - 8
    longest = min(max(48, window + 16), LONGEST_TEST)
    lengths = [n for n in (*TEST_LENGTHS, longest) if n <= max(most, 2)]
    random = np.random.default_rng(0)
    padding = getattr(config, "pad_token_id", None)
    words = np.setdiff1d(np.arange(encoder.vocabulary), [-1 if padding is None else padding])
    ids_T = random.choice(words, sum(lengths)).astype(np.int32)
    seconds = np.array([n // 2 + 1 for n in lengths] if encoder.types > 1 else lengths)
    return Pack(ids_T, np.concatenate([[0], np.cumsum(lengths)]), seconds.astype(np.int32))


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend_registered)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def _batches(lengths_S: np.ndarray, waste: float) -> list[tuple[int, int]]:
    """Neighbours that are padded together: at most `waste` places a token."""
    ends, longest, tokens = [0], 0, 0
    for s, length in enumerate(lengths_S.tolist()):
        longest, tokens = max(longest, length), tokens + length
        if s > ends[-1] and longest * (s + 1 - ends[-1]) > waste * tokens:
            ends.append(s)
            longest = tokens = length
    return list(pairwise([*ends, len(lengths_S)]))
