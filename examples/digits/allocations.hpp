#pragma once
#include <cstddef>

/// How often this program has asked `operator new` for memory so far.
std::size_t allocations();
