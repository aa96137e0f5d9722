"""fdrouter: hospital language models behind differential privacy. The public SDK is imported lazily from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fdrouter.sdk import PrivateInferenceClient as PrivateInferenceClient

__version__ = "0.1.0"
_SDK = {"PrivateInferenceClient": "fdrouter.sdk", "PrivacyBudgetExceeded": "fdrouter.sdk"}
__all__ = ["PrivacyBudgetExceeded", "PrivateInferenceClient"]  # noqa: F822  (resolved by __getattr__)


def __getattr__(name: str) -> Any:
    if name in _SDK:
        return getattr(import_module(_SDK[name]), name)
    raise AttributeError(f"module 'fdrouter' has no attribute {name!r}")
