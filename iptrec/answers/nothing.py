"""Why there may be nothing in a recording: what it shows of that itself, the most telling first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iptrec.answers.summary import passed_before
from iptrec.answers.traced import traced
from iptrec.context import trace_rules
from iptrec.decode.rulesets import nft_json, nft_objects
from iptrec.decode.snapshots import counters, described_links
from iptrec.names import counted
from iptrec.rulesets import nft
from iptrec.rulesets.nft_places import is_our_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from iptrec.decode.rulesets.types import Base, Chain
    from iptrec.recording.rows import Recording

_IFF_UP: Final = 1
_RAW_PRIORITY: Final = -300
_BEGINNINGS: Final = (0, 3)  # hooks where tracing begins: prerouting, output
# Of the chains that packets come to before those of raw (`kernel.nft.table`)
_STAGES: Final = {
    "INGRESS": "ingress", "BRIDGED": "bridged", "BRIDGED_INPUT": "bridged", "BRIDGED_OUTPUT": "bridged",
    "EARLY_PREROUTING": "early", "EARLY_OUTPUT": "early",
}  # fmt: skip
_BRIDGES: Final = {"ipv4": "iptables", "ipv6": "ip6tables"}


@dataclass(frozen=True, slots=True)
class Nothing:
    """``matched``: how many packets our TRACE rules saw, None where nobody looked. ``causes``: likely ones."""

    matched: int | None
    causes: tuple[str, ...]

    @property
    def fact(self) -> str:
        """What is known, in a few words."""
        if self.matched:
            return f"{counted(self.matched, 'packet')} met the TRACE rules, but no event came"
        return "no packet met the TRACE rules" if self.matched == 0 else "no packet was traced"


def nothing(recording: Recording) -> Nothing | None:
    """What may be the reason that there is no event; None where there is one."""
    if traced(recording):
        return None
    matched = _matched(recording)
    return Nothing(matched, tuple(_lost(recording) if matched else _unmet(recording)))


def _matched(recording: Recording) -> int | None:
    """How many at least: in nf_tables one may come to several of our chains in turn."""
    packets = trace_rules.counted(recording)
    if packets is None:
        return None
    stages: Counter[str] = Counter()
    for place, count in packets.items():
        stages[_STAGES.get(place.rpartition(" ")[2], "")] += count
    return max(stages.values(), default=0)


def _lost(recording: Recording) -> Iterator[str]:
    """Packets were traced, and nobody told us."""
    if any(one.kind == "nflog" for one in recording.streams):
        yield "another program took nflog group 0, or switched net.netfilter.nf_log: iptrec doctor"
    if any(one.is_ring for one in recording.streams):
        yield "the ring let go of them: they were older than what --ring keeps"
    yield "the events were lost: see the losses"


def _unmet(recording: Recording) -> Iterator[str]:
    """No packet came to our rules, or none fitted."""
    facts = recording.facts
    if facts.filter:
        yield f'the filter "{facts.filter}": did any packet fit? Record without it, or try it with tcpdump'
    yield from _interfaces(recording)
    yield from _namespace(recording)
    if len(facts.families) == 1 and not facts.filter:  # which may be of that family alone
        yield f"packets of {'ipv6' if facts.families[0] == 'ipv4' else 'ipv4'} were not recorded"
    yield from _bridges(recording)
    for one in passed_before(recording):
        yield f"{one.table}/{one.chain} comes before our rules and may drop them"
    yield from _nft(recording)


def _interfaces(recording: Recording) -> Iterator[str]:
    """Those of --iface that are down."""
    links = {str(one.get("name")): one for one in _links(recording)}
    for name in recording.facts.interfaces:
        if name in links and not links[name].get("flags", 0) & _IFF_UP:
            yield f"interface {name} is down"
        else:
            yield f"--iface {name}: did they come in or go out by another one? --iface any"


def _namespace(recording: Recording) -> Iterator[str]:
    names = [one.name for one in recording.namespaces if one.name]
    command = recording.facts.command
    if names and "--" in command and "--inside" not in command[: command.index("--")]:
        yield f"the command ran outside of namespace {names[0]}: --inside runs it there"
    if names:
        yield f"namespace {names[0]}: packets pass their rules in the one where they are (lsns -t net)"
    else:
        yield (
            "containers have network namespaces of their own, where rules are their own, too:"
            " --netns with a pid of the container's"
        )


def _bridges(recording: Recording) -> Iterator[str]:
    """What a bridge passes from port to port meets rules of IP only by br_netfilter."""
    bridges = [
        str(one.get("name"))
        for one in _links(recording)
        if one.get("linkinfo", {}).get("kind") == "bridge"
    ]
    settings = next((counters(one.content) for one in recording.snapshots("sysctls")), {})
    for family in recording.facts.families if bridges else ():
        name = f"bridge-nf-call-{_BRIDGES[family]}"
        value = settings.get(f"net/bridge/{name}")
        if value != "1":
            fact = (
                "br_netfilter is not loaded" if value is None else f"net.bridge.{name} is {value}"
            )
            yield f"packets between ports of {', '.join(bridges)} pass no rules of {family}: {fact}"


def _nft(recording: Recording) -> Iterator[str]:
    """What nf_tables may do to packets before, or beside, the rules that trace them."""
    for namespace in recording.namespaces:
        text = nft.printed(recording, nft.TEXT, None, namespace.id)
        listing = nft.printed(recording, nft.LISTING, None, namespace.id)
        if text is None or listing is None:
            continue
        for where, priority in _before(recording, nft_json.parse(listing, text).chains):
            yield f"{where} (priority {priority}) comes before our rules and may drop them"
        for (family, table), objects in nft_objects.of_text(text).items():
            for one in objects:
                if one.kind == "flowtable":
                    yield (
                        f"flowtable {one.name} of {family} {table}: packets of connections that are"
                        " offloaded to it pass no rules"
                    )


def _before(
    recording: Recording, tables: Mapping[tuple[str, str], Mapping[str, Chain]]
) -> Iterator[tuple[str, int]]:
    """The chains that packets of IP come to before ours, and their priorities."""
    ours = f"iptrec:{recording.facts.uuid}"
    first = dict.fromkeys(_BEGINNINGS, _RAW_PRIORITY)
    others: list[tuple[str, Base]] = []
    for place, chains in tables.items():
        mine = is_our_table(" ".join(place), ours)
        for chain in chains.values():
            if chain.base is None or chain.base.hook not in first:
                continue
            if mine:
                first[chain.base.hook] = min(first[chain.base.hook], chain.base.priority)
            else:
                others.append((f"{' '.join(place)}/{chain.name}", chain.base))
    return ((name, base.priority) for name, base in others if base.priority < first[base.hook])


def _links(recording: Recording) -> list[dict[str, Any]]:
    """The interfaces as they first were."""
    for one in recording.snapshots("links"):
        return described_links(one.content, one.media)
    return []
