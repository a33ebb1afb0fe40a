"""Texts that a stranger may have put into a recording for a browser to obey, and recordings full of them."""

from __future__ import annotations

from dataclasses import replace

from handmade import UUID, HandMade, udp, written

from iptrec.recording.rows import Loss

HOSTILE = [
    "</script><script>document.title='obeyed'</script>",
    "'\"><img src=x onerror=document.title='obeyed'>",
    "\u2028\u2029\x1b[31m\u202eevil",
    "<!--<script>",
    "&lt;b&amp;</title></style>",
    "@@data@@script@@",
    "javascript:document.title='obeyed'",
    "huge " * 5_000,
]
RAW = f'*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m comment --comment "iptrec:{UUID}" -j TRACE\nCOMMIT\n'


def hostile_recording(directory, text):
    """A recording with this text wherever there is room for one."""
    words = text.replace('"', "'").replace("\n", " ")
    chain = "".join(one for one in words if not one.isspace())[:60]
    rules = (
        f"*filter\n:INPUT ACCEPT [0:0]\n:{chain} - [0:0]\n-A INPUT -p udp -j {chain}\n"
        f'-A {chain} -m comment --comment "{words}" -j DROP\nCOMMIT\n'
    )
    made = HandMade(losses=[Loss(1, 500, 3_000, 3, "sequence")]).ruleset(RAW + rules)
    packet = udp(ident=1)
    made.events(
        [
            ("raw:PREROUTING:policy:2", packet, {"indev": 1}),
            ("filter:INPUT:rule:1", packet, {"indev": 1}),
            (f"filter:{chain}:return:1", packet, {"indev": 1}),
        ]
    )
    made.facts = replace(made.facts, host=text, command=("iptrec", text), filter=text, kernel=text)
    name = "".join(one for one in text if one not in "/\0")[:60]
    path = directory / f"{name}.db"
    path.unlink(missing_ok=True)
    return written(path, made)
