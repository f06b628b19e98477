"""What this machine is: its processor, and the packages that differ from those the project pins."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor() -> str:
    """Model of the processor."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    found = re.search(r"^model name\s*: (.*)$", text, flags=re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def differences(root: Path, packages: Iterable[str]) -> str:
    """A sentence on this machine: its processor, its C library, and which of the packages are not as pinned."""
    pinned = pins(root / "requirements.txt")
    others = [
        f"{name} {installed} where requirements.txt pins {pinned[name]}"
        for name in packages
        if (installed := _installed(name)) and name in pinned and installed != pinned[name]
    ]
    packages_are = "; ".join(others) if others else "packages as pinned"
    return f"Here: {processor()}, {' '.join(platform.libc_ver())}, {packages_are}"


def pins(requirements: Path) -> dict[str, str]:
    """Versions that a requirements file pins, by package; empty without a file."""
    text = requirements.read_text(encoding="utf-8") if requirements.is_file() else ""
    return dict(re.findall(r"^([\w-]+)(?:\[[\w,-]+\])?==([\w.+]+)", text, flags=re.MULTILINE))


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
