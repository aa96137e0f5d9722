"""The coordinator installs and starts without the model libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("torch", "vllm", "transformers", "tokenizers", "safetensors", "opacus", "peft", "gguf")

PROGRAM = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Blocker())
import django
django.setup()
{body}
loaded = sorted(set(sys.modules) & set({blocked!r}))
assert not loaded, loaded
"""
BODIES = {
    "site": "from importlib import import_module; import_module('fdrouter.urls')",
    "asgi": "from importlib import import_module; import_module('fdrouter.asgi')",
    "worker": "from fdrouter.celery import app; app.loader.import_default_modules(); assert app.tasks",
}


def run(body: str) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(blocked=BLOCKED, body=body)
    environment = os.environ | {"FDROUTER_ROLE": "coordinator", "DJANGO_SETTINGS_MODULE": "fdrouter.settings"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("part", BODIES)
def test_starts_with_the_model_libraries_blocked(part: str) -> None:
    result = run(BODIES[part])
    assert result.returncode == 0, result.stderr


def test_the_block_blocks() -> None:
    result = run(f"""
for library in {BLOCKED!r}:
    try:
        __import__(library)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{{error}}\\n")
""")
    assert result.stderr.splitlines() == [f"blocked: {library}" for library in BLOCKED]
