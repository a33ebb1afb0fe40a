"""A kernel of Debian's in QEMU, with this host's files: what runs there finds all that is installed here.

The host's root comes in read-only (9p); what the guest writes goes to its memory. A directory of its own
brings results back. There is no network but the guest's own.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from debian import Kernel

HERE = Path(__file__).resolve().parent
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng")
EARLY = """#!/bin/sh
mount -t proc proc /proc
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t tmpfs -o size=75% tmpfs /above
mkdir /above/changed /above/work
options=trans=virtio,version=9p2000.L,msize=524288
mount -t 9p -o ro,cache=loose,$options host /host
mount -t overlay -o lowerdir=/host,upperdir=/above/changed,workdir=/above/work overlay /root
mkdir -p /root@modules@ /root/media/results
mount -t 9p -o $options results /root/media/results
mount --bind /root@unpacked@ /root@modules@
exec switch_root /root @script@ /media/results
"""


def run(kernel: Kernel, script: Path, results: Path, minutes: int) -> None:
    """Boot, run ``script`` with the directory of results as its argument, and end; or when time is up."""
    initrd = results / "initrd"
    _make_initrd(kernel, script, results / "early", initrd)
    expected = contextlib.suppress(subprocess.TimeoutExpired)
    with (results / "console").open("wb") as console, expected:
        subprocess.run(
            ["nice", "-n", "5", *_qemu(kernel, initrd, results)],
            stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT,
            timeout=60 * minutes, check=True,
        )  # fmt: skip


def accelerator() -> list[str]:
    """KVM, or an emulated processor that has just what numpy asks for: the more it has, the slower it is.

    A kvm that is of neither vendor runs in a guest itself, and only kernels that are made for it.
    """
    vendor = any(Path("/sys/module", name).exists() for name in ("kvm_intel", "kvm_amd"))
    if vendor and os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]


def _qemu(kernel: Kernel, initrd: Path, results: Path) -> list[str | Path]:
    def share(name: str, path: Path, *options: str) -> list[str]:
        of = ",".join(["local", f"id={name}", f"path={path}", "security_model=none", *options])
        return ["-fsdev", of, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]

    return [
        "qemu-system-x86_64", *accelerator(), "-smp", "2", "-m", "2G",
        "-nodefaults", "-no-reboot", "-display", "none", "-nic", "none", "-serial", "stdio",
        "-device", "virtio-rng-pci", "-kernel", kernel.image, "-initrd", initrd,
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check",
        *share("host", Path("/"), "readonly=on", "multidevs=remap"), *share("results", results),
    ]  # fmt: skip


def _make_initrd(kernel: Kernel, script: Path, tree: Path, to: Path) -> None:
    """Busybox, the modules that the host's files need, and a script that mounts them."""
    for directory in ("bin", "modules", "proc", "above", "host", "root"):
        (tree / directory).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", tree / "bin/busybox")
    for name in ("sh", "mount", "insmod", "mkdir", "cat", "switch_root"):
        (tree / "bin" / name).symlink_to("busybox")
    order = []
    for module in _needed(kernel):
        data = module.read_bytes()
        name = module.name.removesuffix(".xz")
        (tree / "modules" / name).write_bytes(
            lzma.decompress(data) if name != module.name else data
        )
        order.append(name)
    (tree / "modules/order").write_text("\n".join(order))
    early = EARLY.replace("@modules@", f"/usr/lib/modules/{kernel.release}")
    early = early.replace("@unpacked@", str(kernel.modules)).replace("@script@", str(script))
    (tree / "init").write_text(early)
    (tree / "init").chmod(0o755)
    names = "\n".join(str(one.relative_to(tree)) for one in sorted(tree.rglob("*")))
    with to.open("wb") as archive:
        cpio = ["cpio", "--quiet", "-o", "-H", "newc"]
        subprocess.run(cpio, input=names.encode(), cwd=tree, stdout=archive, check=True)
    shutil.rmtree(tree)


def _needed(kernel: Kernel) -> list[Path]:
    """The modules, each after those that it needs."""
    said = subprocess.run(
        ["/sbin/modprobe", "-d", kernel.modules.parents[2], "-S", kernel.release,
         "--show-depends", "--all", *MODULES],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    lines = [line.split()[1] for line in said.splitlines() if line.startswith("insmod")]
    return [Path(one) for one in dict.fromkeys(lines)]
