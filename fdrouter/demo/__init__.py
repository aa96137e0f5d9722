"""The whole network on one machine: set-up, supervision and checks of the demo."""
