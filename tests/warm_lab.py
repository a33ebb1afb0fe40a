"""A lab whose commands of iptrec's are already loaded; see tests/warm.py."""

from __future__ import annotations

import os

import warm

from iptrec.demo import lab


class Lab(lab.Lab):
    """The lab of the demo and the samples; what `popen` and `run` start of iptrec is a fork of the server."""

    def popen(self, argv, host=None, **options):
        """Enter the namespaces that nsenter would enter, in its order."""
        options = {"env": self._environment, **options}
        if os.geteuid() or not warm.fits(argv, options):
            return super().popen(argv, host, **options)
        network = "ns/net" if host is None else f"root/run/netns/{host}"
        files = [f"/proc/{self.pid}/{one}" for one in (network, "ns/mnt")]
        child = warm.Popen(argv, namespaces=files, **options)
        self._children = [one for one in self._children if one.poll() is None] + [child]
        return child
