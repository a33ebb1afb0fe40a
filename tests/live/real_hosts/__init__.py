"""Hosts whose rules are a real program's: made in a lab, sent at from all sides, judged by the kernel's counters.

`hosts` makes them (firewalld, ufw, Docker, Podman, kube-proxy, fw4); `traffic` sends what their rules ask for;
`counters` reads what the kernel counted; `truth` compares it with a recording.
"""
