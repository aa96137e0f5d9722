"""Releases that a hospital pays for once and that are then asked without end.

``vocabulary`` (public lists), ``publish`` (plan, approve, withdraw), ``cards`` and ``corpus`` (making; they alone read
patients, through ``contributions``), ``shelf`` and ``answers`` (what is published, and answers from it: they read no
patient, which an import contract and a test of their SQL hold).
"""
