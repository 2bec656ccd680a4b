"""Check the language of code comments, docstrings, messages, templates and documentation.

    .venv/bin/python .ci/language.py              # one line per finding; exit code 1 if there are any
    .venv/bin/python .ci/language.py --summary    # number of findings per folder

Text in backticks, code blocks, identifiers and single-word strings is not checked.
"""

from __future__ import annotations

import argparse
import ast
import collections
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
SUFFIXES = (".py", ".md", ".j2")
SKIPPED = {".git", ".venv", "runs", "build", "__pycache__"}
OWN_FILES = {".ci/language.py", "tests/test_language.py"}  # they contain the phrases

# pattern → what to write instead
PHRASES = {
    r"told": "reported, printed, raised, received",
    r"said": "reported, printed; name who does what",
    r"(?<!here\s)is no (?!longer|more|better|worse|larger|smaller|faster|slower|less|need)\w+": "is not a",
    r"of which": "two sentences, or 'whose', 'each'",
    r"what of": "name the thing",
    r"as it comes": "as read, unchanged",
    r"(?:go|goes|going|went) on(?=\s(?:at|with|without|from|when|after|as)\b|[.,;:)]|$)": "resume, continue",
    r"(?:go|goes|going|went) back to": "roll back to, return to",
    r"anew": "again",
    r"beside": "next to, in addition to",
    r"to be had": "available",
    r"by (?:the )?way of": "through, with",
    r"so many": "the number; 'at most N'",
    r"the others": "name them: the other processes",
    r"(?:that|which) (?:are|is) not here": "name what is missing, and where",
    r"(?:examples?|images?|pictures?|shots?|queries|photos?) a class": "per class",
    r"continu\w+ at (?:step|the|its|what)": "resume from",
    r"who has (?:no|the)": "name the user",
    r"is had": "rephrase",
}
# A docstring begins with an imperative or a noun phrase.
FIRST_WORDS = {
    *("What", "Which", "Who", "Where", "How"),
    *("Returns", "Yields", "Raises", "Writes", "Reads", "Makes", "Gives", "Takes", "Adds", "Puts", "Waits", "Kills"),
    *("Tells", "Says", "Opens", "Loads", "Saves", "Finds", "Computes", "Joins", "Lets", "Keeps", "Brings", "Does"),
    *("Holds", "Moves", "Sorts", "Embeds", "Trains", "Prints", "Compiles", "Applies", "Removes", "Creates", "Gets"),
}
_PATTERNS = {
    re.compile(r"\b" + pattern.replace(" ", r"\s+") + r"(?!\w)", re.IGNORECASE): instead
    for pattern, instead in PHRASES.items()
}


class Finding(NamedTuple):
    """A phrase to replace."""

    path: str
    line: int
    phrase: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.phrase!r}; write instead: {self.instead}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--summary", action="store_true", help="print the number of findings per folder only")
    args = parser.parse_args(arguments)
    findings = [finding for path in files(ROOT) for finding in check(path.read_text("utf-8"), relative(path))]
    if args.summary:
        counts = collections.Counter(pathlib.PurePath(finding.path).parent.as_posix() for finding in findings)
        print("\n".join(f"{count:5} {folder}" for folder, count in sorted(counts.items())))
    else:
        print("\n".join(map(str, findings)), end="\n" if findings else "")
    print(f"language: {len(findings) or 'no'} findings")
    return 1 if findings else 0


def files(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the files that are checked."""
    found = (path for suffix in SUFFIXES for path in root.rglob(f"*{suffix}"))
    return sorted(path for path in found if not _is_skipped(path.relative_to(root)))


def _is_skipped(path: pathlib.PurePath) -> bool:
    return path.as_posix() in OWN_FILES or any(part in SKIPPED or part.startswith(".venv") for part in path.parts)


def relative(path: pathlib.Path) -> str:
    """Return a path as seen from the project's folder."""
    return path.relative_to(ROOT).as_posix()


def check(text: str, path: str) -> list[Finding]:
    """Return the findings in a file, by line."""
    passages = list(_python_passages(text)) if path.endswith(".py") else [(1, _without_code(text))]
    findings = []
    for start, passage in passages:
        for pattern, instead in _PATTERNS.items():
            for match in pattern.finditer(passage):
                line = start + passage.count("\n", 0, match.start())
                findings.append(Finding(path, line, " ".join(match.group().split()), instead))
    if path.endswith(".py"):
        findings += _docstring_findings(text, path)
    return sorted(findings, key=lambda finding: finding.line)


def _python_passages(text: str) -> Iterator[tuple[int, str]]:
    """Yield comments, strings with spaces and test names, each with its line."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(iter(text.splitlines(keepends=True)).__next__):
        if token.type in kinds and " " in token.string:
            yield token.start[0], _without_inline_code(token.string)
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")


def _docstring_findings(text: str, path: str) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").split(" ", 1)[0]
            if first in FIRST_WORDS:
                line = node.body[0].lineno
                yield Finding(path, line, f"{first} …", "a docstring that begins with an imperative or a noun phrase")


def _without_code(text: str) -> str:
    """Return Markdown with code blocks and inline code blanked, line numbers unchanged."""
    text = re.sub(r"```.*?```", lambda match: re.sub(r"[^\n]", " ", match.group()), text, flags=re.DOTALL)
    return _without_inline_code(text)


def _without_inline_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", lambda match: "`" + "x" * (len(match.group()) - 2) + "`", text)


if __name__ == "__main__":
    sys.exit(main())
