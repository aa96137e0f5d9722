"""Where a stack keeps its files and which ports it uses: plain data, shared by ``make demo`` and the flow tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True)
class Node:
    """One hospital's node. ``id`` is a short name, ``port`` takes mutual TLS on loopback."""

    id: str
    name: str
    port: int


HOSPITALS = (
    Node("northfield", "Northfield General", 8443),
    Node("lakeside", "Lakeside Medical Center", 8444),
    Node("hillcrest", "Hillcrest University Hospital", 8445),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """One stack on one machine.

    ``state`` is the folder with everything it writes. ``cache`` takes what takes long and is the same for every stack
    (model, records, the site's files); it may be shared by several and is ``state`` by default. ``small`` asks for
    the tests' cut of the records.
    """

    state: Path
    nodes: tuple[Node, ...] = HOSPITALS
    coordinator_port: int = 8080
    engine_port: int = 8100
    redis_port: int = 0
    small: bool = False
    cache: Path | None = None

    @property
    def base_url(self) -> str:
        return f"http://localhost:{self.coordinator_port}"

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

    @property
    def ports(self) -> dict[int, str]:
        """Every fixed port, and the part that needs it."""
        wanted = {self.coordinator_port: "the coordinator", self.engine_port: "the engine"}
        wanted |= {node.port: f"the node of {node.name}" for node in self.nodes}
        return wanted

    @property
    def shared(self) -> Path:
        return self.cache or self.state

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def ledger(self) -> Path:
        """Where the supervisor writes which processes it started."""
        return self.run / "processes.json"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def postgres(self) -> Path:
        return self.state / "pg"

    @property
    def redis(self) -> Path:
        return self.state / "redis"

    @property
    def model(self) -> Path:
        return self.shared / "model"

    @property
    def static(self) -> Path:
        return self.shared / "static"

    @property
    def media(self) -> Path:
        return self.state / "media"

    @property
    def access(self) -> Path:
        return self.state / "access.json"

    def records(self, node: Node) -> Path:
        return self.shared / "records" / node.id

    def identity(self, name: str) -> Path:
        return self.state / "identity" / name

    def secret(self, owner: str, name: str) -> Path:
        return self.state / "secrets" / owner / name

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"
