"""The kinds of model are of use without HTTP."""

import subprocess
import sys


def test_the_kinds_need_no_web_framework_at_import() -> None:
    """`carry.load` and `carry evaluate` serve nothing, and should start fast."""
    code = "import service.kinds, sys; print(*sorted({'fastapi', 'starlette', 'uvicorn'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("", "")
