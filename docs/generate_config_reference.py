"""Write docs/config.md and configs/schema.json from the config's schema.

python docs/generate_config_reference.py
"""

import json
from pathlib import Path
from typing import Any

from neither.config.schema import Config

ROOT = Path(__file__).resolve().parent.parent

HEAD = """\
# Config reference

Written by `python docs/generate_config_reference.py` from `src/neither/config/schema.py`; edit
that.

A config is one YAML file. `name`, `classes`, `train.epochs` and either `data.root` or
`data.manifest` are required. Unknown keys are errors. Any key can also be set on the command line:

    neither train configs/demo.yaml train.epochs=5 augmentation.crop_scale=[0.5,1]

Editors with yaml-language-server (in VS Code: the extension "YAML" by Red Hat) complete and check
the keys of a file that begins with `# yaml-language-server: $schema=` and the path of
`configs/schema.json`.
"""
TABLE = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a config file."""
    schema = Config.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("title")
        for field in section["properties"].values():
            field.pop("title", None)
            if "description" in field:
                field["description"] = " ".join(field["description"].split())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "neither"} | schema


def markdown() -> str:
    """Return the page that lists every key."""
    schema = json_schema()
    tables = {"": schema} | {
        name: schema["$defs"][field["$ref"].rpartition("/")[2]]
        for name, field in schema["properties"].items()
        if "$ref" in field
    }
    page = HEAD
    for name, table in tables.items():
        title = f"`{name}`" if name else "Top level"
        page += f"\n## {title}\n\n{table['description']}\n\n{TABLE}"
        for key, field in table["properties"].items():
            if "$ref" not in field:
                page += f"| {' | '.join(_row(key, field, key in table.get('required', ())))} |\n"
    return page


def _row(key: str, field: dict[str, Any], is_required: bool) -> tuple[str, str, str, str]:
    meaning, _, described = field["description"].partition(" Default: ")
    default = described.rstrip(".")
    if is_required:
        default = "required"
    elif "default" in field:
        value = field["default"]
        default = f"`{value if isinstance(value, str) else json.dumps(value)}`"
    return f"`{key}`", _type(field), default, meaning


def _type(field: dict[str, Any]) -> str:
    """Describe a type with its range, such as "number in [0, 1)"."""
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"])
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    kind = str({"string": "text"}.get(field["type"], field["type"]))
    if kind == "array":
        items = _type(field.get("items") or field["prefixItems"][0])
        least, most = field.get("minItems"), field.get("maxItems")
        num = f"{least}" if least == most else f"{least} to {most}"
        return f"list of {items}" + ("" if least is None else f" ({num} items)")
    if kind == "object":
        return f"mapping of text to {_type(field['additionalProperties'])}"
    low, high = field.get("minimum"), field.get("maximum")
    above, below = field.get("exclusiveMinimum"), field.get("exclusiveMaximum")
    if low is above is None:
        return kind
    if high is below is None:
        return f"{kind} > {above}" if low is None else f"{kind} ≥ {low}"
    left = f"({above}" if low is None else f"[{low}"
    right = f"{high}]" if below is None else "2⁶³)" if below == 2**63 else f"{below})"
    return f"{kind} in {left}, {right}"


if __name__ == "__main__":
    (ROOT / "docs" / "config.md").write_text(markdown(), encoding="utf-8")
    schema = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    (ROOT / "configs" / "schema.json").write_text(schema, encoding="utf-8")
