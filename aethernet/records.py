"""JSON records: written in one way, read strictly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from aethernet.errors import BundleError

__all__ = ["SCHEMA_VERSION", "Record", "canonical_json", "published_names", "read_model"]


SCHEMA_VERSION = 1
"""Of the records of a release."""

Model = TypeVar("Model", bound=BaseModel)


_STORED_AS = {
    "image": "picture",
    "images": "pictures",
    "images_sha256": "pictures_sha256",
    "images_per_second": "pictures_per_second",
    "channel_shift": "tint",
    "channel_shift_removed": "tint_removed",
    "channel_shift_before": "tint_before",
    "channel_shift_after": "tint_after",
    "checksum": "seal",
}
"""Attribute -> its key in JSON, where published records of schema version 1 have another name for the same thing."""


def published_names(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that a command prints as JSON, under the keys they have always had there."""
    return {_STORED_AS.get(name, name): value for name, value in facts.items()}


class Record(BaseModel):
    """A part of a record: immutable, without unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=lambda name: _STORED_AS.get(name, name),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


def canonical_json(record: BaseModel | dict[str, Any]) -> bytes:
    """The one way a record is written: sorted keys, two spaces, UTF-8, newline at the end."""
    data = record.model_dump(mode="json") if isinstance(record, BaseModel) else record
    return (json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_model(kind: type[Model], data: bytes, name: str) -> Model:
    """Parse and validate a record written by :func:`canonical_json`.

    Raises:
        BundleError: Not JSON, not by the schema, or of a newer schema.
    """
    try:
        content = json.loads(data, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{name} is not JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{name} has schema version {version}, this tool knows {SCHEMA_VERSION}", hint="upgrade aethernet"
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{name} breaks its schema at {place or 'the top'}: {first['msg']}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"expected a number, found {text}")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)
