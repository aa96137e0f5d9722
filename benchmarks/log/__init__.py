"""The evidence log: appends to sequenced, and proofs as the log grows."""
