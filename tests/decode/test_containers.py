"""Containers and pods, as their makers name control groups."""

from __future__ import annotations

import pytest

from iptrec.decode.containers import container, pod

ID, OTHER = "0123456789abcdef" * 4, "f" * 64
UID = "0b1c2d3e-1111-2222-3333-444455556666"
SLICE = f"kubepods-burstable-pod{UID.replace('-', '_')}.slice"
CASES = {
    "/": (None, None),
    "/user.slice/user-1000.slice/session-3.scope": (None, None),
    f"/system.slice/docker-{ID}.scope": (ID, None),
    f"/docker/{ID}": (ID, None),
    f"/docker/{ID}/init.scope": (ID, None),
    f"/docker/{ID[:-1]}": (None, None),
    f"/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope": (ID, UID),
    f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/crio-{ID}.scope": (ID, UID),
    f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/crio-conmon-{ID}.scope": (
        None,
        UID,
    ),
    f"/kubepods/besteffort/pod{UID}/{ID}": (ID, UID),
    f"/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-{SLICE}/cri-containerd-{ID}.scope": (
        ID,
        UID,
    ),
    f"/machine.slice/libpod-{ID}.scope/container": (ID, None),
    f"/libpod_parent/libpod-{ID}": (ID, None),
    f"/machine.slice/libpod-conmon-{ID}.scope": (None, None),
    f"/system.slice/containerd.service/{SLICE}:cri-containerd:{ID}": (ID, UID),
    f"/system.slice/docker.service/system.slice:docker:{ID}": (ID, None),
    "/lxc.payload.web/system.slice/ssh.service": ("web", None),
    "/lxc/web": ("web", None),
    "/machine.slice/machine-my\\x2dbox.scope": ("my-box", None),
    "/machine.slice/systemd-nspawn@box.service/payload": ("box", None),
}


@pytest.mark.parametrize("path", CASES)
def test_container_and_pod(path):
    assert (container(path), pod(path)) == CASES[path]
