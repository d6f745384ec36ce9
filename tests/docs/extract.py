#!/usr/bin/env python3
"""extract.py PAGE.md OUT.cpp: makes one program of the C++ blocks of a page.

A block with `int main()` is a program of its own and becomes a function; so is, with a generator named
`random` at hand, every block of statements. A block fenced as ```cpp file stands at namespace scope,
for all that follow. What includes what is collected at the top. #line keeps the line numbers of the page
in messages.
"""

import re
import sys

PRELUDE = "#include <limen/check.hpp>\n#include <limen/limen.hpp>\n"
# What a page names for its reader need not be used; as options, clang would read these before -Wall.
UNUSED = ("variable", "but-set-variable", "local-typedefs", "lambda-capture")


def main() -> int:
    page, out = sys.argv[1:]
    with open(page, encoding="utf-8") as file:
        text = file.read()
    includes, parts, calls = [], [], []
    for block in re.finditer(r"^```cpp( file)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(2)) + 1
        number = len(parts)
        includes += re.findall(r"^#include .*\n", block[2], re.MULTILINE)
        body = re.sub(r"^#include .*$", "", block[2], flags=re.MULTILINE)
        body = f'#line {line} "{page}"\n{body}'
        if block[1]:
            parts.append(body)
            continue
        if "int main()" in body:
            body = body.replace("int main()", "int run()").rstrip()
            body = re.sub(r"\}$", "return 0;\n}\n", body)
        else:
            body = f"using namespace limen;\nint run() {{\nRandom random(1);\n{body}return 0;\n}}\n"
        parts.append(f"namespace block_{number} {{\n{body}}}\n")
        calls.append(f"block_{number}::run()")
    with open(out, "w", encoding="utf-8") as file:
        file.write('#pragma GCC diagnostic ignored "-Wpragmas"\n')
        file.write('#pragma GCC diagnostic ignored "-Wunknown-warning-option"\n')
        file.writelines(f'#pragma GCC diagnostic ignored "-Wunused-{what}"\n' for what in UNUSED)
        file.write(PRELUDE + "".join(includes) + "using namespace limen;\n" + "".join(parts))
        file.write("int main() { return " + " + ".join(calls or ["0"]) + "; }\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
