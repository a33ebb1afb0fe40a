"""The image, built here, does what docs/image.md says, by its own lines, beside real daemons."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import engines
import pytest
import yaml
from recorder import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(1500)]

KUBERNETES = engines.ROOT / "packaging/kubernetes/iptrec.yaml"
BUSYBOX = "d=$(mktemp -d) && mkdir $d/bin && cp /usr/bin/busybox $d/bin && tar -C $d -c . | docker import - box"
MINE = ("--rm --user", "show trace.db")
NOBODY = ("-i --user iptrec", "iptrec show -")


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    """Podman with the image, built as the page does."""
    if missing := engines.missing():
        pytest.fail(f"not installed: {', '.join(missing)}; tools/system-packages image")
    directory = tmp_path_factory.mktemp("podman")
    podman = engines.Podman(directory / "own")
    try:
        engines.base(podman, directory)
        (line,) = engines.lines("docker build")
        words = line.split()[1:]
        here = "--isolation", "chroot", "--network", "host", "--build-arg", "BASE=localhost/base"
        podman.run(words[0], *here, *words[1:], cwd=engines.ROOT)
        podman.run(
            "save",
            "--format",
            "docker-archive",
            "-o",
            str(directory / "iptrec.tar"),
            "localhost/iptrec",
        )
        podman.archive = directory / "iptrec.tar"
        yield podman
    finally:
        podman.run("system", "reset", "--force")
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def archive(podman):
    """The image as a file."""
    return podman.archive


@pytest.fixture
def docker(lab, archive, tmp_path, backend):
    """Dockerd with a container whose port is published, and one in another network that asks."""
    own = tmp_path / "docker"
    own.mkdir()
    with engines.Docker(lab, own, backend).running() as docker:
        docker.typed(
            f"docker load -q -i {archive} && docker tag localhost/iptrec iptrec && {BUSYBOX}"
        )
        docker.typed("docker run -d --name web -p 8080:80 box /bin/busybox httpd -f -p 80")
        docker.typed("docker network create other")
        docker.typed("docker run -d --name client --network other box /bin/busybox sleep 100000")
        yield docker


@pytest.fixture
def desk(tmp_path):
    """The directory of the user 1000, who may go there."""
    desk = tmp_path / "desk"
    desk.mkdir()
    os.chown(desk, 1000, 1000)
    for one in (tmp_path, *tmp_path.parents):
        if str(one).startswith("/tmp/pytest"):  # noqa: S108
            one.chmod(0o755)
    return desk


def left(lab):
    """What is there of a recorder."""
    rules = [
        "iptables-legacy-save",
        "ip6tables-legacy-save",
        "iptables-nft-save",
        "nft list ruleset",
    ]
    found = lab.run(["sh", "-c", "; ".join(rules) + "; ls /run/iptrec"], check=False).stdout
    return [one for one in found.splitlines() if "iptrec" in one or one.endswith(".json")]


def host_line(backend):
    """What the page types to record the host, after what it types before."""
    parts = {"legacy": "-o legacy.db", "nft": "-o trace.db"}
    (line,) = engines.lines("--network host", parts[backend])
    return line.replace("legacy.db", "trace.db")


def prepared(docker, backend):
    """Type what legacy iptables needs before."""
    if backend == "legacy":
        (sysctl,) = [one for one in engines.lines("sysctl -w") if "nsenter" not in one]
        docker.typed(sysctl)
        docker.typed(*engines.lines("touch"))


@pytest.mark.parametrize(
    ("place", "rule"),
    [
        ("filter/DOCKER-ISOLATION-STAGE-2", None),
        ("filter/DOCKER-USER", "-I DOCKER-USER -p tcp --dport 80 -j DROP"),
    ],
    ids=["isolation", "user"],
)
def test_which_rule_of_docker_ate_the_packet(lab, docker, desk, backend, place, rule):
    """A port that is published, asked from another network: as often as the kernel counted."""
    if rule:
        lab.run([f"iptables-{backend}", *rule.split()])
    prepared(docker, backend)
    docker.record(host_line(backend), desk)
    assert docker.asks("client", "http://172.17.0.1:8080/").returncode == 28  # no answer
    docker.typed("docker stop rec")
    assert left(lab) == []
    trace = desk / "trace.db"
    status = trace.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (1000, 0o600)
    (line,) = engines.lines(*NOBODY, "--brief")
    shown = docker.typed(line, desk).stdout
    drops = re.findall(r"^--> #\d+ \S+ DROP +tcp .* by (\S+) rule", shown, re.MULTILINE)
    chain = re.escape(place.partition("/")[2])
    counted = re.findall(rf"^\[(\d+):\d+\] -A {chain} .*-j DROP", docker.counters(), re.MULTILINE)
    assert drops == [place] * sum(map(int, counted)) != []
    assert "DROP" in docker.typed(*engines.lines(*MINE), desk).stdout


def test_the_rules_of_another_container(lab, docker, desk, backend):
    """In its own namespace, with nothing of the host's."""
    web = f"--net=/proc/{docker.inside('web')}/ns/net"
    lab.run(
        [
            "nsenter",
            web,
            f"iptables-{backend}",
            "-A",
            "INPUT",
            "-p",
            "tcp",
            "--dport",
            "81",
            "-j",
            "DROP",
        ]
    )
    if backend == "legacy":
        line = engines.lines("nsenter --net")[0]
        docker.typed(f"{line} net.netfilter.nf_log.10=nfnetlink_log")
    docker.record(*engines.lines("--network container:web", "-o web.db"), desk)
    lab.run(["curl", "-s", "-m", "1", "http://172.17.0.2:81/"], check=False)
    docker.typed("docker stop rec")
    shown = docker.typed(engines.lines(*MINE)[0].replace("trace.db", "--brief web.db"), desk).stdout
    counted = lab.run(["nsenter", web, f"iptables-{backend}-save", "-c"]).stdout
    assert f"[{shown.count('DROP   tcp')}:" in next(
        one for one in counted.splitlines() if "-j DROP" in one
    )
    assert "by filter/INPUT rule 1" in shown


