"""The gates of the spec: what stops a run that goes wrong as a whole."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from embedmill.schemas.section import Section


class Gate(Section):
    """The levels of one gate; null never warns or never fails."""

    warn: Annotated[float, Field(ge=0)] | None = Field(None, description="says so and goes on")
    fail: Annotated[float, Field(ge=0)] | None = Field(
        None, description="makes no manifest, exit 4"
    )


GATES = ("unk_rate", "cut_rate", "reject_rate", "collapse", "norm_spread", "shrink")
Level = Annotated[float, Field(ge=0)] | Gate


class Quality(Section):
    """What stops a run that goes wrong. A gate is {warn, fail}; a plain number is its fail."""

    fault_rate: Annotated[float, Field(ge=0, le=1)] = Field(
        0.001,
        description="share of rows that may fail (see errors.md), from 10,000 rows on",
    )
    unk_rate: Level = Field(
        Gate(warn=0.2), description="share of [UNK] tokens; much of it: a wrong vocabulary"
    )
    cut_rate: Level = Field(Gate(warn=0.5), description="share of rows that lost text")
    reject_rate: Level = Field(Gate(warn=0.1), description="share of rows without a vector")
    collapse: Level = Field(
        Gate(warn=0.01, fail=0.5), description="share of sequences with other ids and equal vectors"
    )
    norm_spread: Level = Field(
        Gate(warn=1.0), description="deviation of the norms over their mean, before normalization"
    )

    shrink: Level = Field(
        Gate(warn=0.2), description="share of the last snapshot's rows that are gone"
    )

    @field_validator(*GATES, mode="before")
    @classmethod
    def _keep_the_other_level(cls, value: Any, info: ValidationInfo) -> Any:
        """A gate of which one level is given has the other by default; null takes it away."""
        own = cls.model_fields[info.field_name].default.model_dump()
        return own | value if isinstance(value, dict) else value
