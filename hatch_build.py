"""Builds the runtime's one C extension with whatever compiler Python itself was made for."""

import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension

PACKAGE = "runtime/musix_runtime"  # whose native/*.c become its module `kernels`


class KernelsHook(BuildHookInterface):
    """Compiles the kernels beside their source, for an editable install as for a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        package = Path(self.root, PACKAGE)
        sources, headers = (sorted(map(str, package.glob(f"native/*.{each}"))) for each in "ch")
        # The same sums on every processor: no fused multiply-add, whatever the compiler thinks of it.
        flags = [] if os.name == "nt" else ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-g0"]
        libraries = [] if os.name == "nt" else ["m"]
        kernels = Extension(
            "kernels", sources, depends=headers, extra_compile_args=flags, libraries=libraries, py_limited_api=True
        )
        command = Distribution({"name": "musix-edge", "ext_modules": [kernels]}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(package), str(Path(self.root, "build", "kernels"))
        command.ensure_finalized()
        command.run()
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["artifacts"] += [f"/{PACKAGE}/kernels.*.so", f"/{PACKAGE}/kernels.*.pyd"]
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["pure_python"] = False