def test_what_a_killed_recorder_leaves(lab, docker, desk, backend):
    """Its rules, which the next container removes by the list of the host."""
    prepared(docker, backend)
    docker.record(host_line(backend), desk)
    docker.typed("docker kill -s KILL rec")
    until(lambda: "rec" not in docker.typed("docker ps --format '{{.Names}}'").stdout)
    assert left(lab) != []
    said = docker.typed(*engines.lines("iptrec cleanup")).stdout
    assert ": removed\n" in said
    assert left(lab) == []


def test_doctor_and_refusals(docker, backend):
    """What is missing is said in a line, with what to do."""
    done = docker.typed(*engines.lines("iptrec doctor"), check=False)
    read_only = "and cannot be written" in done.stdout
    assert (done.returncode, read_only) == ((1, True) if backend == "legacy" else (0, False)), (
        done.stdout
    )
    assert backend == "nft" or "systempaths=unconfined" in done.stdout
    done = docker.typed("docker run --rm --network host iptrec record", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--cap-add NET_ADMIN" in done.stderr


def test_loggers_are_put_back_where_they_may_be_set(lab, docker, desk):
    """With systempaths=unconfined nothing has to be done before."""

    def logger():
        return lab.run(["cat", "/proc/sys/net/netfilter/nf_log/2"]).stdout

    before = logger()
    docker.typed(*engines.lines("touch"))
    line = host_line("legacy").replace(
        "--network host", "--network host --security-opt systempaths=unconfined"
    )
    docker.record(line.replace("iptrec record", "iptrec record --backend legacy"), desk)
    assert logger() == "nfnetlink_log\n"
    docker.typed("docker stop rec")
    assert logger() == before != "nfnetlink_log\n"


def pods(directory):
    """The DaemonSet's pod, and one that does what its init container does; on a disk of our own."""
    _, daemons = yaml.safe_load_all(KUBERNETES.read_text())
    spec = daemons["spec"]["template"]["spec"]
    (first,), (recorder,) = spec.pop("initContainers"), spec["containers"]
    for one in (first, recorder):
        one |= {"image": "localhost/iptrec", "imagePullPolicy": "Never"}
    for one in spec["volumes"]:
        if "hostPath" in one:
            one["hostPath"]["path"] = f"{directory}{one['hostPath']['path']}"
    recorder["env"][0] = {"name": "NODE", "value": "worker1"}
    before = {"hostNetwork": True, "restartPolicy": "Never", "containers": [first]}
    for name, found in (("before", before), ("iptrec", spec)):
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": found}
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(made))


