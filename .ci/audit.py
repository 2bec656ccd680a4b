"""Looks up known vulnerabilities of the packages that are installed where this runs.

    .venv/bin/python .ci/audit.py                                 # asks PyPI's service, by pip-audit
    .venv/bin/python .ci/audit.py --advisories=advisory-database  # a clone of github.com/pypa/advisory-database

Without a network the second takes the clone alone. The last line says what was audited. Ends with 1 where a
vulnerability is known, and with 0 where there is none or where nothing could be asked, which it says.
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
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

OF_PYTHON = ("pip",)  # comes with Python and not with the requirements; `python -m pip install -U pip` renews it


class NotAudited(Exception):
    """Why nothing could be asked."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what is known of the installed packages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--advisories", type=pathlib.Path, help="folder of advisories in the OSV format, as YAML")
    parser.add_argument("--pip-audit", default="pip-audit", help="the program that asks PyPI's service")
    args = parser.parse_args(argv)
    try:
        known, told = in_folder(args.advisories) if args.advisories else by_service(args.pip_audit)
    except NotAudited as error:
        print(f"audit: did not run: {error}")
        return 0
    beside = [line for line in known if line.partition(" ")[0] in OF_PYTHON]
    found = [line for line in known if line not in beside]
    for line in known:
        print(f"vulnerable: {line}" + (", which comes with Python" if line in beside else ""))
    print(f"audit: {told}: {len(found) or 'no'} known vulnerabilities")
    return 1 if found else 0


def installed() -> dict[str, str]:
    """Returns the versions of the installed packages by their canonical names."""
    return {canonicalize_name(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}


def by_service(program: str) -> tuple[list[str], str]:
    """Returns what pip-audit knows, and what it audited: it passes over packages that the index does not describe."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        command = [program, "--path", sysconfig.get_path("purelib"), "--format=json", f"--output={report}"]
        try:
            ended = subprocess.run([*command, "--progress-spinner=off"], capture_output=True, text=True, timeout=900)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotAudited(f"{program} could not be used ({error})") from error
        if not report.exists():
            last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
            raise NotAudited(f"the service could not be asked ({last})")
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    if len(skipped) == len(packages):
        raise NotAudited(f"the service describes none of {len(packages)} packages")
    known = [f"{each['name']} {each['version']}: {v['id']}" for each in packages for v in each.get("vulns", ())]
    told = f"{len(packages) - len(skipped)} of {len(packages)} packages by PyPI's service"
    return known, told + (f", without {', '.join(skipped)}" if skipped else "")


def in_folder(folder: pathlib.Path) -> tuple[list[str], str]:
    """Returns the advisories in a folder that affect what is installed, and what was audited."""
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
        raise NotAudited(f"{folder} holds no advisories")
    return sorted(set(known)), f"{len(versions)} packages by {read:,} advisories, the newest of {newest}"


def affects(affected: Mapping[str, Any], version: str) -> bool:
    """Tells whether a part of an advisory is about a version: one of those listed, or within one of its ranges."""
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
