"""Count phrases to avoid in docstrings and documents, and words in README.md, against limits.

    python docs/english.py

Prints a table and exits with 1 where a count is above its limit. Phrases are counted per 1,000 words.
Code blocks in documents are left out, and so is docs/reference.md, which `docs/generate.py` writes.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHRASES = {"what": 1.5, "of which | so many | so much": 0.3}
"""Phrases (alternatives separated by a bar) and the most uses per 1,000 words."""
README_WORDS = 900


def docstrings(source: str) -> Iterator[str]:
    """Yield the docstrings of a module, its classes, functions and constants."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value


def prose(markdown: str) -> str:
    """Return a document without its fenced code blocks and link targets."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\]\([^)]*\)", "]", text)


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: everything between spaces that has a letter or a digit."""
    return [word.lower() for word in text.split() if any(char.isalnum() for char in word)]


def per_thousand(text: str, phrase: str) -> float:
    """Count the occurrences of a phrase's alternatives per 1,000 words."""
    alternatives = "|".join(re.escape(each.strip()).replace(r"\ ", r"\s+") for each in phrase.split("|"))
    found = re.findall(rf"\b(?:{alternatives})\b", text, flags=re.IGNORECASE)
    return 1000 * len(found) / max(1, len(words(text)))


def main() -> int:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "reference.md"]
    texts = {
        "docstrings": "\n".join(
            text
            for path in sorted((ROOT / "onnxq").rglob("*.py"))
            for text in docstrings(path.read_text(encoding="utf-8"))
        ),
        "documents": "\n".join([prose(readme), *(prose(path.read_text(encoding="utf-8")) for path in pages)]),
    }
    rows = [
        (name, phrase, per_thousand(text, phrase), limit)
        for name, text in texts.items()
        for phrase, limit in PHRASES.items()
    ]
    rows.append(
        ("README.md", "words outside code blocks", float(len(words(prose(readme)))), float(README_WORDS))
    )
    for name, text in texts.items():
        print(f"{name}: {len(words(text)):,} words")
    print(f"\n{'text':12}{'count':32}{'found':>8}{'limit':>8}")
    for name, phrase, found, limit in rows:
        excess = "  too many" if found > limit else ""
        print(f"{name:12}{phrase:32}{found:8.2f}{limit:8.1f}{excess}")
    return int(any(found > limit for _, _, found, limit in rows))


if __name__ == "__main__":
    sys.exit(main())
