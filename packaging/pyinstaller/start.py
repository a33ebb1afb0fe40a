"""Where the frozen program starts: as iptrec, or as the interpreter that iptrec starts for code of its own."""

import os
import sys

# What the loader of the frozen program has set for itself is not for the commands that iptrec runs.
for _name in [one for one in os.environ if one.startswith("_PYI_") or one == "LD_LIBRARY_PATH"]:
    del os.environ[_name]
if "LD_LIBRARY_PATH_ORIG" in os.environ:
    os.environ["LD_LIBRARY_PATH"] = os.environ.pop("LD_LIBRARY_PATH_ORIG")

_AS_PYTHON = ["-I", "-c"]  # iptrec/kernel/process.py, iptrec/demo/scenario.py

if sys.argv[1:3] == _AS_PYTHON:
    _code = sys.argv[3]
    sys.argv[:] = ["-c", *sys.argv[4:]]
    exec(compile(_code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as python -c does
else:
    try:
        from iptrec.__main__ import main

        main()
    except (
        ImportError
    ) as error:  # of a module that iptrec.spec leaves out: tests/packages looks for all
        print(
            f"iptrec: {error}: this build lacks it; install iptrec by pip instead", file=sys.stderr
        )
        sys.exit(2)
