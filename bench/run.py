"""All benchmarks, one after the other: make bench."""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
        output = f"{directory}/bench.db"
        subprocess.run([sys.executable, HERE / "record.py", "5", output], check=True)
        subprocess.run([sys.executable, HERE / "analyze.py", output], check=True)
        subprocess.run([sys.executable, HERE / "export.py", output], check=True)
    subprocess.run([sys.executable, HERE / "exact.py"], check=True)
    subprocess.run([sys.executable, HERE / "watch.py"], check=True)
    subprocess.run([sys.executable, HERE / "diff.py"], check=True)
