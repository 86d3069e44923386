"""The kernels without the vector instructions of one kind of processor: every answer is the same, byte for byte."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import msgspec

from musix_exporter import pack
from musix_runtime import kernels
from musix_trainer import recipe
from musix_trainer.run import Run

ANSWERS = """
import sys
import msgspec
from musix_runtime import Engine, RecommendRequest, kernels
engine = Engine.open(sys.argv[1])
print(kernels.__file__)
for number in range(0, 600, 5):
    request = RecommendRequest(user_id=f"listener-{number:03d}", limit=1 + number % 100)
    print(msgspec.json.encode(msgspec.structs.replace(engine.recommend(request), generated_at="")))
"""


def answers(bundle: Path, **environment: str) -> tuple[str, str]:
    """Where the kernels are that a process uses, and what it answers."""
    command = [sys.executable, "-c", ANSWERS, bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    file, _, told = done.stdout.partition("\n")
    return file, told


def test_answers_do_not_depend_on_the_processor(demo_run: Run, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(demo_run.recipe, index=recipe.Index(exact=1, recall=0.65))
    run = replace(demo_run, recipe_file=replace(demo_run.recipe_file, recipe=settings))
    bundle = pack.export(run, tmp_path / "demo-1.0.0").path
    package = shutil.copytree(Path(kernels.__file__).parent, tmp_path / "portable" / "musix_runtime")
    compiler = (sysconfig.get_config_var("CC") or "cc").split()
    flags = ["-O1", "-ffp-contract=off", "-fPIC", "-shared", "-DPORTABLE", f"-I{sysconfig.get_path('include')}"]
    sources = sorted((package / "native").glob("*.c"))
    made = package / Path(kernels.__file__).name
    subprocess.run([*compiler, *flags, *sources, "-lm", "-o", made], check=True)
    plain, wanted = answers(bundle)
    portable, found = answers(bundle, PYTHONPATH=str(package.parent))
    assert (plain, portable) == (kernels.__file__, str(made))
    assert found == wanted
