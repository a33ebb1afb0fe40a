"""Hosts with the rules of real programs: made in a lab, sent at from all sides, judged by its counters.

`hosts` makes them: firewalld, ufw, Docker, Podman, kube-proxy, fw4. `plan` chooses packets by what their rules
ask for, `traffic` sends them; `counters` reads what the kernel counted; `truth` compares it with a recording.
"""
