"""What every part of the spec is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=4096)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the spec: frozen, strict, closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
