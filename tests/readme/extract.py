#!/usr/bin/env python3
"""extract.py README.md OUT.cpp: writes the first C++ block that contains `int main`.

A #line directive keeps the line numbers of the README in what the compiler says.
"""

import re
import sys


def main() -> int:
    readme, out = sys.argv[1:]
    with open(readme, encoding="utf-8") as file:
        text = file.read()
    for block in re.finditer(r"^```cpp\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if "int main" in block[1]:
            line = text.count("\n", 0, block.start(1)) + 1
            with open(out, "w", encoding="utf-8") as file:
                file.write(f'#line {line} "{readme}"\n{block[1]}')
            return 0
    print(f"{readme}: no C++ block with int main")
    return 1


if __name__ == "__main__":
    sys.exit(main())
