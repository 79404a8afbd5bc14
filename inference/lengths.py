"""Lengths as callers write them: pixels, or a share of some side."""

import re
from dataclasses import dataclass
from typing import Final, Self

_LENGTH: Final = re.compile(r"(\d{1,6}(?:\.\d{1,4})?)(px|%)?\Z")
WHOLE: Final = 100


@dataclass(frozen=True, slots=True)
class Length:
    """A number of pixels, or of percent."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `30px`, `12.5%` or `0`.

        Raises:
            ValueError: it is none of these.
        """
        match = _LENGTH.match(text)
        if match is None or (match[2] is None and float(match[1])):
            raise ValueError(text)
        return cls(float(match[1]), match[2] or "px")

    def pixels(self, whole: int) -> int:
        """In whole pixels, of a side that is `whole` long."""
        return round(self.value * whole / WHOLE if self.unit == "%" else self.value)

    def __str__(self) -> str:
        return f"{self.value:.10g}{self.unit}"
