"""How fast the engine decodes groups beside plain batches: ``make bench-decoding``."""
