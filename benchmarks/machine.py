"""What a figure was measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

PACKAGES = ("rftt", "torch", "transformers", "lightning")


def machine() -> dict[str, object]:
    """Processor, cores, Python and the versions that matter."""
    processor = platform.processor() or platform.machine()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
