"""The control libraries: one YAML file a regulation, refused as a whole when any value of it is wrong."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from django.conf import settings

from accounts.models import Role
from compliance.controls import queries  # noqa: F401  (fills the registry)
from compliance.controls.evidence import ParametersInvalid, UnknownQuery, checked

FOLDER = Path("configs") / "compliance"
NO_LIBRARIES = frozenset({"anomalies.yaml"})
"""Other configuration that lies beside the libraries."""
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
Identifier = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.-]{2,60}$")]
Owner = Literal["privacy_officer", "administrator", "node_operator", "auditor"]


class LibraryInvalid(ValueError):
    """A library cannot be used; the text names file, control and what is wrong. ``unknown_query``: that was it."""

    def __init__(self, text: str, *, unknown_query: bool = False) -> None:
        super().__init__(text)
        self.unknown_query = unknown_query


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a control's evidence comes from: a query and its parameters."""

    query: str
    parameters: dict[str, Any] = {}


class Control(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row: what is asked, what answers it (code paths, pytest node ids), its evidence, and what is left over."""

    id: Identifier
    citation: Text
    title: Text
    asks: Text
    mechanism: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    evidence: Source
    owner: Owner
    review_months: Annotated[int, msgspec.Meta(ge=1, le=36)]
    residual: Text

    @property
    def owner_name(self) -> str:
        """The role that answers for it, in words."""
        return str(Role(self.owner).label).capitalize()


class Library(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The controls of one regulation, in its order. ``position`` orders the libraries on the page."""

    regulation: Identifier
    title: Text
    source: Text
    position: int
    controls: Annotated[tuple[Control, ...], msgspec.Meta(min_length=1)]


def read(data: bytes, name: str) -> Library:
    """One library, with the defaults of its queries' parameters filled in.

    Raises:
        LibraryInvalid: no YAML, an unknown key, a wrong value, an unknown query or parameter, an id twice.
    """
    try:
        library = msgspec.convert(yaml.safe_load(data), Library)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise LibraryInvalid(f"{name}: {error}") from None
    twice = [key for key, times in Counter(control.id for control in library.controls).items() if times > 1]
    if twice:
        raise LibraryInvalid(f"{name}: the id {twice[0]} is there twice")
    controls = tuple(_bound(control, name) for control in library.controls)
    return msgspec.structs.replace(library, controls=controls)


def _bound(control: Control, name: str) -> Control:
    try:
        parameters = checked(control.evidence.query, control.evidence.parameters)
    except UnknownQuery as error:
        text = f"{name}: {control.id}: no evidence query is called {error}"
        raise LibraryInvalid(text, unknown_query=True) from None
    except ParametersInvalid as error:
        raise LibraryInvalid(f"{name}: {control.id}: {error}") from None
    return msgspec.structs.replace(control, evidence=Source(control.evidence.query, parameters))


def load(folder: Path) -> tuple[Library, ...]:
    """All libraries of a folder, in their order.

    Raises:
        LibraryInvalid: one of them is wrong, there is none, or two share an id.
    """
    try:
        files = [file for file in sorted(folder.glob("*.yaml")) if file.name not in NO_LIBRARIES]
        found = [read(file.read_bytes(), file.name) for file in files]
    except OSError as error:
        raise LibraryInvalid(f"{folder.name}: {error.strerror}") from None
    if not found:
        raise LibraryInvalid(f"{folder.name}: there is no library")
    keys = Counter([key for lib in found for key in (lib.regulation, *(control.id for control in lib.controls))])
    if twice := [key for key, times in keys.items() if times > 1]:
        raise LibraryInvalid(f"the id {twice[0]} is used twice")
    return tuple(sorted(found, key=lambda library: library.position))


@lru_cache(maxsize=1)
def libraries() -> tuple[Library, ...]:
    """The product's libraries; read once a process.

    Raises:
        LibraryInvalid: as for :func:`load`.
    """
    return load(settings.BASE_DIR / FOLDER)
