"""``make bench-gateway``: the coordinator in front of four fake backends, against one of them called directly.

Sign-in by token, policy, ledger (two request allowances a request), evidence and encryption at rest are on; PostgreSQL
commits durably. One ASGI process, one dispatching worker. The load is closed-loop ``wrk``, targets interleaved, medians
of three. Prints a table, the burst probe with two web processes, and the bars last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from fdrouter.demo import keys, ports  # noqa: E402  (the project is not always installed where a bench runs)
from fdrouter.demo.processes import Fleet, Part  # noqa: E402
from fdrouter.demo.services import Postgres, Redis  # noqa: E402

HERE = Path(__file__).resolve().parent
BARS = {"ratio c16": 0.70, "ratio c64": 0.40, "CPU ms c16": 3.5, "CPU ms c64": 3.5, "overspend": 1.00}
BACKENDS = 4
DELAY_MS = 50


def port_answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code < 500
    except httpx.HTTPError:
        return False


class Bench:
    """All processes of one run; everything they write is in ``state``."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.fleet = Fleet(state / "processes.json")
        self.postgres = Postgres(state / "pg", state / "postgres.log", {})
        self.redis = Redis(state / "redis", state / "redis.log", ports.free_port(), state / "redis-password")
        self.env: dict[str, str] = {}
        self.ports = [ports.free_port() for _ in range(BACKENDS)]
        self.tls_ports = [ports.free_port() for _ in range(BACKENDS)]

    def start_services(self) -> None:
        for server in (self.postgres, self.redis):
            server.initialise()
            self._up(server.part())
        self.postgres.ensure_databases(["fdrouter"])
        identity = self.state / "identity"
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "DJANGO_SETTINGS_MODULE": "fdrouter.settings",
            "FDROUTER_ROLE": "coordinator",
            "FDROUTER_SECRET_KEY": "bench",
            "FDROUTER_DATA_KEY_FILE": str(keys.ensure_key(self.state / "data_key")),
            "FDROUTER_IDENTITY_DIR": str(identity / "coordinator"),
            "FDROUTER_LOG_LEVEL": "WARNING",
            "DATABASE_URL": self.postgres.url("fdrouter"),
            "REDIS_URL": self.redis.url,
        }
        self.python("manage.py", "migrate", "--verbosity", "0")

    def python(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=self.env, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True).stdout

    def seed(self, *arguments: str) -> dict[str, str]:
        tokens: dict[str, str] = json.loads(
            self.python("-m", "benchmarks.gateway.seed", str(self.state / "identity"), *arguments).splitlines()[-1]
        )
        return tokens

    def start_backends(self) -> None:
        plain = ["--ports", *map(str, self.ports), "--delay-ms", str(DELAY_MS)]
        self._run("backends", HERE / "fake_backend.py", plain, f"http://127.0.0.1:{self.ports[0]}/health")

    def start_tls_backends(self) -> None:
        folder = str(self.state / "identity" / "backend")
        options = ["--ports", *map(str, self.tls_ports), "--delay-ms", str(DELAY_MS), "--tls", folder]
        self._run("tls-backends", HERE / "fake_backend.py", options, None)

    def start_worker(self) -> None:
        options = ["-A", "fdrouter.celery", "worker", "-Q", "dispatch", "-P", "solo", "-l", "WARNING"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self._up(self._part("worker", [sys.executable, "-m", "celery", *options, *quiet], None))

    def start_web(self, name: str) -> int:
        port = ports.free_port()
        options = ["--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
        command = [sys.executable, "-m", "uvicorn", "fdrouter.asgi:application", *options, "--no-access-log"]
        self._up(self._part(name, command, f"http://127.0.0.1:{port}/health"))
        return port

    def pids(self, *names: str) -> list[int]:
        return [self.fleet.running[name].pid for name in names]

    def _run(self, name: str, script: Path, options: list[str], url: str | None) -> None:
        self._up(self._part(name, [sys.executable, str(script), *options], url))

    def _part(self, name: str, command: list[str], url: str | None) -> Part:
        return Part(
            name=name,
            title=name,
            command=tuple(command),
            env=self.env,
            log=self.state / f"{name}.log",
            probe=(lambda: port_answers(url)) if url else (lambda: True),
            cwd=PROJECT,
        )

    def _up(self, part: Part) -> None:
        self.fleet.start(part)
        self.fleet.wait_healthy(part.name)


def load(bench: Bench, name: str, url: str, base: str, key: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Rows of ``bench.py`` for one gateway URL, its CPU over web, worker, PostgreSQL and Redis."""
    out = bench.state / f"{name}.jsonl"
    pids = ",".join(map(str, bench.pids("web", "worker", "postgres", "redis")))
    command = [sys.executable, str(HERE / "bench.py"), "--target", f"direct={base}", "--target", f"{name}={url}"]
    command += ["--key", f"{name}={key}", "--pid", f"{name}={pids}", "--out", str(out), "--quiet-wait", "3"]
    command += ["--seconds", str(options.seconds), "--repeats", str(options.repeats), "--conc", *map(str, options.conc)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    return [row for row in rows if row["target"] == name]


def probe(*arguments: str) -> dict[str, Mapping[str, float]]:
    command = [sys.executable, str(HERE / "probe.py"), *arguments]
    found: dict[str, Mapping[str, float]] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    )
    return found


def burst(bench: Bench, urls: list[str], key: str) -> int:
    """Requests admitted of 64 sent at once over two web processes, on an allowance for ten."""
    commands = [
        [sys.executable, str(HERE / "probe.py"), "burst", "--url", url, "--key", key, "--conc", "32", "--allowed", "10"]
        for url in urls
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    return sum(json.loads(process.communicate()[0])["admitted"] for process in running)


def table(rows: list[dict[str, float]]) -> None:
    print(
        f"{'':22}{'ratio':>8}{'req/s':>9}{'added p50':>11}{'p95':>8}{'p99':>8}{'CPU ms':>8}{'RSS MiB':>9}{'errors':>8}"
    )
    for row in rows:
        print(
            f"{row['target']} c{row['conc']:<4}".ljust(22)
            + f"{row['rps_ratio']:8.3f}{row['rps']:9.0f}{row['added_p50_ms']:11.1f}{row['added_p95_ms']:8.1f}"
            f"{row['added_p99_ms']:8.1f}{row['cpu_ms_per_request']:8.2f}{row['rss_mib']:9.0f}{row['errors']:8.0f}"
        )


def measure(bench: Bench, options: argparse.Namespace) -> dict[str, float]:
    bench.start_services()
    bench.start_backends()
    bursts = [f"burst-{n}" for n in range(options.bursts)]
    flags = [flag for name in bursts for flag in ("--burst", name)]
    tokens = bench.seed(*map(str, bench.ports), *flags)
    bench.start_worker()
    web = bench.start_web("web")
    path = "/v1/chat/completions"
    direct, url = f"http://127.0.0.1:{bench.ports[0]}{path}", f"http://127.0.0.1:{web}{path}"
    rows = load(bench, "fdrouter", url, direct, tokens["hot"], options)

    streamed = probe("ttft", "--url", url, "--key", tokens["hot"], "--conc", "16", "--requests", "160")
    plain = probe("ttft", "--url", direct, "--conc", "16", "--requests", "160")
    second = bench.start_web("web-2")
    urls = [url, f"http://127.0.0.1:{second}{path}"]
    admitted = [burst(bench, urls, tokens[name]) for name in bursts]

    bench.start_tls_backends()
    time.sleep(1)
    tokens = bench.seed("--tls", *map(str, bench.tls_ports))
    time.sleep(2)  # the worker reads the roster once a second
    mutual = argparse.Namespace(**vars(options))
    mutual.conc = [c for c in options.conc if c > 1]
    rows += load(bench, "fdrouter, mutual TLS", url, direct, tokens["hot"], mutual)

    table(rows)
    added = streamed["ttft"]["p50_ms"] - plain["ttft"]["p50_ms"]
    print(f"streaming, 16 at once: time to first token p50 {streamed['ttft']['p50_ms']:.1f} ms, added {added:.1f} ms")
    print(f"burst of 64 over two web processes on an allowance of 10: admitted {admitted}")
    found = {f"ratio c{int(r['conc'])}": r["rps_ratio"] for r in rows if r["target"] == "fdrouter"}
    found |= {f"CPU ms c{int(r['conc'])}": r["cpu_ms_per_request"] for r in rows if r["target"] == "fdrouter"}
    return found | {"overspend": max(admitted) / 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--conc", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--bursts", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="keep the run's files and say where they are")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    state = Path(tempfile.mkdtemp(prefix="fdrouter-bench-"))
    state.chmod(0o755)
    bench = Bench(state)
    try:
        found = measure(bench, options)
    finally:
        bench.fleet.stop_all()
        if options.keep:
            print(f"files: {state}")
        else:
            shutil.rmtree(state, ignore_errors=True)
    print("; ".join(f"{name} {value:.2f}" for name, value in found.items()))
    met = {n: found[n] >= bar if n.startswith("ratio") else found[n] <= bar for n, bar in BARS.items() if n in found}
    print(
        "bars: " + "; ".join(f"{n} {BARS[n]:g} {'met' if ok else 'MISSED'} ({found[n]:.2f})" for n, ok in met.items())
    )


if __name__ == "__main__":
    main()
