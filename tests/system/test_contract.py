"""A server against its OpenAPI document: valid and nearly valid requests get documented responses."""

import subprocess
import sys
from pathlib import Path

from tests.system.servers import serving

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_a_server_keeps_its_contract(demo_bundle: Path, tmp_path: Path) -> None:
    command = [SCHEMATHESIS, "run", "--checks", CHECKS, "--max-examples", "40", "--seed", "7", "--no-color"]
    command += ["--generation-database", "none", "--phases", "examples,coverage,fuzzing"]
    with serving(demo_bundle) as (url, _):
        done = subprocess.run(
            [*command, f"{url}/openapi.json"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "Tested: 10" in done.stdout, done.stdout[-3000:]
