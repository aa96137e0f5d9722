"""Claim sheets: what each mechanism promises, a versioned file each. A mechanism without its own does not run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml
from django.conf import settings

from fdrouter.errors import ClaimMissing

#: The version that the code of each mechanism implements. Who changes what a mechanism promises writes a new sheet.
IMPLEMENTED: Mapping[str, int] = {
    "count": 1,
    "choice": 1,
    "keywords": 1,
    "token_decoding": 1,
    "choice_confident": 1,
    "count_across": 1,
    "choice_across": 1,
    "text_across": 1,
    "released_cards": 2,
    "released_corpus": 1,
}
#: What NIST SP 800-226 asks a claim to name.
FIELDS = frozenset(
    "mechanism version what unit adjacency claim sensitivity contribution noise source composition library exhaustion"
    " query_model trusted public accuracy side_channels not_protected tests".split()
)


@dataclass(frozen=True, slots=True)
class Sheet:
    """A current sheet: its fields, and the SHA-256 of the file in hex, by which a receipt names it."""

    fields: Mapping[str, Any]
    digest: str

    @property
    def reference(self) -> dict[str, Any]:
        """What a receipt holds of it."""
        return {"sheet": self.fields["mechanism"], "version": self.fields["version"], "sha256": self.digest}


@lru_cache(maxsize=16)
def sheet(mechanism: str) -> Sheet:
    """The sheet of a mechanism; read once a process.

    Raises:
        ClaimMissing: there is none, it is incomplete, or it is of another version than the code.
    """
    if mechanism not in IMPLEMENTED:
        raise ClaimMissing(mechanism=mechanism)
    try:
        data = (settings.BASE_DIR / "configs" / "claims" / f"{mechanism}.yaml").read_bytes()
        fields = yaml.safe_load(data)
    except (OSError, yaml.YAMLError):
        raise ClaimMissing(mechanism=mechanism) from None
    complete = isinstance(fields, dict) and set(fields) == FIELDS and all(fields.values())
    if not complete or (fields["mechanism"], fields["version"]) != (mechanism, IMPLEMENTED[mechanism]):
        raise ClaimMissing(mechanism=mechanism)
    return Sheet(fields, hashlib.sha256(data).hexdigest())
