"""The pack's door opens without a host and without packages, and imports nothing of theirs."""

from __future__ import annotations

import subprocess
import sys

from tests.host.running_host import ROOT


def test_import_without_host_and_packages() -> None:
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("pack", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[])
pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
assert callable(pack.comfy_entrypoint) and pack.WEB_DIRECTORY
assert not {{"torch", "comfy", "folder_paths", "server", "diffusers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
