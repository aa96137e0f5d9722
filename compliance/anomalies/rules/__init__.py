"""The rules. Importing the package registers them."""

from compliance.anomalies.rules import care, habits, probing, sign_ins

__all__ = ["care", "habits", "probing", "sign_ins"]
