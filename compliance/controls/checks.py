"""System checks: a control library that cannot be used stops the start instead of a page."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register


@register(Tags.security)
def control_libraries_are_valid(**_: Any) -> list[CheckMessage]:
    """Every key, value, evidence query and parameter of the control libraries is one that the code knows."""
    from compliance.controls.evidence import QUERIES
    from compliance.controls.library import LibraryInvalid, libraries

    try:
        libraries()
    except LibraryInvalid as error:
        if error.unknown_query:
            hint = f"Evidence queries are: {', '.join(sorted(QUERIES))}."
            return [Error(str(error), hint=hint, id="compliance.E002")]
        return [Error(str(error), hint="Correct the file in configs/compliance.", id="compliance.E001")]
    return []
