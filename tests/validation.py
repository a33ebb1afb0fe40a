"""The schemas of the machine output, each read and checked once."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import jsonschema

SCHEMAS = Path(__file__).parents[1] / "schemas"


@functools.cache
def validator(name):
    """What validates one line, or one object, of that output; the schema itself is valid."""
    (file,) = SCHEMAS.glob(f"{name}-v[0-9].schema.json")
    schema = json.loads(file.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def fits(name, text):
    """The object that a text is, which its schema allows."""
    found = json.loads(text)
    validator(name).validate(found)
    return found
