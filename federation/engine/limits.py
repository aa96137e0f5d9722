"""Time limits of groups in the engine, in seconds; importable without vLLM."""

ARRIVAL_SECONDS = 10.0  # all members are here: within a fraction of a second as a rule
ROOM_SECONDS = 120.0  # a whole group finds room
