"""Synthetic records for the demo and the tests. No real person's data, no real hospital's name, invented drugs."""
