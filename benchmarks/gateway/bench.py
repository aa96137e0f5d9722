#!/usr/bin/env python3
"""Closed-loop load with wrk, targets interleaved so that each ratio is taken under the same machine load.

    python3 bench.py --target direct=http://127.0.0.1:9101/v1/chat/completions \
                     --target gw=http://127.0.0.1:4000/v1/chat/completions --key gw=sk-... --pid gw=1234

The first target is the base of the ratios. For each concurrency and repeat it runs every target once,
waiting before each run (--quiet-wait at most) until the machine is at least half idle. Prints a table of
medians over repeats and appends the same rows as JSON lines to --out. With --pid NAME=PID also the CPU
milliseconds that NAME's process tree spent per request (steady when other work shares the machine) and
its resident memory.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(root):
    found, todo = [], [root]
    while todo:
        p = todo.pop()
        found.append(p)
        for t in pathlib.Path(f"/proc/{p}/task").glob("*/children"):
            try:
                todo += [int(c) for c in t.read_text().split()]
            except OSError:
                pass
    return found


def usage(root):
    """(CPU seconds, resident MiB) of the process trees rooted at the pids in root."""
    cpu = rss = 0
    for p in [p for r in root or [] for p in tree(r)]:
        try:
            f = pathlib.Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        cpu += (int(f[11]) + int(f[12])) / TICK
        rss += int(f[21]) * PAGE / 2**20
    return cpu, rss


def idle_share(seconds=1.0):
    def read():
        f = [int(x) for x in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return f[3] + f[4], sum(f[:8])

    i0, t0 = read()
    time.sleep(seconds)
    i1, t1 = read()
    return (i1 - i0) / max(1, t1 - t0)


def wrk(opts, target, conc, seconds):
    env = dict(os.environ, BENCH_MODEL=opts.model, BENCH_EXTRA=opts.extra)
    env.pop("BENCH_KEY", None)
    if target["key"]:
        env["BENCH_KEY"] = target["key"]
    cmd = ["wrk", "-t1", f"-c{conc}", f"-d{seconds}s", "--timeout", "30s", "-s", str(HERE / "chat.lua")]
    for h in target["headers"]:
        cmd += ["-H", h]
    out = subprocess.run(
        cmd + [target["url"]], env=env, check=True, capture_output=True, text=True, timeout=seconds + 90
    ).stdout
    return json.loads(next(line for line in out.splitlines() if line.startswith("RESULT "))[7:])


def pairs(items):
    return [i.split("=", 1) for i in items]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--target", action="append", required=True, metavar="NAME=URL")
    ap.add_argument("--key", action="append", default=[], metavar="NAME=BEARER")
    ap.add_argument("--pid", action="append", default=[], metavar="NAME=PID,PID")
    ap.add_argument("--header", action="append", default=[], metavar="NAME=HEADER: VALUE")
    ap.add_argument("--model", default="fake-model")
    ap.add_argument("--extra", default="", help='further JSON members, e.g. \',"user":"u1"\'')
    ap.add_argument("--conc", type=int, nargs="+", default=[1, 16, 64])
    ap.add_argument("--seconds", type=int, default=5)
    ap.add_argument("--repeats", type=int, default=3)
    ap.add_argument("--quiet-wait", type=float, default=15)
    ap.add_argument("--set", default="", help="a name for this set of rows in --out")
    ap.add_argument("--out", default="results.jsonl")
    opts = ap.parse_args()

    targets = {n: {"url": u, "key": None, "pid": None, "headers": []} for n, u in pairs(opts.target)}
    for n, k in pairs(opts.key):
        targets[n]["key"] = k
    for n, p in pairs(opts.pid):
        targets[n]["pid"] = [int(pid) for pid in p.split(",")]
    for n, h in pairs(opts.header):
        targets[n]["headers"].append(h)
    base = next(iter(targets))

    for t in targets.values():  # warm up: connections, caches, lazy imports
        wrk(opts, t, max(opts.conc), 3)
    for conc in opts.conc:
        runs = {n: [] for n in targets}
        for _ in range(opts.repeats):
            for n, t in targets.items():
                end = time.monotonic() + opts.quiet_wait
                while idle_share() < 0.5 and time.monotonic() < end:
                    pass
                cpu0 = usage(t["pid"])[0]
                r = wrk(opts, t, conc, opts.seconds)
                cpu1, r["rss_mib"] = usage(t["pid"])
                r["cpu_ms"] = (cpu1 - cpu0) * 1000 / max(1, r["requests"])
                runs[n].append(r)
        for n, rs in runs.items():
            row = {"set": opts.set, "target": n, "conc": conc}
            for k in ("rps", "p50_ms", "p95_ms", "p99_ms"):
                row[k] = round(statistics.median(r[k] for r in rs), 3)
            row["rps_range"] = [min(r["rps"] for r in rs), max(r["rps"] for r in rs)]
            row["rps_ratio"] = round(
                statistics.median(r["rps"] / b["rps"] for r, b in zip(rs, runs[base], strict=True)), 4
            )
            for k in ("p50_ms", "p95_ms", "p99_ms"):
                row["added_" + k] = round(
                    statistics.median(r[k] - b[k] for r, b in zip(rs, runs[base], strict=True)), 3
                )
            row["requests"] = sum(r["requests"] for r in rs)
            row["errors"] = sum(r["non2xx"] + r["socket_errors"] for r in rs)
            if targets[n]["pid"]:
                row["cpu_ms_per_request"] = round(statistics.median(r["cpu_ms"] for r in rs), 3)
                row["rss_mib"] = round(rs[-1]["rss_mib"])
            with open(opts.out, "a") as f:
                f.write(json.dumps(row) + "\n")
            print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
