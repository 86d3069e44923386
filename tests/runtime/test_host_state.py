"""Changes of the runtime to the process that imports it. Each test runs in a separate process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from musix_runtime import __all__ as public
from tests.runtime import host_state

LOADED = (
    "import json, sys; print(json.dumps([sorted(set(sys.modules)), len(__import__('os').listdir('/proc/self/task'))]))"
)
SERVERS = {"starlette", "uvicorn", "uvloop", "httptools", "anyio", "prometheus_client", "click", "asyncio"}
SEARCHES = """
import hashlib, os
import numpy as np
from musix_runtime.models.index import Index
vectors = np.random.default_rng(0).standard_normal((40_000, 28), dtype=np.float32)
index, before = Index(vectors), os.listdir("/proc/self/task")
found = [index.nearest(query, 50)[1].tobytes() for query in vectors[:20]]
index.vectors(np.arange(40_000))
print(hashlib.sha256(b"".join(found)).hexdigest(), len(os.listdir("/proc/self/task")) - len(before))
"""
FORKS = """
import os, signal, sys
import numpy as np
from musix_runtime import Engine, RecommendRequest
from musix_runtime.models.index import Index
engine, request = Engine.open(sys.argv[1]), RecommendRequest(user_id="listener-001")
vectors = np.random.default_rng(0).standard_normal((40_000, 28), dtype=np.float32)
index = Index(vectors)
expected = engine.recommend(request).recommendations, index.nearest(vectors[0], 50)[0].tolist()
if not (child := os.fork()):
    signal.alarm(20)
    found = engine.recommend(request).recommendations, index.nearest(vectors[0], 50)[0].tolist()
    os._exit(0 if found == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def python(code: str, *arguments: object, **environment: str) -> str:
    """Return the output of a new process that runs the code. It fails if the process writes to standard error."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("use", host_state.USES)
def test_library_does_not_change_its_host_process(use: str, demo_bundle: Path) -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    assert json.loads(python(code, host_state.__file__, demo_bundle, use)) == {}


def test_changes_of_the_host_process_are_detected(demo_bundle: Path) -> None:
    code = """
import runpy, sys
module = runpy.run_path(sys.argv.pop(1))
def change_host(bundle):
    import faiss, gc, logging, os, random, signal, threading, warnings
    faiss.omp_set_num_threads(7)
    gc.disable()
    logging.basicConfig()
    os.environ["CHANGED"] = "1"
    random.seed(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.path.append("/changed")
    sys.excepthook = print
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    warnings.simplefilter("ignore")
module["USES"]["answers"] = change_host
module["main"](*sys.argv[1:])
"""
    changed = json.loads(python(code, host_state.__file__, demo_bundle, "answers"))
    expected = {
        "OpenMP",
        "collector",
        "logging",
        "environment",
        "random",
        "signals",
        "paths",
        "hooks",
        "threads",
        "warnings",
    }
    assert expected <= set(changed)


def test_import_loads_no_library_and_starts_no_thread() -> None:
    standard, _ = json.loads(python(LOADED))
    loaded, threads = json.loads(python("import musix_runtime;" + LOADED))
    added = {name.partition(".")[0] for name in set(loaded) - set(standard)}
    assert added - sys.stdlib_module_names == {"musix_runtime"}
    assert threads == 1


def test_the_library_loads_no_server_and_takes_little_memory() -> None:
    code = "from musix_runtime import Engine, RecommendRequest;" + LOADED
    loaded, _ = json.loads(python(code))
    assert SERVERS & set(loaded) == set()
    memory = "from pathlib import Path; print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    assert int(python("from musix_runtime import Engine, RecommendRequest;" + memory)) < 90_000  # kB


def test_all_public_names_can_be_imported() -> None:
    code = (
        "import musix_runtime as m; print(set(m.__all__) <= set(dir(m)), [getattr(m, n).__name__ for n in m.__all__])"
    )
    assert python(code) == f"True {public}\n"


def test_search_is_single_threaded_and_independent_of_the_thread_limit() -> None:
    alone, allowed = (python(SEARCHES, OMP_NUM_THREADS=count) for count in ("1", "8"))
    assert alone == allowed
    assert alone.split()[1] == "0"


def test_engine_answers_in_a_forked_process(demo_bundle: Path) -> None:
    assert python(FORKS, demo_bundle) == "0\n"
