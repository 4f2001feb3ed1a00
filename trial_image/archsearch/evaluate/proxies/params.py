"""The arguments of a trial of the kind proxy."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, ValidationError

from archsearch.errors import UserError
from archsearch.evaluate.proxies import SIZES, Proxy
from archsearch.spec.base import JsonObject, Model

MOST_ARCHITECTURES = 1000


class ProxyParams(Model):
    """Which architectures, and what they are scored by."""

    architectures: Annotated[list[JsonObject], Field(min_length=1, max_length=MOST_ARCHITECTURES)]
    proxies: Annotated[list[Proxy], Field(max_length=len(Proxy))] = Field(
        default_factory=lambda: list(Proxy), description="Which scores; params and flops are always among them."
    )
    batch_size: Annotated[int, Field(ge=2, le=4096)] = Field(default=64, description="Inputs of one batch.")
    batches: Annotated[int, Field(ge=1, le=64)] = Field(default=2, description="Batches for zico, which needs two.")

    @property
    def names(self) -> list[Proxy]:
        """The sizes first, each name once."""
        return list(dict.fromkeys([*SIZES, *self.proxies]))

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From ``assignment.params``.

        Raises:
            UserError: names what is wrong.
        """
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, ("params", *fault["loc"])))
            what = f"{where}: {fault['msg']}; it is {fault['input']!r:.80}"
            raise UserError(f"a trial of the kind proxy: {what}") from None
