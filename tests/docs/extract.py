#!/usr/bin/env python3
"""extract.py PAGE.md OUT.cpp: makes one program of the C++ blocks of a page.

A block with `int main` is the whole program. Otherwise each block that begins with #include, template,
struct or constexpr at the left edge and defines things stands at namespace scope if it says so in its
fence (```cpp file); all others are statements and become the body of main, each in a scope of its own,
with a generator named `random` at hand. #line keeps the line numbers of the page in messages.
"""

import re
import sys

PRELUDE = "#include <limen/check.hpp>\n#include <limen/limen.hpp>\n\nusing namespace limen;\n"


def main() -> int:
    page, out = sys.argv[1:]
    with open(page, encoding="utf-8") as file:
        text = file.read()
    whole, outside, inside = None, [], []
    for block in re.finditer(r"^```cpp( file)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, block.start(2)) + 1
        code = f'#line {line} "{page}"\n{block[2]}'
        if "int main" in block[2]:
            whole = whole or code
        elif block[1]:
            outside.append(code)
        else:
            inside.append("{\n" + code + "}\n")
    program = whole or (
        PRELUDE + "".join(outside) + "\nint main() {\nRandom random(1);\n" + "".join(inside) + "}\n"
    )
    with open(out, "w", encoding="utf-8") as file:
        file.write(program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
