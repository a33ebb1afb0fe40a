"""A lake asked by Apache Spark: by this machine, or by a cluster that sees the lake's directory as well."""

from __future__ import annotations

import contextlib
import re
import threading
import warnings
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import HostError, missing
from iptrec.lake import directory, tables
from iptrec.lake.answer import Answer, T, escaped, waited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.lake.answer import Ask, Progress
    from iptrec.lake.directory import AtRest
    from iptrec.lake.question import Value

LOCAL: Final = "local[*]"
_KINDS: Final = {"INTEGER": "BIGINT", "TEXT": "STRING"}
_SETTINGS: Final = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # Which files there are is known; a cluster would look for each of them by a task of its own.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": str(1 << 30),
}
_HERE: Final = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "2g",
}
_HOST: Final = (
    "decode(encode(host, 'ISO-8859-1'), 'UTF-8')"  # Spark takes each encoded byte for a character
)
_PATTERN: Final = re.compile(r"[\\*?\[\]{}]")


class Spark:
    """See `engines.Engine`. ``master``: who has the work done, as `spark-submit --master` takes it."""

    def __init__(self, master: str = LOCAL) -> None:
        self._master = master

    def literal(self, value: Value) -> str:
        """A backslash means something."""
        return escaped(value)

    @contextlib.contextmanager
    def opened(self, path: Path, progress: Progress | None = None) -> Iterator[Ask]:
        """On this machine, with 2 GB of memory and files of $TMPDIR; a cluster has what it is given."""
        try:
            import pyspark  # noqa: F401, PLC0415 - optional
        except ImportError:
            raise missing("asking by Spark", "pyspark", "spark") from None
        from py4j.protocol import Py4JError  # noqa: PLC0415
        from pyspark.errors import PySparkException  # noqa: PLC0415

        with contextlib.ExitStack() as stack:
            lake = stack.enter_context(directory.at_rest(path))
            driver = stack.enter_context(contextlib.closing(_Driver(self._master, lake)))

            def beside(work: Callable[[], T]) -> T:
                return waited(work, stop=driver.kill, look=lambda: progress and progress(None))

            def ask(sql: str) -> Answer:
                return beside(lambda: driver.ask(sql))

            try:
                beside(driver.start)
                directory.require_known(path, ask)
                yield ask
            except (Py4JError, PySparkException) as error:
                raise lake.told(_cause(error)) from None


class _Driver:
    """Spark's own process, a JVM, and the tables that it was told of."""

    def __init__(self, master: str, lake: AtRest) -> None:
        self._master, self._lake = master, lake
        self._gateway: Any = None
        self._session: Any = None
        self._unwanted = threading.Event()

    def start(self) -> None:
        """Start it, and tell it of the tables. Raises `HostError` where there is no Java, or no cluster."""
        from pyspark import SparkConf, SparkContext  # noqa: PLC0415
        from pyspark.sql import SparkSession  # noqa: PLC0415

        here = _HERE if self._master.startswith("local") else {}
        conf = SparkConf(loadDefaults=False).setMaster(self._master).setAppName("iptrec lake")
        conf.setAll([*_SETTINGS.items(), *here.items()])
        conf.set(
            "spark.driver.defaultJavaOptions",
            f'"-Djava.io.tmpdir={self._lake.aside}" -XX:-UsePerfData',
        )
        with warnings.catch_warnings(action="ignore"):  # such as that pandas is newer than it knows
            self._launch(conf)
            if self._unwanted.is_set():
                return
            self._session = SparkSession(SparkContext(conf=conf, gateway=self._gateway))
            for name, files in self._lake.files.items():
                self._frame(name, files).createOrReplaceTempView(name)

    def _launch(self, conf: Any) -> None:  # noqa: ANN401 - pyspark is optional
        from pyspark.errors import PySparkRuntimeError  # noqa: PLC0415
        from pyspark.java_gateway import launch_gateway  # noqa: PLC0415

        log = self._lake.aside / "log"
        with log.open("wb") as file:
            try:
                self._gateway = launch_gateway(conf, {"stdout": file, "stderr": file})
            except PySparkRuntimeError:
                said = log.read_text("utf-8", "replace").splitlines() or ["it says nothing"]
                raise HostError(
                    f"cannot start Apache Spark, which needs Java: {said[-1]}"
                ) from None

    def _frame(self, name: str, files: list[Path]) -> Any:  # noqa: ANN401
        from pyspark.sql.functions import expr  # noqa: PLC0415

        table = tables.NAMED[name]
        if not files:
            return self._session.sql(tables.empty(table, _KINDS))
        columns = ", ".join(f"{one} {kind}" for one, kind in tables.typed(table, _KINDS))
        reader = self._session.read.schema(columns).option("basePath", self._url(Path(name)))
        frame = reader.parquet(*(_PATTERN.sub(r"\\\g<0>", self._url(one)) for one in files))
        return frame if name == "rules" else frame.withColumn("host", expr(_HOST))

    def _url(self, below: Path) -> str:
        """A cluster does not see our link, and has other file systems, too."""
        return f"file://{self._lake.path.absolute() / below}"

    def ask(self, sql: str) -> Answer:
        """All that it finds."""
        with warnings.catch_warnings(action="ignore"):
            frame = self._session.sql(sql)
            rows = frame.collect()
            return Answer(frame.columns, (tuple(map(_plain, row)) for row in rows))

    def kill(self) -> None:
        """Let what it is at fail, or end as soon as it has started."""
        self._unwanted.set()
        if self._gateway is not None:
            self._gateway.proc.kill()

    def close(self) -> None:
        """End it."""
        from pyspark import SparkContext  # noqa: PLC0415

        if self._gateway is None:
            return
        with contextlib.suppress(Exception):  # where it was killed, nobody answers
            if self._session is not None:
                self._session.stop()
            self._gateway.shutdown()
        self._gateway.proc.kill()
        self._gateway.proc.stdin.close()
        self._gateway.proc.wait()
        SparkContext._gateway = SparkContext._jvm = None  # noqa: SLF001 - so that it can be started again


def _plain(value: Any) -> Any:  # noqa: ANN401
    return int(value) if isinstance(value, Decimal) else value


def _cause(error: Exception) -> Exception:
    """What Java says, without the words of who called it."""
    cause = getattr(error, "java_exception", None)
    return error if cause is None else Exception(cause.getMessage() or cause.toString())
