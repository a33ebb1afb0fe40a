"""Rules of nf_tables as the kernel has them, for conditions that nft does not print.

nft compiles what a statement depends on into the rule, and takes what looks like that for its own when it
prints: of ``meta protocol ip ip6 saddr fd00::1`` nft 1.0.6 prints the second half, which alone would match.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import netlink
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft import transactions
from iptrec.names import NFT_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

KIND: Final = "nft-rules"
_NEW_RULE: Final = transactions.SUBSYSTEM | transactions.NEW_RULE
_LOADING: Final = (b"meta\0", b"ct\0")
_NAMED: Final = (nft_rule.TABLE, nft_rule.HANDLE)


def told() -> bytes:
    """Those that look at what nft calls meta or ct, as JSON: the messages, back to back; b"" without any."""
    try:
        messages = b"".join(_messages())
    except HostError:
        return b""
    return json.dumps({"messages": messages.hex()}).encode() if messages else b""


def _messages() -> Iterator[bytes]:
    for number in NFT_FAMILIES.values():
        for found in transactions.dumped(transactions.GET_RULE, number, []) or ():
            expressions = found.get(nft_rule.EXPRESSIONS, b"")
            if any(one in expressions for one in _LOADING):
                named = [(one, found[one]) for one in _NAMED]
                body = [*named, (nft_rule.EXPRESSIONS, nft_rule.uncounted(expressions))]
                yield netlink.message(_NEW_RULE, 0, netlink.netfilter_body(number, body))
