"""Controls: what a regulation asks, what in the product answers it, and the evidence, read from live data each time."""
