"""The base of every model that a manifest or a wire message is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

JsonObject = dict[str, Any]


class Model(BaseModel):
    """camelCase outside, snake_case inside; unknown fields refused; frozen, so that a spec can be shared and hashed."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_enum_values=False
    )

    def to_json(self) -> JsonObject:
        """The JSON form with the manifest's names, absent optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# Free-form JSON: taken through or checked by the part that it configures.
FreeForm = Annotated[JsonObject, Field(max_length=256)]


def rule(*rules: tuple[str, str] | tuple[str, str, str]) -> ConfigDict:
    """Model configuration with the CEL rules that say in the CRD what a model's validator says here.

    Each is (expression, message), or (expression, message, message expression) where the message shows values.
    """
    keys = ("rule", "message", "messageExpression")
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": [dict(zip(keys, each)) for each in rules]})  # noqa: B905


Seconds = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
# No floats in typed fields (the API conventions): a decimal number in a string.
Decimal = Annotated[str, StringConstraints(pattern=r"^[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$", max_length=32)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Labels = Annotated[dict[str, LabelValue], Field(max_length=64)]
Annotations = Annotated[dict[str, Annotated[str, StringConstraints(max_length=16_384)]], Field(max_length=64)]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^(https?://[^\s/@]+(/[^\s]*)?)?$", max_length=1024)]
MetricName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$", min_length=1, max_length=63)]
DnsLabel = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]
Text = Annotated[str, StringConstraints(max_length=1024)]
ImageName = Annotated[str, StringConstraints(max_length=512)]
Uri = Annotated[str, StringConstraints(max_length=1024)]
EntryName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]
PythonTarget = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_.]*$", max_length=256
    ),
]
