"""fdrouter: hospital language models behind differential privacy. The public SDK is imported lazily from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compliance.controls.monitor import ComplianceMonitor as ComplianceMonitor
    from fdrouter.errors import InvalidParameter as InvalidParameter
    from fdrouter.sdk import AsyncPrivateInferenceClient as AsyncPrivateInferenceClient
    from fdrouter.sdk import Conflict as Conflict
    from fdrouter.sdk import IdentityMismatch as IdentityMismatch
    from fdrouter.sdk import InvalidRequest as InvalidRequest
    from fdrouter.sdk import NodeUnavailable as NodeUnavailable
    from fdrouter.sdk import NotAuthenticated as NotAuthenticated
    from fdrouter.sdk import NotFound as NotFound
    from fdrouter.sdk import NotOffered as NotOffered
    from fdrouter.sdk import PolicyDenied as PolicyDenied
    from fdrouter.sdk import PrivacyBudgetExceeded as PrivacyBudgetExceeded
    from fdrouter.sdk import PrivateInferenceClient as PrivateInferenceClient
    from fdrouter.sdk import ReceiptInvalid as ReceiptInvalid
    from fdrouter.sdk import Response as Response
    from fdrouter.sdk import RouterError as RouterError
    from fdrouter.sdk import RouterUnreachable as RouterUnreachable
    from fdrouter.sdk.budget import BudgetManager as BudgetManager
    from privacy.dp.accountant import DPConfig as DPConfig
    from privacy.dp.accountant import PrivacyAccountant as PrivacyAccountant
    from privacy.dp.amplification import PrivacyAmplifiedSampler as PrivacyAmplifiedSampler

__version__ = "0.1.0"
__all__ = [
    "AsyncPrivateInferenceClient",
    "BudgetManager",
    "ComplianceMonitor",
    "Conflict",
    "DPConfig",
    "IdentityMismatch",
    "InvalidParameter",
    "InvalidRequest",
    "NodeUnavailable",
    "NotAuthenticated",
    "NotFound",
    "NotOffered",
    "PolicyDenied",
    "PrivacyAccountant",
    "PrivacyAmplifiedSampler",
    "PrivacyBudgetExceeded",
    "PrivateInferenceClient",
    "ReceiptInvalid",
    "Response",
    "RouterError",
    "RouterUnreachable",
]
# Where a name lives if not in fdrouter.sdk: the privacy core is not loaded for somebody who only asks questions.
_ELSEWHERE = {
    "BudgetManager": "fdrouter.sdk.budget",
    "ComplianceMonitor": "compliance.controls.monitor",
    "DPConfig": "privacy.dp.accountant",
    "InvalidParameter": "fdrouter.errors",
    "PrivacyAccountant": "privacy.dp.accountant",
    "PrivacyAmplifiedSampler": "privacy.dp.amplification",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_ELSEWHERE.get(name, "fdrouter.sdk")), name)
    raise AttributeError(f"module 'fdrouter' has no attribute {name!r}")
