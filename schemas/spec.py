"""The spec: one YAML file is one job. Unknown keys are refused; every default has its reason.

`input`, `model` and `output` say WHAT is made and are part of the identity where they can move a
vector; `run` says HOW and never is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from embedmill.schemas.quality import Quality
from embedmill.schemas.section import Count, Name, Section
from embedmill.schemas.sinks import Index

RESERVED_COLUMNS = ("n_tokens", "n_chars_cut", "input_hash")
WINDOW_COLUMNS = ("window", "char_start", "char_end")  # reserved where rows have windows
Hardware = Literal["h200", "amx_core", "zen4_core"]  # what has been measured: jobs/estimate/cost.py


class Input(Section):
    """Which texts."""

    path: Name | Annotated[list[Name], Field(min_length=1)] = Field(
        description="Parquet: a file, folder, glob, or list of them; here, s3://, gs://, az://, hf://"
    )
    text: Name = Field(description='a string column, or a template over columns: "{title} {body}"')
    pair: Name | None = Field(
        None, description="column or template of sentence B; null or empty B gives the single form"
    )
    id: Name | None = Field(None, description="id column; null: <shard>#<row number>")
    keep: list[Name] = Field([], description="columns to carry into the parts")
    prompt: str | None = Field(
        "auto",
        description="put before text A: a prompt's name in the model's config, or a literal; auto, "
        'null: the document, passage or corpus prompt, else the default one; "": none',
    )
    on_null: Literal["reject", "fail"] = Field(
        "reject", description="a row without text A; reject: one bad row must not stop a night"
    )
    on_empty: Literal["reject", "encode", "fail"] = Field(
        "reject", description="text A empty or only white space; its vector would say nothing"
    )
    on_bad_file: Literal["fail", "quarantine"] = Field(
        "fail",
        description="an unreadable shard; quarantine goes on without it, or without its damaged "
        "row groups, whose rows are rejects, and says so",
    )


class Model(Section):
    """Which vectors."""

    name: Name = Field(
        description="hub id, folder here or in a bucket, or pkg://PACKAGE/PATH; safetensors only"
    )
    revision: Name | None = Field(
        None, description="the hub commit; pin it, or a new one replaces it"
    )
    max_tokens: Literal["auto"] | Annotated[int, Field(ge=8)] = Field(
        "auto",
        description="special tokens included; auto: the model's own; never above its positions",
    )
    long_text: Literal["truncate", "window", "window_mean", "reject"] = Field(
        "truncate",
        description="a text over max_tokens; truncate: n_chars_cut says what was cut; window: "
        "several rows in the part, each with its char_start and char_end; window_mean: the mean "
        "of its windows' pooled vectors, weighted by their tokens, then dim and normalize",
    )
    stride: Annotated[int, Field(ge=0)] = Field(
        0, description="tokens that a window shares with the one before it"
    )
    truncation: Literal["longest_first", "only_first", "only_second"] = Field(
        "longest_first", description="which side of a pair loses tokens; the reference's default"
    )
    special_tokens_in_text: Literal["text", "parse"] = Field(
        "text", description='"[SEP]" inside a text is text; parse does what the reference does'
    )
    precision: Literal["auto", "exact", "fast", "int8"] = Field(
        "auto",
        description="exact: fp32; fast: fp16 on CUDA, bf16 on CPU; int8: 8-bit products, on CPU; "
        "auto: fast on CUDA, else exact",
    )


class Column(Section):
    """One output column of the parts; all of them come from one pass."""

    name: Name = Field("vector", description="the column's name in the parts")
    source: Literal["encoder", "input", "scores", "sparse"] = Field(
        "encoder",
        description="encoder: the last layer; input: what layer 0 receives; scores: a "
        "classification head (cross-encoders); sparse: a masked-LM head (SPLADE)",
    )
    pooling: Literal["auto", "cls", "pooler", "mean", "max", "last", "weighted_mean", "tokens"] = (
        Field(
            "auto",
            description="auto: the model's own; weighted_mean: by position; "
            "tokens: one vector a token; scores and sparse have none",
        )
    )
    normalize: Literal["auto"] | bool = Field(
        "auto", description="L2 norm, of each token with pooling: tokens; auto: the model's own"
    )
    dtype: Literal["float32", "float16", "int8", "binary"] = Field(
        "float32",
        description="the stored type; int8: 255 steps of a range frozen for the whole corpus; "
        "binary: one bit a value, set above 0",
    )
    dim: Literal["full"] | Count = Field(
        "full", description="keep the first dim values, then normalize (Matryoshka models)"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> Column:
        if self.source in ("scores", "sparse"):
            for name, plain in (("pooling", "auto"), ("dtype", "float32"), ("dim", "full")):
                if (value := getattr(self, name)) != plain:
                    raise ValueError(f"source: {self.source} has no {name} {value}; leave it out")
            if self.normalize is True:
                raise ValueError(f"source: {self.source} is never normalized; leave it out")
        if self.source == "input" and self.pooling == "pooler":
            raise ValueError("the pooler reads the last layer, not source: input")
        if self.pooling == "tokens" and self.dtype in ("int8", "binary"):
            raise ValueError(f"pooling: tokens is float32 or float16, not {self.dtype}")
        if self.dtype == "binary" and self.dim != "full" and self.dim % 8:
            raise ValueError(f"dtype: binary packs 8 values a byte; dim {self.dim} does not fit")
        return self


class Output(Section):
    """Where the vectors go."""

    path: Name = Field(description="a folder of its own, here or in s3://, gs://, az://")
    columns: list[Column] = Field([Column()], min_length=1, description="vector columns, one pass")
    replace: bool = Field(False, description="allow a new fingerprint to replace the snapshot")
    keep_snapshots: Count = Field(1, description="manifests whose parts gc keeps")
    single_writer: bool = Field(
        False, description="you promise one run at a time, on a store without create-if-absent"
    )
    quality: Quality = Field(Quality(), description="gates")

    @field_validator("columns")
    @classmethod
    def _columns_differ(cls, columns: list[Column]) -> list[Column]:
        names = [column.name for column in columns]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two columns are named {name!r}; give each its own name")
            if name in RESERVED_COLUMNS:
                raise ValueError(f"{name!r} is a column that every part has; choose another name")
        return columns


class Encoders(Section):
    """Bounds of the encoder pool."""

    min: Count = 1
    max: Count
    per_gpu: Count = 1

    @model_validator(mode="after")
    def _ordered(self) -> Encoders:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Run(Section):
    """How: never part of the identity, so that a change here resumes instead of starting over."""

    runner: Literal["auto", "ray", "inline"] = Field(
        "auto",
        description="auto: ray with an address, RAY_ADDRESS or more than one GPU, else inline",
    )
    address: Name | None = Field(None, description="a Ray cluster; null starts a local Ray")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: cuda where there is one"
    )
    workers: Literal["auto"] | Count = Field("auto", description="processes that read and tokenize")
    encoders: Literal["auto"] | Count | Encoders = Field(
        "auto", description="N, or {min, max, per_gpu}"
    )
    unit_rows: Literal["auto"] | Count = Field(
        "auto", description="most rows of a unit: what a crash costs, and what is sorted together"
    )
    pack_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="tokens of one forward pass; auto: what the device's cache likes"
    )
    tokens_per_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="what plan reckons with; null: what earlier runs of this output measured"
    )
    price_per_hour: Annotated[float, Field(ge=0)] | None = Field(
        None, description="of all machines of a run, in your currency: plan says what a run costs"
    )
    prices: dict[Hardware, Annotated[float, Field(ge=0)]] = Field(
        {}, description="of an hour of one of these: plan says what a billion rows cost"
    )


class Spec(Section):
    """A whole job."""

    input: Input
    model: Model
    output: Output
    run: Run = Run()
    index: list[Index] = Field(
        [], description="sinks that `embedmill index` loads the snapshot into; run leaves them"
    )

    @field_validator("index")
    @classmethod
    def _sinks_differ(cls, index: list[Index]) -> list[Index]:
        names = [entry.called for entry in index]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sinks are called {name!r}; give each its own name")
        seen: dict[tuple[str | None, ...], str] = {}
        for entry in index:
            if (other := seen.setdefault(entry.place, entry.called)) != entry.called:
                both = f"the sinks {other!r} and {entry.called!r}"
                raise ValueError(f"{both} have one place; give each its own")
        return index

    @model_validator(mode="after")
    def _names_differ(self) -> Spec:
        vectors = {column.name for column in self.output.columns}
        if self.model.long_text == "window":
            for name in WINDOW_COLUMNS:
                if name in (*vectors, self.input.id, *self.input.keep):
                    raise ValueError(
                        f"output.columns: {name!r} is a column of parts with windows; rename it"
                    )
        carried = [self.input.id or "id", *self.input.keep]
        for name in carried:
            if name in vectors or name in RESERVED_COLUMNS:
                raise ValueError(
                    f"output.columns: {name!r} is also a column of the parts; rename it"
                )
        if self.input.id is None and "id" in self.input.keep:
            raise ValueError(
                "input.keep: 'id' is the column of the default ids; name it in input.id"
            )
        if len(set(self.input.keep)) != len(self.input.keep):
            raise ValueError("input.keep: a column is named twice")
        return self

    @model_validator(mode="after")
    def _windows_fit(self) -> Spec:
        model = self.model
        if not model.long_text.startswith("window"):
            if model.stride:
                raise ValueError(
                    f"model.stride: {model.long_text} has no windows; "
                    "leave it out, or set long_text: window"
                )
            return self
        if self.input.pair is not None:
            raise ValueError(
                "model.long_text: windows are for single texts, and input.pair makes pairs; "
                "use truncate or reject"
            )
        if model.max_tokens != "auto" and model.stride >= model.max_tokens - 2:
            raise ValueError(
                f"model.stride: {model.stride} leaves no new token for a window of max_tokens "
                f"{model.max_tokens}; lower it"
            )
        for column in self.output.columns if model.long_text == "window_mean" else ():
            if column.source in ("scores", "sparse") or column.pooling == "tokens":
                raise ValueError(
                    f"output.columns: {column.name!r} has no mean over windows; use window"
                )
        return self
