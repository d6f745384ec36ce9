#!/usr/bin/env python3
"""run.py CASE.cpp -- COMPILER [FLAG ...]

Compiles a wrong program and looks at the first error only: a user reads no further. It must contain
the text of every `// expect: <text>` line of the program.
"""

import os
import re
import subprocess
import sys


def main() -> int:
    case, separator, *command = sys.argv[1:]
    assert separator == "--", __doc__
    with open(case, encoding="utf-8") as file:
        expected = re.findall(r"^\s*// expect: (.+?)\s*$", file.read(), re.MULTILINE)
    if not expected:
        print(f"{case}: no line '// expect: <text>'")
        return 1

    run = subprocess.run(
        [*command, "-std=c++20", "-fsyntax-only", "-fno-diagnostics-color", case],
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    errors = [
        line for line in run.stderr.splitlines() if re.search(r"\b(error|fatal error):", line)
    ]
    if run.returncode == 0 or not errors:
        print(f"{case}: compiles, but must not\n{run.stderr}")
        return 1
    print(errors[0])
    missing = [text for text in expected if text not in errors[0]]
    for text in missing:
        print(f"the first error does not say: {text}")
    if missing:
        print("\n".join(run.stderr.splitlines()[:40]))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
