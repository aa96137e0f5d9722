#!/usr/bin/env python3
"""Two checks that wrk can't make, with the standard library alone.

python3 probe.py ttft  --url http://127.0.0.1:9201/v1/chat/completions --conc 16 --requests 160
    streamed completions: time to first token, total time, gaps between events
python3 probe.py burst --url http://127.0.0.1:4000/v1/chat/completions --key KEY --conc 64 --allowed 10
    conc requests sent at once on one key whose budget covers only --allowed of them:
    prints how many were admitted; overspend is admitted / allowed, and should be at most 1
"""

import argparse
import asyncio
import collections
import itertools
import json
import statistics
import time
from urllib.parse import urlsplit


async def call(opts, stream, gate=None):
    u = urlsplit(opts.url)
    reader, writer = await asyncio.open_connection(u.hostname, u.port or 80)
    body = json.dumps(
        {
            "model": opts.model,
            "stream": stream,
            "max_tokens": 20,
            **json.loads(opts.extra),
            "messages": [{"role": "user", "content": opts.prompt}],
        }
    ).encode()
    head = [
        f"POST {u.path} HTTP/1.1",
        f"Host: {u.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *opts.header,
    ]
    if opts.key:
        head.append(f"Authorization: Bearer {opts.key}")
    if gate:
        await gate.wait()
    start = time.perf_counter()
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    await writer.drain()
    status = int((await reader.readline()).split()[1])
    length, times = None, []
    while (line := await reader.readline()).strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    if length is not None:
        await reader.readexactly(length)
    else:
        while line := await reader.readline():  # ends at [DONE], the last chunk or the end of the connection
            if line.startswith(b"data:"):
                times.append(time.perf_counter() - start)
            if line.startswith(b"data: [DONE]") or line == b"0\r\n":
                break
    writer.close()
    return status, times, time.perf_counter() - start


def spread(ms):
    ms = sorted(ms)

    def pick(q):
        return round(ms[min(len(ms) - 1, int(q * len(ms)))], 2)

    return {"p50_ms": pick(0.5), "p95_ms": pick(0.95), "p99_ms": pick(0.99)}


async def ttft(opts):
    left, got, statuses = opts.requests, [], collections.Counter()

    async def worker():
        nonlocal left
        while left > 0:
            left -= 1
            status, times, total = await call(opts, True)
            statuses[status] += 1
            if times:
                got.append((times, total))

    await asyncio.gather(*(worker() for _ in range(opts.conc)))
    gaps = [(b - a) * 1000 for t, _ in got for a, b in itertools.pairwise(t)]
    print(
        json.dumps(
            {
                "statuses": statuses,
                "events_per_stream": statistics.median(len(t) for t, _ in got) if got else 0,
                "ttft": spread([t[0] * 1000 for t, _ in got]) if got else None,
                "gap": spread(gaps) if gaps else None,
                "total": spread([total * 1000 for _, total in got]) if got else None,
            }
        )
    )


async def burst(opts):
    gate = asyncio.Event()
    tasks = [asyncio.create_task(call(opts, False, gate)) for _ in range(opts.conc)]
    await asyncio.sleep(0.5)  # every connection open before the first byte is sent
    gate.set()
    statuses = collections.Counter(s for s, _, _ in await asyncio.gather(*tasks))
    admitted = sum(n for s, n in statuses.items() if 200 <= s < 300)
    print(
        json.dumps(
            {
                "sent": opts.conc,
                "statuses": statuses,
                "admitted": admitted,
                "allowed": opts.allowed,
                "overspend": round(admitted / opts.allowed, 2),
            }
        )
    )


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("check", choices=["ttft", "burst"])
    ap.add_argument("--url", required=True)
    ap.add_argument("--key")
    ap.add_argument("--header", action="append", default=[])
    ap.add_argument("--model", default="fake-model")
    ap.add_argument("--prompt", default="Summarise the discharge letter in three short points.")
    ap.add_argument("--extra", default="{}", help="further JSON members of the request, as an object")
    ap.add_argument("--conc", type=int, default=16)
    ap.add_argument("--requests", type=int, default=160)
    ap.add_argument("--allowed", type=int, default=10)
    opts = ap.parse_args()
    asyncio.run({"ttft": ttft, "burst": burst}[opts.check](opts))
