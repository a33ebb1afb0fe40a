"""What `make image` runs: it takes minutes, and installs Docker and podman. `make test` leaves it out."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("IPTREC_IMAGE") == "1" else ["test_*.py"]
