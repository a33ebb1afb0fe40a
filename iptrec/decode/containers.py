"""Containers and pods in the paths of control groups, as those name them who make them.

| pattern | made by |
|---|---|
| docker-ID.scope, /docker/ID | dockerd (moby, daemon/daemon_unix.go), driver systemd or cgroupfs |
| cri-containerd-ID.scope | containerd (pkg/cri, SystemdCgroup) |
| crio-ID.scope | CRI-O (internal/config/cgmgr) |
| libpod-ID.scope, /libpod_parent/libpod-ID | Podman (libpod/container_internal_linux.go) |
| kubepods...podUID.slice, /kubepods/.../podUID/ID | kubelet (pkg/kubelet/cm), driver systemd or cgroupfs |
| SLICE:docker:ID, SLICE:cri-containerd:ID and so on | a path for systemd that the driver cgroupfs got (runc) |
| lxc.payload.NAME, /lxc/NAME | LXC (lxc.cgroup.dir) |
| machine.slice/machine-NAME.scope, systemd-nspawn@NAME.service | systemd-machined, systemd-nspawn(1) |
"""

from __future__ import annotations

import re
from typing import Final

_ID: Final = "([0-9a-f]{64})"
_PATTERNS: Final = [
    re.compile(one + "(?=/|$)")
    for one in (
        rf"/(?:docker|cri-containerd|crio|libpod)-{_ID}\.scope",
        rf"/docker/{_ID}",
        rf"/pod[0-9a-f]{{8}}[0-9a-f-]{{0,28}}/{_ID}",
        rf"/libpod_parent/libpod-{_ID}",
        rf":(?:docker|cri-containerd|crio|libpod):{_ID}",
        r"/lxc\.payload\.([^/]+)",
        r"^/lxc/([^/]+)",
        r"/machine\.slice/machine-([^/]+)\.scope",
        r"/machine\.slice/systemd-nspawn@([^/]+)\.service",
    )
]
_POD: Final = re.compile(
    r"/(?:[^/]*kubepods(?:-[a-z]+)?-)?pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice)?(?=[/:]|$)"
)
_ESCAPED: Final = re.compile(r"\\x([0-9a-f]{2})")  # systemd.unit(5)


def container(path: str) -> str | None:
    """The id or name of the innermost container; None where there is none."""
    found = [one for pattern in _PATTERNS for one in pattern.finditer(path)]
    if not found:
        return None
    name = max(found, key=lambda one: one.start())[1]
    return _ESCAPED.sub(lambda one: chr(int(one[1], 16)), name)


def pod(path: str) -> str | None:
    """The innermost pod's UID, as Kubernetes writes it."""
    found = _POD.findall(path)
    return found[-1].replace("_", "-") if found else None
