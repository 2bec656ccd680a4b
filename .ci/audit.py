"""Look up known vulnerabilities of the packages installed in this environment.

    .venv/bin/python .ci/audit.py                                 # asks PyPI's service through pip-audit
    .venv/bin/python .ci/audit.py --advisories=advisory-database  # a clone of github.com/pypa/advisory-database

The second form needs no network. The last line reports what was audited. The exit code is 1 if a vulnerability is
known, and 0 if none is known or if the audit could not run, which the last line reports.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

BUNDLED_WITH_PYTHON = ("pip",)  # part of Python, not of the requirements; update with `python -m pip install -U pip`


class Audit(NamedTuple):
    """Known vulnerabilities, and a description of what was audited."""

    known: list[str]
    scope: str


class NotAudited(Exception):
    """The audit could not run; the message is the reason."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the known vulnerabilities of the installed packages and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--advisories", type=pathlib.Path, help="folder of OSV advisories in YAML")
    parser.add_argument("--pip-audit", default="pip-audit", help="path of pip-audit (default: pip-audit)")
    args = parser.parse_args(argv)
    try:
        audit = audit_by_advisories(args.advisories) if args.advisories else audit_by_service(args.pip_audit)
    except NotAudited as error:
        print(f"audit: did not run: {error}")
        return 0
    bundled = [line for line in audit.known if line.partition(" ")[0] in BUNDLED_WITH_PYTHON]
    found = [line for line in audit.known if line not in bundled]
    for line in audit.known:
        print(f"vulnerable: {line}" + (", bundled with Python" if line in bundled else ""))
    print(f"audit: {audit.scope}: {len(found) or 'no'} known vulnerabilities")
    return 1 if found else 0


def installed() -> dict[str, str]:
    """Return the versions of the installed packages by canonical name."""
    return {canonicalize_name(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}


def audit_by_service(program: str) -> Audit:
    """Audit with pip-audit, which skips packages that are not on the index."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        command = [program, "--path", sysconfig.get_path("purelib"), "--format=json", f"--output={report}"]
        try:
            ended = subprocess.run([*command, "--progress-spinner=off"], capture_output=True, text=True, timeout=900)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotAudited(f"{program} failed ({error})") from error
        if not report.exists():
            last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
            raise NotAudited(f"the service could not be reached ({last})")
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    if len(skipped) == len(packages):
        raise NotAudited(f"the service knows none of the {len(packages)} packages")
    known = [f"{each['name']} {each['version']}: {v['id']}" for each in packages for v in each.get("vulns", ())]
    scope = f"{len(packages) - len(skipped)} of {len(packages)} packages through PyPI's service"
    return Audit(known, scope + (f", without {', '.join(skipped)}" if skipped else ""))


def audit_by_advisories(folder: pathlib.Path) -> Audit:
    """Audit with a folder of advisories."""
    versions, known, newest, read = installed(), [], "", 0
    for path in sorted(folder.rglob("*.yaml")):
        advisory = yaml.safe_load(path.read_bytes())
        if not isinstance(advisory, Mapping) or "affected" not in advisory:
            continue
        read, newest = read + 1, max(newest, str(advisory.get("published", ""))[:10])
        if advisory.get("withdrawn"):
            continue
        for affected in advisory["affected"]:
            name = canonicalize_name(affected["package"]["name"])
            if name in versions and affects(affected, versions[name]):
                known.append(f"{name} {versions[name]}: {advisory['id']}")
    if not read:
        raise NotAudited(f"{folder} contains no advisories")
    return Audit(sorted(set(known)), f"{len(versions)} packages against {read:,} advisories, the newest of {newest}")


def affects(affected: Mapping[str, Any], version: str) -> bool:
    """Return whether an advisory affects a version: a listed one, or one within its ranges."""
    if version in map(str, affected.get("versions", ())):
        return True
    ours = Version(version)
    for each in affected.get("ranges", ()):
        if each.get("type") != "ECOSYSTEM":
            continue
        inside = False
        for event, bound in sorted(
            ((event, at) for pair in each["events"] for event, at in pair.items() if _is_version(at)),
            key=lambda pair: (Version(str(pair[1])), pair[0] == "last_affected"),
        ):
            bound = Version(str(bound))
            if event == "introduced" and bound <= ours:
                inside = True
            elif (event == "fixed" and bound <= ours) or (event == "last_affected" and bound < ours):
                inside = False
        if inside:
            return True
    return False


def _is_version(text: Any) -> bool:
    try:
        Version(str(text))
    except InvalidVersion:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
