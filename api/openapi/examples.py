"""Makes an example from a schema, out of its properties' own examples."""

from types import MappingProxyType
from typing import Any, Final

_BY_FORMAT: Final = MappingProxyType(
    {
        "date-time": "2026-11-22T09:41:07.250000+00:00",
        "url": "https://pictures.example/rmbg/…",
        "uri": "https://pictures.example/rmbg/…",
    }
)
_BY_TYPE: Final = MappingProxyType(
    {"string": "…", "integer": 1, "number": 1.0, "boolean": False, "object": {}, "array": []}
)


def example_of(schema: dict[str, Any], components: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    """A value that fits a schema.

    Args:
        schema: in JSON Schema, as apispec writes it.
        components: those of the document, for what it refers to.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return example_of(components["schemas"][name], components)
    if "example" in schema:
        return schema["example"]
    for choice in ("allOf", "anyOf", "oneOf"):
        if choice in schema:
            return example_of(schema[choice][0], components)
    if "enum" in schema:
        return schema["enum"][0]
    return _by_type(schema, components)


def _by_type(schema: dict[str, Any], components: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON
    kinds = schema.get("type", "object")
    kind = kinds[0] if isinstance(kinds, list) else kinds
    if "properties" in schema:
        named = schema["properties"].items()
        return {name: example_of(part, components) for name, part in named}
    if kind == "array" and "items" in schema:
        return [example_of(schema["items"], components)]
    return _BY_FORMAT.get(schema.get("format", ""), _BY_TYPE.get(kind))
