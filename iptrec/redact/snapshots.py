"""What redact does to each kind of snapshot."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode import containers
from iptrec.decode.snapshots import NETLINK
from iptrec.errors import RecordingError, UsageError
from iptrec.recording.kinds import SAVES
from iptrec.redact.maps import UntrueError
from iptrec.redact.network import Network
from iptrec.redact.nft_json import NftJson
from iptrec.redact.nft_messages import NftMessages
from iptrec.redact.nft_text import NftText
from iptrec.redact.save_text import SaveText, is_saved

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from iptrec.recording.rows import Snapshot
    from iptrec.redact.maps import Maps
    from iptrec.redact.nft_messages import SetName

_INTERFACE_SETTING: Final = re.compile(r"(net/ipv[46]/(?:conf|neigh)/)([^/]+)(/.*)")
_NUMBERS: Final = re.compile(r"[\d\s,\[\]-]*")
_SAVED: Final = ("iptables-save", "ip6tables-save", "iptables-nft-save", "ip6tables-nft-save")
_COUNTERS: Final = frozenset({"snmp", "netstat", "snmp6", "dev", "xfrm_stat"})
_ALL: Final = frozenset({"all", "default"})
# Settings that are texts of their users'.
_SECRETS: Final = re.compile(
    r"stable_secret|domainname|hostname|fib_multipath_hash_seed|tcp_fastopen_key"
)
_DEVICE: Final = re.compile(r"^(\d+\s+)(\S+?)(\s*:)", re.MULTILINE)
_GROUP: Final = re.compile(r"^(\s+)([0-9A-F]{8})(\s)", re.MULTILINE)
_GROUP6: Final = re.compile(r"^(\d+\s+)(\S+)(\s+)([0-9a-f]{32})(\s)", re.MULTILINE)
_COUNTED: Final = re.compile(r"^(\s*)(\S+?)(:)", re.MULTILINE)
# Commands of ours, names of lists: none has anything of a user in it.
_SOURCE: Final = re.compile(
    r"(?:/usr)?/s?bin/(?:ip6?tables(?:-nft|-legacy)?-save|nft)(?: (?:-[a-zA-Z]|list|ruleset|table|\w{1,8}))*"
    r"|/proc[\w/-]*|/sys/kernel/[\w/-]*|rtnetlink|ipset|sock_diag|xfrm|ipv4|ipv6|[A-Z][A-Z_]+|BTF"
)


class Snapshots:
    """Changes contents; ``settings``: of the maps."""

    def __init__(self, maps: Maps, types: dict[SetName, Sequence[str]]) -> None:
        self._maps = maps
        self._network = Network(maps)
        self._saved = SaveText(maps)
        self._nft_json = NftJson(maps, types)
        self._nft_text = NftText(maps)
        self._nft_messages = NftMessages(maps, types)
        network = self._network
        self._changes: Mapping[str, Callable[[Snapshot], bytes]] = {
            **dict.fromkeys(_SAVED, self._as_saved),
            **dict.fromkeys(("iptables-unknown", "ip6tables-unknown"), self._as_name),
            "nft-pasted": lambda one: self._text(one.content, self._nft_text),
            "nft-text": lambda one: self._text(one.content, self._nft_text),
            "nft": lambda one: self._nft_json(one.content),
            **dict.fromkeys(("nft-generation", "nft-generations"), _numbers),
            "nft-unknown": lambda _: b"",
            "nft-rules": self._nft_rules,
            "nft-missed": self._nft_missed,
            "raw-table": self._raw_table,
            **dict.fromkeys(
                ("links", "addresses", "routes", "ip-rules", "neighbours", "fdb"),
                lambda one: self._listed(one, network.rtnetlink),
            ),
            "policies": lambda one: network.policies(one.content),
            "ipsets": lambda one: self._listed(one, network.ipsets),
            "sockets": lambda one: network.sockets(one.content),
            "sysctls": self._sysctls,
            **dict.fromkeys(("timezone", "trace-rules", "drop-reasons", "drop-places"), _same_json),
            "owners": self._owners,
            "sender-cgroups": self._cgroups,
            "groups": self._groups,
            "counters": self._counters,
        }

    @property
    def kinds(self) -> frozenset[str]:
        """Those that are understood."""
        return frozenset(self._changes)

    @property
    def network(self) -> Network:
        """What maps messages about the network."""
        return self._network

    @property
    def nft_messages(self) -> NftMessages:
        """What maps messages of nf_tables."""
        return self._nft_messages

    def __call__(self, snapshot: Snapshot) -> bytes | None:
        """The content in the place of a snapshot's; None for one that is not understood.

        Raises `UsageError` with a rule that would not stay true, `RecordingError` for legacy rules that cannot
        be read: without them those before would be said to have been in force.
        """
        change = self._changes.get(snapshot.kind)
        if change is None:
            self._maps.removed(f"snapshots of the kind {snapshot.kind}")
            return None
        try:
            return change(snapshot)
        except UntrueError as error:
            raise UsageError(
                f"cannot redact the {snapshot.kind} of the recording: {error} would not stay true"
            ) from None
        except RecordingError:
            if snapshot.kind in SAVES.values():
                raise
            self._maps.removed(f"snapshots of the kind {snapshot.kind} that cannot be read")
            return None
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
        ):
            self._maps.removed(f"snapshots of the kind {snapshot.kind} that cannot be read")
            return None

    def source(self, snapshot: Snapshot) -> str:
        """Where a snapshot is from, where that is a public word; else its kind."""
        return snapshot.source if _SOURCE.fullmatch(snapshot.source) else snapshot.kind

    def _text(self, content: bytes, change: Callable[[str], str]) -> bytes:
        text = content.decode("utf-8", "surrogateescape")
        return change(text).encode("utf-8", "surrogateescape")

    def _as_saved(self, snapshot: Snapshot) -> bytes:
        ipv6 = snapshot.kind.startswith("ip6")
        return self._text(snapshot.content, lambda text: self._saved(text, ipv6=ipv6))

    def _as_name(self, snapshot: Snapshot) -> bytes:
        return self._text(snapshot.content, self._maps.name)

    def _nft_rules(self, snapshot: Snapshot) -> bytes:
        return self._rules_told(snapshot.content)

    def _rules_told(self, content: bytes) -> bytes:
        told = bytes.fromhex(json.loads(content)["messages"])
        return json.dumps({"messages": self._nft_messages(told).hex()}).encode()

    def _nft_missed(self, snapshot: Snapshot) -> bytes:
        told = json.loads(snapshot.content)
        made: dict[str, str] = {}
        for key, value in told.items():
            if key == "messages":
                made[key] = self._nft_messages(bytes.fromhex(value)).hex()
            elif key == "nft-rules":
                made[key] = self._rules_told(value.encode()).decode()
            elif key in ("nft-generation", "nft-generations") and _NUMBERS.fullmatch(value):
                made[key] = value
            elif key == "nft":
                made[key] = self._nft_json(value.encode("utf-8", "surrogateescape")).decode()
            elif key == "nft-text":
                made[key] = self._nft_text(value)
            elif key in ("iptables-nft-save", "ip6tables-nft-save"):
                made[key] = self._saved(value, ipv6=key.startswith("ip6"))
            else:
                self._maps.removed(f"{key} of the snapshot nft-missed")
        return json.dumps(made).encode()

    def _raw_table(self, snapshot: Snapshot) -> bytes:
        ipv6 = snapshot.source == "ipv6"
        rules = [
            one.encode("latin-1").decode("utf-8", "surrogateescape")
            for one in json.loads(snapshot.content)
        ]
        lines = [
            self._saved(one, ipv6=ipv6) if is_saved(one) else self._nft_text(one) for one in rules
        ]
        texts = [one.encode("utf-8", "surrogateescape").decode("latin-1") for one in lines]
        return json.dumps(texts).encode()

    def _listed(self, snapshot: Snapshot, change: Callable[[bytes], bytes]) -> bytes:
        """A list of the kernel's; of format 1 the JSON of it."""
        if snapshot.media == NETLINK:
            return change(snapshot.content)
        return json.dumps(self._of_format_1(snapshot.kind, json.loads(snapshot.content))).encode()

    def _of_format_1(self, kind: str, told: Any) -> Any:  # noqa: ANN401 - JSON
        words = self._saved.words
        if kind == "links":
            return [
                {
                    **{key: one[key] for key in ("index", "kind", "mtu", "master") if key in one},
                    "name": self._maps.name(one["name"]),
                    **({"address": words.addresses(one["address"])} if one.get("address") else {}),
                }
                for one in told
            ]
        if kind == "addresses":
            return [
                {
                    **{key: one[key] for key in ("index", "family", "prefixlen") if key in one},
                    "address": one["address"] and words.addresses(one["address"]),
                }
                for one in told
            ]
        if kind == "ipsets":
            return {
                self._maps.name(name): {
                    "type": one.get("type"),
                    "members": one["members"]
                    and [words.addresses(some) for some in one["members"]],
                }
                for name, one in told.items()
            }
        if told:
            self._maps.removed(f"the list {kind} of format 1, which nothing reads")
        return []

    def _sysctls(self, snapshot: Snapshot) -> bytes:
        made = {}
        for key, value in json.loads(snapshot.content).items():
            if _SECRETS.search(key):
                self._maps.removed("settings that hold secrets")
                continue
            found = _INTERFACE_SETTING.fullmatch(key)
            name = found[2] if found else ""
            place = (
                f"{found[1]}{self._maps.name(name)}{found[3]}"
                if found and name not in _ALL
                else key
            )
            made[place] = value
        return json.dumps(made).encode()

    def _owners(self, snapshot: Snapshot) -> bytes:
        told = json.loads(snapshot.content)
        processes = [
            {
                "pid": int(one["pid"]), "comm": self._maps.name(one["comm"]),
                "cgroup": self._group_lines(one["cgroup"]), "sockets": [int(some) for some in one["sockets"]],
            }
            for one in told["processes"]
        ]  # fmt: skip
        paths = {str(int(one)): self._path(path) for one, path in told["cgroups"].items()}
        rest = {
            key: value
            for key, value in told.items()
            if key not in ("processes", "cgroups") and isinstance(value, (int, bool, type(None)))
        }
        return json.dumps({"processes": processes, "cgroups": paths, **rest}).encode()

    def _group_lines(self, text: str) -> str:
        lines = []
        for line in io.StringIO(text):
            number, controllers, path = [*line.split(":", 2), "", ""][:3]
            lines.append(f"{number}:{controllers}:{self._path(path)}")
        return "".join(lines)

    def _path(self, path: str) -> str:
        """A path of control groups; the name of a container or a pod is mapped as it is shown by itself."""
        for found in (containers.container(path), containers.pod(path)):
            for name in (found, found and found.replace("-", "_")):
                if name and name in path:
                    before, _, behind = path.partition(name)
                    made = self._maps.name(str(found))
                    return (
                        self._path(before)
                        + (made if name == found else made.replace("-", "_"))
                        + self._path(behind)
                    )
        return "/".join(self._maps.name(one) for one in path.split("/"))

    def _cgroups(self, snapshot: Snapshot) -> bytes:
        told = json.loads(snapshot.content)
        return json.dumps({str(int(one)): self._path(path) for one, path in told.items()}).encode()

    def _groups(self, snapshot: Snapshot) -> bytes:
        told = json.loads(snapshot.content)
        made = {}
        for name, text in told.items():
            if not isinstance(text, str):
                made[name] = text
            elif name == "igmp":
                made[name] = _GROUP.sub(self._group, _DEVICE.sub(self._device, text))
            elif name == "igmp6":
                made[name] = _GROUP6.sub(self._group6, text)
        return json.dumps(made).encode()

    def _device(self, found: re.Match[str]) -> str:
        return f"{found[1]}{self._maps.name(found[2])}{found[3]}"

    def _group(self, found: re.Match[str]) -> str:
        packed = bytes.fromhex(found[2])[::-1]
        return f"{found[1]}{self._maps.address(packed)[::-1].hex().upper()}{found[3]}"

    def _group6(self, found: re.Match[str]) -> str:
        made = self._maps.address(bytes.fromhex(found[4])).hex()
        return f"{found[1]}{self._maps.name(found[2])}{found[3]}{made}{found[5]}"

    def _counters(self, snapshot: Snapshot) -> bytes:
        made = {}
        for path, text in json.loads(snapshot.content).items():
            if path == "dev" and isinstance(text, str):
                head, rest = text.split("\n")[:2], text.split("\n")[2:]
                mapped = _COUNTED.sub(self._device, "\n".join(rest))
                made[path] = "\n".join([*head, mapped] if rest else head)
            elif path in _COUNTERS or path.startswith("stat/"):
                made[path] = text
            else:
                self._maps.removed("files of /proc/net that are not known")
        return json.dumps(made).encode()


def _numbers(snapshot: Snapshot) -> bytes:
    if not _NUMBERS.fullmatch(snapshot.content.decode("ascii")):
        raise ValueError(snapshot.kind)
    return snapshot.content


def _same_json(snapshot: Snapshot) -> bytes:
    """Numbers and words of the kernel's and of ours."""
    return json.dumps(json.loads(snapshot.content)).encode()
