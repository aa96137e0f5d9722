from tests.federation.api.fixtures import _processes, ada, stack

__all__ = ["_processes", "ada", "stack"]
