"""Time limits of groups in the engine, in seconds; importable without vLLM."""

ARRIVAL_SECONDS = 10.0  # all members are here: within a fraction of a second as a rule
ROOM_SECONDS = 120.0  # a whole group finds room
IDLE_SECONDS = 0.001  # between two looks for the rest of a group while nothing else is to be done
