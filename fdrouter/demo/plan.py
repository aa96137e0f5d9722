"""The steps from nothing to a running network, and which waits for which. What has not changed is skipped."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from fdrouter.demo import fingerprints, probes, services
from fdrouter.demo.fingerprints import Stamp
from fdrouter.demo.layout import COORDINATOR, HOSPITALS, PROJECT, Node
from fdrouter.demo.processes import POLL_SECONDS, Fleet, Part, PartFailed
from fdrouter.demo.stack import MODEL_NAME, Stack, node_database, node_part
from fdrouter.demo.stages import Step

Tell = Callable[[str], None]
UNCHANGED = "unchanged"
STAMPS = "stamps"
READY_SECONDS = 60.0
COMPLETE = "complete.json"
TESTS_BLOCK = ("--epsilon", "100")
"""Small records are the tests', all of whom spend from the same blocks: what is in their order must not matter."""
SEED_SOURCES = (
    PROJECT / "federation" / "demo_network.py",
    PROJECT / "federation" / "identity.py",
    PROJECT / "federation" / "management" / "commands" / "seed_demo.py",
)


class Plan:
    """Makes the steps for one stack, run by one fleet. ``engine`` and ``reports`` leave parts out, for tests."""

    def __init__(self, stack: Stack, fleet: Fleet, *, engine: bool = True, reports: bool = True) -> None:
        self._stack = stack
        self._layout = stack.layout
        self._fleet = fleet
        self._with_engine = engine and stack.embeds_engine
        self._with_reports = reports

    def steps(self) -> list[Step]:
        """Every step, in an order in which each comes after those it waits for."""
        nodes = self._layout.nodes
        steps = [
            Step("databases", "PostgreSQL and Redis", self._databases),
            Step("model", "model SmolLM2-135M-Instruct", self._model, ("databases",)),
            Step("records", "records of the hospitals", self._records, ("databases",)),
            Step("static", "files of the site", self._static, ("databases",)),
            Step("migrate", "database of the coordinator", self._migrate_coordinator, ("databases",)),
        ]
        for node in nodes:
            steps.append(self._node_step("migrate", f"database of {node.name}", self._migrate_node, node, "databases"))
        migrated = ("migrate", *(f"migrate-{node.id}" for node in nodes))
        steps.append(Step("seed", "network, people and identities", self._seed, migrated))
        for node in nodes:
            steps.append(self._node_step("ingest", f"intake at {node.name}", self._ingest, node, "seed", "records"))
        starts = self._start_steps()
        ready = Step("ready", "every part sees the others", self._ready, tuple(start.name for start in starts))
        return [*steps, *starts, ready]

    def _node_step(self, kind: str, title: str, action: Callable[[Node, Tell], str], node: Node, *after: str) -> Step:
        return Step(f"{kind}-{node.id}", title, lambda tell: action(node, tell), after)

    def _start_steps(self) -> list[Step]:
        stack = self._stack
        steps = []
        if self._with_engine:
            steps.append(self._start("engine", "model engine (vLLM)", stack.engine, "model"))
        for node in self._layout.nodes:
            steps.append(
                self._start(
                    node_part(node), f"node of {node.name}", partial(stack.node, node), f"ingest-{node.id}", "model"
                )
            )
        steps.append(self._start("coordinator", "coordinator", stack.coordinator, "seed", "static"))
        steps.append(self._start("worker-dispatch", "dispatch worker", stack.dispatch_worker, "seed"))
        if self._with_reports:
            steps.append(self._start("worker-default", "report worker", stack.default_worker, "seed"))
            steps.append(self._start("beat", "scheduler", stack.beat, "seed"))
        return steps

    def _start(self, name: str, title: str, part: Callable[[], Part], *after: str) -> Step:
        def action(tell: Tell) -> str:
            self._fleet.start(part())
            self._fleet.wait_healthy(name)
            return ""

        return Step(f"start-{name}", title, action, after)

    def _ready(self, tell: Tell) -> str:
        """Waits until the coordinator reaches everything it needs, a healthy node included.

        Raises:
            PartFailed: it does not; the message says what is missing.
        """
        deadline = time.monotonic() + READY_SECONDS
        while missing := probes.not_ready(self._layout.coordinator_port):
            tell(missing)
            if time.monotonic() > deadline or self._fleet.stopping.is_set():
                raise PartFailed(self._stack.coordinator(), f"is not ready ({missing})")
            time.sleep(POLL_SECONDS)
        return ""

    # --- servers -----------------------------------------------------------------------------------------------

    def _databases(self, tell: Tell) -> str:
        stack = self._stack
        stack.make_secrets()
        servers = [server for server in (stack.postgres, stack.redis) if server is not None]
        for server in servers:
            server.initialise()
            self._fleet.start(server.part())
        for server in servers:
            self._fleet.wait_healthy(server.part().name)
        services.ensure_databases(stack.administration_url, stack.databases)
        return "" if len(servers) == 2 else "a server from outside"

    @property
    def _cluster(self) -> str:
        """Tells one set of databases from another: stamps of an old one count for nothing."""
        if self._stack.postgres is None:
            return self._stack.administration_url
        facts = (self._stack.postgres.data / "PG_VERSION").stat()
        return f"{facts.st_ino}:{facts.st_mtime_ns}"

    # --- one-off commands --------------------------------------------------------------------------------------

    def _once(self, name: str, mark: str, tell: Tell, jobs: Iterable[Part], *results: Path) -> str:
        """Runs ``jobs``, unless they ran for the same inputs (``mark``) and their results are still there."""
        return self._once_in(self._layout.state, name, mark, tell, jobs, *results)

    def _once_for_all(self, name: str, mark: str, tell: Tell, jobs: Iterable[Part], *results: Path) -> str:
        """The same for what stacks share: while one makes it, the others wait."""
        stamps = self._layout.shared / STAMPS
        stamps.mkdir(parents=True, exist_ok=True)
        with (stamps / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return self._once_in(self._layout.shared, name, mark, tell, jobs, *results)

    def _once_in(self, folder: Path, name: str, mark: str, tell: Tell, jobs: Iterable[Part], *results: Path) -> str:
        stamp = Stamp(folder / STAMPS, name, mark)
        if stamp.current and all(result.exists() for result in results):
            return UNCHANGED
        for job in jobs:
            self._fleet.run(job, tell)
        stamp.set()
        return ""

    def _manage(self, name: str, env: dict[str, str], arguments: Sequence[str], *, output: Path | None = None) -> Part:
        # The tests run the system checks of every role; a start need not repeat them for every command.
        checks = [] if arguments[0] == "make_demo_records" else ["--skip-checks"]
        command = [str(PROJECT / "manage.py"), arguments[0], *checks, *arguments[1:]]  # before a subcommand's own
        return self._stack.job(name, f"`{arguments[0]}`", command, env, output=output)

    def _model(self, tell: Tell) -> str:
        mark = fingerprints.of_files([PROJECT / "federation" / "node" / "model.py"])
        command = ["-m", "federation.node.model", str(self._layout.model)]
        env = self._stack.node_environment(self._layout.nodes[0])
        job = self._stack.job("model", "preparing the model", command, env)
        return self._once_for_all("model", mark, tell, [job], self._layout.model / "digests.json")

    def _records(self, tell: Tell) -> str:
        layout = self._layout
        mark = fingerprints.of_files(fingerprints.code("federation/node/demo_records"), str(layout.small))
        env = self._stack.node_environment(layout.nodes[0])
        size = ["--small"] if layout.small else []
        jobs = [
            self._manage("records", env, ["make_demo_records", "--output", output, "--hospital", hospital, *size])
            for hospital, output in self._record_folders()
        ]
        return self._once_for_all(
            "records", mark, tell, jobs, *(layout.records(node) / COMPLETE for node in layout.nodes)
        )

    def _record_folders(self) -> list[tuple[str, str]]:
        if self._layout.nodes == HOSPITALS:
            return [("all", str(self._layout.state / "records"))]  # The command uses all cores for them.
        return [(node.id, str(self._layout.records(node))) for node in self._layout.nodes]

    def _static(self, tell: Tell) -> str:
        files = [file for file in (PROJECT / "static").rglob("*") if file.is_file()]
        mark = fingerprints.of_files([PROJECT / "constraints.txt"], *fingerprints.stat(files))
        env = self._stack.coordinator_environment()
        job = self._manage("static", env, ["collectstatic", "--noinput"])
        return self._once_for_all("static", mark, tell, [job], self._layout.static / "staticfiles.json")

    def _migrate_coordinator(self, tell: Tell) -> str:
        mark = fingerprints.of_files(fingerprints.migrations(), self._cluster)
        job = self._manage("migrate", self._stack.coordinator_environment(), ["migrate", "--noinput"])
        return self._once("migrate", mark, tell, [job])

    def _migrate_node(self, node: Node, tell: Tell) -> str:
        mark = fingerprints.of_files(fingerprints.migrations(), self._cluster, node_database(node))
        name, env = f"migrate-{node.id}", self._stack.node_environment(node)
        jobs = [
            self._manage(name, env, ["migrate", "--noinput"]),
            self._manage(f"block-{node.id}", env, ["blocks", "open", *(TESTS_BLOCK if self._layout.small else ())]),
        ]
        return self._once(name, mark, tell, jobs)

    def _seed(self, tell: Tell) -> str:
        layout = self._layout
        nodes = [f"--node={node.id}|{node.name}|https://localhost:{node.port}" for node in layout.nodes]
        sources = [*fingerprints.migrations(), *SEED_SOURCES]
        mark = fingerprints.of_files(sources, *nodes, self._cluster, layout.base_url)
        job = self._manage(
            "seed",
            self._stack.coordinator_environment(),
            ["seed_demo", "--state-dir", str(layout.state), "--model", MODEL_NAME, *nodes],
            output=Path(os.devnull),  # It prints passwords and tokens; access.json, for its owner only, has them.
        )
        return self._once("seed", mark, tell, [job], layout.access, layout.identity(COORDINATOR) / "cert.pem")

    def _ingest(self, node: Node, tell: Tell) -> str:
        """Takes the records in, then tells the coordinator which patients are in whose care."""
        folder, care = self._layout.records(node), self._layout.run / f"care-{node.id}.json"
        mark = fingerprints.of_files(
            fingerprints.code("federation/node"), *fingerprints.stat(folder.glob("*.ndjson")), self._cluster
        )
        env = self._stack.node_environment(node)
        jobs = [
            self._manage(f"ingest-{node.id}", env, ["ingest_records", "--data-path", str(folder)]),
            # The small records are the tests': what their block pays, they say themselves.
            *([] if self._layout.small else [self._manage(f"publish-{node.id}", env, ["publish_demo_cards"])]),
            self._manage(f"care-{node.id}", env, ["list_patients_in_care"], output=care),
            self._manage(
                f"care-import-{node.id}", self._stack.coordinator_environment(), ["import_care_relations", str(care)]
            ),
        ]
        return self._once(f"ingest-{node.id}", mark, tell, jobs)
