"""How a use or disclosure of a chart counts for the accounting of 45 CFR 164.528. Pure: no Django, no I/O."""

from __future__ import annotations

from dataclasses import dataclass

TREATMENT = frozenset({"TREAT", "ETREAT", "BTG"})
PAYMENT = frozenset({"HPAYMT"})
OPERATIONS = frozenset({"HOPERAT", "HQUALIMP", "HSYSADMIN"})
TO_THE_PATIENT = frozenset({"PATRQT"})


@dataclass(frozen=True, slots=True)
class Accounting:
    """``owed``: it belongs to the accounting. ``reason`` says why, or why not, and where that stands."""

    owed: bool
    reason: str


def classify(purpose: str, *, inside: bool) -> Accounting:
    """The class of one access. ``purpose`` is a v3-ActReason code; ``inside``: nothing left the patient's hospital.

    Source: 45 CFR 164.528(a)(1). What is not known to be exempt counts.
    """
    if purpose in TREATMENT:
        return Accounting(False, "Exempt: treatment, 164.528(a)(1)(i)")
    if purpose in PAYMENT:
        return Accounting(False, "Exempt: payment, 164.528(a)(1)(i)")
    if purpose in OPERATIONS:
        return Accounting(False, "Exempt: healthcare operations, 164.528(a)(1)(i)")
    if purpose in TO_THE_PATIENT:
        return Accounting(False, "Exempt: to the patient, 164.528(a)(1)(ii)")
    if inside:
        return Accounting(False, "A use inside the hospital: 164.528 counts disclosures only")
    return Accounting(True, "Counts: a disclosure that no exemption of 164.528(a)(1) is known for")