def test_the_pod_of_the_daemon_set(lab, podman, tmp_path):
    """By podman: with its rights alone it records, makes a piece when asked, and leaves nothing."""
    pods(tmp_path)
    disk = tmp_path / "var/lib/iptrec"
    for one in ("var/lib", "run"):
        (tmp_path / one).mkdir(parents=True)

    def run(*words):
        return lab.run(podman.command(*words))

    try:
        run("kube", "play", "--network", "host", str(tmp_path / "before.yaml"))
        logger = ["cat", "/proc/sys/net/netfilter/nf_log/2"]
        until(lambda: lab.run(logger).stdout == "nfnetlink_log\n")
        lab.run(["iptables-legacy", "-A", "INPUT", "-p", "icmp", "-j", "DROP"])
        run("kube", "play", "--network", "host", str(tmp_path / "iptrec.yaml"))
        until(lambda: "-j TRACE" in lab.run(["iptables-legacy-save"]).stdout)
        lab.run(["ping", "-c1", "-W1", "127.0.0.1"], check=False)
        run("exec", "iptrec-iptrec", "sh", "-c", "kill -USR1 1")  # the page's kubectl exec
        until(lambda: [*disk.glob("worker1-*-*.db")])
        run("pod", "stop", "iptrec")
        assert "TRACE" not in lab.run(["iptables-legacy-save"]).stdout
        (whole,) = [one for one in disk.glob("*.db") if one.name.count("-") == 1]
        assert [one.name for one in disk.glob("*-wal")] == []
        shown = run(
            "run",
            "--rm",
            "-v",
            f"{disk}:/work:ro",
            "localhost/iptrec",
            "show",
            "--brief",
            whole.name,
        )
        assert "by filter/INPUT rule 1: -p icmp -j DROP" in shown.stdout
    finally:
        lab.run(podman.command("pod", "rm", "-f", "-a"), check=False)


def test_the_manifest_is_what_kubernetes_takes():
    """By its schemas, as kubernetes-validate has them; a field that it does not know is an error."""
    program = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run(
        [program, "--strict", KUBERNETES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_podman_records_the_host(lab, podman, desk, backend):
    """By the same line: its containers' network, as netavark makes it, and a rule that drops."""
    prepare = engines.lines("sysctl -w")[0].removeprefix("sudo ") if backend == "legacy" else "true"
    lab.run(["sh", "-c", f"{prepare}; touch /run/xtables.lock; mkdir -p /run/iptrec"])
    lab.run([f"iptables-{backend}", "-A", "INPUT", "-p", "icmp", "-j", "DROP"])
    line = host_line(backend).replace("docker run --rm -it", "podman run -d --name rec")
    line = line.replace("--cap-add BPF --cap-add PERFMON", "--cap-add SYS_ADMIN --cap-add NET_RAW")
    line = line.replace("tcp port 8080", "icmp")
    own = shlex.join(podman.command())
    shell = f'id() {{ echo 1000; }}; podman() {{ {own} "$@"; }}; cd {desk}\n'

    def typed(line, check=True):
        done = lab.run(["sh", "-c", shell + line], check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    try:
        typed(line)
        until(lambda: "recording to" in typed("podman logs rec"))
        lab.run(["ping", "-c1", "-W1", "127.0.0.1"], check=False)
        typed("podman stop rec")
        assert left(lab) == []
        (shown,) = [
            typed(one.replace("docker", "podman").replace("show -", "show --brief -"))
            for one in engines.lines(*NOBODY, "show - <")
        ]
        assert "by filter/INPUT rule 1: -p icmp -j DROP" in shown
    finally:
        typed("podman rm -f rec", check=False)
