"""Gets Java programs with all they need from Maven's repositories."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.services import cache
from tests.services.processes import Unavailable

# Pinned: the one that Maven takes by itself depends on Maven's version.
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId>
  <artifactId>{name}</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""

_DEPENDENCY = """\
    <dependency>
      <groupId>{}</groupId>
      <artifactId>{}</artifactId>
      <version>{}</version>
    </dependency>"""


def jars(name: str, coordinates: Sequence[str], timeout: float = 240) -> Path:
    """The folder that holds the jars of some artifacts and of all they need to run.

    The user's own Maven settings (mirror, proxy, local repository) are respected. Once the cache
    has them, Maven is not needed any more.

    Args:
        name: the folder's name in the cache, with the version.
        coordinates: `group:artifact:version`, in the order of the class path.
        timeout: seconds that the download may take.

    Raises:
        Unavailable: Maven is missing, or could not get them.
    """

    def fill(target: Path) -> None:
        pom = target / "pom.xml"
        wanted = "\n".join(_DEPENDENCY.format(*each.split(":")) for each in coordinates)
        pom.write_text(_POM.format(name=name, dependencies=wanted))
        _maven("-f", str(pom), _COPY, "-DincludeScope=runtime", f"-DoutputDirectory={target}",
               timeout=timeout)  # fmt: skip

    return cache.folder(name, fill)


def _maven(*arguments: str, timeout: float) -> None:
    program = shutil.which("mvn")
    if not program:
        raise Unavailable("no mvn in PATH; install Apache Maven")
    # --update-snapshots also asks again for what was missing last time, which Maven remembers.
    argv = [program, "--batch-mode", "--quiet", "--no-transfer-progress", "--update-snapshots"]
    try:
        done = subprocess.run(
            [*argv, *arguments], capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"Maven was not done within {timeout:.0f} s") from None
    if done.returncode:
        reason = done.stdout.partition("[ERROR] ")[2].partition("\n")[0]
        raise Unavailable(f"Maven could not get it: {reason or done.stderr}")
