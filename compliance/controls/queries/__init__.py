"""The evidence queries. Importing this package registers all of them."""

from compliance.controls.queries import answers, ledger, log, nodes, people, product

__all__ = ["answers", "ledger", "log", "nodes", "people", "product"]
